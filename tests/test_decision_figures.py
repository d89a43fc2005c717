"""The figures of stated probabilities, against scikit-learn and against definitions, and the curve of thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness_ext.analysis.scoring import probabilities as figures
from harness_ext.analysis.scoring.choice_decisions import choice_figures, gold_indices, pick_of
from harness_ext.analysis.scoring.decision_report import show_estimate, shown_points
from harness_ext.analysis.scoring.thresholds import Course, ReviewedDraft, Stop, curve, thresholds_of
from harness_ext.analysis.statistics.scales import is_binary
from harness_ext.decisions.calibration import SMALLEST
from harness_ext.records import CallResult, Completion, Decision, Loglikelihood, Transcript, Turn

# Few distinct values, so that ties are common.
SHARES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
ROWS = st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=60)
Rows = list[tuple[float, bool]]


def values(rows: Rows) -> dict[str, float | None]:
    stated, true = zip(*rows, strict=True)
    found = figures.estimates(figures.binary_statistics(stated, true), range(len(rows)))
    return {name: estimate.value for name, estimate in found.items()}


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_figures_equal_those_of_scikit_learn(rows: Rows) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    stated, true = np.array([p for p, _ in rows]), np.array([y for _, y in rows])
    found = values(rows)
    if len(set(true)) == 2:
        assert found["auroc"] == pytest.approx(metrics.roc_auc_score(true, stated), abs=1e-12)
    else:
        assert found["auroc"] is None
    assert found["brier"] == pytest.approx(metrics.brier_score_loss(true, stated), abs=1e-12)
    clipped = np.clip(stated, SMALLEST, 1 - SMALLEST)
    expected = metrics.log_loss(true, clipped, labels=[False, True])
    assert found["nll"] == pytest.approx(expected, rel=1e-4, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_the_order_of_rows(rows: Rows, random) -> None:  # type: ignore[no-untyped-def]
    shuffled = random.sample(rows, len(rows))
    assert values(shuffled) == pytest.approx(values(rows))
    bins, again = (figures.reliability(*zip(*some, strict=True)) for some in (rows, shuffled))
    assert [(b.rows, b.low, b.high) for b in again] == [(b.rows, b.low, b.high) for b in bins]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SHARES, st.booleans()), min_size=1, max_size=300))
def test_bins_part_the_rows_and_give_the_calibration_error(rows: Rows) -> None:
    bins = figures.reliability(*zip(*rows, strict=True))
    assert sum(one.rows for one in bins) == len(rows)
    assert all(a.high < b.low for a, b in pairwise(bins))
    assert len(bins) <= max(1, min(10, len(rows) // 10))
    expected = sum(one.rows * abs(one.stated - one.right) for one in bins) / len(rows)
    assert values(rows)["ece"] == pytest.approx(expected, abs=1e-12)


def test_bins_of_distinct_probabilities_are_of_equal_size() -> None:
    stated = [i / 1000 for i in range(1000)]
    assert [one.rows for one in figures.reliability(stated, [True] * 1000)] == [100] * 10


def test_a_certain_and_wrong_probability_costs_a_finite_amount() -> None:
    assert values([(0.0, True)])["nll"] == pytest.approx(-np.log(1e-12))
    assert values([(1.0, False)])["nll"] == pytest.approx(-np.log(1e-12))


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_repeated_rows_of_a_document_do_not_narrow_the_interval(rows: Rows) -> None:
    stated, true = zip(*rows, strict=True)
    # If all squares are 0 or 1, the Brier score is a share, which without repeats has an exact interval.
    assume(not is_binary((p - y) ** 2 for p, y in rows))
    once = figures.estimates(figures.binary_statistics(stated, true), range(len(rows)))
    twice = figures.estimates(
        {
            "auroc": figures.area_under_roc(stated * 2, true * 2),
            "brier": figures.squared_error(stated * 2, true * 2),
        },
        [*range(len(rows)), *range(len(rows))],
    )
    for name, estimate in twice.items():
        for end in ("value", "low", "high"):
            assert getattr(estimate, end) == pytest.approx(getattr(once[name], end)), (name, end)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_an_interval_has_a_width_or_a_reason_to_be_absent(rows: Rows) -> None:
    stated, true = zip(*rows, strict=True)
    statistics = {**figures.binary_statistics(stated, true), "accuracy": figures.mean(true, (0.0, 1.0))}
    for name, found in figures.estimates(statistics, range(len(rows))).items():
        if found.low is not None and found.high is not None:
            assert found.value is not None
            assert found.low <= found.value <= found.high, name
            assert found.low < found.high, name
        else:
            assert (found.low, found.high) == (None, None)
            assert (found.value is None) == (found.reason is None), name


def test_perfect_probabilities_of_few_drafts_have_wide_intervals() -> None:
    found = figures.estimates(figures.binary_statistics([1.0] * 5 + [0.0] * 5, [True] * 5 + [False] * 5), range(10))
    for name, value in (("auroc", 1.0), ("brier", 0.0), ("ece", 0.0)):
        estimate = found[name]
        assert estimate.value == value
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.high - estimate.low > 0.1, name
    assert found["nll"].reason == "the documents do not differ"
    assert show_estimate(vars(found["nll"])) == "0.000 (no interval: the documents do not differ)"
    alone = figures.estimates({"auroc": figures.area_under_roc([0.9, 0.2, 0.3], [True, False, False])}, range(3))
    assert alone["auroc"] == figures.Estimate(1.0, reason="without one of the documents it would be undefined")


def test_intervals_are_the_same_every_time_and_contain_the_figure() -> None:
    random = np.random.default_rng(3)
    stated = list(random.random(400))
    true = [bool(random.random() < p) for p in stated]
    found, again = (figures.estimates(figures.binary_statistics(stated, true), range(400)) for _ in range(2))
    assert found == again
    for name, estimate in found.items():
        assert estimate.value is not None
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= estimate.value <= estimate.high, name
        assert estimate.low < estimate.high, name
    by_chance = figures.error_by_chance(stated)
    assert by_chance is not None
    assert found["ece"].value == pytest.approx(by_chance, abs=0.05)
    assert figures.error_by_chance([0.0, 1.0] * 20) == 0.0


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    # Wrong and right rows score N(0, 1) and N(1, 1): the area is P(N(1, √2) > 0) = 0.7602.
    random = np.random.default_rng(11)
    inside = 0
    for _ in range(200):
        true = random.random(150) < 0.4
        scores = 1 / (1 + np.exp(-random.normal(true.astype(float), 1)))
        found = figures.estimates({"auroc": figures.area_under_roc(scores, true)}, range(150))["auroc"]
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.7602 <= found.high
    assert 180 <= inside <= 198


def test_a_single_document_has_figures_but_no_interval() -> None:
    found = figures.estimates(figures.binary_statistics([0.2, 0.9], [False, True]), ["a", "a"])
    assert found["auroc"] == figures.Estimate(1.0, reason="a single document says nothing about others")
    assert figures.estimates({"mean": figures.mean([])}, []) == {"mean": figures.Estimate(None)}


# -- thresholds --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Full:
    """All drafts that a student would write for a question, one after another, had the judge rejected every one."""

    drafts: tuple[tuple[float | None, bool, bool], ...]  # probability, whether it counts as accepted without, right
    last_right: bool

    def run(self, threshold: float) -> tuple[Course, Stop, bool]:
        """Return what a run with a threshold records, how the question ends, and whether a draft was accepted."""
        seen = []
        for number, (probability, without, right) in enumerate(self.drafts):
            stop = Stop(right, number, 10 * number + 5, number + 1)
            accepted = without if probability is None else probability >= threshold
            seen.append(ReviewedDraft(probability, accepted, stop))
            if accepted:
                return Course(tuple(seen), stop), stop, True
        rounds = len(self.drafts)
        end = Stop(self.last_right, rounds, 10 * rounds, rounds + 1)
        return Course(tuple(seen), end), end, False


DRAFT = st.tuples(st.one_of(st.none(), SHARES), st.booleans(), st.booleans())
FULL = st.builds(Full, st.lists(DRAFT, max_size=5).map(tuple), st.booleans())


@settings(max_examples=60, deadline=None)
@given(st.lists(FULL, min_size=1, max_size=8), SHARES, st.lists(SHARES, min_size=1, max_size=6))
def test_the_curve_is_what_runs_with_these_thresholds_would_have_given(
    questions: Sequence[Full], used: float, thresholds: list[float]
) -> None:
    recorded = [question.run(used)[0] for question in questions]
    number = len(questions)
    for point in curve(recorded, [used, *thresholds]):
        ends = [question.run(point.accept_at)[1] for question in questions]
        accuracy = sum(end.right for end in ends) / number
        assert point.exact + point.unknown == number
        assert point.accuracy_low <= accuracy <= point.accuracy_high
        assert point.rounds <= sum(end.rounds for end in ends) / number + 1e-9
        if point.accept_at <= used:
            assert point.unknown == 0
        if not point.unknown:
            assert point.accuracy == pytest.approx(accuracy)
            assert point.rounds == pytest.approx(sum(end.rounds for end in ends) / number)
            assert point.tokens == pytest.approx(sum(end.tokens or 0 for end in ends) / number)
            assert point.completion_tokens == pytest.approx(sum(end.completion_tokens or 0 for end in ends) / number)
            assert point.accepted == sum(question.run(point.accept_at)[2] for question in questions)
        else:
            assert point.accuracy is None


def test_a_stricter_threshold_leaves_accepted_drafts_unknown_and_rejected_ones_exact() -> None:
    def draft(probability: float, accepted: bool, right: bool) -> ReviewedDraft:
        return ReviewedDraft(probability, accepted, Stop(right, 0, 5, 1))

    accepted = Course((draft(0.6, True, True),), Stop(True, 0, 5, 1))
    rejected = Course((draft(0.2, False, False),), Stop(True, 1, 20, 4))
    low, used, high = curve([accepted, rejected], [0.1, 0.5, 0.7])
    assert (low.accuracy, low.accepted, low.accepted_right, low.rounds, low.tokens) == (0.5, 2, 1, 0, 5)
    assert (used.accuracy, used.accepted, used.rounds, used.tokens, used.completion_tokens) == (1, 1, 0.5, 12.5, 2.5)
    assert (high.exact, high.unknown, high.accuracy) == (1, 1, None)
    assert (high.accuracy_low, high.accuracy_high, high.accepted) == (0.5, 1.0, 0)


def test_unknown_tokens_stay_unknown() -> None:
    course = Course((ReviewedDraft(0.6, True, Stop(True, 0)),), Stop(True, 0))
    assert [(point.tokens, point.completion_tokens) for point in curve([course], [0.5])] == [(None, None)]


def test_thresholds_are_the_recorded_probabilities_or_their_quantiles() -> None:
    few = [Course((ReviewedDraft(p, True, Stop(True, 0)),), Stop(True, 0)) for p in (0.3, 0.3, 0.8, None)]
    assert thresholds_of(few, [0.5]) == [0.0, 0.3, 0.5, 0.8, 1.0]
    many = [Course((ReviewedDraft(i / 2000, True, Stop(True, 0)),), Stop(True, 0)) for i in range(1, 1001)]
    found = thresholds_of(many, [])
    assert (len(found), found[1], found[-2]) == (103, 1 / 2000, 0.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 100), unique=True, min_size=1), st.data())
def test_printed_points_include_the_ends_and_the_used_thresholds(numbers: list[int], data: st.DataObject) -> None:
    points = [{"accept_at": number / 100} for number in sorted(numbers)]
    used = data.draw(st.lists(st.sampled_from([point["accept_at"] for point in points]), max_size=2))
    shown = [point["accept_at"] for point in shown_points(points, used)]
    assert shown[0] == points[0]["accept_at"]
    assert shown[-1] == points[-1]["accept_at"]
    assert set(used) <= set(shown)
    assert len(shown) <= 11


# -- choices -----------------------------------------------------------------------------------------------------------


def chose(result: CallResult, scores: Sequence[tuple[float, bool]], *more: CallResult) -> Transcript:
    made = [Turn("teacher", "choice", "0", result, {"scores": [list(score) for score in scores]})]
    made += [Turn("teacher", "choice", str(i), other) for i, other in enumerate(more, 1)]
    return Transcript("quiz", 0, "hash", 0, 0, "q", "Q", tuple(made), "", "decided")


def test_a_pick_has_the_probabilities_that_lm_eval_got() -> None:
    scores = [(log(0.01), False), (log(0.2), False), (log(0.8), True)]
    made = Decision(("C", "A", "B"), (None, 0.2, 0.8), "B", "endpoint", label_mass=0.7, at_most=0.01)
    pick = pick_of([chose(made, scores)])
    assert pick is not None
    assert pick.pop("probabilities") == pytest.approx([0.01, 0.2, 0.8])
    assert pick == {"chosen": 2, "options": 3, "unreported": 1, "label_mass": 0.7, "source": "endpoint"}
    scored = [Loglikelihood(log(share)) for share in (0.1, 0.3)]
    pick = pick_of([chose(scored[0], [(log(0.25), False), (log(0.75), True)], scored[1])])
    assert pick is not None
    assert (pick["chosen"], pick["source"], pick["label_mass"]) == (1, "logprobs", pytest.approx(0.4))
    for without in (Completion("B"), Decision(("A", "B"), (), "B", "constrained")):
        pick = pick_of([chose(without, [(log(1e-12), False), (0.0, True)])])
        assert pick is not None
        assert (pick["chosen"], pick["probabilities"]) == (1, [])
    assert pick_of([chose(scored[0], [], scored[1])]) is None


def row(
    doc_id: int, gold: Sequence[int], options: int, probabilities: Sequence[float], choices: int = 0, **more: object
) -> dict:  # type: ignore[type-arg]
    pick = {
        "chosen": int(np.argmax(probabilities)) if len(probabilities) else 0, "options": options,
        "probabilities": list(probabilities), "unreported": 0, "label_mass": 0.9, "source": "logprobs", **more,
    }  # fmt: skip
    return {
        "task": "quiz",
        "doc_id": doc_id,
        "gold": list(gold),
        "choices": choices or options,
        "draws": [{"pick": pick}],
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 4), st.integers(2, 30), st.integers(0, 10_000))
def test_figures_of_choices_equal_those_of_scikit_learn(options: int, number: int, seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(seed)
    shares = random.dirichlet(np.ones(options), number)
    gold = random.integers(options, size=number)
    found = choice_figures([row(i, [int(g)], options, s) for i, (g, s) in enumerate(zip(gold, shares, strict=True))])
    assert found is not None
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(gold, shares.argmax(axis=1)))
    expected = metrics.log_loss(gold, shares, labels=range(options))
    assert found["nll"]["value"] == pytest.approx(expected)
    hits = np.eye(options)[gold]
    assert found["brier"]["value"] == pytest.approx(((shares - hits) ** 2).sum(axis=1).mean())
    if options == 2 and len(set(gold)) == 2:
        assert found["auroc"]["value"] == pytest.approx(metrics.roc_auc_score(gold, shares[:, 1]))
    assert ("auroc" in found) == (options == 2)
    assert sum(one["rows"] for one in found["bins"]) == number


def test_choices_that_cannot_be_judged_are_counted() -> None:
    rows = [
        row(0, [0], 2, [0.8, 0.2]),
        row(1, [1], 2, [0.8, 0.2], unreported=1),
        row(2, [0], 2, []),
        row(3, [1], 2, []),
        row(4, [0, 1], 2, [0.8, 0.2]),
        row(5, [0], 3, [0.8, 0.1, 0.1], choices=2),
        {"task": "quiz", "doc_id": 6, "gold": None, "draws": [{"pick": None}]},
    ]
    found = choice_figures(rows)
    assert found is not None
    assert (found["rows"], found["without"], found["left_out"], found["unreported"]) == (4, 2, 2, 1)
    assert found["accuracy"]["value"] == 0.5
    assert found["brier"]["value"] == pytest.approx((2 * 0.2**2 + 2 * 0.8**2) / 2)
    assert choice_figures(rows[4:6]) == {"rows": 0, "left_out": 2}
    assert choice_figures(rows[6:]) is None


class Quiz:
    """The parts of an lm-eval task that say which choices are right."""

    def __init__(self, choices: list[str] | None, target: object) -> None:
        self.config = type("Config", (), {"doc_to_choice": choices})
        self.doc_to_target = lambda doc: target
        self.doc_to_choice = lambda doc: choices


@pytest.mark.parametrize(
    ("target", "gold"), [(1, [1]), ("b", [1]), ([0, 1], [0, 1]), (["a"], [0]), (7, []), (-1, []), ("z", [])]
)
def test_gold_choices_are_found_by_number_or_text(target: object, gold: list[int]) -> None:
    assert gold_indices(Quiz(["a", "b"], target), {}) == gold


def test_a_task_without_choices_has_no_gold_choice() -> None:
    assert gold_indices(Quiz(None, "b"), {}) is None

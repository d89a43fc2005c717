"""Plans: their files, read strictly, and what they make of a comparison."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.analysis.preregistration.plan import TESTS, Assumptions, Claim, Plan, PlanError, name_of_test
from harness_ext.analysis.preregistration.review import Review, planned_notes
from harness_ext.analysis.preregistration.start_times import start_times
from harness_ext.analysis.preregistration.strict import parse
from harness_ext.analysis.statistics.holm import holm
from harness_ext.analysis.statistics.paired import paired_difference

PLAN = Plan(
    written="2026-03-01T12:00:00+00:00",
    harness_ext="1.2.3",
    commit=None,
    tasks=("gsm8k", "both"),
    groups={"both": ("gsm8k", "mmlu")},
    metrics=("exact_match,strict", "acc"),
    reference="base",
    runs=("pair", "debate"),
    claims=(Claim("gsm8k", "exact_match,strict", "pair"), Claim("both", "acc", "debate")),
    test=TESTS[0],
    cluster=None,
    clusters=None,
    alpha=0.05,
    power=0.8,
    gain=0.03,
    questions=500,
    assumptions=Assumptions("as given", 0.5, 0.2, pilot=("runs/a", "runs/b")),
)
CLUSTERED = replace(PLAN, test=TESTS[2], cluster="story", clusters=100)


# The file


@pytest.mark.parametrize("plan", [PLAN, CLUSTERED, replace(PLAN, groups={}, commit="0" * 40)])
def test_a_written_plan_is_read_as_it_was(plan: Plan, tmp_path: Path) -> None:
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


TEXTS = st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable())


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = st.lists(TEXTS, min_size=1, max_size=3, unique=True).map(tuple)
    tasks, metrics, labels = draw(names), draw(names), draw(st.lists(TEXTS, min_size=2, max_size=4, unique=True))
    clustered = draw(st.booleans())
    every = [Claim(task, metric, run) for task in tasks for metric in metrics for run in labels[1:]]
    grouped = draw(st.lists(st.sampled_from(tasks), unique=True))
    return Plan(
        written=draw(st.datetimes(timezones=st.just(UTC))).isoformat(),
        harness_ext=draw(TEXTS),
        commit=draw(st.none() | TEXTS),
        tasks=tasks,
        groups={name: draw(names) for name in grouped},
        metrics=metrics,
        reference=labels[0],
        runs=tuple(labels[1:]),
        claims=tuple(draw(st.lists(st.sampled_from(every), min_size=1, unique=True))),
        test=TESTS[2] if clustered else draw(st.sampled_from(TESTS[:2])),
        cluster=draw(TEXTS) if clustered else None,
        clusters=draw(st.integers(1, 10**6)) if clustered else None,
        alpha=draw(st.floats(0, 1, exclude_min=True, exclude_max=True)),
        power=draw(st.floats(0, 1, exclude_min=True, exclude_max=True)),
        gain=draw(st.floats(0, 1, exclude_min=True)),
        questions=draw(st.integers(1, 10**7)),
        assumptions=Assumptions(draw(st.none() | TEXTS), icc=draw(st.none() | st.floats(0, 1)), simulation_seed=3),
    )


def as_file(plan: Plan) -> Any:
    return parse(json.dumps(plan.to_json()))


@given(plans())
def test_every_valid_plan_survives_its_file(plan: Plan) -> None:
    assert plan.problems() == []
    assert Plan.from_json(as_file(plan)) == plan


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all values in a JSON content."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def attempt(content: Any) -> tuple[Plan | None, str]:
    """Return the plan in a content, or the text of the error."""
    try:
        return Plan.from_json(content, "some.json"), ""
    except PlanError as error:
        return None, str(error)


@given(st.data())
def test_any_change_of_a_file_gives_a_plan_or_one_error(data: st.DataObject) -> None:
    """Whatever is in the place of a value, reading gives a valid plan or says what is wrong, and how to go on."""
    content = as_file(data.draw(st.sampled_from([PLAN, CLUSTERED])))
    path = data.draw(st.sampled_from(places(content)))
    other = data.draw(JSON)
    if not path:
        content = other
    else:
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = other
    plan, error = attempt(content)
    if plan is not None:
        assert plan.problems() == []
        assert Plan.from_json(as_file(plan)) == plan
    else:
        assert re.match(r"some\.json is not a plan \(\d+ problems?\):\n  - ", error)
        assert error.endswith("or write a new plan")


@given(st.data())
def test_missing_and_unknown_fields_are_named(data: st.DataObject) -> None:
    content = as_file(CLUSTERED)
    required = [name for name in content if name not in ("assumptions", "format")]
    gone = data.draw(st.lists(st.sampled_from(required), unique=True))
    more = data.draw(st.lists(TEXTS.filter(lambda text: text not in content), unique=True))
    for name in gone:
        del content[name]
    content |= dict.fromkeys(more, 1)
    if not gone and not more:
        assert Plan.from_json(content) == CLUSTERED
        return
    with pytest.raises(PlanError) as caught:
        Plan.from_json(content)
    assert f"({len(gone) + len(more)} problem" in str(caught.value)
    for name in gone:
        assert f"`{name}` is missing" in str(caught.value)
    assert str(caught.value).count("there is no such field") == len(more)


def test_all_problems_of_a_file_are_in_one_error(tmp_path: Path) -> None:
    content = as_file(PLAN) | {"alpha": "0.05", "questions": 2.0, "powr": 0.8, "groups": {"both": "mmlu"}}
    content["claims"][0] |= {"run": None, "metrik": "x"}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(PlanError) as caught:
        Plan.read(path)
    said = str(caught.value)
    assert said.startswith(f"{path} is not a plan (6 problems):")
    for problem in (
        "`powr`: there is no such field (did you mean `power`?)",
        "`alpha`: expected a number, not '0.05'",
        "`questions`: expected a whole number, not 2.0",
        "`groups[both]`: expected a list, not 'mmlu'",
        "`claims[0].run`: expected a text, not null",
        "`claims[0].metrik`: there is no such field (did you mean `metric`?)",
    ):
        assert problem in said


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"written": "yesterday"}, "expected a date and time in ISO 8601"),
        ({"written": "2026-03-01T12:00:00"}, "expected an offset from UTC"),
        ({"alpha": 0.0}, "`alpha` is 0.0: expected between 0 and 1"),
        ({"questions": 0}, "`questions` is 0: expected 1 or more"),
        ({"test": "z-test"}, "expected one of exact McNemar test"),
        ({"test": TESTS[2]}, "which does not fit `cluster`"),
        ({"cluster": "story"}, "`cluster` and `clusters` belong together"),
        ({"runs": ("pair", "debate", "base")}, "`runs` contains the reference 'base'"),
        ({"claims": ()}, "`claims` is empty"),
        ({"claims": PLAN.claims[:1] * 2}, "`claims` contains something twice"),
        ({"claims": (Claim("other", "acc", "pair"),)}, "`claims[0].pool` is 'other', which is not among `tasks`"),
        ({"groups": {"else": ("a",)}}, "`groups[else]` is not among `tasks`"),
        ({"format": 2}, "`format` is 2, and this version reads 1"),
    ],
)
def test_contradictions_are_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    plan = replace(PLAN, **change)
    with pytest.raises(PlanError, match=re.escape(problem)):
        Plan.from_json(as_file(plan))
    with pytest.raises(PlanError, match=re.escape(problem)):
        plan.write(tmp_path / "plan.json")
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 2}', "it has `a` twice in one object"),
        ('{"a": NaN}', "it contains NaN, which is not JSON"),
        ("[" * 100_000, "it is nested too deeply"),
        ("{", "Expecting property name"),
        ("[]", "expected an object, not []"),
    ],
)
def test_what_is_no_plan_at_all_is_named(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=re.escape(problem)):
        Plan.read(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="it cannot be read"):
        Plan.read(tmp_path / "missing.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match="it cannot be read"):
        Plan.read(tmp_path / "bytes.json")


def test_tests_have_the_names_that_comparisons_give_them() -> None:
    right, graded, labels = [0.0, 1.0, 1.0], [0.0, 0.5, 1.0], ["a", "a", "b"]
    assert paired_difference(right, right, (0, 1)).test == name_of_test(True, False)
    assert paired_difference(right, graded, (0, 1)).test == name_of_test(False, False)
    assert paired_difference(right, right, (0, 1), labels).test == name_of_test(True, True)
    assert paired_difference(right, graded, (0, 1), labels).test == name_of_test(False, True)


# The review of a comparison


@dataclass(frozen=True)
class FakePool:
    name: str
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class FakeDifference:
    value: float
    p_value: float
    test: str = TESTS[0]


@dataclass(frozen=True)
class FakeRow:
    pool: FakePool
    metric: str
    run: str
    number: int = 500
    higher_is_better: bool = True
    difference: FakeDifference | None = None


@dataclass(frozen=True)
class FakeComparison:
    runs: tuple[str, ...]
    rows: Sequence[FakeRow]
    clusters: str | None = None


GSM8K, BOTH = FakePool("gsm8k", ("gsm8k",)), FakePool("both", ("gsm8k", "mmlu"))
AFTER = dict.fromkeys(("base", "pair", "debate"), PLAN.time + timedelta(hours=1))


def row(pool: FakePool, metric: str, run: str, p: float, value: float = 0.1, **more: Any) -> FakeRow:
    return FakeRow(pool, metric, run, difference=FakeDifference(value, p, more.pop("test", TESTS[0])), **more)


ROWS = (
    FakeRow(GSM8K, "exact_match,strict", "base"),
    row(GSM8K, "exact_match,strict", "pair", 0.02),
    row(GSM8K, "exact_match,strict", "debate", 0.001),
    row(GSM8K, "exact_match,flexible", "pair", 0.0001),
    row(BOTH, "acc,none", "debate", 0.04),
)
COMPARISON = FakeComparison(("base", "pair", "debate"), ROWS)


def test_planned_and_exploratory_rows() -> None:
    found = planned_notes(PLAN, COMPARISON, AFTER)
    assert found.deviations == found.unknown == ()
    assert [(r.metric, r.run, r.is_planned) for r in found.rows] == [
        ("exact_match,strict", "pair", True), ("exact_match,strict", "debate", False),
        ("exact_match,flexible", "pair", False), ("acc,none", "debate", True),
    ]  # fmt: skip
    planned = [r.adjusted for r in found.rows if r.is_planned]
    assert planned == holm([0.02, 0.04]) == [0.04, 0.04], "over the two claims, not over four rows"
    assert [r.verdict for r in found.rows] == ["shown", None, None, "shown"]
    assert found.row("gsm8k", "exact_match,strict", "base") is None
    notes = found.notes()
    assert notes[0] == (
        "Planned on 2026-03-01T12:00:00+00:00: gsm8k, exact_match,strict, pair against base: +0.100, p = 0.04, "
        "Holm over 2 claims: a gain is shown at the level 0.05."
    )
    assert notes[2].startswith("Exploratory: 2 of 4 differences were not planned")
    assert len(notes) == 3


@pytest.mark.parametrize(
    ("value", "higher", "p", "verdict"),
    [(0.1, True, 0.01, "shown"), (-0.1, True, 0.01, "opposite"), (-0.1, False, 0.01, "shown"),
     (0.1, False, 0.01, "opposite"), (0.1, True, 0.2, "not shown"), (0.0, True, 1.0, "not shown")],
)  # fmt: skip
def test_the_direction_counts(value: float, higher: bool, p: float, verdict: str) -> None:
    plan = replace(PLAN, claims=PLAN.claims[:1])
    rows = (row(GSM8K, "exact_match,strict", "pair", p, value, higher_is_better=higher),)
    (found,) = planned_notes(plan, FakeComparison(("base", "pair", "debate"), rows), AFTER).rows
    assert found.verdict == verdict
    assert found.gain == (value if higher else -value)


def deviations(comparison: FakeComparison, plan: Plan = PLAN, **more: Any) -> Review:
    return planned_notes(plan, comparison, more.pop("started", AFTER), **more)


def test_a_missing_run_counts_in_holms_correction() -> None:
    """Leaving out a claim does not make the others look better."""
    found = deviations(FakeComparison(("base", "pair"), [r for r in ROWS if r.run != "debate"]))
    assert found.deviations == ("the run debate is missing",)
    assert [r.adjusted for r in found.rows if r.is_planned] == [0.04], "twice 0.02"


def test_another_reference_tests_nothing() -> None:
    found = deviations(FakeComparison(("pair", "base", "debate"), ROWS))
    assert found.deviations == ("the reference is pair instead of base, so that no claim is tested",)
    assert not any(r.is_planned for r in found.rows)


def test_an_ambiguous_metric_is_not_chosen_afterwards() -> None:
    plan = replace(PLAN, metrics=("exact_match", "acc"), claims=(Claim("gsm8k", "exact_match", "pair"),))
    found = deviations(COMPARISON, plan)
    assert len(found.deviations) == 1
    assert "fits several metrics (exact_match,strict, exact_match,flexible)" in found.deviations[0]
    assert not any(r.is_planned for r in found.rows)


@pytest.mark.parametrize(
    ("changed", "more", "said"),
    [
        ({"number": 400}, {}, "has 400 questions, fewer than the planned 500"),
        ({"number": 600}, {}, "more than the planned 500: if they were added after looking at results"),
        ({"difference": FakeDifference(0.1, 0.02, TESTS[1])}, {}, "by the sign-flip test instead of the exact McNemar"),
        ({"pool": FakePool("both", ("gsm8k", "boolq"))}, {}, "both consists of gsm8k, boolq instead of gsm8k, mmlu"),
        ({"metric": "f1,none"}, {}, "(both, acc, debate) is not tested: there is no such pool or metric"),
        ({}, {"alpha": 0.01}, "the comparison's intervals belong to the level 0.01"),
        ({}, {"started": {**AFTER, "pair": PLAN.time - timedelta(seconds=1)}}, "pair was started on 2026-03-01T11:59"),
    ],
)  # fmt: skip
def test_deviations_are_listed(changed: dict[str, Any], more: dict[str, Any], said: str) -> None:
    rows = (*ROWS[:-1], replace(ROWS[-1], **changed))
    found = deviations(FakeComparison(COMPARISON.runs, rows), **more)
    assert len(found.deviations) == 1
    assert said in found.deviations[0]
    assert f"Not as planned: {found.deviations[0]}." in found.notes()


def test_other_clusters_are_listed() -> None:
    found = deviations(FakeComparison(COMPARISON.runs, ROWS, "story"))
    assert "the clusters are defined by story instead of single questions, which changes the test" in found.deviations
    found = deviations(COMPARISON, CLUSTERED)
    assert "the clusters are single questions instead of defined by story, which changes the test" in found.deviations


def test_unknown_times_are_not_passed_over() -> None:
    found = deviations(COMPARISON, started={"base": AFTER["base"], "pair": None})
    assert [sentence.split(",")[0] for sentence in found.unknown] == [
        "when pair was started",
        "when debate was started",
    ]
    assert found.deviations == ()


def test_a_run_started_with_the_plan_is_not_earlier() -> None:
    assert deviations(COMPARISON, started=dict.fromkeys(AFTER, PLAN.time)).deviations == ()


@given(
    p=st.lists(st.floats(0, 1), min_size=2, max_size=2),
    kept=st.sets(st.sampled_from(range(len(ROWS)))),
)
def test_planned_p_values_are_never_below_those_of_the_complete_comparison(p: list[float], kept: set[int]) -> None:
    rows = list(ROWS)
    rows[1] = row(GSM8K, "exact_match,strict", "pair", p[0])
    rows[4] = row(BOTH, "acc,none", "debate", p[1])
    whole = planned_notes(PLAN, FakeComparison(COMPARISON.runs, rows), AFTER)
    part = planned_notes(PLAN, FakeComparison(COMPARISON.runs, [rows[i] for i in sorted(kept)]), AFTER)
    for found in part.rows:
        same = whole.row(found.pool, found.metric, found.run)
        assert same is not None
        assert found.is_planned == same.is_planned
        if found.adjusted is not None and same.adjusted is not None:
            assert found.adjusted >= same.adjusted >= same.p_value


# When runs were started


def test_start_times_come_from_what_runs_wrote(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"started": "2026-02-03T04:05:06+0100"}))
    results = tmp_path / "results_2026-05-05T00-00-00.json"
    results.write_text(json.dumps({"date": 1767225600.5}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.json").write_text('{"date": "soon"}')
    found = start_times(
        {
            "run": [str(run)],
            "results": [str(results)],
            "both": [str(run), str(results)],
            "half": [str(run), str(tmp_path / "empty")],
            "odd": [str(tmp_path / "odd.json")],
            "gone": [str(tmp_path / "gone.json")],
            "none": [],
        }
    )
    in_run, in_results = datetime(2026, 2, 3, 3, 5, 6, tzinfo=UTC), datetime(2026, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)
    assert found == {
        "run": in_run, "results": in_results, "both": in_results, "half": None, "odd": None, "gone": None, "none": None,
    }  # fmt: skip

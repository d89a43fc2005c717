"""How order and length influence a judge: the figures alone, and from runs with scripted judges."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import log, log2
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from scored_runs import make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.scoring.command import report
from harness_ext.analysis.scoring.judges import (
    Comparison,
    Showing,
    accuracy_figures,
    judge_figures,
    length_figures,
    position_figures,
)
from harness_ext.analysis.scoring.score import score_run
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.enhance.preferences import PreferenceJob, write_candidates, write_judgements, write_pairs
from harness_ext.enhance.running import plan_seats
from harness_ext.enhance.templates import read_templates
from harness_ext.enhance.tournament import Tournament
from harness_ext.models.debate import DebateLM

FORWARD, BACKWARD = (0, 1), (1, 0)


def pair(first: int, second: int, source: int = 0, lengths: tuple[int, int] = (5, 10), **more: Any) -> Comparison:
    """Return a comparison of two texts; `first` and `second` are the places that were chosen in the two orders."""
    showings = (Showing(FORWARD, first), Showing(BACKWARD, second))
    preferred = FORWARD[first] if FORWARD[first] == BACKWARD[second] else None
    return Comparison(source, lengths, showings, more.pop("preferred", preferred), **more)


def flat(figures: Any, name: str = "") -> dict[str, float]:
    """Return all numbers of nested figures, by their path."""
    if isinstance(figures, dict):
        return {path: value for key, inner in figures.items() for path, value in flat(inner, f"{name}/{key}").items()}
    return {} if figures is None else {name: float(figures)}


# -- the figures alone -------------------------------------------------------------------------------------------------


def test_the_exact_test_and_intervals_are_those_of_the_flips() -> None:
    chosen = [(0, 0)] * 7 + [(1, 1)] * 2 + [(0, 1)] * 6 + [(1, 0)] * 5
    found = position_figures([pair(*one, source=i) for i, one in enumerate(chosen)])
    assert found is not None
    assert found["first"]["value"] == (14 + 11) / 40
    assert (found["expected"], found["effect"]["value"]) == (0.5, pytest.approx(5 / 40))
    assert found["effect"]["p"] == pytest.approx(binomtest(7, 9).pvalue)
    for name, count in (("consistent", 11), ("first_both", 7), ("last_both", 2)):
        exact = binomtest(count, 20).proportion_ci(method="exact")
        assert found[name] == {"rows": 20, "value": count / 20, "low": exact.low, "high": exact.high}
    assert found["effect"]["low"] <= 0 <= found["effect"]["high"], "the interval agrees with the test"
    assert found["probability"] is None


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30), st.randoms())
def test_figures_do_not_depend_on_names_and_order(chosen: list[tuple[int, int]], random: Any) -> None:
    """Which text is called the first, and in which order the comparisons and their showings come, must not matter."""
    comparisons = [pair(*one, source=i) for i, one in enumerate(chosen)]
    renamed = [pair(second, first, source=i, lengths=(10, 5)) for i, (first, second) in enumerate(chosen)]
    random.shuffle(renamed)
    position, before = position_figures(comparisons), length_figures(comparisons)
    assert flat(position) == pytest.approx(flat(position_figures(renamed)))
    assert flat(before) == pytest.approx(flat(length_figures(renamed)))
    assert position is not None
    assert before is not None
    for found in (position["first"], position["consistent"], position["effect"], before["longest"], before["effect"]):
        assert found["low"] <= found["value"] <= found["high"]
    assert position["first"]["value"] == pytest.approx(0.5 + position["effect"]["value"])
    flips = position["first_both"]["value"] + position["last_both"]["value"]
    assert position["consistent"]["value"] == pytest.approx(1 - flips)


@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20),
)
def test_a_judge_that_looks_at_the_text_alone_shows_no_effect(texts: int, wishes: list[tuple[int, int]]) -> None:
    forward = tuple(range(texts))
    backward = forward[::-1]
    comparisons = []
    for source, (wish, length) in enumerate(wishes):
        best = wish % texts
        showings = tuple(Showing(order, order.index(best)) for order in (forward, backward))
        comparisons.append(Comparison(source, tuple(range(length + 1, length + 1 + texts)), showings, best))
    found = position_figures(comparisons)
    assert found is not None
    assert (found["effect"]["value"], found["effect"]["p"], found["consistent"]["value"]) == (0.0, 1.0, 1.0)
    assert found["first"]["value"] == pytest.approx(found["expected"])


def test_probabilities_show_an_effect_that_does_not_change_the_choice() -> None:
    """Shown first, the better text gets 0.9, shown last 0.7: the first place is worth 0.1 on average."""
    comparisons = [
        Comparison(i, (5, 10), (Showing(FORWARD, 0, (0.9, 0.1)), Showing(BACKWARD, 1, (0.3, 0.7))), 0)
        for i in range(10)
    ]
    found = position_figures(comparisons)
    assert found is not None
    assert found["effect"]["value"] == 0
    assert found["probability"]["value"] == pytest.approx(0.1)
    assert found["probability"]["p"] == pytest.approx(2 * 0.5**10)
    assert found["probability"]["low"] > 0
    length = length_figures(comparisons)
    assert length is not None
    # The shorter text is preferred; its log-odds are the mean over both orders, and it is half as long.
    assert length["slope"]["value"] == pytest.approx(-(log(0.9 / 0.1) + log(0.7 / 0.3)) / 2)
    unknown = [Comparison(0, (5, 10), (Showing(FORWARD, 0, (0.9, None)), Showing(BACKWARD, 1, (0.3, 0.7))), 0)]
    without, length = position_figures(unknown), length_figures(unknown)
    assert without is not None
    assert length is not None
    assert (without["probability"], length["slope"]) == (None, None)


def test_only_comparisons_that_were_decided_in_every_order_count() -> None:
    half = Comparison(1, (5, 10), (Showing(FORWARD, 0), Showing(BACKWARD, None)), None)
    single = Comparison(2, (5, 10), (Showing(FORWARD, 1),), 1)
    found = judge_figures([pair(0, 0), half, single])
    assert found is not None
    assert (found["comparisons"], found["both_orders"], found["decisions"], found["undecided"]) == (3, 2, 4, 1)
    assert found["without_verdict"] == 2
    assert (found["position"]["comparisons"], found["position"]["orders"]) == (1, 2)
    alone = judge_figures([half, single])
    assert alone is not None
    assert (alone["position"]["comparisons"], alone["position"]["orders"]) == (1, 1)
    nothing = judge_figures([half])
    assert nothing is not None
    assert (nothing["position"], nothing["length"]) == (None, None)
    assert judge_figures([]) is None


def test_texts_of_equal_length_say_nothing_about_length() -> None:
    found = length_figures([pair(0, 1, lengths=(7, 7))])
    assert found == {"comparisons": 0, "equal": 1}


def test_accuracy_is_split_by_length_and_place() -> None:
    """Every judge's decision is for the first place; the right text is the longer one of the first two comparisons."""
    comparisons = [
        pair(0, 0, 0, preferred=1, right=(False, True)),
        pair(0, 0, 1, preferred=0, right=(False, True)),
        pair(0, 0, 2, preferred=0, right=(True, False)),
        pair(0, 0, 3, preferred=None, right=(True, False)),
        pair(0, 0, 4, preferred=0, right=(True, True)),
        pair(0, 0, 5, preferred=0),
    ]
    found = accuracy_figures(comparisons)
    assert found is not None
    assert (found["comparisons"], found["without_verdict"], found["chance"]) == (4, 1, 0.5)
    shares = {name: (found[name]["rows"], found[name]["value"]) for name in found if name.startswith(("right", "acc"))}
    assert shares == {
        "accuracy": (3, pytest.approx(2 / 3)),
        "right_longest": (2, 0.5),
        "right_shortest": (1, 1.0),
        "right_first": (4, 1.0),
        "right_last": (4, 0.0),
    }
    assert accuracy_figures([pair(0, 0)]) is None


# -- debates -----------------------------------------------------------------------------------------------------------

# The wrong answer is longer than the right one in the first half of the documents, and shorter in the second half.
ROWS = [{"q": f"{i}?", "a": str(7000 + i)} for i in range(24)]
WRONG = ["1234567890" if i < 12 else "9" for i in range(24)]


def agent(number: int) -> ScriptedBackend:
    """Return an agent that is right about every second document."""

    def reply(prompt: str) -> str:
        i = int(prompt.split("Q: ")[1].split("?")[0])
        return str(7000 + i) if i % 2 == number else WRONG[i]

    return ScriptedBackend(reply, name=f"agent {number}")


def first_place(texts: Sequence[str]) -> list[float]:
    return [0.9, *[0.1 / (len(texts) - 1)] * (len(texts) - 1)]


def longer(texts: Sequence[str]) -> list[float]:
    return [0.8 if text == max(texts, key=len) else 0.2 for text in texts]


def fair(texts: Sequence[str]) -> list[float]:
    return [0.7 if text.startswith("70") else 0.3 for text in texts]


def scripted_judge(judge: Callable[[Sequence[str]], list[float]], writes: bool) -> ScriptedBackend:
    if not writes:

        def decide(request: DecideRequest) -> list[float]:
            state = json.loads(request.state)
            return judge([state[option] for option in request.options])

        return ScriptedBackend(lambda prompt: "?", decide_reply=decide, name="judge")

    def write(prompt: str) -> str:
        state = json.loads(prompt.split("User: ")[1].split("\n\n")[0])
        shares = judge([state["answer 1"], state["answer 2"]])
        return "AB"[shares.index(max(shares))]

    return ScriptedBackend(write, name="judge")


def judged_debate(folder: Path, judge: Callable[[Sequence[str]], list[float]], writes: bool = False) -> dict[str, Any]:
    """Let two agents debate all documents under a judge; return the figures of the scored run."""
    from lm_eval.evaluator import evaluate

    lm = DebateLM(
        agents=[agent(0), agent(1)], judge=scripted_judge(judge, writes), judge_by="choice", decision="judge",
        topology="all", max_rounds=0, store="off", run_dir=folder / "run", progress="off",
    )  # fmt: skip
    evaluate(lm, {"sums": make_task(rows=ROWS)}, bootstrap_iters=0)
    result = score_run(folder / "run", manager=manager_of(make_task(rows=ROWS)))
    report(folder / "run", result)
    task: dict[str, Any] = result["tasks"]["sums"]
    return {**task["judge"], "accuracy": task["metrics"]["exact_match,none"]["judge"]}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.parametrize("writes", [False, True])
def test_a_judge_that_takes_the_first_place(tmp_path: Path, writes: bool, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged_debate(tmp_path, first_place, writes)
    assert (found["comparisons"], found["both_orders"], found["decisions"], found["undecided"]) == (24, 24, 48, 0)
    position, length, accuracy = found["position"], found["length"], found["accuracy"]
    assert [position[name]["value"] for name in ("first", "first_both", "last_both", "consistent")] == [1, 1, 0, 0]
    assert (position["expected"], position["effect"]["value"]) == (0.5, 0.5)
    assert position["effect"]["p"] == pytest.approx(2 * 0.5**24)
    assert position["first_both"]["low"] == pytest.approx(0.025 ** (1 / 24)), "Clopper and Pearson"
    assert (length["longest"]["value"], length["effect"]["p"]) == (0.5, 1.0)
    assert (accuracy["right_first"]["value"], accuracy["right_last"]["value"]) == (1.0, 0.0)
    assert found["without_verdict"] == (24 if writes else 0), "without probabilities, two choices make no decision"
    if writes:
        assert (position["probability"], length["slope"]) == (None, None)
    else:
        assert position["probability"]["value"] == pytest.approx(0.4)
        assert length["slope"]["value"] == pytest.approx(0)
    printed = " ".join(capsys.readouterr().out.split())
    assert "sums: 24 comparisons by the judge, 24 of them in both orders;" in printed
    assert "decisions for the first place 24 1.000 (" in printed
    assert ") 0.500 1.2e-07" in printed


def test_a_judge_that_takes_the_longer_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = judged_debate(tmp_path, longer)
    position, length, accuracy = found["position"], found["length"], found["accuracy"]
    assert (position["consistent"]["value"], position["effect"]["value"], position["effect"]["p"]) == (1, 0, 1)
    assert (length["comparisons"], length["equal"]) == (24, 0)
    assert (length["longest"]["value"], length["expected"]) == (1.0, 0.5)
    assert length["effect"]["p"] == pytest.approx(2 * 0.5**24)
    ratios = [log2(10 / 4)] * 12 + [log2(4 / 1)] * 12
    slope = sum(x * log(4) for x in ratios) / sum(x * x for x in ratios)
    assert length["slope"]["value"] == pytest.approx(slope)
    assert accuracy["accuracy"]["value"] == 0.5
    assert (accuracy["right_longest"]["value"], accuracy["right_shortest"]["value"]) == (1.0, 0.0)
    assert (accuracy["right_first"]["value"], accuracy["right_last"]["value"]) == (0.5, 0.5)
    printed = " ".join(capsys.readouterr().out.split())
    assert "decisions for the longest text 24 1.000 (" in printed
    assert "right where the right text is the shortest (exact_match) 12 0.000 (" in printed


def test_a_fair_judge(tmp_path: Path) -> None:
    found = judged_debate(tmp_path, fair)
    position, length, accuracy = found["position"], found["length"], found["accuracy"]
    assert (position["effect"]["value"], position["effect"]["p"], position["consistent"]["value"]) == (0, 1, 1)
    assert position["probability"]["value"] == pytest.approx(0)
    assert (length["longest"]["value"], length["effect"]["p"]) == (0.5, 1.0)
    assert (accuracy["accuracy"]["value"], accuracy["chance"]) == (1.0, 0.5)
    assert all(accuracy[name]["value"] == 1 for name in ("right_longest", "right_shortest", "right_first"))


def test_three_candidates_are_compared_with_the_swapped_order(tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate

    def run(name: str, judge: Callable[[Sequence[str]], list[float]]) -> dict[str, Any]:
        agents = [ScriptedBackend(lambda p, t=t: t, name=t) for t in ("1", "22", "333")]  # type: ignore[misc]
        lm = DebateLM(
            agents=agents, judge=scripted_judge(judge, False), judge_by="choice", decision="judge", topology="all",
            max_rounds=0, store="off", run_dir=tmp_path / name, progress="off",
        )  # fmt: skip
        evaluate(lm, {"sums": make_task(rows=ROWS[:8])}, bootstrap_iters=0)
        found = score_run(tmp_path / name, manager=manager_of(make_task(rows=ROWS[:8])))
        judged: dict[str, Any] = found["tasks"]["sums"]["judge"]
        return judged

    biased = run("first", first_place)["position"]
    assert (biased["first"]["value"], biased["expected"], biased["effect"]["value"]) == (1.0, 0.5, 0.5)
    middle = run("middle", lambda texts: [0.8 if len(text) == 2 else 0.1 for text in texts])
    assert middle["position"]["effect"]["value"] == 0
    assert (middle["position"]["first"]["value"], middle["position"]["expected"]) == (0.0, 0.0)
    assert (middle["length"]["longest"]["value"], middle["length"]["slope"]) == (0.0, None)


def test_comparisons_of_earlier_versions_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They recorded only whether the order changed the result."""
    rows = [{"q": f"{i}+{i}?", "a": str(2 * i)} for i in range(8)]
    run = write_run(
        tmp_path / "run",
        transcript(
            0,
            said("agent1", "draft", "0", round=0, answer="0"),
            said("agent2", "draft", "5", round=0, answer="5"),
            said("judge", "ruling", "A", order_changed=True, question="q1"),
        ),
    )
    result = score_run(run, manager=manager_of(make_task(rows=rows)))
    assert result["tasks"]["sums"]["judge"] == {"comparisons": 0, "asked": {}, "unrecorded": 1}
    assert "judge" not in result["tasks"]["sums"]["metrics"]["exact_match,none"]
    report(run, result)
    assert "sums: 1 comparisons left out: an earlier version made them" in " ".join(capsys.readouterr().out.split())


# -- preferences -------------------------------------------------------------------------------------------------------

TEMPLATES = read_templates({"fields": {"text": "{{ question }}"}, "gold": "{{ answer }}"}, "mine.yaml")
CANDIDATES = ["Answer: 3", "It is rather long. Answer: 2", "Because of this and that and more. Answer: 3", "Answer: 1"]


def preferences(folder: Path, judge: Callable[[Sequence[str]], list[float]], **options: Any) -> dict[str, Any]:
    source = folder / "in.jsonl"
    rows = [{"text": f"Question {i}?", "question": "", "answer": "3", "candidates": CANDIDATES} for i in range(8)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def decide(request: DecideRequest) -> list[float]:
        state = json.loads(request.state)
        return judge([state[option] for option in request.options])

    def write(prompt: str) -> str:
        shown = [part.split('\n"""')[0] for part in prompt.split('"""\n')[3::2]]
        shares = judge([text for text in shown if text.strip()][:2])
        return json.dumps({"preferred": 1 + shares.index(max(shares))})

    backend = ScriptedBackend(write, decide_reply=decide, name="judge")
    given = {"store": "off", "progress": "off", "schedule": "round_robin", **options}
    plan = plan_seats(Tournament, {"judge": backend}, given)
    job = PreferenceJob(source, folder / "out.jsonl", "text", {"max_gen_toks": 20}, TEMPLATES, 1.0)
    write_candidates(job, None)
    assert isinstance(plan.protocol, Tournament)
    write_judgements(job, plan.protocol, plan)
    return write_pairs(job.judgements, job.target)


@pytest.mark.parametrize("style", ["pairwise", "choice"])
def test_the_judge_of_preferences_has_the_same_figures(tmp_path: Path, style: str) -> None:
    found = preferences(tmp_path, longer, style=style)["judge"]
    assert (found["comparisons"], found["both_orders"], found["undecided"]) == (48, 48, 0)
    assert found["position"]["consistent"]["value"] == 5 / 6, "two of the candidates are equally long"
    assert (found["length"]["comparisons"], found["length"]["equal"]) == (40, 8)
    assert found["length"]["longest"]["value"] == 1
    assert (found["position"]["probability"] is None) == (style == "pairwise")
    assert found["accuracy"]["right_longest"]["value"] == 1
    assert found["accuracy"]["right_shortest"]["value"] == 0


def test_preferences_by_gold_have_no_judge(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"text": "Q?", "question": "", "answer": "3", "candidates": CANDIDATES}) + "\n")
    job = PreferenceJob(source, tmp_path / "out.jsonl", "text", {}, TEMPLATES, 1.0)
    write_candidates(job, None)
    write_judgements(job, Tournament(), None)
    assert write_pairs(job.judgements, job.target)["judge"] is None

"""`harness-ext train-gate`: the fit, what it refuses, what it warns of, and that a debate can use the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_runs import make_task, manager_of

from harness_ext.analysis import debate_gate
from harness_ext.analysis.debate_gate import DebatedQuestion, GateError, outcomes_of, train
from harness_ext.analysis.scoring.score import score_run
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.decisions.debate_gate import DebateGate
from harness_ext.errors import FAILED, OK, USAGE
from harness_ext.models.debate import DebateLM
from harness_ext.records.run_directory import read_transcripts

MANY = [{"q": f"{i}+{i}?", "a": str(2 * i)} for i in range(60)]


def question(number: int, before: bool, after: bool, **features: float) -> DebatedQuestion:
    return DebatedQuestion(("sums", str(number)), features, before, after)


def noisy(number: int, seed: int = 1) -> list[DebatedQuestion]:
    """Return questions whose debates help where `doubt` is large; `noise` says nothing, and `same` is constant."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(number):
        doubt = random.normal()
        helped = bool(random.random() < 1 / (1 + np.exp(2 - 3 * doubt)))
        before = not helped and bool(random.random() < 0.6)
        spoilt = before and bool(random.random() < 0.2)
        found.append(
            question(i, before, helped or (before and not spoilt), doubt=10 + 5 * doubt, noise=random.normal(), same=7)
        )
    return found


# -- the fit -----------------------------------------------------------------------------------------------------------


def test_the_fit_is_a_logistic_regression_with_a_penalty() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    questions = noisy(400)
    gate, _ = train(questions, {}, ["sums:test"])
    table = np.array([[(q.features[n] - m) / s for n, m, s in zip(gate.features, gate.means, gate.scales, strict=True)]
                      for q in questions])  # fmt: skip
    # Platt's targets are a little more than 0 and less than 1: each row counts as both, with these weights.
    helped = np.array([q.helped for q in questions])
    targets = np.where(helped, (helped.sum() + 1) / (helped.sum() + 2), 1 / (400 - helped.sum() + 2))
    expected = linear_model.LogisticRegression(C=1.0, tol=1e-8).fit(
        np.vstack([table, table]), [1] * 400 + [0] * 400, np.concatenate([targets, 1 - targets])
    )
    assert gate.features == ("doubt", "noise", "same")
    assert list(gate.slopes) == pytest.approx(list(expected.coef_[0]), abs=1e-3)
    assert gate.offset == pytest.approx(expected.intercept_[0], abs=1e-3)
    assert gate.slopes[2] == 0.0
    assert (gate.rows, gate.helped) == (400, sum(q.helped for q in questions))


def test_the_gate_finds_the_debates_that_help() -> None:
    gate, outcomes = train(noisy(600), {}, ["sums:test"])
    never, always = outcomes[0], outcomes[-1]
    chosen = next(outcome for outcome in outcomes if outcome.threshold == gate.threshold)
    assert (never.debated, always.debated) == (0.0, 1.0)
    assert chosen.accuracy > max(never.accuracy, always.accuracy)
    fresh = noisy(2000, seed=2)
    asked = [gate.probability(q.features) >= gate.threshold for q in fresh]
    right = sum(q.after if debates else q.before for q, debates in zip(fresh, asked, strict=True))
    assert right > max(sum(q.before for q in fresh), sum(q.after for q in fresh))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from((0.1, 0.3, 0.5, 0.9)), st.booleans(), st.booleans()), min_size=1, max_size=40)
)
def test_each_threshold_does_what_a_run_with_it_would(rows: list[tuple[float, bool, bool]]) -> None:
    questions = [question(i, before, after) for i, (_, before, after) in enumerate(rows)]
    stated = [probability for probability, _, _ in rows]
    for outcome in outcomes_of(stated, questions):
        debates = [probability >= outcome.threshold for probability in stated]
        right = sum(q.after if d else q.before for q, d in zip(questions, debates, strict=True))
        assert outcome.debated == pytest.approx(sum(debates) / len(rows))
        assert outcome.accuracy == pytest.approx(right / len(rows))


def test_what_cannot_be_fitted_is_refused() -> None:
    for before, after, said in ((False, True, "all of 4"), (True, False, "none of 4")):
        with pytest.raises(GateError, match=said):
            train([question(i, before, after, x=float(i)) for i in range(4)], {}, [])
    one = [DebatedQuestion(("sums", "a"), {"x": float(i)}, False, i > 1) for i in range(4)]
    with pytest.raises(GateError, match="one document"):
        train(one, {}, [])
    with pytest.raises(GateError, match="different features"):
        train([question(0, False, True, x=1.0), question(1, True, True, y=1.0)], {}, [])


def test_the_fit_is_finite_where_a_feature_separates_the_debates() -> None:
    gate, _ = train([question(i, False, i > 15, x=float(i > 15), y=0.0) for i in range(30)], {}, [])
    assert np.isfinite([*gate.slopes, gate.offset]).all()
    assert gate.probability({"x": 1.0, "y": 0.0}) > 0.8 > 0.2 > gate.probability({"x": 0.0, "y": 0.0})


# -- runs that train a gate, and a run that uses it --------------------------------------------------------------------


def number_in(prompt: str) -> int:
    return int(prompt.split("Q: ")[1].split("+")[0])


def first(prompt: str) -> str:
    """Answer right where the number is odd; doubt the answers to multiples of 4, which the others know."""
    number = number_in(prompt)
    if "as a strict critic would" in prompt[-700:]:
        return f"Doubt: Perhaps not.\nConfidence: {30 if number % 4 == 0 else 90}"
    return str(2 * number) if number % 2 else "7"


def others(prompt: str) -> str:
    number = number_in(prompt)
    return str(2 * number) if number % 4 == 0 or (number % 2 and number % 3) else "7"


@pytest.fixture
def debates(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that holds and scores debates on all rows, and returns the run directory."""

    def hold(name: str, **options: Any) -> Path:
        from lm_eval.evaluator import evaluate

        team = [ScriptedBackend(first, name="first"), *(ScriptedBackend(others, name=f"other {i}") for i in range(2))]
        given = {"store": "off", "run_dir": tmp_path / name, "progress": "off", "topology": "all", "max_rounds": 1}
        evaluate(DebateLM(agents=team, **{**given, **options}), {"sums": make_task(rows=MANY)}, bootstrap_iters=0)
        score_run(tmp_path / name, manager=manager_of(make_task(rows=MANY)))
        return tmp_path / name

    return hold


def right(run: Path) -> int:
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    return int(sum(row["filters"]["none"]["lm_eval"]["exact_match"] for row in rows))


def test_a_gate_is_trained_on_debates_and_spares_others(
    debates: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    always, output = debates("always", gate="critique"), tmp_path / "gate.json"
    arguments = [str(always), "--on", "sums", "--output", str(output)]
    assert debate_gate.main(arguments) == OK
    gate = DebateGate.read(str(output))
    assert (gate.rows, gate.helped, gate.tasks) == (60, 15, ("sums:test",))
    printed = capsys.readouterr().out
    assert "60 debates: 15 corrected a wrong answer, 10 spoiled a right one" in printed
    assert f"gate=trained,gate_file={output}" in printed
    assert "WARNING" not in printed

    assert debate_gate.main(arguments) == USAGE
    assert "--overwrite" in capsys.readouterr().err
    gated = debates("gated", gate="trained", gate_file=str(output))
    spared = [transcript for transcript in read_transcripts(gated) if transcript.stop == "spared"]
    assert (right(always), right(gated)) == (35, 45)
    assert len(spared) == 45
    summary = json.loads((gated / "summary.json").read_text())
    assert (summary["totals"]["gate_shut"], summary["totals"]["gate_open"]) == (45, 15)

    ends = json.loads((gated / "scores.json").read_text())["tasks"]["sums"]["metrics"]["exact_match,none"]["ends"]
    assert {end: (found["questions"], found["before"], found["after"]) for end, found in ends.items()} == {
        "spared": (45, pytest.approx(30 / 45), pytest.approx(30 / 45)), "max_rounds": (15, 1.0, 1.0),
    }  # fmt: skip

    assert debate_gate.main([str(always), str(debates("two", gate="critique", max_rounds=2)), *arguments[1:]]) == USAGE
    assert debate_gate.main([str(always), str(tmp_path / "two"), *arguments[1:], "--overwrite"]) == FAILED
    assert "different options or models" in capsys.readouterr().err
    assert debate_gate.main([str(gated), *arguments[1:], "--overwrite"]) == FAILED
    assert "no debated questions" in capsys.readouterr().err
    plain = debates("plain")
    for more, said in (([], "gate=critique"), (["--on", "other"], "name one of them"), (["--metric", "f1"], "choose")):
        assert debate_gate.main([str(plain), *arguments[1:], "--overwrite", *more]) == FAILED
        assert said in capsys.readouterr().err

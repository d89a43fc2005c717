"""`harness-ext calibrate`: the fit, what it refuses, what it warns of, and that a run can use the file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis import calibrate
from harness_ext.analysis.platt import cross_validated, fit
from harness_ext.analysis.scoring import command
from harness_ext.analysis.scoring.score import read_scored, score_run
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.decisions.calibration import Calibration, logit, sigmoid
from harness_ext.errors import FAILED, OK, USAGE
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records import Decision, Turn
from harness_ext.records.run_directory import read_transcripts

MANY = [{"q": f"{i}+{i}?", "a": str(2 * i)} for i in range(60)]
WARNINGS = ["only 12 verdicts", "includes 0.5", "no better than before", "slope is not positive"]
SEATS = {"student": {"fingerprint": "s"}, "teacher": {"fingerprint": "t", "name": "a teacher"}}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


# -- the fit -----------------------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.001, 0.999), st.booleans()), min_size=2, max_size=80))
def test_the_fit_is_platts(rows: list[tuple[float, bool]]) -> None:
    calibration = pytest.importorskip("sklearn.calibration")
    stated, right = zip(*rows, strict=True)
    assume(np.std([logit(p) for p in stated]) > 0.05)
    found = fit(stated, right)
    odds = np.array([logit(p) for p in stated])
    expected = calibration._SigmoidCalibration().fit(odds, np.array(right, dtype=int)).predict(odds)
    assert [found.apply(p) for p in stated] == pytest.approx(list(expected), abs=2e-3)


def test_the_fit_finds_what_distorted_the_probabilities() -> None:
    random = np.random.default_rng(5)
    honest = random.normal(0, 2, 20_000)
    right = list(random.random(20_000) < 1 / (1 + np.exp(-honest)))
    stated = [sigmoid(2 * odds + 3) for odds in honest]
    slope, offset = fit(stated, right)
    assert slope == pytest.approx(0.5, abs=0.03)
    assert offset == pytest.approx(-1.5, abs=0.1)


def test_the_fit_is_finite_where_probabilities_separate_right_from_wrong_or_are_certain() -> None:
    for stated in ([0.1, 0.2, 0.8, 0.9], [0.0, 0.0, 1.0, 1.0]):
        found = fit(stated, [False, False, True, True])
        assert 0 < found.slope < 100
        assert abs(found.offset) < 100
        assert found.apply(stated[0]) == pytest.approx(0.25, abs=0.05)  # Platt's targets: 1/4 and 3/4
    with pytest.raises(ValueError, match="equal"):
        fit([0.5, 0.5], [True, False])


def test_no_document_is_corrected_by_a_fit_that_has_seen_it() -> None:
    random = np.random.default_rng(2)
    stated = list(random.random(50))
    right = [bool(random.random() < p) for p in stated]
    documents = [i // 2 for i in range(50)]
    before = cross_validated(stated, right, documents)
    changed = [not value if document == 7 else value for value, document in zip(right, documents, strict=True)]
    after = cross_validated(stated, changed, documents)
    assert before is not None
    assert after is not None
    assert before[14:16] == after[14:16]
    assert before != after
    assert cross_validated(stated, right, ["one"] * 50) is None


# -- runs --------------------------------------------------------------------------------------------------------------


def verdict(probability: float | None, seat: str = "teacher", question: str | None = "q1", **more: Any) -> Turn:
    accepted = probability is not None and probability >= 0.5
    result = Decision(("true", "false"), (0.5, 0.5), "true", "logprobs", prompt_tokens=5, completion_tokens=0)
    noted = {"accepted": accepted, "malformed": False, "probability": probability, "question": question, **more}
    return Turn(seat, "verdict", f"{seat}-{probability}", result, noted)


def judged_run(path: Path, stated: Sequence[float], right: Sequence[bool], **config: Any) -> Path:
    """Write and score a run in which each draft gets a verdict with the given probability."""
    run = write_run(
        path,
        *(
            transcript(
                i, said("student", "draft", MANY[i]["a"] if good else "x"), verdict(p), rows=MANY,
            )
            for i, (p, good) in enumerate(zip(stated, right, strict=True))
        ),
        **{"seats": SEATS, **config},
    )  # fmt: skip
    score_run(run, manager=manager_of(make_task(rows=MANY)))
    return run


def noisy(number: int = 60, seed: int = 1) -> tuple[list[float], list[bool]]:
    random = np.random.default_rng(seed)
    right = [bool(value) for value in random.random(number) < 0.5]
    return [sigmoid(random.normal(3 + 2 * good, 1)) for good in right], right


def test_the_file_says_what_was_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated, right = noisy()
    run, output = judged_run(tmp_path / "run", stated, right), tmp_path / "calibration.json"
    assert calibrate.main([str(run), "--on", "sums", "--output", str(output)]) == OK
    found = Calibration.read(output)
    assert (found.slope, found.offset) == fit(stated, right)
    assert (found.model, found.model_name, found.question, found.source) == ("t", "a teacher", "q1", "logprobs")
    assert (found.rows, found.right, found.tasks) == (60, sum(right), ("sums:test",))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found.date)
    printed = capsys.readouterr().out
    assert f"teacher.calibration={output}" in printed
    assert f"`accept_at={found.apply(0.5):.4g}` now decides as `accept_at=0.5` did before" in printed
    assert "WARNING" not in printed
    before, after = (
        next(line for line in printed.splitlines() if line.startswith(f" {w}")) for w in ("before", "after")
    )
    errors = [float(re.findall(r"(\d\.\d{3}) \(", line)[-1]) for line in (before, after)]
    assert errors[0] > 0.3
    assert errors[1] < 0.2


def test_an_existing_file_is_not_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, output = judged_run(tmp_path / "run", *noisy()), tmp_path / "calibration.json"
    output.write_text("mine")
    arguments = [str(run), "--on", "sums", "--output", str(output)]
    assert calibrate.main(arguments) == USAGE
    assert output.read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err
    assert calibrate.main([*arguments, "--overwrite"]) == OK
    assert Calibration.read(output).rows == 60


def test_a_missing_or_outdated_score_is_made_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = judged_run(tmp_path / "run", *noisy())
    assert read_scored(run) is not None
    figures = json.loads((run / "scores.json").read_text())
    (run / "scores.json").write_text(json.dumps({**figures, "harness_ext": "0.0"}))
    assert read_scored(run) is None
    scored = []

    def score(path: Path, *_: Any) -> None:
        scored.append(path)
        score_run(path, manager=manager_of(make_task(rows=MANY)))

    monkeypatch.setattr(command, "score_run", score)
    output = tmp_path / "calibration.json"
    for _ in range(2):
        assert calibrate.main([str(run), "--on", "sums", "--output", str(output), "--overwrite"]) == OK
    assert scored == [run]
    with (run / "transcripts.jsonl").open("a") as file:
        file.write("\n")
    assert read_scored(run) is None


@pytest.mark.parametrize(
    ("stated", "right", "message"),
    [
        ([0.2, 0.9] * 20, [True] * 40, "all 40 judged drafts are right"),
        ([0.2, 0.9] * 20, [False] * 40, "all 40 judged drafts are wrong"),
        ([0.7] * 40, [True, False] * 20, "all 40 probabilities are 0.7"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: list[float], right: list[bool], message: str
) -> None:
    run, output = judged_run(tmp_path / "run", stated, right), tmp_path / "calibration.json"
    assert calibrate.main([str(run), "--on", "sums", "--output", str(output)]) == FAILED
    assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("stated", "right", "warnings"),
    [
        ([0.4, 0.6] * 6, [False, True] * 6, ["only 12 verdicts"]),
        ([0.4, 0.6] * 20, [False, True, True, False, False, True, True, True] * 5, WARNINGS[1:3]),
        ([0.4, 0.6] * 20, [True, False] * 20, ["slope is not positive"]),
    ],
)
def test_weak_fits_are_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: list[float], right: list[bool], warnings: list[str]
) -> None:
    run = judged_run(tmp_path / "run", stated, right)
    assert calibrate.main([str(run), "--on", "sums", "--output", str(tmp_path / "c.json")]) == OK
    printed = capsys.readouterr().out
    assert [warning for warning in WARNINGS if warning in printed] == warnings
    assert printed.count("WARNING") == len(warnings)


def mixed_run(path: Path, *turns: Turn, **config: Any) -> Path:
    """Write and score a run whose drafts are right in turn, each with one of the given verdicts."""
    run = write_run(
        path,
        *(
            transcript(i, said("student", "draft", ROWS[i]["a"] if i % 2 else "x"), turns[i % len(turns)])
            for i in range(8)
        ),
        **{"seats": SEATS, **config},
    )
    score_run(run, manager=manager_of(make_task()))
    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "several kinds of verdicts"),
        (["--seat", "judge"], "several kinds of verdicts"),
        (["--seat", "nobody"], "no such verdicts"),
        (["--question", "q9"], "no such verdicts"),
    ],
)
def test_several_kinds_of_verdicts_have_to_be_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run = mixed_run(
        tmp_path / "run", verdict(0.2), verdict(0.9), verdict(0.3, "judge"), verdict(0.8, "judge", "q2"),
        verdict(0.6),
    )  # fmt: skip
    output = tmp_path / "c.json"
    assert calibrate.main([str(run), "--on", "sums", "--output", str(output), *arguments]) == FAILED
    said_ = capsys.readouterr().err
    assert message in said_
    assert "seat judge, question q2, source logprobs: 1 verdicts" in said_
    assert calibrate.main([str(run), "--on", "sums", "--output", str(output), "--seat", "teacher"]) == OK
    assert Calibration.read(output).rows == 5


@pytest.mark.parametrize(
    ("turns", "config", "arguments", "message"),
    [
        ([verdict(None)], {}, [], "none of its 8 verdicts has a probability"),
        ([said("teacher", "critique", "Hm.")], {}, [], "no metric says right or wrong"),
        ([verdict(0.2, question=None), verdict(0.9, question=None)], {}, [], "did not record what was asked"),
        ([verdict(0.2), verdict(0.9)], {"seats": {"teacher": {"name": "x"}}}, [], "does not say which model"),
        ([verdict(0.2), verdict(0.9)], {}, ["--on", "other"], "the tasks of this run are sums"),
        ([verdict(0.2), verdict(0.9)], {}, ["--metric", "bleu"], "choose with --metric among exact_match,none"),
    ],
)
def test_runs_that_cannot_be_calibrated_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], turns: list[Turn], config: dict[str, Any],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    run = mixed_run(tmp_path / "run", *turns, **config)
    assert calibrate.main([str(run), "--on", "sums", "--output", str(tmp_path / "c.json"), *arguments]) == FAILED
    assert message in capsys.readouterr().err


def test_one_of_several_metrics_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep = [{"function": "take_first"}]
    filters = {"filter_list": [{"name": name, "filter": keep} for name in ("strict", "loose")]}
    run = write_run(
        tmp_path / "run",
        *(transcript(i, said("student", "draft", str(2 * (i // 2))), verdict((i + 1) / 10)) for i in range(8)),
        seats=SEATS,
    )
    score_run(run, manager=manager_of(make_task(**filters)))
    arguments = [str(run), "--on", "sums", "--output", str(tmp_path / "c.json")]
    assert calibrate.main(arguments) == FAILED
    assert "exact_match,strict; exact_match,loose" in capsys.readouterr().err
    assert calibrate.main([*arguments, "--metric", "exact_match"]) == FAILED
    assert calibrate.main([*arguments, "--metric", "exact_match,loose"]) == OK


# -- a run that uses the file ------------------------------------------------------------------------------------------


def test_a_run_uses_its_calibration_and_can_be_calibrated_again(tmp_path: Path) -> None:
    """A teacher that says yes to everything, but more surely to what is right, rejects wrong drafts once calibrated."""
    from lm_eval.evaluator import evaluate

    def student(prompt: str) -> str:
        number = int(prompt.split("Q: ")[1].split("+")[0])
        return str(2 * number) if number % 2 else "7"

    def share(number: int) -> float:
        return (0.95 if number % 2 else 0.7) + number / 2000

    def decide(request: DecideRequest) -> tuple[float, float]:
        yes = share(int(request.prompt.split("Q: ")[1].split("+")[0]))
        return yes, 1 - yes

    def run(name: str, **options: Any) -> Path:
        lm = FeedbackPairLM(
            student=ScriptedBackend(student, name="student"),
            teacher=ScriptedBackend(lambda prompt: "look again", name="teacher", decide_reply=decide),
            store="off", run_dir=tmp_path / name, progress="off", max_rounds=1, **options,
        )  # fmt: skip
        evaluate(lm, {"sums": make_task(rows=MANY)}, bootstrap_iters=0)
        score_run(tmp_path / name, manager=manager_of(make_task(rows=MANY)))
        return tmp_path / name

    def accepted(path: Path) -> list[bool]:
        verdicts = [turn.verdict or {} for t in read_transcripts(path) for turn in t.turns if turn.kind == "verdict"]
        return [verdict["accepted"] for verdict in verdicts]

    plain, file = run("plain"), tmp_path / "calibration.json"
    assert all(accepted(plain))
    assert calibrate.main([str(plain), "--on", "sums", "--output", str(file)]) == OK
    calibrated = run("calibrated", **{"teacher.calibration": str(file)})
    assert accepted(calibrated).count(True) == 30
    scored = read_scored(calibrated)
    assert scored is not None
    reviews = [review for row in scored[1] for draw in row["draws"] for review in draw["reviews"]]
    assert sorted(review["raw"] for review in reviews) == pytest.approx(sorted(map(share, range(60))))
    fitted = Calibration.read(file)
    assert [review["probability"] for review in reviews] == pytest.approx([fitted.apply(r["raw"]) for r in reviews])
    again = tmp_path / "again.json"
    assert calibrate.main([str(calibrated), "--on", "sums", "--output", str(again)]) == OK
    assert Calibration.read(again).slope == pytest.approx(fitted.slope), "it is fitted on the raw probabilities"

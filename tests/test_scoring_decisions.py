"""Scores of decisions: how well a teacher's acceptances agree with lm-eval's scores, and what agents gave up."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
from scored_runs import make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.scoring.command import report
from harness_ext.analysis.scoring.score import score_run
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records import Decision, Loglikelihood, Turn


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_acceptance_is_compared_with_the_tasks_own_score(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    def review(accepted: bool, malformed: bool = False) -> Turn:
        return said("teacher", "review", "…", accepted=accepted, malformed=malformed)

    no, unread = review(False), review(False, True)

    run = write_run(
        tmp_path / "run",
        transcript(0, said("student", "draft", "0"), review(True)),  # right, accepted
        transcript(1, said("student", "draft", "7"), review(True)),  # wrong, accepted
        transcript(2, said("student", "draft", "4"), no, said("student", "refine", "9"), unread),
        transcript(3, said("student", "draft", "1"), no, said("student", "refine", "6"), review(True)),
    )
    result = score_run(run, manager=manager_of(make_task()))
    found = result["tasks"]["sums"]["metrics"]["exact_match,none"]["acceptance"]
    assert found == {
        "accepted_right": 2, "accepted_wrong": 1, "rejected_right": 1, "rejected_wrong": 2, "malformed": 1,
        "precision": 2 / 3, "recall": 2 / 3, "wrong_rejected": 2 / 3,
    }  # fmt: skip
    report(run, result)
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "3 of 6 drafts accepted, precision 0.667, recall 0.667; 2 of 3 wrong drafts rejected; 1 reviews malformed"
        in printed
    )


def test_a_review_that_was_asked_for_again_counts_once(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        transcript(
            0,
            said("student", "draft", "0"),
            said("teacher", "review", "Hm.", accepted=False, malformed=True),
            said("teacher", "review", "Correct.", accepted=True, malformed=False),
        ),
    )
    found = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert (found["acceptance"]["accepted_right"], found["acceptance"]["malformed"]) == (1, 0)


def test_a_run_without_reviews_has_no_acceptance(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", transcript(0, said("student", "draft", "0")))
    found = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert "acceptance" not in found
    assert "conformity" not in found


def test_conformity_is_split_by_right_and_wrong(tmp_path: Path) -> None:
    def agent(number: int, text: str, round_: int, **verdict: bool) -> Turn:
        return said(f"agent{number}", "draft" if round_ == 0 else "reply", text, round=round_, answer=text, **verdict)

    run = write_run(
        tmp_path / "run",
        # 1+1: agent 1 is right and gives in; agent 2 is wrong and stays.
        transcript(
            1, agent(1, "2", 0), agent(2, "3", 0), agent(1, "3", 1, conformed=True), agent(2, "3", 1, conformed=False),
            text="3",
        ),
        # 2+2: agent 1 is wrong and gives in; agent 2 is right and stays.
        transcript(
            2, agent(1, "5", 0), agent(2, "4", 0), agent(1, "4", 1, conformed=True), agent(2, "4", 1, conformed=False),
            text="4",
        ),
    )  # fmt: skip
    found = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert found["conformity"] == {
        "conformed_right_to_wrong": 1, "conformed_wrong_to_right": 1, "kept_right": 1, "kept_wrong": 1,
    }  # fmt: skip


# -- probabilities -----------------------------------------------------------------------------------------------------


def verdict(probability: float, /, at: float = 0.5, mass: float = 0.9, **more: Any) -> Turn:
    result = Decision(
        ("true", "false"), (probability, 1 - probability), "true", "endpoint", label_mass=mass, prompt_tokens=7,
        completion_tokens=0,
    )  # fmt: skip
    noted = {"accepted": probability >= at, "malformed": False, "probability": probability, "threshold": at, **more}
    return Turn("teacher", "verdict", f"v{probability}", result, {"question": "q1", **noted})


def hint() -> Turn:
    return said("teacher", "review", "Hint: look again")


def decided_run(path: Path) -> Path:
    return write_run(
        path,
        transcript(0, said("student", "draft", "0"), verdict(0.9)),  # right, accepted
        transcript(1, said("student", "draft", "7"), verdict(0.6)),  # wrong, accepted
        transcript(
            2, said("student", "draft", "9"), verdict(0.3), hint(), said("student", "refine", "4"),
            verdict(0.8, mass=0.4),
        ),
        transcript(
            3, said("student", "draft", "6"), verdict(0.2), hint(), said("student", "refine", "1"), verdict(0.1),
        ),
    )  # fmt: skip


def figures_of(run: Path, **task: Any) -> dict[str, Any]:
    found: dict[str, Any] = score_run(run, manager=manager_of(make_task(**task)))["tasks"]["sums"]["metrics"]
    return found["exact_match,none"]  # type: ignore[no-any-return]


def test_probabilities_are_compared_with_the_scores_of_their_drafts(tmp_path: Path) -> None:
    found = figures_of(decided_run(tmp_path / "run"))["probabilities"]
    stated, right = [0.9, 0.6, 0.3, 0.8, 0.2, 0.1], [1, 0, 0, 1, 1, 0]
    assert (found["rows"], found["without"], found["unscored"], found["calibrated"]) == (6, 0, 0, 0)
    assert found["questions"] == {"teacher q1": 6}
    assert (found["right"], found["stated"]) == (0.5, pytest.approx(sum(stated) / 6))
    assert found["auroc"]["value"] == pytest.approx(7 / 9)
    assert found["brier"]["value"] == pytest.approx(sum((p - y) ** 2 for p, y in zip(stated, right, strict=True)) / 6)
    assert found["label_mass"] == {"rows": 6, "mean": pytest.approx((5 * 0.9 + 0.4) / 6), "lowest": 0.4}
    assert found["bins"] == [
        {"rows": 6, "low": 0.1, "high": 0.9, "stated": pytest.approx(sum(stated) / 6), "right": 0.5}
    ]
    for name in ("auroc", "brier", "nll", "ece"):
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"], name


def test_the_threshold_curve_counts_what_each_threshold_costs(tmp_path: Path) -> None:
    found = figures_of(decided_run(tmp_path / "run"))["thresholds"]
    assert (found["questions"], found["left_out"], found["used"]) == (4, 0, [0.5])
    points = {point["accept_at"]: point for point in found["points"]}
    assert sorted(points) == [0.0, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 1.0]
    first = points[0.0]
    # Every draft is accepted: questions 0 and 3 are right. A draft takes 20 tokens, a verdict 7.
    assert (first["accuracy"], first["accepted"], first["accepted_right"]) == (0.5, 4, 2)
    assert (first["rounds"], first["tokens"], first["completion_tokens"], first["unknown"]) == (0.0, 27.0, 10.0, 0)
    used = points[0.5]
    # Questions 2 and 3 took two drafts of 20 tokens, two verdicts of 7 and a hint of 20.
    assert (used["accuracy"], used["rounds"], used["tokens"]) == (0.5, 0.5, (2 * 27 + 2 * 74) / 4)
    strict = points[0.8]
    assert (strict["exact"], strict["unknown"], strict["accuracy"]) == (3, 1, None)
    assert (strict["accuracy_low"], strict["accuracy_high"]) == (0.5, 0.75)


def test_the_report_shows_figures_table_and_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = decided_run(tmp_path / "run")
    report(run, score_run(run, manager=manager_of(make_task())))
    printed = " ".join(capsys.readouterr().out.split())
    assert "6 verdicts with a probability: AUROC 0.778 (" in printed
    assert "(in 1 bin, " in printed
    assert "label mass 0.817 on average, 0.400 at least" in printed
    assert "accepted 2 1 rejected 1 2" in printed
    # FLOPs: 30 tokens of the student with 1,000 parameters, and 20.5 of the teacher with 5,000.
    assert "0.5 (used) 0.500 3 2 0.50 50 20 2.65e+05 0" in printed
    assert "0.8 0.500 to 0.750 2 2 ≥ 0.50 ≥ 50 ≥ 20 ≥ 2.65e+05 1 of 4" in printed


def test_verdicts_without_probabilities_are_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read = said("teacher", "review", "Correct.", accepted=True, malformed=False)
    run = write_run(
        tmp_path / "run", *(transcript(i, said("student", "draft", "0"), read) for i in range(3))
    )  # fmt: skip
    result = score_run(run, manager=manager_of(make_task()))
    metric = result["tasks"]["sums"]["metrics"]["exact_match,none"]
    assert metric["probabilities"] == {"rows": 0, "without": 3, "unscored": 0}
    assert "thresholds" not in metric
    report(run, result)
    assert "no probabilities (verdicts were read from text)" in capsys.readouterr().out
    mixed = write_run(
        tmp_path / "mixed",
        transcript(0, said("student", "draft", "0"), read),
        transcript(1, said("student", "draft", "2"), verdict(0.9)),
    )
    report(mixed, score_run(mixed, manager=manager_of(make_task())))
    printed = capsys.readouterr().out
    assert "1 more verdicts have no probability" in printed
    assert "no AUROC, since all of these drafts are right" in printed


def test_probabilities_that_are_none_are_not_taken_for_some(tmp_path: Path) -> None:
    odd = [verdict(0.5, accepted=True, probability=value) for value in (float("nan"), 1.5, "0.9", True, None)]
    run = write_run(
        tmp_path / "run", *(transcript(i, said("student", "draft", "0"), turn) for i, turn in enumerate(odd))
    )
    found = figures_of(run)["probabilities"]
    assert (found["rows"], found["without"]) == (0, 5)


def test_scores_of_both_labels_are_one_verdict(tmp_path: Path) -> None:
    """A model that only scores texts takes one call per label, of which one records the verdict."""

    def scored(share: float, **noted: Any) -> Turn:
        result = Loglikelihood(log(share), prompt_tokens=5, completion_tokens=0)
        return Turn("teacher", "verdict", f"{share}", result, {"continuation": "…", **noted})

    noted = {"accepted": True, "probability": 0.75, "question": "q1", "threshold": 0.5}
    for number, turns in enumerate(([scored(0.6, **noted), scored(0.2)], [scored(0.6), scored(0.2, **noted)])):
        run = write_run(tmp_path / f"run{number}", transcript(0, said("student", "draft", "0"), *turns))
        score_run(run, manager=manager_of(make_task()))
        (row,) = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
        (review,) = row["draws"][0]["reviews"]
        assert (review["source"], review["raw"], review["prompt_tokens"]) == ("logprobs", 0.75, 20)
        assert review["label_mass"] == pytest.approx(0.8)


def test_the_raw_probability_of_a_calibrated_verdict_is_kept(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        transcript(0, said("student", "draft", "0"), verdict(0.9, probability=0.4, raw=0.9)),
        transcript(1, said("student", "draft", "2"), verdict(0.8, probability=0.3, calibrated=0.3)),
        transcript(2, said("student", "draft", "9"), verdict(0.7)),
    )
    assert figures_of(run)["probabilities"]["calibrated"] == 2
    rows = [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]
    assert [row["draws"][0]["reviews"][0]["raw"] for row in rows] == [0.9, 0.8, 0.7]


def test_drafts_without_a_score_of_their_own_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where choices are scored after a rationale, there is no score of a rationale that was refined."""
    task = make_task(
        output_type="multiple_choice", doc_to_choice=["1", "2"], doc_to_target=1, doc_to_text="{{q}}",
        metric_list=[{"metric": "acc"}],
    )  # fmt: skip

    def choice(logprob: float) -> Turn:
        return Turn("student", "choice", f"{logprob}", Loglikelihood(logprob, greedy=False))

    run = write_run(
        tmp_path / "run",
        transcript(
            0, said("student", "draft", "so 1"), verdict(0.2), hint(), said("student", "refine", "so 2"), verdict(0.9),
            choice(-3.0), choice(-1.0), text="so 2",
        ),
    )  # fmt: skip
    result = score_run(run, manager=manager_of(task))
    metric = result["tasks"]["sums"]["metrics"]["acc,none"]
    assert (metric["acceptance"]["accepted_right"], metric["acceptance"]["rejected_right"]) == (1, 0)
    assert (metric["probabilities"]["rows"], metric["probabilities"]["unscored"]) == (1, 1)
    assert "thresholds" not in metric
    report(run, result)
    assert "1 verdicts left out" in " ".join(capsys.readouterr().out.split())


def test_decisions_between_choices_have_figures_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.evaluator import evaluate

    more = {
        "output_type": "multiple_choice", "doc_to_choice": ["no", "yes"], "doc_to_text": "Q: {{q}}",
        "doc_to_target": "{{ 0 if q[0] in '024' else 1 }}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip

    def decide(request: DecideRequest) -> tuple[float, float]:
        number = int(request.prompt.split("Q: ")[1].split("+")[0])
        yes = (number + 1) / 10
        return yes, 1 - yes

    lm = FeedbackPairLM(
        student=ScriptedBackend(str, name="student", decide_reply=decide),
        teacher=ScriptedBackend(str, name="teacher", decide_reply=decide),
        store="off", run_dir=tmp_path / "run", progress="off", choices="decision", reason="off",
    )  # fmt: skip
    reported = evaluate(lm, {"sums": make_task(**more)}, bootstrap_iters=0)["results"]["sums"]["acc,none"]
    result = score_run(tmp_path / "run", manager=manager_of(make_task(**more)))
    found = result["tasks"]["sums"]["choices"]
    stated = [(i + 1) / 10 for i in range(8)]
    gold = [0, 1, 0, 1, 0, 1, 1, 1]
    assert (found["rows"], found["without"], found["left_out"]) == (8, 0, 0)
    assert found["accuracy"]["value"] == pytest.approx(reported)
    assert found["brier"]["value"] == pytest.approx(
        sum(2 * (p - y) ** 2 for p, y in zip(stated, gold, strict=True)) / 8
    )
    assert found["auroc"]["value"] == pytest.approx(12 / 15)
    report(tmp_path / "run", result)
    assert f"sums: 8 decisions between choices, accuracy {reported:.3f} (" in capsys.readouterr().out

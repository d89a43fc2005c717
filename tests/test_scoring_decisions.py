"""Scores of decisions: how well a teacher's acceptances agree with lm-eval's scores, and what agents gave up."""

from __future__ import annotations

from pathlib import Path

from scored_runs import make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.scoring.command import report
from harness_ext.analysis.scoring.score import score_run
from harness_ext.records import Turn


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

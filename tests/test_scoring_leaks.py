"""Hints that reveal the answer: what counts as naming it, and tasks whose answer a verdict reveals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import ROWS, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.scoring.leaks import gold_answers, hints_of, is_two_way, listed_choices, names
from harness_ext.analysis.scoring.score import score_run
from harness_ext.records import Completion, Transcript, Turn


@pytest.mark.parametrize(
    ("gold", "text", "named"),
    [
        ("Answer: office", "Hint: the office, see line 3", True),
        ("Answer: office", "Hint: the officers left", False),
        ("Answer: the Office.", "OFFICE", True),
        ("She adds them up.\n#### 18", "It should be 18.", True),
        ("#### 18", "that makes $18.00", True),
        ("#### 18", "there are 180 of them, or 1.18", False),
        ("#### 1800", "about 1,800 litres", True),
        ("#### -3", "minus three is -3", True),
        ("B", "Option B is better", True),
        ("B", "Is (B) not better?", True),
        ("A", 'The correct answer is "A" because people do so.', True),
        ("A", "The answer should be **A**.", True),
        ("A", 'The student answered "A" without a reason.', False),
        ("A", "The correct answer is a number.", False),
        ("B", "A better plan: B12 is a vitamin", False),
        ("Answer: no", "This is not known.", False),
        ("Answer: milk, football", "milk, football", True),
    ],
)
def test_naming_the_answer(gold: str, text: str, named: bool) -> None:
    (answer,) = gold_answers([gold])
    assert names(text, answer) is named


@given(st.text(), st.sampled_from(["Answer: office", "#### 18", "B", "Answer: (a|b)*["]))
def test_any_text_can_be_searched(text: str, gold: str) -> None:
    (answer,) = gold_answers([gold])
    assert names(text, answer) in (True, False)
    joined = text[-1:] in ("\\", "$", "-", "−", ".", ",")
    assert names(f"{text} {answer.value} ", answer) or answer.value == "B" or joined


def test_a_long_gold_text_is_not_an_answer_that_a_hint_could_name() -> None:
    assert gold_answers(["a long story about many things that nobody could ever name"]) == []
    assert gold_answers(["three blind mice and a cat"])[0].value == "three blind mice and a cat"


def test_two_way_questions() -> None:
    assert is_two_way(gold_answers(["Answer: yes"]), [])
    assert is_two_way(gold_answers(["anything"]), ["one", "two"])
    assert not is_two_way(gold_answers(["Answer: maybe"]), [])
    assert not is_two_way([], [])


@pytest.mark.parametrize(
    ("doc", "choices"),
    [
        ({"choices": ["yes", "no"]}, ["yes", "no"]),
        ({"choices": {"text": ["a", "b", "c"], "label": ["A", "B", "C"]}}, ["a", "b", "c"]),
        ({"choices": "yes or no"}, []),
        ({"choices": None}, []),
        ({}, []),
        ("a text", []),
    ],
)
def test_choices_that_a_document_lists(doc: object, choices: list[str]) -> None:
    assert listed_choices(doc) == choices


def test_a_task_that_shows_two_lettered_choices_is_two_way() -> None:
    # The gold answer "A" alone does not tell how many choices there were.
    gold = gold_answers(["A"])
    assert not is_two_way(gold, listed_choices({"choices": ["one", "two", "three"]}))
    assert is_two_way(gold, listed_choices({"choices": ["one", "two"]}))


def test_leaks_are_counted_and_so_are_the_flips_after_them(tmp_path: Path) -> None:
    def hint(text: str) -> object:
        return said("teacher", "review", text, accepted=False)

    run = write_run(
        tmp_path / "run",
        # A leak; a hint that names the draft's own answer; an acceptance; a hint that names no answer.
        transcript(3, said("student", "draft", "5"), hint("It is 6."), said("student", "refine", "6")),  # type: ignore[arg-type]
        transcript(4, said("student", "draft", "8"), hint("8 is wrong"), said("student", "refine", "7")),  # type: ignore[arg-type]
        transcript(5, said("student", "draft", "10"), said("teacher", "review", "Correct. 10", accepted=True)),
        transcript(6, said("student", "draft", "1"), hint("add once more"), said("student", "refine", "12")),  # type: ignore[arg-type]
    )
    figures = score_run(run, manager=manager_of(make_task()))["tasks"]["sums"]
    assert figures["hints"] == {
        "rejecting_reviews": 3,
        "naming_the_answer": 2,
        "leaking_the_answer": 1,
        "questions_with_a_leak": 1,
        "unread": 0,
    }
    assert figures["metrics"]["exact_match,none"]["flips"] == {
        "wrong_to_right": 2,
        "right_to_wrong": 1,
        "wrong_to_right_after_leak": 1,
    }
    assert not figures["two_way"]


def test_two_way_tasks_are_pooled_separately(tmp_path: Path) -> None:
    polar = [{"q": row["q"], "a": "yes"} for row in ROWS]
    tasks = [make_task("polar_a", polar), make_task("polar_b", polar), make_task("sums_a"), make_task("sums_b")]
    run = write_run(
        tmp_path / "run",
        *(transcript(0, said("student", "draft", "yes"), task=t, rows=polar) for t in ("polar_a", "polar_b")),
        *(transcript(0, said("student", "draft", "1"), task=t) for t in ("sums_a", "sums_b")),
    )
    pools = score_run(run, manager=manager_of(*tasks))["pools"]
    assert pools["two-way tasks"]["tasks"] == ["polar_a", "polar_b"]
    assert pools["two-way tasks"]["metrics"]["exact_match,none"]["final"] == 1.0
    assert pools["other tasks"]["metrics"]["exact_match,none"]["final"] == 0.0


@pytest.mark.parametrize(
    ("kind", "verdict", "counted"),
    [
        ("review", {"accepted": False}, True),
        ("review", None, True),
        ("review", {"accepted": True}, False),
        ("critique", {"rejects": True}, True),
        ("critique", {"rejects": False}, False),
    ],
)
def test_what_the_student_is_shown_can_leak(kind: str, verdict: Any, counted: bool) -> None:
    turns = (
        Turn("student", "draft", "00", Completion("Answer: 41")),
        Turn("teacher", kind, "01", Completion("It is 42."), verdict),
    )
    shown = Transcript("t", 0, "", 0, 0, "", "", turns, "Answer: 41", "max_rounds")
    assert hints_of(shown, gold_answers(["42"])) == ([{"turn": 1, "names": True, "leaks": True}] if counted else [])

"""Tests of self_refine and chain_of_verification: what is asked of whom, in which order, and how a question ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import run_engine

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.models.chain_of_verification import (
    CHECK_USER,
    COMPARE_USER,
    JOINT_USER,
    PLAN_USER,
    ChainOfVerification,
)
from harness_ext.models.chain_of_verification import REVISE_USER as REVISE
from harness_ext.models.self_refine import CRITIQUE_USER, REFINE_USER, SelfRefine
from harness_ext.options import PromptText
from harness_ext.protocol import Protocol, Question
from harness_ext.reading.question_lists import read_questions
from harness_ext.records import Completion, Transcript

TASK = "A story.\n\nHow many apples are left?"
DEMAND = "How many apples are left?"


def replies(*texts: str) -> Callable[[str], str]:
    """Return a function that replies with one text after another."""
    left: Iterator[str] = iter(texts)
    return lambda prompt: next(left)


def answered(protocol: Protocol, **seats: Callable[[str], str]) -> tuple[Transcript, dict[str, list[str]]]:
    """Return the transcript of one question, and the prompts that each seat got."""
    backends = {name: ScriptedBackend(reply, name=name) for name, reply in seats.items()}
    done = run_engine(Engine(), protocol, backends, [Question(TASK, {"until": ["Q"]}, "t")])[0]
    return done, {name: [prompt for batch in one.calls for prompt in batch] for name, one in backends.items()}


def kinds(done: Transcript) -> list[tuple[str, str]]:
    return [(turn.seat, turn.kind) for turn in done.turns]


def filled(template: str, **values: str) -> str:
    return PromptText(template).fill(**values)


def critique_of(draft: str) -> str:
    return f"User: {filled(CRITIQUE_USER, task=TASK, draft=draft)}\n\nAssistant:"


def refine(critique: str) -> str:
    return filled(REFINE_USER, critique=critique, demand=DEMAND)


def test_a_model_refines_its_answer_until_it_finds_nothing_to_improve() -> None:
    done, asked = answered(SelfRefine(), student=replies("5", "Incorrect. Count again.", "6", "Correct."))
    shown = f"User: {TASK}\n\nAssistant: 5\n\nUser: {refine('Incorrect. Count again.')}\n\nAssistant:"
    assert asked["student"] == [TASK, critique_of("5"), shown, critique_of("6")]
    assert (done.text, done.stop) == ("6", "accepted")
    assert kinds(done) == [("student", kind) for kind in ("draft", "review", "refine", "review")]
    assert [turn.verdict["accepted"] for turn in done.turns if turn.verdict] == [False, True]


@pytest.mark.parametrize("history", ["all", "latest"])
def test_what_a_refinement_is_made_from(history: Any) -> None:
    said = ("1", "Incorrect. a", "2", "Incorrect. b", "3")
    done, asked = answered(SelfRefine(max_rounds=2, history=history), student=replies(*said))
    rounds = [f"Assistant: 1\n\nUser: {refine('Incorrect. a')}", f"Assistant: 2\n\nUser: {refine('Incorrect. b')}"]
    kept = rounds if history == "all" else rounds[1:]
    assert asked["student"][-1] == "\n\n".join([f"User: {TASK}", *kept, "Assistant:"])
    assert (done.text, done.stop) == ("3", "max_rounds")


def test_a_critic_of_its_own_criticises_in_the_students_place() -> None:
    done, asked = answered(SelfRefine(), student=replies("5", "6"), critic=replies("Incorrect. Why?", "Correct."))
    assert asked["critic"] == [critique_of("5"), critique_of("6")]
    assert (done.text, done.stop, len(asked["student"])) == ("6", "accepted", 2)


def test_no_rounds_are_the_baseline_and_an_empty_refinement_keeps_the_draft() -> None:
    done, asked = answered(SelfRefine(max_rounds=0), student=replies("5"))
    assert (done.text, asked["student"]) == ("5", [TASK])
    done, _ = answered(SelfRefine(), student=replies("5", "no verdict at all", " "))
    assert (done.text, done.stop) == ("5", "empty_refinement")
    assert [t.verdict["malformed"] for t in done.turns if t.kind == "review" and t.verdict] == [True]


@pytest.mark.parametrize("options", [{"max_rounds": -1}, {"critique_max_tokens": 0}])
def test_options_of_self_refine_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be 0 or more"):
        SelfRefine(**options)


def check(question: str) -> str:
    return f"User: {filled(CHECK_USER, questions=question)}\n\nAssistant:"


def revised(findings: str) -> str:
    revise = filled(REVISE, findings=findings, demand=DEMAND)
    return f"User: {TASK}\n\nAssistant: 5\n\nUser: {revise}\n\nAssistant:"


def by_prompt(**known: str) -> Callable[[str], str]:
    """Return a function that replies by a part of the prompt: the last of those that it contains."""

    def reply(prompt: str) -> str:
        found = [text for part, text in known.items() if part.replace("_", " ") in prompt]
        return found[-1] if found else "5"

    return reply


PLAN = "1. How many were there?\n2. How many were eaten?\n"


def test_check_questions_are_answered_apart_from_the_draft_and_from_each_other() -> None:
    known = {PLAN_USER[:20]: PLAN, "were there": "Eight.", "were eaten": "Two.", "with their answers": "6"}
    done, asked = answered(ChainOfVerification(), student=by_prompt(**known))
    plan = f"User: {TASK}\n\nAssistant: 5\n\nUser: {PLAN_USER}\n\nAssistant:"
    findings = "How many were there?\nEight.\n\nHow many were eaten?\nTwo."
    assert asked["student"] == [
        TASK, plan, check("How many were there?"), check("How many were eaten?"), revised(findings),
    ]  # fmt: skip
    assert (done.text, done.stop) == ("6", "revised")
    assert [kind for _, kind in kinds(done)] == ["draft", "plan", "check", "check", "refine"]


def test_in_two_steps_one_call_answers_all_check_questions() -> None:
    student = replies("5", PLAN, "6")
    done, asked = answered(ChainOfVerification(variant="two_step"), student=student, checker=replies("Eight; two."))
    listed = "1. How many were there?\n2. How many were eaten?"
    assert asked["checker"] == [check(listed)]
    assert asked["student"][-1] == revised(f"{listed}\n\nEight; two.")
    assert done.text == "6"


def test_a_joint_reply_plans_and_answers() -> None:
    done, asked = answered(ChainOfVerification(variant="joint"), student=replies("5", "1. Eight? Yes.", "6"))
    assert JOINT_USER in asked["student"][1]
    assert asked["student"][-1] == revised("1. Eight? Yes.")
    assert len(done.turns) == 3


@pytest.mark.parametrize(
    ("plan", "findings"),
    [
        ("1. Eight?\n   Yes.\n2. And the", "1. Eight?\n   Yes."),
        ("1. Eight?\n   Yes, and", "1. Eight?\n   Yes, and"),
        ("No list, and", "No list, and"),
    ],
)
def test_the_unfinished_end_of_a_joint_reply_is_left_out(plan: str, findings: str) -> None:
    said = iter((Completion("5"), Completion(plan, "length"), Completion("6")))
    _, asked = answered(ChainOfVerification(variant="joint"), student=lambda prompt: next(said))
    assert asked["student"][-1] == revised(findings)


def test_answers_are_compared_with_the_draft_before_the_revision() -> None:
    student, checker = replies("5", "1. How many?", "6"), replies("Eight.", "It contradicts it.")
    done, asked = answered(ChainOfVerification(variant="factor_revise"), student=student, checker=checker)
    compare = filled(COMPARE_USER, draft="5", question="How many?", answer="Eight.")
    assert asked["checker"] == [check("How many?"), f"User: {compare}\n\nAssistant:"]
    assert asked["student"][-1] == revised("How many?\nEight.\nCompared with your answer: It contradicts it.")
    assert [kind for _, kind in kinds(done)] == ["draft", "plan", "check", "compare", "refine"]


def test_too_many_check_questions_are_counted() -> None:
    plan = "\n".join(f"{n}. Is it {n}?" for n in range(1, 8))
    done, asked = answered(ChainOfVerification(max_questions=2), student=replies("5", plan, "a", "b", "6"))
    assert done.details is not None
    assert done.details["totals"] == {"questions_left_out": 5, "without_questions": 0}
    assert len(asked["student"]) == 5


@pytest.mark.parametrize(
    ("said", "text", "stop"),
    [
        (("5", "I see nothing to check."), "5", "no_questions"),
        (("5", "1. Sure?", "Yes.", "  "), "5", "empty_revision"),
        ((" ",), " ", "empty_draft"),
    ],
)
def test_how_a_chain_ends_early(said: tuple[str, ...], text: str, stop: str) -> None:
    done, _ = answered(ChainOfVerification(), student=replies(*said))
    assert (done.text, done.stop) == (text, stop)


@pytest.mark.parametrize(
    ("text", "questions"),
    [
        ("1. Who?\n2) When?\n3: Where?", ["Who?", "When?", "Where?"]),
        ("Here are some:\n- Who?\n* When?\n• Where?", ["Who?", "When?", "Where?"]),
        ("**1.** Who wrote it?\n**Question 2:** When?", ["Who wrote it?", "When?"]),
        ("Q1: Who?\nQ2: Who?\nQ3: Who?", ["Who?"]),
        ("Who?\nThat is all.", ["Who?"]),
        ("**1. Who wrote it?**\n**2. When?** Perhaps in 1905.", ["Who wrote it?", "When?"]),
        ("1. **Author**\n   - Who wrote it?\n   - the name\n2.When?", ["Who wrote it?", "When?"]),
        ("### 1. The author\nWho wrote it?\n### 2. The year\nWhen?", ["Who wrote it?", "When?"]),
        ("1. Who wrote it? (Bram Stoker)\n2. When w", ["Who wrote it?"]),
        ("1. 3 + 4 = 7\n2. 7 - 2 = 5", ["3 + 4 = 7", "7 - 2 = 5"]),
        ("1984 was long ago.", []),
        ("", []),
    ],
)
def test_check_questions_are_found_in_lists(text: str, questions: list[str]) -> None:
    assert read_questions(text) == questions


def test_an_unfinished_question_is_not_asked() -> None:
    assert read_questions("1. Ducks lay eggs.\n2. She eats th", whole=False) == ["Ducks lay eggs."]
    assert read_questions("1. How many?\n2. When?", whole=False) == ["How many?", "When?"]
    cut_off = Completion("1. How ma", "length", prompt_tokens=1, completion_tokens=3)
    said: list[Any] = ["5", cut_off, "6"]
    done, _ = answered(ChainOfVerification(), student=lambda prompt: said.pop(0))
    assert (done.text, done.stop) == ("5", "no_questions")


@given(st.lists(st.from_regex(r"[A-Z][a-z]{1,9} [a-z]{1,9}\?", fullmatch=True), unique=True, max_size=9))
def test_any_numbered_list_is_read_back(questions: list[str]) -> None:
    assert read_questions("\n".join(f"{n}. {one}" for n, one in enumerate(questions, start=1))) == questions

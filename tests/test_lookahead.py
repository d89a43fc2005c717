"""Tests of lookahead: which drafted steps stand, what the teacher writes, and whose text the reply is in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import run_engine

from harness_ext.backends.base import Backend, DecideRequest
from harness_ext.backends.hf import make_hf_backend
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.embedded import model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.lookahead import SAME_QUESTION, Lookahead, LookaheadLM
from harness_ext.models.skyline import Skyline
from harness_ext.protocol import Question
from harness_ext.reading.steps import steps
from harness_ext.records import Completion, Transcript
from harness_ext.records.chat import ChatContext

TASK = "How many apples are left?\n"
STEPS = [f"Step {n} is written here.\n" for n in range(1, 8)]


def writer(sentences: list[str], name: str) -> ScriptedBackend:
    """Return a model that goes on with the sentence after as many as its reply has already."""

    def reply(prompt: str) -> str:
        return "".join(sentences[len(steps(prompt.removeprefix(TASK))) :])

    return ScriptedBackend(reply, name=name)


def verifier(same: Callable[[str], float]) -> ScriptedBackend:
    def decide(request: DecideRequest) -> list[float]:
        assert SAME_QUESTION in request.prompt
        return [same(request.state), 1 - same(request.state)]

    return ScriptedBackend(lambda prompt: "?", name="verifier", decide_reply=decide)


def answered(
    protocol: Lookahead, student: list[str], teacher: list[str], same: float = 0.0
) -> tuple[Transcript, dict[str, int]]:
    """Return the transcript of one question, and how many calls each seat got."""
    seats = {
        "student": writer(student, "student"), "teacher": writer(teacher, "teacher"),
        "verifier": verifier(lambda state: same),
    }  # fmt: skip
    done = run_engine(Engine(), protocol, seats, [Question(TASK, {"until": ["END"]}, "t")])[0]
    return done, {name: sum(map(len, one.calls)) for name, one in seats.items()}


def authors(done: Transcript) -> str:
    assert done.details is not None
    return str(done.details["units"]["authors"])


def test_equal_steps_stand_without_a_verifier() -> None:
    done, calls = answered(Lookahead(), STEPS, STEPS)
    assert (done.text, done.stop) == ("".join(STEPS), "teacher_stops")
    assert authors(done) == "ssstsss"
    assert calls == {"student": 2, "teacher": 8, "verifier": 0}
    assert done.details is not None
    assert done.details["acceptance"] == 1.0


@pytest.mark.parametrize("chat", [False, True])
def test_a_reply_begins_as_an_ordinary_one(chat: bool) -> None:
    """Servers render an empty message of the assistant as no turn at all, after which models write nothing."""
    context = ChatContext(json.dumps([{"role": "user", "content": TASK}])) if chat else TASK
    seats = {name: ScriptedBackend(lambda prompt: "Answer: 5", name=name) for name in ("student", "teacher")}
    run_engine(Engine(), Lookahead(), seats, [Question(context, {"until": ["END"]}, "t")])
    skyline = {"teacher": ScriptedBackend(lambda prompt: "Answer: 5", name="teacher")}
    run_engine(Engine(), Skyline(), skyline, [Question(context, {"until": ["END"]}, "t")])
    expected = skyline["teacher"].calls[0]
    assert seats["student"].calls[0] == expected
    assert seats["teacher"].calls[0][0] == expected[0]


def test_steps_of_the_same_meaning_stand_as_they_are_worded() -> None:
    worded = [step.replace("Step", "Number") for step in STEPS]
    done, calls = answered(Lookahead(accept_at=0.7), worded, STEPS, same=0.7)
    assert done.text == "".join([*worded[:3], STEPS[3], *worded[4:]])
    assert calls["verifier"] == 6


def test_after_the_first_step_that_differs_the_teachers_own_stands() -> None:
    wrong = [*STEPS[:1], "Quite another thing.\n", *STEPS[2:]]
    done, _ = answered(Lookahead(), wrong, STEPS)
    assert done.text == "".join(STEPS)
    assert authors(done)[:2] == "st"
    assert done.details is not None
    assert [(c["unit"], c["rejected"], c["written"]) for c in done.details["corrections"]] == [(1, wrong[1], STEPS[1])]


@given(st.lists(st.sampled_from(["One.\n", "Two.\n", "Step 1 is written here.\n"]), max_size=9), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_a_verifier_that_accepts_nothing_leaves_the_teachers_text(student: list[str], ahead: int) -> None:
    done, calls = answered(Lookahead(steps=ahead), student, STEPS)
    assert (done.text, done.stop) == ("".join(STEPS), "teacher_stops")
    assert ahead or calls["student"] == 0


def test_the_teacher_ends_the_reply() -> None:
    done, _ = answered(Lookahead(), STEPS, STEPS[:2], same=1.0)
    assert (done.text, done.stop) == ("".join(STEPS[:2]), "teacher_stops")
    done, _ = answered(Lookahead(), STEPS[:2], STEPS)
    assert done.text == "".join(STEPS), "the student's end is not the teacher's"


@pytest.mark.parametrize(
    ("teacher", "options", "stop", "count"),
    [
        (["Again.\n"] * 40, {}, "repetition", 3),
        (STEPS, {"max_passes": 2}, "max_passes", 2),
        ([], {}, "teacher_stops", 0),
    ],
)
def test_how_a_question_ends(teacher: list[str], options: dict[str, int], stop: str, count: int) -> None:
    done, _ = answered(Lookahead(**options), [], teacher)
    assert (done.text, done.stop) == ("".join(teacher[:count]), stop)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_the_tasks_length_limit_holds_where_only_the_models_know_their_tokens(ahead: int) -> None:
    seats = {name: writer(STEPS, name) for name in ("student", "teacher")}
    limited = Question(TASK, {"until": [], "max_gen_toks": 20}, "t")  # a step has five words
    done = run_engine(Engine(), Lookahead(steps=ahead), seats, [limited])[0]
    assert (done.text, done.stop) == ("".join(STEPS[:4]), "length")


def test_a_step_that_the_length_limit_cut_is_not_whole() -> None:
    cut = writer(STEPS, "teacher")
    whole = cut.reply
    cut.reply = lambda prompt: Completion(
        "".join(str(whole(prompt)).partition("is")[:2]), "length", completion_tokens=3
    )
    seats: dict[str, Backend] = {"student": writer([], "student"), "teacher": cut}
    done = run_engine(Engine(), Lookahead(max_passes=1), seats, [Question(TASK, {}, "t")])[0]
    assert done.text == "Step 1 is"


@pytest.mark.parametrize("options", [{"steps": -1}, {"steps": 101}, {"accept_at": 1.5}, {"max_passes": 0}])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Lookahead(**options)


def test_seats_must_be_able_to_continue_a_reply() -> None:
    chat = writer(STEPS, "chat")
    chat.capabilities = frozenset({"generate"})
    with pytest.raises(ConfigurationError, match="can continue"):
        LookaheadLM(student=writer(STEPS, "student"), teacher=chat, store="off", progress="off")


@pytest.mark.parametrize("accepts", [False, True])
def test_on_token_ids_of_the_embedded_pair(accepts: bool) -> None:
    seats: dict[str, Backend] = {
        name: make_hf_backend(str(model_path(name)), {"device": "cpu", "batch_size": 8})
        for name in ("student", "teacher")
    }
    lines = ["Mary went to the garden.", "John went to the kitchen.", "Mary went to the office."]
    context = INSTRUCTION + story_text(lines, "Where is Mary?")
    question = Question(context, {"until": ["\nHere are the context sentences:"], "max_gen_toks": 40}, "t")
    alone = run_engine(Engine(), Skyline(), {"teacher": seats["teacher"]}, [question])[0]
    judge = verifier(lambda state: float(accepts))
    done = run_engine(Engine(), Lookahead(steps=2), {**seats, "verifier": judge}, [question])[0]
    assert done.failure is None
    assert done.stop in ("teacher_stops", "length")
    if not accepts:
        assert done.text == alone.text
    assert "s" in authors(done) or not accepts
    written = sum(turn.result.completion_tokens or 0 for turn in done.turns if turn.kind in ("continue", "correct"))
    kept = [(turn.verdict or {}).get("kept") for turn in done.turns if turn.kind in ("continue", "correct")]
    assert None not in kept
    assert 0 < sum(kept) <= written  # type: ignore[arg-type]

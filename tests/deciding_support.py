"""Helpers for tests of decisions: questions, requests, and a protocol that asks one question through its seat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from decisions_server import DecisionsServer

from harness_ext.backends.base import Backend, DecideRequest
from harness_ext.backends.openai import OpenAIBackend, make_openai_backend
from harness_ext.decisions import Choice, Predicate, Score, TypedQuestion, decision_prompt, labels_of
from harness_ext.engine.engine import Engine
from harness_ext.protocol import Protocol, Question, Role, Seats, SeatSetup
from harness_ext.records import Decision, Message, Solution, Source, Transcript
from harness_ext.records.call_store import CallStore

ALL: tuple[Source, ...] = ("endpoint", "logprobs", "constrained")
PREDICATE = Predicate("Is it right?", true="no mistake", false="a mistake")
CHOICE = Choice("Which colour?", ("red", "blue", "true"), ("like blood", "", "not false"))
SCORE = Score("How good is it?", ("bad", "fair", "good"))
QUESTIONS = (PREDICATE, Predicate("Is it right?"), CHOICE, SCORE)
NONE = {"systemone": (501, "This model is not a decision model"), "decisions": (404, "File Not Found")}


def backend_of(server: DecisionsServer, **options: Any) -> OpenAIBackend:
    return make_openai_backend(f"m@{server.url}", {"max_retries": 3, **options})


def request_of(
    backend: Backend,
    question: TypedQuestion,
    state: str = "the state",
    sources: tuple[Source, ...] = ALL,
    draws: int = 0,
) -> DecideRequest:
    rendered = backend.render_decision([Message("user", decision_prompt(state, question))])
    labels = tuple(rendered.lead + label for label in labels_of(question))
    return DecideRequest(rendered.text, question.options, labels, sources, question, state, draws)


def ask(backend: Backend, *requests: DecideRequest) -> list[Decision]:
    """Return the backend's decisions; raise the failure of one if it is alone."""
    found: dict[int, Any] = {}
    try:
        backend.decide(requests, found.__setitem__)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return [found[i] for i in range(len(requests))]


@dataclass(frozen=True)
class Deciding(Protocol):
    """A protocol that asks one question about each text, through the seat."""

    asked: TypedQuestion = PREDICATE
    roles: ClassVar[Mapping[str, Role]] = {"judge": Role("decides")}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        decision = (await seats.judge.decide(question.context, {"it": self.asked}))["it"]
        return Solution(str(decision.choice))


def run(
    backend: OpenAIBackend,
    states: Sequence[str],
    asked: TypedQuestion = PREDICATE,
    store: CallStore | None = None,
    **setup: Any,
) -> list[Transcript]:
    """Ask a question about each state through the engine, of a seat with further settings."""
    questions = [Question(state, {"max_gen_toks": 8}, task="t", doc_id=i) for i, state in enumerate(states)]
    done: dict[int, Transcript] = {}
    seats = {"judge": SeatSetup(backend, **setup)}
    Engine(store=store, window=64).run(Deciding(asked), seats, questions, done.__setitem__)
    return [done[i] for i in range(len(states))]


def decisions_of(transcripts: Sequence[Transcript]) -> list[Decision]:
    found = [turn.result for transcript in transcripts for turn in transcript.turns]
    assert all(isinstance(result, Decision) for result in found)
    return found  # type: ignore[return-value]


def without(*paths: str) -> dict[str, tuple[int, str]]:
    return dict.fromkeys(paths, (404, "Not Found"))

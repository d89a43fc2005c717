"""A protocol that takes a seat of another one, as a model does: its stand-in, and how its reply is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar
from typing import Protocol as Interface

from harness_ext.backends.base import Backend, ChatMode, Deliver, GenerateRequest, Prompt
from harness_ext.errors import CallFailed
from harness_ext.protocol.question import Question
from harness_ext.protocol.setup import SeatSetup
from harness_ext.protocol.turns import digest
from harness_ext.records import Completion, Inner, Message, SeatCost, Solution, Usage
from harness_ext.records.chat import ChatContext


class Solver(Interface):
    """What is needed of a protocol that takes a seat (see `harness_ext.protocol.Protocol`)."""

    answers: ClassVar[str | None]

    @property
    def samples(self) -> bool:
        """Return whether the protocol samples replies even if the settings are greedy."""

    async def solve(self, question: Question, seats: Any) -> Solution | Completion:
        """Answer one question."""

    def remarks(self, seats: Mapping[str, SeatSetup]) -> list[str]:
        """Return what a user should know about its options."""


class ProtocolBackend(Backend):
    """Stands for a protocol where a seat has a model. It answers nothing itself: `Seats` lets the protocol do that.

    name: the protocol's name.
    protocol: the protocol.
    seats: the seats of the protocol, by name.
    """

    device = "none"
    capabilities = frozenset({"generate", "images"})
    remedy = ": it is a protocol, which only writes texts, so name a model for this seat"

    def __init__(self, name: str, protocol: Solver, seats: Mapping[str, SeatSetup]) -> None:
        super().__init__()
        self.name = f"protocol:{name}"
        self.protocol = protocol
        self.seats = seats
        self.fingerprint = ""

    def prepare(self) -> None:
        """Set the fingerprint; called once the protocol's options and the models of its seats are known."""
        seats = {name: setup.identity for name, setup in self.seats.items()}
        identity = [type(self.protocol).__qualname__, vars(self.protocol), seats]
        self.fingerprint = digest("protocol", json.dumps(identity, sort_keys=True, default=str))

    @property
    def samples(self) -> bool:
        """Return whether the protocol or one of its seats samples even if the settings are greedy."""
        return self.protocol.samples or any(setup.samples for setup in self.seats.values())

    @property
    def chat_default(self) -> bool:
        """Return whether all of its seats render conversations with a template: then none reads the plain form."""
        return all(setup.backend.uses_template(setup.chat) for setup in self.seats.values())

    def render(self, prompt: str | Sequence[Message], chat: ChatMode = "auto") -> Prompt:
        """Return the context of the protocol's question; each of its seats renders it with its own template."""
        return Prompt(prompt if isinstance(prompt, str) else ChatContext.of([asdict(message) for message in prompt]))

    def load(self) -> None:
        """Do nothing: the models of the protocol's seats are loaded when they are called."""

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        """Fail: no queue has calls of a protocol."""
        raise CallFailed("backend", f"{self.name} is a protocol, which answers no calls itself")

    def info(self) -> dict[str, Any]:
        return {"name": self.name, "fingerprint": self.fingerprint, "options": dict(vars(self.protocol))}


def all_seats(seats: Mapping[str, SeatSetup]) -> dict[str, SeatSetup]:
    """Return seats by their paths: with `student`, if a protocol takes that, its own seats (`student.teacher`)."""
    found: dict[str, SeatSetup] = {}
    for name, setup in seats.items():
        found[name] = setup
        if isinstance(setup.backend, ProtocolBackend):
            found |= {f"{name}.{path}": inner for path, inner in all_seats(setup.backend.seats).items()}
    return found


def models_of(seats: Mapping[str, SeatSetup]) -> dict[str, SeatSetup]:
    """Return the seats that models take, by their paths (`teacher`, `student.teacher`)."""
    return {path: setup for path, setup in all_seats(seats).items() if not isinstance(setup.backend, ProtocolBackend)}


def completion_of(text: str, inner: Inner) -> Completion:
    """Return the reply of a protocol: its text, with the tokens and the seconds of all calls behind it."""
    usage = Usage.total(SeatCost().usage(call) for turn in inner.turns for call in turn.calls)
    return Completion(
        text,
        next((turn.finish for turn in reversed(inner.turns) if turn.text == text), None),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        thinking_tokens=round(usage.thinking_tokens) if usage.thinking_tokens else None,
        seconds=usage.seconds,
    )

"""The seats of one question: what a protocol awaits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random
from typing import Any

from harness_ext.backends.base import Backend, ChatMode, GenerateRequest, Prompt, Request, ScoreRequest, VerifyRequest
from harness_ext.protocol import Question
from harness_ext.records import Completion, Message, SeatCost, Turn

Answer = Callable[[Backend, str, Request], Awaitable[tuple[Completion, bool]]]


@dataclass(frozen=True)
class SeatSetup:
    """A seat of a run: its model, how conversations are rendered for it, and what its tokens cost."""

    backend: Backend
    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None

    @property
    def cost(self) -> SeatCost:
        """Return what turns tokens into FLOPs and money."""
        return SeatCost(self.backend.parameters, self.price_in, self.price_out)


class Seats:
    """The seats of one question, by name (`seats.student`), and the turns they took."""

    def __init__(self, question: Question, setups: Mapping[str, SeatSetup], answer: Answer, seed: int) -> None:
        self.question = question
        self._slots: list[Turn | None] = []
        self._draws: dict[str, int] = {}
        self._answer = answer
        self._seed = seed
        self._waiting = 0
        self._ended: asyncio.Event | None = None
        self._seats = {name: Seat(name, setup, self) for name, setup in setups.items()}

    def __getattr__(self, name: str) -> Seat:
        try:
            return self.__dict__["_seats"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"this protocol has no seat {name!r}") from None

    def __getitem__(self, name: str) -> Seat:
        return self._seats[name]

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Return the turns that were answered, in the order they were asked for."""
        return tuple(turn for turn in self._slots if turn is not None)

    def random(self, purpose: str) -> Random:
        """Return random numbers of this question's own: the same in each run with the same seed."""
        return Random(_digest(purpose, *map(str, self.question.identity(self._seed)), str(self._seed)))

    def note(self, completion: Completion, **verdict: Any) -> None:
        """Record what the protocol read out of a reply (JSON values) with the turn that gave it."""
        for i in reversed(range(len(self._slots))):
            turn = self._slots[i]
            if turn is not None and turn.completion is completion:
                self._slots[i] = replace(turn, verdict={**(turn.verdict or {}), **verdict})
                return
        raise ValueError("this completion is of no turn of this question")

    def note_last(self, **verdict: Any) -> None:
        """Record what the protocol read out of the newest turn."""
        self.note(self.turns[-1].completion, **verdict)

    async def settled(self) -> None:
        """Wait for calls that the protocol left behind when it ended (one of several at once failed), so that they are
        recorded; what asks for more calls afterwards is cancelled."""
        self._ended = asyncio.Event()
        if self._waiting:
            await self._ended.wait()
            for _ in range(4):  # what awaited the last call may still note something with it
                await asyncio.sleep(0)

    async def _call(
        self,
        seat: Seat,
        request: Request,
        kind: str,
        notes: tuple[str, ...],
        verdict: Mapping[str, Any] | None = None,
    ) -> Completion:
        if self._ended is not None:
            raise asyncio.CancelledError
        slot = len(self._slots)
        self._slots.append(None)
        key = self._key(seat.setup.backend, request)
        self._waiting += 1
        try:
            completion, reused = await self._answer(seat.setup.backend, key, request)
        finally:
            self._waiting -= 1
            if self._ended is not None and not self._waiting:
                self._ended.set()
        if any(turn is not None and turn.completion is completion for turn in self._slots):
            completion = replace(completion)  # so that `note` can tell this turn from the one it shares a reply with
        self._slots[slot] = Turn(seat.name, kind, key, completion, verdict, notes, reused)
        return completion

    def _key(self, backend: Backend, request: Request) -> str:
        """Return the call's key: model, rendered prompt and effective settings; for a sampled call also which draw."""
        if isinstance(request, ScoreRequest):
            return _digest("score", backend.fingerprint, request.prompt, request.continuation)
        settings, sampled = _canonical(_encode(request.gen_kwargs), backend.default_max_gen_toks)
        if isinstance(request, VerifyRequest):
            asked = [request.reply, request.draft, request.uniforms, request.candidates, request.ranks]
            return _digest("verify", backend.fingerprint, settings, request.prompt, _encode(asked))
        key = _digest("generate", backend.fingerprint, settings, request.prompt)
        if request.reply is not None:
            key = _digest(key, _encode([request.reply, request.only]))
        if not sampled:
            return key
        draw = self._draws[key] = self._draws.get(key, -1) + 1
        q = self.question
        return _digest(key, q.task, str(q.doc_id), str(q.index), str(q.repeat), str(draw), str(self._seed))


class Seat:
    """One seat within one question."""

    def __init__(self, name: str, setup: SeatSetup, seats: Seats) -> None:
        self.name = name
        self.setup = setup
        self._seats = seats

    @property
    def backend(self) -> Backend:
        """Return the seat's model."""
        return self.setup.backend

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        kind: str,
        gen_kwargs: Mapping[str, Any] | None = None,
        **how: Any,
    ) -> Completion:
        """Return the seat's reply to a context or a conversation.

        A trailing assistant message is continued. `kind` is the turn's name in the records; `gen_kwargs` are lm-eval's
        generation settings, by default the task's own; `how` are further fields of `GenerateRequest`. Raises
        CallFailed; a protocol need not catch it.
        """
        rendered, settings = self.rendered(prompt, gen_kwargs)
        return await self._seats._call(self, GenerateRequest(rendered.text, settings, **how), kind, rendered.notes)

    async def verify(
        self, prompt: str | Sequence[Message], reply: Sequence[int], draft: Sequence[int], *, kind: str, **more: Any
    ) -> Completion:
        """Return what the seat's model says of the tokens `draft` after a prompt and the tokens of a begun reply.

        `more` are further fields of `VerifyRequest`. Raises CallFailed; a protocol need not catch it.
        """
        rendered, settings = self.rendered(prompt)
        request = VerifyRequest(rendered.text, settings, tuple(reply), tuple(draft), **more)
        return await self._seats._call(self, request, kind, rendered.notes)

    def rendered(
        self, prompt: str | Sequence[Message], gen_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Prompt, Mapping[str, Any]]:
        """Return a prompt as this seat's model reads it, and the settings with the stop texts that its form needs."""
        rendered = self.setup.backend.render(prompt, self.setup.chat)
        settings = self._seats.question.gen_kwargs if gen_kwargs is None else gen_kwargs
        if rendered.stops:
            until = settings.get("until") or []
            settings = {**settings, "until": [*([until] if isinstance(until, str) else until), *rendered.stops]}
        return rendered, settings

    async def score(self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str) -> list[float]:
        """Return the natural log-probability of each continuation after the prompt; one call each."""
        rendered = self.setup.backend.render(prompt, self.setup.chat)
        completions = await asyncio.gather(
            *(
                self._seats._call(
                    self, ScoreRequest(rendered.text, rendered.lead + c), kind, rendered.notes, {"continuation": c}
                )
                for c in continuations
            )
        )
        return [float(c.logprob) if c.logprob is not None else float("nan") for c in completions]


_encode = json.JSONEncoder(sort_keys=True, default=str).encode


def _digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _canonical(gen_kwargs: str, default_max_gen_toks: int) -> tuple[str, bool]:
    """Return settings as the model will read them, as canonical JSON, and whether they sample."""
    from lm_eval.models.utils import normalize_gen_kwargs

    settings = dict(normalize_gen_kwargs(json.loads(gen_kwargs), default_max_gen_toks))
    until = settings.get("until") or []
    settings["until"] = sorted(set([until] if isinstance(until, str) else until))
    return json.dumps(settings, sort_keys=True), bool(settings.get("do_sample"))

"""The seats of one question: what a protocol awaits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from random import Random
from typing import Any, Literal

from harness_ext.backends.base import Backend, ChatMode, GenerateRequest, Prompt, Request, ScoreRequest, VerifyRequest
from harness_ext.chat import ChatContext, context_messages
from harness_ext.errors import CallFailed
from harness_ext.images import IMAGE_MARK, NOT_SHOWN, Image, count_marks, without_images
from harness_ext.protocol import Question
from harness_ext.records import Completion, Message, SeatCost, Turn

Answer = Callable[[Backend, str, Request], Awaitable[tuple[Completion, bool]]]


@dataclass(frozen=True)
class SeatSetup:
    """A seat of a run: its model, how conversations are rendered for it, and what its tokens cost.

    `system` is put before every conversation, `gen_kwargs` over every call's settings; `images=off` sends text alone.
    """

    backend: Backend
    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None
    system: str | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["auto", "off"] = "auto"

    @property
    def own(self) -> dict[str, Any]:
        """Return what the seat is told of its own, as far as it is."""
        told = {"system": self.system, "gen": dict(self.gen_kwargs), "images": self.images}
        return {name: value for name, value in told.items() if value not in (None, {}, "auto")}

    @property
    def samples(self) -> bool:
        """Return whether its own settings make it sample, whatever the task says."""
        return bool(self.gen_kwargs.get("do_sample") or self.gen_kwargs.get("temperature"))

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

    def team(self, name: str) -> list[Seat]:
        """Return the seats of a team (`agent1`, `agent2`, …), in the order of their numbers."""
        return [seat for n, seat in self._seats.items() if n.startswith(name) and n[len(name) :].isdecimal()]

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
        if isinstance(request, GenerateRequest):
            request = replace(request, seed=int(key[:8], 16) >> 1)
        self._waiting += 1
        try:
            completion, reused = await self._answer(seat.setup.backend, key, request)
        finally:
            self._waiting -= 1
            if self._ended is not None and not self._waiting:
                self._ended.set()
        whole = isinstance(request, GenerateRequest) and request.reply is None
        if whole and any(turn is not None and turn.key == key for turn in self._slots):
            notes = (*notes, "same_call")
        if self.question.images and IMAGE_MARK in completion.text:  # quoted later, it would stand for one more image
            completion = replace(completion, text=completion.text.replace(IMAGE_MARK, NOT_SHOWN))
            notes = (*notes, "image_mark_replaced")
        if any(turn is not None and turn.completion is completion for turn in self._slots):
            completion = replace(completion)  # so that `note` can tell this turn from the one it shares a reply with
        self._slots[slot] = Turn(seat.name, kind, key, completion, verdict, notes, reused)
        return completion

    def _key(self, backend: Backend, request: Request) -> str:
        """Return the call's key: model, rendered prompt and effective settings; for a sampled call also which draw."""
        if isinstance(request, ScoreRequest):
            kind = "rolling" if request.rolling else "score"
            return _digest(kind, backend.fingerprint, request.prompt, request.continuation)
        settings, sampled = _canonical(_encode(request.gen_kwargs), backend.default_max_gen_toks)
        if isinstance(request, VerifyRequest):
            asked = [request.reply, request.draft, request.uniforms, request.candidates, request.ranks]
            return _digest("verify", backend.fingerprint, settings, request.prompt, _encode(asked))
        pictures = [image.digest for image in request.images]
        key = _digest("generate", backend.fingerprint, settings, request.prompt, *pictures)
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
        rendered, settings, images = self.rendered(prompt, gen_kwargs)
        request = GenerateRequest(rendered.text, settings, images=images, **how)
        return await self._seats._call(self, request, kind, rendered.notes)

    async def verify(
        self, prompt: str | Sequence[Message], reply: Sequence[int], draft: Sequence[int], *, kind: str, **more: Any
    ) -> Completion:
        """Return what the seat's model says of the tokens `draft` after a prompt and the tokens of a begun reply.

        `more` are further fields of `VerifyRequest`. Raises CallFailed; a protocol need not catch it.
        """
        rendered, settings, _ = self.rendered(prompt)
        request = VerifyRequest(rendered.text, settings, tuple(reply), tuple(draft), **more)
        return await self._seats._call(self, request, kind, rendered.notes)

    def rendered(
        self, prompt: str | Sequence[Message], gen_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Prompt, Mapping[str, Any], tuple[Image, ...]]:
        """Return a prompt as this seat's model reads it, the settings with the stop texts that its form needs, and the
        images that go with it."""
        prompt, images, notes = self._addressed(prompt)
        rendered = self.setup.backend.render(prompt, self.setup.chat)
        if notes:
            rendered = replace(rendered, notes=(*notes, *rendered.notes))
        settings = self._settings(gen_kwargs)
        if rendered.stops:
            until = settings.get("until") or []
            settings = {**settings, "until": [*([until] if isinstance(until, str) else until), *rendered.stops]}
        return rendered, settings, images

    def samples(self, gen_kwargs: Mapping[str, Any] | None = None) -> bool:
        """Return whether a reply under these settings (by default the task's own) is a draw, not the greedy text."""
        return _canonical(_encode(self._settings(gen_kwargs)), self.setup.backend.default_max_gen_toks)[1]

    def _settings(self, gen_kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
        settings = self._seats.question.gen_kwargs if gen_kwargs is None else gen_kwargs
        return {**settings, **self.setup.gen_kwargs} if self.setup.gen_kwargs else settings

    def _addressed(
        self, prompt: str | Sequence[Message]
    ) -> tuple[str | Sequence[Message], tuple[Image, ...], tuple[str, ...]]:
        """Return a prompt as this seat is told it, its images, and what was done to it."""
        is_context = prompt is self._seats.question.context
        is_plain = isinstance(prompt, str) and not isinstance(prompt, ChatContext)
        if self.setup.system:
            prompt = f"{self.setup.system}\n\n{prompt}" if is_plain else with_system(self.setup.system, prompt)
        images = self._seats.question.images
        marks = count_marks(prompt) if images else 0
        if not images or (not marks and not is_context):
            return prompt, (), ()
        if not marks or marks % len(images):
            raise CallFailed(
                "protocol", f"the task hands over {len(images)} images, and its text holds {marks} `<image>` marks"
            )
        if self.setup.images == "off":
            messages = without_images(context_messages(prompt) if isinstance(prompt, str) else prompt)
            return messages[0].content if is_plain else messages, (), ("image_left_out",)
        return prompt, images * (marks // len(images)), ()

    async def score(self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str) -> list[float]:
        """Return the natural log-probability of each continuation after the prompt; one call each."""
        completions = await self.weigh(prompt, continuations, kind=kind)
        return [float(c.logprob) if c.logprob is not None else float("nan") for c in completions]

    async def weigh(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str
    ) -> list[Completion]:
        """Return, for each continuation after the prompt, its log-probability and whether greedy decoding writes it."""
        rendered, _, _ = self.rendered(prompt)
        return await asyncio.gather(
            *(
                self._seats._call(
                    self, ScoreRequest(rendered.text, rendered.lead + c), kind, rendered.notes, {"continuation": c}
                )
                for c in continuations
            )
        )

    async def weigh_whole(self, text: str, *, kind: str) -> Completion:
        """Return the log-probability of a whole text, in windows as long as the model reads."""
        return await self._seats._call(self, ScoreRequest(text, "", rolling=True), kind, ())


def with_system(system: str, prompt: str | Sequence[Message]) -> list[Message]:
    """Return a conversation with a seat's own system text before the task's."""
    messages = list(context_messages(prompt) if isinstance(prompt, str) else prompt)
    if messages and messages[0].role == "system":
        return [Message("system", f"{system}\n\n{messages[0].content}"), *messages[1:]]
    return [Message("system", system), *messages]


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

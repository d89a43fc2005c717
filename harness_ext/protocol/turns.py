"""The turns of one question: its calls, their keys, and what is recorded about them."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from harness_ext.backends.base import Backend, DecideRequest, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.backends.settings import canonical_settings
from harness_ext.decisions import parts_of
from harness_ext.errors import CallFailed
from harness_ext.protocol.question import Question
from harness_ext.protocol.wording import without_thought
from harness_ext.reading.thoughts import DEFAULT_MARKERS
from harness_ext.records import CallResult, Completion, Decision, Inner, Turn
from harness_ext.records.images import IMAGE_MARK, NOT_SHOWN

AnswerCall = Callable[[Backend, str, Request], Awaitable[tuple[CallResult, bool]]]
AwaitRest = Callable[[], Awaitable[None]]
Result = TypeVar("Result", bound=CallResult)

# The note on calls for whose results the protocol did not wait in the end.
CANCELLED = "cancelled"


@dataclass(frozen=True)
class Reply:
    """The reply to a call.

    result: the result.
    reused: whether it was reused.
    inner: how a protocol that takes the seat came to it. Default None: a model takes the seat.
    error: what ended that protocol. Its calls are recorded all the same. Default None: nothing.
    """

    result: CallResult
    reused: bool
    inner: Inner | None = None
    error: BaseException | None = None


class Turns:
    """The turns of one question: makes its calls and records them.

    question: the question.
    answer: returns the result of a call, and whether it was reused.
    seed: the run's seed, which is part of the keys of sampled calls.
    rest: returns once no question of the run can continue by itself.
    scope: for the turns of a protocol that takes a seat, which of the replies of which seat they belong to. It is part
        of the keys of sampled calls. Default: nothing, for the run's own protocol.
    over: returns whether no more calls may be made. Default: they may.
    """

    def __init__(
        self,
        question: Question,
        answer: AnswerCall,
        seed: int,
        rest: AwaitRest,
        scope: tuple[str, ...] = (),
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self.question = question
        self.seed = seed
        self.scope = scope
        # Called with a turn before and after something is recorded with it.
        self.noted: Callable[[Turn, Turn], None] = lambda before, after: None
        self._slots: list[Turn | None] = []
        self._draws: dict[str, int] = {}
        self._answer = answer
        self._rest = rest
        self._over = over
        self._running: set[asyncio.Task[Any]] = set()
        self._cancelled: set[int] = set()
        # Decisions that were made from the result of a turn (read from its text, calibrated, averaged), by their id.
        self._made: dict[int, tuple[Decision, CallResult]] = {}
        self._ended = False

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Return the answered turns, in the order in which the protocol asked for them."""
        return tuple(turn for turn in self._slots if turn is not None)

    def note(self, result: CallResult, **verdict: Any) -> None:
        """Record what the protocol read from a result (JSON values) with the turn that returned it."""
        result = self._origin(result)
        for i in reversed(range(len(self._slots))):
            turn = self._slots[i]
            if turn is not None and turn.result is result:
                self._slots[i] = noted = replace(turn, verdict={**(turn.verdict or {}), **verdict})
                self.noted(turn, noted)
                return
        raise ValueError("this result belongs to no turn of this question")

    def note_last(self, **verdict: Any) -> None:
        """Record what the protocol read from the latest turn."""
        self.note(self.turns[-1].result, **verdict)

    async def settled(self) -> None:
        """Wait for the calls that are still running when the protocol has ended, so that they are recorded.

        There are some if one of several concurrent calls failed, or if the protocol cancelled what waited for them. A
        coroutine that makes another call is cancelled.
        """
        self._ended = True
        if self._running:
            await asyncio.wait(self._running)
            await self._rest()  # the coroutine that awaited the last call may still record something with it

    def made_from(self, result: CallResult, decision: Decision) -> Decision:
        """Return a decision that was made from a result or from another decision, after remembering from which."""
        self._made[id(decision)] = (decision, self._origin(result))
        return decision

    def _origin(self, result: CallResult) -> CallResult:
        return self._made[id(result)][1] if id(result) in self._made else result

    async def call(
        self,
        name: str,
        backend: Backend,
        request: Request,
        expected: type[Result],
        kind: str,
        notes: tuple[str, ...] = (),
        verdict: Mapping[str, Any] | None = None,
    ) -> Result:
        """Return the result of a call, once its turn is recorded.

        name: the seat's name.
        backend: the seat's model.
        request: what it is asked.
        expected: the kind of result.
        kind: the turn's name in the records.
        notes: what was done to the prompt. Default: nothing.
        verdict: what to record with the turn. Default: nothing.

        If what waits for the call is cancelled, the call is recorded all the same, since it is paid for. Raises
        CallFailed.
        """
        if self._is_over():
            raise asyncio.CancelledError
        slot = len(self._slots)
        self._slots.append(None)
        key = self._key(backend, request)
        affinity = f"{self.question.task}/{self.question.doc_id}"
        if isinstance(request, GenerateRequest):
            # Taken from the key, the seed differs between draws and is the same for one draw in all runs. It has 31
            # bits, since some servers read a signed 32-bit number.
            request = replace(request, affinity=affinity, seed=int(key[:8], 16) >> 1)
        else:
            request = replace(request, affinity=affinity)

        async def recorded() -> Result:
            reply = await self._reply(name, backend, key, request, lambda: slot in self._cancelled or self._is_over())
            result, found = self._read(key, request, reply.result)
            if not isinstance(result, expected):
                raise CallFailed(
                    "no_reply",
                    f"the call store contains a {type(result).__name__} for this {expected.__name__}: run with another "
                    "folder (`store=<folder>`) or without a store (`store=off`)",
                )
            told = (*notes, *found, *((CANCELLED,) if slot in self._cancelled else ()))
            self._slots[slot] = Turn(name, kind, key, result, verdict, told, reply.reused, reply.inner)
            if reply.error is not None:
                raise reply.error
            return result

        running = asyncio.create_task(recorded())
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._cancelled.add(slot)
            raise

    def _is_over(self) -> bool:
        return self._ended or self._over()

    async def _reply(self, name: str, backend: Backend, key: str, request: Request, over: Callable[[], bool]) -> Reply:
        """Return the reply to a call. Raises CallFailed.

        name: the seat's name.
        backend: the seat's model.
        key: the call's key.
        request: what it is asked.
        over: returns whether nobody waits for the reply any more.
        """
        return Reply(*await self._answer(backend, key, request))

    def _read(self, key: str, request: Request, result: CallResult) -> tuple[CallResult, tuple[str, ...]]:
        """Return the result of a call as the protocol reads it, and notes on what was done to it."""
        notes: tuple[str, ...] = ()
        if isinstance(request, GenerateRequest) and request.reply is None and isinstance(result, Completion):
            if any(turn is not None and turn.key == key for turn in self._slots):
                notes = (*notes, "same_call")
            if request.thought_markers is not None and not request.keep_ids:
                result, found = without_thought(result, request.thought_markers)
                notes = (*notes, *found)
        if self.question.images and isinstance(result, Completion) and IMAGE_MARK in result.text:
            # Quoted in a later prompt, the mark would stand for another image.
            result = replace(result, text=result.text.replace(IMAGE_MARK, NOT_SHOWN))
            notes = (*notes, "image_mark_replaced")
        if any(turn is not None and turn.result is result for turn in self._slots):
            result = replace(result)  # a copy, so that `note` can tell the turns that share a result apart
        return result, notes

    def _key(self, backend: Backend, request: Request) -> str:
        """Return the key of a call: model, rendered prompt and effective settings, and for a sampled call which draw.

        A greedy reply depends on nothing else, so any question of any run may reuse it. A sampled reply is one draw of
        many: its key adds the question, the draw index within the question, and the seed. Without the index, k equal
        calls of one question would share a single draw. With it, a resumed run finds each of its draws again. Within a
        protocol that takes a seat, draws are counted for each of its replies, so that they do not depend on which of
        several is faster.
        """
        if isinstance(request, ScoreRequest):
            kind = "rolling" if request.rolling else "score"
            return digest(kind, backend.fingerprint, request.prompt, request.continuation)
        if isinstance(request, DecideRequest):
            pictures = [image.digest for image in request.images]
            asked = [request.options, request.labels, request.sources, request.draws, request.state, pictures]
            about = None if request.question is None else parts_of(request.question)
            return digest("decide", backend.fingerprint, request.prompt, _encode([*asked, about]))
        settings, sampled = canonical_settings(request.gen_kwargs, backend.default_max_gen_toks)
        if isinstance(request, VerifyRequest):
            asked = [request.reply, request.draft, request.uniforms, request.candidates, request.ranks]
            asked += [request.certainty] if request.certainty else []
            return digest("verify", backend.fingerprint, settings, request.prompt, _encode(asked))
        pictures = [image.digest for image in request.images]
        key = digest("generate", backend.fingerprint, settings, request.prompt, *pictures)
        if request.thought_markers != DEFAULT_MARKERS:
            key = digest(key, _encode(request.thought_markers))
        if request.reply is not None:
            confidence = [request.confidence] if request.confidence else []
            key = digest(key, _encode([request.reply, request.only, *confidence]))
        if not (sampled or backend.samples):
            return key
        draw = self._draws[key] = self._draws.get(key, -1) + 1
        q = self.question
        return digest(key, q.task, str(q.doc_id), str(q.index), str(q.repeat), str(draw), str(self.seed), *self.scope)


_encode = json.JSONEncoder(sort_keys=True, default=str).encode


def digest(*parts: str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()

"""The seats of one question, which a protocol awaits."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal, TypeVar

from harness_ext.backends.base import Backend, ChatMode, GenerateRequest, Prompt, Request, ScoreRequest, VerifyRequest
from harness_ext.backends.settings import canonical_settings, stop_sequences
from harness_ext.errors import CallFailed
from harness_ext.options import PromptText
from harness_ext.protocol.question import Question, reply_of
from harness_ext.reading.control_tokens import neutralise
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers, split_thought
from harness_ext.records import CallResult, Completion, Loglikelihood, Message, SeatCost, Turn, Verification
from harness_ext.records.chat import ChatContext, context_messages
from harness_ext.records.images import IMAGE_MARK, NOT_SHOWN, Image, count_marks, without_images
from harness_ext.records.readability import UNFINISHED

Thoughts = Literal["hide", "history", "off"]
AnswerCall = Callable[[Backend, str, Request], Awaitable[tuple[CallResult, bool]]]
Result = TypeVar("Result", bound=CallResult)


@dataclass(frozen=True)
class SeatSetup:
    """A seat of a run: its model and its own settings.

    backend: the model.
    chat: how conversations are rendered: `on` with the model's chat template, `off` in the plain form, `auto` with the
        template if there is one. Default `auto`.
    price_in: the price per million prompt tokens. Default None: unknown.
    price_out: the price per million completion tokens. Default None: unknown.
    system: a system message put before every conversation. Default None.
    gen_kwargs: generation settings that override those of every call. Default: none.
    images: whether a task's images are sent (`auto`) or left out (`off`). Default `auto`.
    thoughts: what becomes of a reasoning model's thoughts: `hide` keeps them in the records, apart from the answer;
        `history` also gives them back to the seat itself in later turns; `off` takes them for a part of the answer.
        Default `hide`.
    thought_markers: pairs of marks that begin and end a thought. Default: the usual ones.
    thought_tokens: how many tokens a thought may take beyond the limit that a protocol sets for a reply (a review, a
        rating). Default 0.
    """

    backend: Backend
    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None
    system: str | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["auto", "off"] = "auto"
    thoughts: Thoughts = "hide"
    thought_markers: Markers = DEFAULT_MARKERS
    thought_tokens: int = 0

    @property
    def own(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults."""
        settings = {
            "system": self.system,
            "gen": dict(self.gen_kwargs),
            "images": self.images,
            "thoughts": self.thoughts,
            "thought_markers": None if self.thought_markers == DEFAULT_MARKERS else list(self.thought_markers),
            "thought_tokens": self.thought_tokens or None,
        }
        return {name: value for name, value in settings.items() if value not in (None, {}, "auto", "hide")}

    @property
    def samples(self) -> bool:
        """Return whether the seat's own settings make it sample, whatever the task's settings are."""
        return bool(self.gen_kwargs.get("do_sample") or self.gen_kwargs.get("temperature"))

    @property
    def cost(self) -> SeatCost:
        """Return what turns tokens into FLOPs and money."""
        return SeatCost(self.backend.parameters, self.price_in, self.price_out)


class Seats:
    """The seats of one question, by name (`seats.student`), and the turns that they took.

    question: the question.
    setups: the setup of each seat, by name.
    answer: returns the result of a call, and whether it was reused.
    seed: the run's seed, which is part of the keys of sampled calls.
    """

    def __init__(self, question: Question, setups: Mapping[str, SeatSetup], answer: AnswerCall, seed: int) -> None:
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
        """Return the answered turns, in the order in which the protocol asked for them."""
        return tuple(turn for turn in self._slots if turn is not None)

    def random(self, purpose: str) -> Random:
        """Return a random number generator for this question and purpose, the same in all runs with the same seed."""
        return Random(_digest(purpose, *map(str, self.question.identity(self._seed)), str(self._seed)))

    def note(self, result: CallResult, **verdict: Any) -> None:
        """Record what the protocol read from a result (JSON values) with the turn that returned it."""
        for i in reversed(range(len(self._slots))):
            turn = self._slots[i]
            if turn is not None and turn.result is result:
                self._slots[i] = replace(turn, verdict={**(turn.verdict or {}), **verdict})
                return
        raise ValueError("this result belongs to no turn of this question")

    def note_last(self, **verdict: Any) -> None:
        """Record what the protocol read from the latest turn."""
        self.note(self.turns[-1].result, **verdict)

    async def settled(self) -> None:
        """Wait for the calls that are still running when the protocol has ended, so that they are recorded.

        There are some if one of several concurrent calls failed. A coroutine that makes another call is cancelled.
        """
        self._ended = asyncio.Event()
        if self._waiting:
            await self._ended.wait()
            for _ in range(4):  # the coroutine that awaited the last call may still record something with it
                await asyncio.sleep(0)

    async def _call(
        self,
        seat: Seat,
        request: Request,
        expected: type[Result],
        kind: str,
        notes: tuple[str, ...] = (),
        verdict: Mapping[str, Any] | None = None,
    ) -> Result:
        if self._ended is not None:
            raise asyncio.CancelledError
        slot = len(self._slots)
        self._slots.append(None)
        key = self._key(seat.setup.backend, request)
        if isinstance(request, GenerateRequest):
            # Taken from the key, the seed differs between draws and is the same for one draw in all runs. It has 31
            # bits, since some servers read a signed 32-bit number.
            request = replace(request, seed=int(key[:8], 16) >> 1)
        self._waiting += 1
        try:
            result, reused = await self._answer(seat.setup.backend, key, request)
        finally:
            self._waiting -= 1
            if self._ended is not None and not self._waiting:
                self._ended.set()
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
        if not isinstance(result, expected):
            raise CallFailed(
                "no_reply", f"the call store contains a {type(result).__name__} for this {expected.__name__}"
            )
        self._slots[slot] = Turn(seat.name, kind, key, result, verdict, notes, reused)
        return result

    def _key(self, backend: Backend, request: Request) -> str:
        """Return the key of a call: model, rendered prompt and effective settings, and for a sampled call which draw.

        A greedy reply depends on nothing else, so any question of any run may reuse it. A sampled reply is one draw of
        many: its key adds the question, the draw index within the question, and the seed. Without the index, k equal
        calls of one question would share a single draw. With it, a resumed run finds each of its draws again.
        """
        if isinstance(request, ScoreRequest):
            kind = "rolling" if request.rolling else "score"
            return _digest(kind, backend.fingerprint, request.prompt, request.continuation)
        settings, sampled = canonical_settings(request.gen_kwargs, backend.default_max_gen_toks)
        if isinstance(request, VerifyRequest):
            asked = [request.reply, request.draft, request.uniforms, request.candidates, request.ranks]
            return _digest("verify", backend.fingerprint, settings, request.prompt, _encode(asked))
        pictures = [image.digest for image in request.images]
        key = _digest("generate", backend.fingerprint, settings, request.prompt, *pictures)
        if request.thought_markers != DEFAULT_MARKERS:
            key = _digest(key, _encode(request.thought_markers))
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

        prompt: a context, or messages. A trailing assistant message is continued.
        kind: the turn's name in the records.
        gen_kwargs: lm-eval's generation settings. Default None: the task's own.
        how: further fields of `GenerateRequest`.

        Raises CallFailed, which a protocol need not catch.
        """
        rendered, settings, images = self.rendered(prompt, gen_kwargs)
        markers = None if self.setup.thoughts == "off" else self.setup.thought_markers
        request = GenerateRequest(rendered.text, settings, images=images, thought_markers=markers, **how)
        return await self._seats._call(self, request, Completion, kind, rendered.notes)

    def prompt(self, name: str, chosen: PromptText, default: str) -> PromptText:
        """Return the prompt to use: the one that the run chose, or else the one that the seat's model was trained on.

        name: the name of the protocol's option, such as `refine_user`.
        chosen: the value of the option.
        default: the option's default.
        """
        return PromptText(self.backend.prompts.get(name, chosen)) if chosen == default else chosen

    def limits(self, max_tokens: int) -> dict[str, Any]:
        """Return the generation settings of a reply whose length the protocol sets: greedy and without stop sequences.

        max_tokens: the length limit of the reply, in tokens, to which the seat's `thought_tokens` are added.
        """
        return {"until": [], "max_gen_toks": max_tokens + self.setup.thought_tokens, "do_sample": False}

    def answer_in(self, text: str) -> str:
        """Return a text without the thought that it may begin with."""
        return text if self.setup.thoughts == "off" else split_thought(text, self.setup.thought_markers).answer

    def own_turn(self, completion: Completion) -> Message:
        """Return one of the seat's own replies as a message of its history: with the dictated prefix of the task, and
        without its thought unless the seat's `thoughts` are part of its history."""
        text = completion.text
        if self.setup.thoughts == "history" and completion.thought:
            begin, end = self.setup.thought_markers[0]
            text = f"{begin}\n{completion.thought}\n{end}\n\n{text}"
        return reply_of(self._seats.question, text)

    async def verify(
        self, prompt: str | Sequence[Message], reply: Sequence[int], draft: Sequence[int], *, kind: str, **more: Any
    ) -> Verification:
        """Return how likely the seat's model finds the tokens of a draft.

        prompt: a context, or messages.
        reply: the token ids of the partial reply before the draft.
        draft: the token ids to verify.
        kind: the turn's name in the records.
        more: further fields of `VerifyRequest`.

        Raises CallFailed, which a protocol need not catch.
        """
        rendered, settings, _ = self.rendered(prompt)
        request = VerifyRequest(rendered.text, settings, tuple(reply), tuple(draft), **more)
        return await self._seats._call(self, request, Verification, kind, rendered.notes)

    def rendered(
        self, prompt: str | Sequence[Message], gen_kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Prompt, Mapping[str, Any], tuple[Image, ...]]:
        """Return a prompt as this seat's model reads it, the settings, and the prompt's images.

        The settings include the stop sequences that the prompt's format needs.
        """
        prompt, images, notes = self._addressed(prompt)
        if not isinstance(prompt, str):
            prompt, found = self._neutralised(prompt)
            notes = (*notes, *found)
        rendered = self.setup.backend.render(prompt, self.setup.chat)
        if notes:
            rendered = replace(rendered, notes=(*notes, *rendered.notes))
        settings = self._settings(gen_kwargs)
        if rendered.stops:
            settings = {**settings, "until": [*stop_sequences(settings), *rendered.stops]}
        return rendered, settings, images

    def _neutralised(self, messages: Sequence[Message]) -> tuple[list[Message], tuple[str, ...]]:
        """Return a conversation in which no control token that a model wrote can begin a turn, and a note if one could.

        The task's own messages stay as they are.
        """
        plain = not self.setup.backend.uses_template(self.setup.chat)
        own = frozenset(self._seats.question.messages)
        found = [(m.content, 0) if m in own else neutralise(m.content, plain) for m in messages]
        count = sum(number for _, number in found)
        neutral = [replace(m, content=text) for m, (text, _) in zip(messages, found, strict=True)]
        return neutral, ("control_tokens_neutralised",) if count else ()

    def samples(self, gen_kwargs: Mapping[str, Any] | None = None) -> bool:
        """Return whether a reply under these settings (by default the task's own) is sampled."""
        return canonical_settings(self._settings(gen_kwargs), self.setup.backend.default_max_gen_toks)[1]

    def _settings(self, gen_kwargs: Mapping[str, Any] | None) -> Mapping[str, Any]:
        settings = self._seats.question.gen_kwargs if gen_kwargs is None else gen_kwargs
        return {**settings, **self.setup.gen_kwargs} if self.setup.gen_kwargs else settings

    def _addressed(
        self, prompt: str | Sequence[Message]
    ) -> tuple[str | Sequence[Message], tuple[Image, ...], tuple[str, ...]]:
        """Return a prompt with the seat's own settings for system message and images applied, its images, and notes."""
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
                "protocol",
                f"the task provides {len(images)} images, and its text contains {marks} `<image>` marks: give its text "
                "one mark per image",
            )
        if self.setup.images == "off":
            messages = without_images(context_messages(prompt) if isinstance(prompt, str) else prompt)
            return messages[0].content if is_plain else messages, (), ("image_left_out",)
        return prompt, images * (marks // len(images)), ()

    async def score(self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str) -> list[float]:
        """Return the natural log-probability of each continuation after the prompt, with one call per continuation."""
        return [result.logprob for result in await self.loglikelihood(prompt, continuations, kind=kind)]

    async def loglikelihood(
        self, prompt: str | Sequence[Message], continuations: Sequence[str], *, kind: str
    ) -> list[Loglikelihood]:
        """Return each continuation's log-probability after the prompt, and whether greedy decoding would produce it."""
        rendered, _, _ = self.rendered(prompt)
        requests = [ScoreRequest(rendered.text, rendered.lead + continuation) for continuation in continuations]
        return await asyncio.gather(
            *(
                self._seats._call(self, request, Loglikelihood, kind, rendered.notes, {"continuation": continuation})
                for request, continuation in zip(requests, continuations, strict=True)
            )
        )

    async def loglikelihood_rolling(self, text: str, *, kind: str) -> Loglikelihood:
        """Return the log-probability of a whole text, in windows of the model's context length."""
        return await self._seats._call(self, ScoreRequest(text, "", rolling=True), Loglikelihood, kind)


def without_thought(completion: Completion, markers: Markers) -> tuple[Completion, tuple[str, ...]]:
    """Return a reply with its thought apart from its text, and notes about the thought.

    A reply that ends within its thought has no text.
    """
    split = split_thought(completion.text, markers)
    # A server with a reasoning parser may have separated the thought already.
    thought = "\n".join(part for part in (completion.thought, split.thought) if part)
    if split.answer == completion.text and not thought:
        return completion, ()
    finished = split.finished and (bool(split.answer.strip()) or not completion.thought)
    return replace(completion, text=split.answer, thought=thought), ("thought" if finished else UNFINISHED,)


def with_system(system: str, prompt: str | Sequence[Message]) -> list[Message]:
    """Return a conversation with a seat's own system message before the task's."""
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

"""What a server really does, seen in tiny requests before the first call that needs it: a 200 proves nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness_ext.backends.base import DecideRequest, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.backends.http_client import Client, NotOffered, Scope
from harness_ext.backends.openai_known import Known, Served
from harness_ext.backends.openai_wire import WirePrompt, first_choice, messages_field, text_of, usage_of, wire_body
from harness_ext.backends.served import Ask
from harness_ext.errors import CallFailed, LoadError
from harness_ext.records import CallResult, Completion, Message
from harness_ext.records.chat import merge_system

log = logging.getLogger("harness_ext")

LIMITS = ("max_tokens", "max_completion_tokens")
# How servers turn a field down, and not its value ("max_tokens is too large").
NOT_THIS_FIELD = re.compile(
    r"unsupported|not supported|unrecognized|unknown|unexpected|not permitted|extra inputs|instead", re.IGNORECASE
)
SYSTEM = Message("system", "Follow the instructions of the user, and answer with a single word.")
LONGER = replace(SYSTEM, content=f"{SYSTEM.content} {SYSTEM.content}")
USER = Message("user", "Say yes.")
PLAIN, CONTINUED = "The sky is", " blue"
BEGUN = Message("assistant", "one two three four")
# vLLM's fields for a conversation that ends with the beginning of a reply, and those for one that ends with a reply.
OPEN = {"continue_final_message": True, "add_generation_prompt": False}
CLOSED = {**OPEN, "continue_final_message": False}
# Templates refuse a conversation with 400; some servers report any error of a template as their own (500).
REFUSED = frozenset({400, 422, 500})


class Prober:
    """Adapts requests to what a server was seen to do, over one connection.

    What it finds out is kept in `served.known`, so that it is asked for once per backend. Its own requests generate one
    token each, and are no calls: they appear in no record and no count.

    served: the model.
    client: the connection.
    answer: answers a request.
    """

    def __init__(self, served: Served, client: Client, answer: Ask) -> None:
        self.served = served
        self.client = client
        self.answer = answer
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(self, request: Request) -> CallResult:
        """Return the result of a request that was adapted to the server. Raises as `answer` does."""
        notes: tuple[str, ...] = ()
        if isinstance(request, GenerateRequest | DecideRequest):
            prompt = request.prompt
            if isinstance(prompt, WirePrompt) and prompt.is_open and (why := await self.why_not_continued()):
                raise LoadError(
                    f"{self.served.name} does not continue a reply that the task begins ({why}): use "
                    "`endpoint=completions`, or another server (vLLM and SGLang continue replies)"
                )
            if isinstance(prompt, WirePrompt) and prompt.has_system and await self.merges_system():
                request, notes = replace(request, prompt=merged(prompt)), ("system_merged",)
        else:
            await self._see(request)
        result = await self._with_limit(request)
        return replace(result, notes=(*result.notes, *notes)) if notes else result

    async def _with_limit(self, request: Request) -> CallResult:
        """Return the result of a request, sent again if the server wants its length limit in another field."""
        used = self.served.known.limit
        try:
            return await self.answer(request)
        except CallFailed as refusal:
            if not other_limit(self.served.known, used, str(refusal)):
                raise
            result = await self.answer(request)
            return replace(result, faults=(*refusal.faults, *result.faults))

    async def _see(self, request: ScoreRequest | VerifyRequest) -> None:
        """Make sure that a request of this kind has an effect. Raises LoadError if it has none."""
        kind, known = type(request).__name__, self.served.known
        if kind in known.seen:
            return
        async with self._locks[kind]:
            if kind in known.seen:
                return
            probe: Request = ScoreRequest(PLAIN, CONTINUED)
            if isinstance(request, VerifyRequest):
                probe = replace(request, prompt=PLAIN, reply=(), draft=request.draft[:1], uniforms=(), candidates=())
            try:
                await self.answer(probe)
            except CallFailed:
                return  # the request itself will say what is wrong
            known.seen.add(kind)

    async def merges_system(self) -> bool:
        """Return whether system messages are merged into the first user message: the template refuses or drops them."""
        known = self.served.known
        if self.served.hosted:
            known.merged = ""
        if known.merged is None:
            async with self._locks["system"]:
                if known.merged is None:
                    try:
                        known.merged = await self._why_merge()
                    except CallFailed:
                        return False  # not known yet
        return bool(known.merged)

    async def _why_merge(self) -> str:
        """Return why system messages are merged; empty if the server reads them."""
        try:
            read = await self.tiny(SYSTEM, USER)
        except NotOffered as refusal:
            try:
                await self.tiny(USER)
            except NotOffered:
                return ""  # it refuses something else, which the requests themselves will say
            return str(refusal)
        # Prompts are counted as the model reads them, so a text that changes no count has not reached it. It is added
        # to a system message, because some templates put in one of their own where there is none (Qwen2.5).
        longer = await self.tiny(LONGER, USER)
        if read.prompt_tokens and longer.prompt_tokens and longer.prompt_tokens <= read.prompt_tokens:
            return f"its template drops them: {read.prompt_tokens} tokens, however long they are"
        return ""

    async def why_not_continued(self) -> str:
        """Return why the server does not continue the beginning of a reply; empty if it does, or if that is unknown.

        Servers that do not know the fields ignore them, and answer a conversation in which the beginning is complete.
        """
        known = self.served.known
        if known.not_continued is None:
            async with self._locks["continue"]:
                if known.not_continued is None:
                    try:
                        known.not_continued = await self._why_not_continued()
                    except CallFailed:
                        return ""  # not known yet
        return known.not_continued

    async def _why_not_continued(self) -> str:
        known = self.served.known
        try:
            begun = await self.tiny(USER, BEGUN, fields=OPEN)
            if begun.text.lstrip().startswith(BEGUN.content):
                known.repeats = True
                return ""
            closed = await self.tiny(USER, BEGUN, fields=CLOSED)
        except NotOffered as refusal:
            return str(refusal)
        if begun.prompt_tokens is None or closed.prompt_tokens is None:
            log.warning(
                "%s reports no token counts, so nothing shows whether it continues a reply that is begun",
                self.served.name,
            )
            return ""
        if begun.prompt_tokens < closed.prompt_tokens:  # without the end of the turn
            return ""
        return "it ignores `continue_final_message`, and its prompt is as long as that of a reply that is complete"

    async def tiny(
        self, *messages: Message, model: str | None = None, fields: Mapping[str, Any] | None = None
    ) -> Completion:
        """Return a reply of one token. Raises NotOffered if it is refused, CallFailed, LoadError.

        messages: the conversation.
        model: the model's name. Default: that of the seat.
        fields: further fields of the request. Default: none.
        """
        known, refusals = self.served.known, 0
        while True:
            used = known.limit
            sent = {"model": model or self.served.model, used: 1, "temperature": 0.0, **(fields or {})}
            body = wire_body(messages_field(WirePrompt(messages), ()), sent, self.served.omit)
            try:
                result = await self.client.post("chat/completions", body, _read, _refuses)
            except NotOffered as refusal:
                refusals += 1
                # An error of the server's own may be chance, unless it comes again.
                if not other_limit(known, used, str(refusal)) and (refusals > 1 or "HTTP 500" not in str(refusal)):
                    raise
                continue
            assert isinstance(result, Completion)
            return result


def merged(prompt: WirePrompt) -> WirePrompt:
    """Return a conversation with its system messages merged into the first user message."""
    return WirePrompt(merge_system([Message(m["role"], m["content"]) for m in json.loads(prompt)]))


def other_limit(known: Known, used: str, refusal: str) -> bool:
    """Return whether a refused request may succeed with another field for its length limit, and use that from now on.

    known: what is known about the server.
    used: the field that the request used.
    refusal: what the server said.
    """
    if not re.search(rf"\b{used}\b", refusal) or not NOT_THIS_FIELD.search(refusal):
        return False
    if known.limit == used:  # otherwise another request has found it out in the meantime
        known.refused_limits.add(used)
        known.limit = next((name for name in LIMITS if name not in known.refused_limits), used)
    return known.limit != used


def _read(data: Any) -> CallResult:
    message = first_choice(data).get("message") or {}
    return Completion(text_of(message.get("content")), **usage_of(data))


def _refuses(status: int, text: str) -> Scope | None:
    return "request" if status in REFUSED else None

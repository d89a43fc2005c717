"""Models behind OpenAI-compatible servers: `openai:<model>@<base url>` (vLLM, llama.cpp, `transformers serve`, …)."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from harness_ext.backends.base import (
    Capability,
    ChatMode,
    DecideRequest,
    GenerateRequest,
    Prompt,
    Request,
    ScoreRequest,
    VerifyRequest,
)
from harness_ext.backends.batch_client import BatchClient
from harness_ext.backends.batch_decisions import Kind, TriedFirst
from harness_ext.backends.batch_records import FOLDER, Records
from harness_ext.backends.http_client import BYTES_PER_TOKEN, TOKENS_PER_IMAGE, Client, NotOffered, Scope
from harness_ext.backends.openai_decide import Decider
from harness_ext.backends.openai_known import Known, Served
from harness_ext.backends.openai_options import DEFAULT_URL, ServerOptions, read_options, server_problems, split_name
from harness_ext.backends.openai_probe import Prober
from harness_ext.backends.openai_score import read_score, score_body
from harness_ext.backends.openai_wire import (
    WirePrompt,
    first_choice,
    messages_field,
    stops_of,
    text_of,
    thought_of,
    usage_of,
    wire_body,
    without,
)
from harness_ext.backends.pacing import Pace
from harness_ext.backends.pool import Pool, PoolServer
from harness_ext.backends.served import Ask, ServedBackend
from harness_ext.backends.settings import effective_settings
from harness_ext.backends.thinking import thinking_tokens
from harness_ext.backends.waiting import Awaited
from harness_ext.credentials import hide
from harness_ext.errors import CallFailed, LoadError
from harness_ext.reading.stops import cut_at_stop
from harness_ext.reading.thoughts import Markers, split_thought
from harness_ext.records import CallResult, Completion, Finish, Message, Verification, add
from harness_ext.records.chat import ChatContext, is_utf8
from harness_ext.records.fingerprint import model_fingerprint
from harness_ext.terminal import clean

if TYPE_CHECKING:
    from harness_ext.backends.openai_verify import ServedTokens

ALL_AT_ONCE = 10**9  # requests that may wait for a batch
MOST_STOPS = 4  # OpenAI rejects more; the others are applied to the reply
FINISH: Mapping[str, Finish] = {"stop": "stop", "length": "length", "eos": "stop"}


class OpenAIBackend(ServedBackend):
    """A seat backed by a server. Token counts and finish reasons are those that the server reports.

    model: the model's name on the server.
    urls: the server's address, up to `/v1`, or those of several servers.
    options: the seat's further arguments.
    """

    token_counts = "exact"
    _tokens: ServedTokens | None = None
    _thinks = False  # whether a stop sequence has ended a thought
    _may_use_proxies = True

    def __init__(self, model: str, urls: tuple[str, ...], options: ServerOptions) -> None:
        super().__init__()
        self.model, self.options = model, options
        self.device = "+".join(urls)
        self.name = clean(f"openai:{model}@{self.device}")
        where = {"revision": options.revision} if options.revision else {"base_url": self.device}
        # A server that is not told a setting uses its own.
        how: dict[str, Any] = {"omit": "+".join(sorted({*filter(None, options.omit.split("+"))})) or None}
        how |= options.reasoning.identity()
        if options.endpoint == "completions":  # prompts are sent as the ids of this tokenizer
            how["tokenizer"] = options.tokenizer or None
        self.fingerprint = model_fingerprint("openai", {"served": model, "endpoint": options.endpoint, **where, **how})
        self._thinking = options.reasoning
        self.parameters = None if options.parameters is None else int(options.parameters)
        self.default_max_gen_toks = options.max_gen_toks
        self.batches = options.batch == "on"
        self._tried: set[Kind] = set()  # the kinds of decisions that need not be tried any more
        self.num_concurrent = ALL_AT_ONCE if self.batches else len(urls) * options.num_concurrent
        self._paces = [Pace(options.num_concurrent) for _ in urls]
        self._is_chat = options.endpoint == "chat"
        able: set[Capability] = {"generate", "seeds"}
        able |= {"images"} if self._is_chat else {"continue"} if self.batches else {"continue", "score"}
        if options.continue_final:
            able |= {"continue"}
        self.capabilities = frozenset(able)
        if self._is_chat:
            self.remedy = "; with `endpoint=completions` it can continue, and score if the server supports `echo`"
        if options.tokenizer and not self._is_chat:
            from harness_ext.backends.openai_verify import ServedTokens

            self.tokens = self._tokens = ServedTokens(options.tokenizer, options.max_gen_toks)
            self.capabilities |= set() if self.batches else {"verify"}
        if self.batches:
            self.remedy = "; with `batch=off` it may"
        self._omit = frozenset(filter(None, options.omit.split("+")))
        self._locate(urls)
        self.decision_sources = tuple(dict.fromkeys(way.source for way in self._served.ways))

    def _locate(self, urls: tuple[str, ...]) -> None:
        """Use the servers at these addresses from now on."""
        self.urls = urls
        self._path = "chat/completions" if self._is_chat else "completions"
        hosted = urlsplit(urls[0]).hostname == urlsplit(DEFAULT_URL).hostname
        known = Known("max_completion_tokens" if hosted and self._is_chat else "max_tokens")
        self._served = Served(self.name, self.model, self._is_chat, hosted, self._omit, known)

    # -- rendering -----------------------------------------------------------------------------------------------

    @property
    def chat_default(self) -> bool:
        return self._is_chat

    def render(self, prompt: str | Sequence[Message], chat: ChatMode = "auto") -> Prompt:
        """Render to messages for a chat server; a plain context becomes one user message."""
        if not self._is_chat:
            return super().render(prompt, "off" if chat == "auto" else chat)
        if chat == "off":
            raise CallFailed("backend", f"{self.name} accepts only messages: plain text needs `endpoint=completions`")
        if isinstance(prompt, str) and not isinstance(prompt, ChatContext):
            prompt = [Message("user", str(prompt))]
        return super().render(prompt, "on")

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        if not self._is_chat:
            raise CallFailed("backend", f"{self.name} accepts only text: messages need `endpoint=chat`")
        prompt = WirePrompt(messages)
        if prompt.is_open and "continue" not in self.capabilities:
            raise CallFailed(
                "backend",
                f"{self.name} cannot continue a reply that the task begins (`gen_prefix`): set `continue_final=on` if "
                "the server supports vLLM's `continue_final_message`, or use `endpoint=completions`",
            )
        return Prompt(prompt)

    def check(self, request: Request) -> CallFailed | None:
        about = request.state if isinstance(request, DecideRequest) else ""
        if not is_utf8(request.prompt) or not is_utf8(about):
            return CallFailed("undecodable", "the prompt contains lone surrogates: fix the task's data")
        if not request.prompt and not (isinstance(request, DecideRequest) and request.sources == ("endpoint",)):
            return CallFailed("empty", f"{self.name} cannot continue an empty prompt: fix the task's data")
        if isinstance(request, GenerateRequest) and self._thinking.tokens is not None:
            most = effective_settings(request.gen_kwargs, self.default_max_gen_toks)["max_gen_toks"]
            if self._thinking.tokens >= most:
                return CallFailed(
                    "backend",
                    f"`thinking_tokens={self._thinking.tokens}` leaves no room for an answer in the {most} tokens of a "
                    "reply: raise `gen.max_gen_toks` (and `thought_tokens`, for reviews and ratings), or lower it",
                )
        if isinstance(request, ScoreRequest) and request.rolling:
            return CallFailed(
                "backend",
                f"{self.name} cannot score whole texts (`loglikelihood_rolling`), since servers do not report their "
                "context length: use a local model",
            )
        return None

    # -- asking --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask]:
        async with self.connect_prober(self.batches) as prober:
            yield prober.ask

    @asynccontextmanager
    async def connect_prober(self, batches: bool = False) -> AsyncIterator[Prober]:
        """Return a context manager for a connection, which provides what asks the server and finds out what it does.

        batches: whether requests are sent in batches. Default False.
        """
        import aiohttp

        options, key = self.options, self._key()
        hide(key)
        limits = (options.num_concurrent, options.requests_per_minute, options.tokens_per_minute)
        self._paces = [Pace(*limits) for _ in self.urls]
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        servers = []
        for url, pace in zip(self.urls, self._paces, strict=True):
            name = self.name if len(self.urls) == 1 else clean(f"openai:{self.model}@{url}")
            servers.append(PoolServer(url, name, pace, Awaited(name, options.wait)))
        async with (
            aiohttp.ClientSession(
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=options.timeout, connect=options.connect_timeout),
                connector=aiohttp.TCPConnector(limit=0),  # the queue limits the requests in flight
                trust_env=self._may_use_proxies and bool(getproxies()),
            ) as session,
            Pool(servers, self.model, session) as pool,
        ):
            client = Client(
                session,
                options.max_retries,
                options.timeout,
                pool,
                options.connect_timeout,
                options.max_wait,
                ended=self._ended,
            )
            if not batches:
                yield self._prober(client)
                return
            records = Records(self.kept_in / FOLDER, self.urls[0], self.model)
            async with BatchClient(client, records, self.run, options.batch_poll) as batched:
                yield self._prober(client, batched)

    def _prober(self, client: Client, batched: BatchClient | None = None) -> Prober:
        decider = Decider(self._served, client if batched is None else TriedFirst(client, batched, self._tried))

        async def answer(request: Request) -> CallResult:
            if isinstance(request, DecideRequest):
                return await decider.decide(request)
            if isinstance(request, GenerateRequest):
                return await self._generate(client, batched, request)
            if isinstance(request, VerifyRequest):
                verified, body = partial(self._verified, request=request), self._verify_body(request)
                return await client.post(self._path, body, verified, affinity=request.affinity)
            scored, body = partial(read_score, self.name, request=request), score_body(self.model, request)
            return await client.post(self._path, body, scored, affinity=request.affinity)

        return Prober(self._served, client, answer)

    def _key(self) -> str:
        """Return the API key, or an empty text if there is none."""
        return os.environ.get(self.options.api_key_env, "")

    def _ended(self) -> str | None:
        """Return why the server cannot answer any more; None if it may, or if that is unknown."""
        return None

    @property
    def limited_to(self) -> int | None:
        allowed = sum(pace.allowed for pace in self._paces)
        return None if self.batches or allowed >= self.num_concurrent else allowed

    async def _generate(self, client: Client, batched: BatchClient | None, request: GenerateRequest) -> Completion:
        stops = stops_of(request.gen_kwargs)
        most = int(effective_settings(request.gen_kwargs, self.default_max_gen_toks)["max_gen_toks"])
        estimate = len(request.prompt) // BYTES_PER_TOKEN + len(request.images) * TOKENS_PER_IMAGE + most

        async def post(sent: list[str]) -> Completion:
            body = self._body(request, sent)
            begun = self._served.known.repeated(request.prompt)
            read = partial(self._generated, stops=stops, markers=request.thought_markers, begun=begun)
            lacks = self._refuses_thinking if self._thinking.fields else None
            try:
                if batched is not None:
                    result = await batched.post(self._path, body, read, lacks, request.seed)
                else:
                    result = await client.post(self._path, body, read, lacks, estimate, request.affinity)
            except NotOffered as refusal:
                raise LoadError(
                    f"{self.name} does not take {' and '.join(self._thinking.identity())} ({refusal}): leave that out, "
                    "or leave out a field of it (`omit`)"
                ) from None
            assert isinstance(result, Completion)
            return result

        sent = [] if self._thinks and request.thought_markers is not None else stops
        reply = await post(sent)
        if not sent or request.thought_markers is None or reply.finish != "stop" or not _in_thought(reply, request):
            return reply
        # The server applied a stop sequence to the thought. From now on they are applied here, to answers alone.
        self._thinks = True
        again = await post([])
        return replace(
            again,
            prompt_tokens=add(reply.prompt_tokens, again.prompt_tokens),
            completion_tokens=add(reply.completion_tokens, again.completion_tokens),
            seconds=reply.seconds + again.seconds,
            notes=(*again.notes, "stopped_in_thought"),
        )

    def _refuses_thinking(self, status: int, text: str) -> Scope | None:
        return "server" if self._thinking.refused_by(status, text) else None

    def _body(self, request: GenerateRequest, stops: list[str]) -> bytes:
        settings = effective_settings(request.gen_kwargs, self.default_max_gen_toks)
        settings.pop("until", None)
        ids = None
        if request.reply is not None and self._tokens is not None:
            from harness_ext.backends.openai_verify import prompt_field

            ids = prompt_field(request, self._tokens, settings)
        sampled = settings.pop("do_sample", None)
        fields = {
            "model": self.model,
            self._served.known.limit: settings.pop("max_gen_toks"),
            "temperature": settings.pop("temperature", None) if sampled else 0.0,
            "stop": stops[:MOST_STOPS] or None,
            **self._thinking.fields,
            **settings,
        }
        if sampled:
            fields["seed"] = request.seed
        if isinstance(request.prompt, WirePrompt) and request.prompt.is_open:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        if not self._is_chat:
            prompt = f'"prompt": {json.dumps(request.prompt if ids is None else ids)}'
        else:
            prompt = messages_field(request.prompt, request.images)
        return wire_body(prompt, fields, self._omit)

    def _generated(self, data: Any, stops: Sequence[str], markers: Markers | None, begun: str = "") -> Completion:
        choice = first_choice(data)
        thought = ""
        if self._is_chat:
            message = choice["message"]
            text, refusal = text_of(message.get("content")), message.get("refusal")
            thought = thought_of(message)
        else:
            text, refusal = text_of(choice["text"]), None
        reason = choice.get("finish_reason")
        notes = tuple(n for n in ("refused" if refusal else "", reason if reason == "content_filter" else "") if n)
        finish = FINISH.get(str(reason))
        text, stopped = cut_at_stop(without(begun, text) if begun else text, stops, markers)
        count = thinking_tokens(data.get("usage") or {})
        finish = "stop" if stopped else finish
        reply = Completion(text, finish, **usage_of(data), notes=notes, thought=thought, thinking_tokens=count)
        if self._thinking.fields and (note := self._thinking.note(reply, markers)):
            reply = replace(reply, notes=(*notes, note))
        return reply

    # -- verifying -----------------------------------------------------------------------------------------------

    def _verify_body(self, request: VerifyRequest) -> bytes:
        if self._tokens is None:
            raise CallFailed("backend", f"{self.name} cannot verify given tokens: set `tokenizer=<folder or hub id>`")
        from harness_ext.backends.openai_verify import verify_body

        return verify_body(self.model, self._tokens, request)

    def _verified(self, data: Any, request: VerifyRequest) -> Verification:
        from harness_ext.backends.openai_verify import read_verification

        assert self._tokens is not None
        return replace(read_verification(self.name, first_choice(data), self._tokens, request), **usage_of(data))

    def info(self) -> dict[str, Any]:
        return super().info() | {"backend": "openai", "model": self.model, "args": vars(self.options)}


def _in_thought(reply: Completion, request: GenerateRequest) -> bool:
    """Return whether a reply ended before its thought did."""
    if reply.thought and not reply.text.strip():
        return True
    return not split_thought(reply.text, request.thought_markers or ()).finished


def make_openai_backend(name: str, args: Mapping[str, Any]) -> OpenAIBackend:
    """Return the backend of `<model>[@<base url>[+<base url>…]]`, without contacting a server.

    Raises ValueError with cause and remedy.
    """
    model, urls = split_name(name)
    problems: list[str] = []
    options = read_options(args, problems)
    if options is not None:
        problems += server_problems(options, urls)
    if problems or options is None:
        raise ValueError("; ".join(problems))
    return OpenAIBackend(model, urls, options)

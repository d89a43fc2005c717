"""Models behind OpenAI-compatible servers: `openai:<model>@<base url>` (vLLM, llama.cpp, `transformers serve`, …)."""

from __future__ import annotations

import json
import os
import re
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
from harness_ext.backends.http_client import BYTES_PER_TOKEN, TOKENS_PER_IMAGE, Client
from harness_ext.backends.openai_decide import Decider
from harness_ext.backends.openai_known import Known, Served
from harness_ext.backends.openai_options import DEFAULT_URL, KEY_VARIABLE, ServerOptions, read_options, split_name
from harness_ext.backends.openai_probe import Prober
from harness_ext.backends.openai_wire import (
    WirePrompt,
    first_choice,
    messages_field,
    stops_of,
    text_of,
    thought_of,
    usage_of,
    wire_body,
)
from harness_ext.backends.pacing import Pace
from harness_ext.backends.pool import Pool, PoolServer
from harness_ext.backends.served import Ask, ServedBackend
from harness_ext.backends.settings import effective_settings
from harness_ext.backends.waiting import Awaited
from harness_ext.credentials import hide
from harness_ext.errors import CallFailed, LoadError
from harness_ext.reading.stops import cut_at_stop
from harness_ext.reading.thoughts import Markers, split_thought
from harness_ext.records import CallResult, Completion, Finish, Loglikelihood, Message, Verification, add
from harness_ext.records.chat import ChatContext, is_utf8
from harness_ext.records.fingerprint import model_fingerprint
from harness_ext.terminal import clean

if TYPE_CHECKING:
    from harness_ext.backends.openai_verify import ServedTokens

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
        how = {"omit": "+".join(sorted({*filter(None, options.omit.split("+"))})) or None}
        if options.endpoint == "completions":  # prompts are sent as the ids of this tokenizer
            how["tokenizer"] = options.tokenizer or None
        self.fingerprint = model_fingerprint("openai", {"served": model, "endpoint": options.endpoint, **where, **how})
        self.parameters = None if options.parameters is None else int(options.parameters)
        self.default_max_gen_toks = options.max_gen_toks
        self.num_concurrent = len(urls) * options.num_concurrent
        self._paces = [Pace(options.num_concurrent) for _ in urls]
        self._is_chat = options.endpoint == "chat"
        able: set[Capability] = {"generate", "seeds"}
        able |= {"images"} if self._is_chat else {"continue", "score"}
        if options.continue_final:
            able |= {"continue"}
        self.capabilities = frozenset(able)
        if self._is_chat:
            self.remedy = "; with `endpoint=completions` it can continue, and score if the server supports `echo`"
        if options.tokenizer and not self._is_chat:
            from harness_ext.backends.openai_verify import ServedTokens

            self.tokens = self._tokens = ServedTokens(options.tokenizer, options.max_gen_toks)
            self.capabilities |= {"verify"}
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
        async with self.connect_prober() as prober:
            yield prober.ask

    @asynccontextmanager
    async def connect_prober(self) -> AsyncIterator[Prober]:
        """Return a context manager for a connection, which provides what asks the server and finds out what it does."""
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
            yield self._prober(client)

    def _prober(self, client: Client) -> Prober:
        decider = Decider(self._served, client)

        async def answer(request: Request) -> CallResult:
            if isinstance(request, DecideRequest):
                return await decider.decide(request)
            if isinstance(request, GenerateRequest):
                return await self._generate(client, request)
            if isinstance(request, VerifyRequest):
                verified, body = partial(self._verified, request=request), self._verify_body(request)
                return await client.post(self._path, body, verified, affinity=request.affinity)
            scored, body = partial(self._scored, request=request), self._score_body(request)
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
        return None if allowed >= self.num_concurrent else allowed

    async def _generate(self, client: Client, request: GenerateRequest) -> Completion:
        stops = stops_of(request.gen_kwargs)
        most = int(effective_settings(request.gen_kwargs, self.default_max_gen_toks)["max_gen_toks"])
        estimate = len(request.prompt) // BYTES_PER_TOKEN + len(request.images) * TOKENS_PER_IMAGE + most

        async def post(sent: list[str]) -> Completion:
            result = await client.post(
                self._path,
                self._body(request, sent),
                lambda data: self._generated(data, stops, request.thought_markers),
                tokens=estimate,
                affinity=request.affinity,
            )
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

    def _generated(self, data: Any, stops: Sequence[str], markers: Markers | None) -> Completion:
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
        text, stopped = cut_at_stop(text, stops, markers)
        return Completion(text, "stop" if stopped else finish, **usage_of(data), notes=notes, thought=thought)

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

    # -- scoring -------------------------------------------------------------------------------------------------

    def _score_body(self, request: ScoreRequest) -> bytes:
        fields = {"model": self.model, "prompt": request.prompt + request.continuation, "max_tokens": 1}
        return json.dumps({**fields, "temperature": 0.0, "echo": True, "logprobs": 1}).encode()

    def _scored(self, data: Any, request: ScoreRequest) -> Loglikelihood:
        usage = usage_of(data)
        new, usage["completion_tokens"] = usage["completion_tokens"], 0  # the one token that must be generated
        logprobs = first_choice(data).get("logprobs") or {}
        values, tokens, offsets = (logprobs.get(n) or [] for n in ("token_logprobs", "tokens", "text_offset"))
        end = len(tokens) - (1 if new is None else new)
        if end < 1 or not len(values) == len(tokens) == len(offsets):
            raise LoadError(
                f"{self.name} returns no log-probabilities of a prompt (`echo` with `logprobs`), which this run needs: "
                "choose options that need no scoring, or a server that returns them (vLLM does)"
            )
        # The boundary is counted from the end, since a BOS token in front may have a text that shifts all offsets.
        boundary = offsets[end - 1] + len(tokens[end - 1]) - len(request.continuation)
        first = next(i for i in range(end) if offsets[i] + len(tokens[i]) > boundary)
        if not "".join(tokens[first:end]).endswith(request.continuation) or None in values[first:end]:
            raise CallFailed(
                "backend",
                f"the tokens that {self.name} returned do not match the text to score: use a local model for scoring",
            )
        tops = (logprobs.get("top_logprobs") or [None] * len(tokens))[first:end]
        greedy = (
            all(v >= max(top.values()) for v, top in zip(values[first:end], tops, strict=True)) if all(tops) else None
        )
        return replace(Loglikelihood(float(sum(values[first:end])), greedy), **usage)

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
        has_key = bool(os.environ.get(options.api_key_env))
        if not has_key and (options.api_key_env != KEY_VARIABLE or urls == (DEFAULT_URL,)):
            problems.append(f"the environment variable {options.api_key_env} is not set: export it with the API key")
        if not re.fullmatch(r"[\x21-\x7e]*", os.environ.get(options.api_key_env, "")):
            problems.append(
                f"the environment variable {options.api_key_env} contains white space, a line break or characters that "
                "no key has: export the key alone"
            )
        if len(urls) > 1 and not options.revision:
            problems.append(
                "several servers need `revision=<name of the weights>`, since addresses do not say that all of them "
                "run the same ones; the call store knows the model by it"
            )
    if problems or options is None:
        raise ValueError("; ".join(problems))
    return OpenAIBackend(model, urls, options)

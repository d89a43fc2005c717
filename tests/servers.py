"""A server on loopback for tests of served seats, which answers by script and misbehaves on demand."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from aiohttp import web

from harness_ext.backends.openai_probe import BEGUN, LONGER, SYSTEM, USER
from harness_ext.records import Message

FAULTS = ("http_429", "http_500", "timeout", "connection", "bad_json", "no_choices")


class InThread(ABC):
    """A server in a thread of its own, for a `with` block."""

    _loop: asyncio.AbstractEventLoop

    def __enter__(self) -> Self:
        self._ended, self._ready = asyncio.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(30)

    @abstractmethod
    async def _serve(self) -> None:
        """Note the running loop, serve, say so with `_ready`, and wait for `_ended`."""


class Server(InThread):
    """An OpenAI-compatible server in a thread of its own, for a `with` block.

    reply: called with the text of the prompt or the last message; returns the reply's text or the whole JSON body.
    plan: called with the same text; returns the fault to commit, or None.
    headers: headers of all responses.
    delay: seconds before each response.
    status: the HTTP status of replies without a fault.
    refuses: called with the body of each chat request; returns the status and the text with which it is refused, or
        None.
    drops_system: whether the model's template drops system messages.
    own_system: the system message that the template puts in where there is none. Default: none.
    continues: whether it continues the beginning of a reply: `yes`, `no` (it ignores the field), or `repeats` (it
        continues every reply that ends a conversation, and repeats its beginning).
    counts: whether it reports token counts for probes.
    models: the names that `/models` lists.

    Of its attributes, `requests` lists all bodies received, `faults` counts the faults committed, `answered` counts the
    replies by text, `together` is the largest number of concurrent requests, `probes` lists the bodies of probes, which
    are in none of these, and `looks` counts the requests for `/models`. A server that has ended may be started again at
    the same port.
    """

    def __init__(
        self,
        reply: Callable[[str], str | dict[str, Any]] = lambda text: f"re: {text}",
        plan: Callable[[str], str | None] = lambda text: None,
        headers: Mapping[str, str] | None = None,
        delay: float = 0.0,
        status: int = 200,
        refuses: Callable[[Mapping[str, Any]], tuple[int, str] | None] = lambda body: None,
        drops_system: bool = False,
        own_system: str = "",
        continues: str = "yes",
        counts: bool = True,
        models: Sequence[str] = ("m",),
    ) -> None:
        self.continues, self.counts = continues, counts
        self.refuses, self.drops_system, self.models = refuses, drops_system, models
        self.own_system = own_system
        self.reply, self.plan, self.headers, self.delay, self.status = reply, plan, dict(headers or {}), delay, status
        self.requests: list[dict[str, Any]] = []
        self.seen_headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.faults: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.probes: list[dict[str, Any]] = []
        self.now = self.together = self.looks = self._port = 0

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/{kind:.*}", self._handle)
        app.router.add_get("/v1/models", self._list)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _list(self, request: web.Request) -> web.StreamResponse:
        self.looks += 1
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]})

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if refused := self.refuses(body):
            (self.probes if is_probe(body) else self.requests).append(body)
            return web.json_response({"error": {"message": refused[1]}}, status=refused[0])
        if is_probe(body):
            self.probes.append(body)
            seen = [m for m in body["messages"] if not (self.drops_system and m["role"] == "system")]
            tokens = sum(len(m["content"].split()) for m in seen)
            if all(m["role"] != "system" for m in seen):
                tokens += len(self.own_system.split())
            said = "yes"
            if seen[-1]["role"] == "assistant":
                is_open = self.continues == "repeats" or (self.continues == "yes" and body["continue_final_message"])
                tokens += 0 if is_open else 1  # the end of the turn
                said = f"{seen[-1]['content']} yes" if self.continues == "repeats" else said
            data = completion(said, body, "length", prompt_tokens=tokens, completion_tokens=1)
            return web.json_response(data if self.counts else {**data, "usage": None})
        self.requests.append(body)
        self.seen_headers.append(dict(request.headers))
        self.paths.append(request.path)
        self.now += 1
        self.together = max(self.together, self.now)
        try:
            return await self._answer(request, body)
        finally:
            self.now -= 1

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        text = text_of(body)
        if self.delay:
            await asyncio.sleep(self.delay)
        fault = self.plan(text)
        data = self.reply(text)
        if isinstance(data, str):
            data = completion(data, body)
        if fault is None:
            self.answered[text] += 1
            return web.json_response(data, status=self.status, headers=self.headers)
        self.faults[fault] += 1
        return await self._misbehave(fault, request, data)

    async def _misbehave(self, fault: str, request: web.Request, data: dict[str, Any]) -> web.StreamResponse:
        if fault.startswith("http_"):
            return web.json_response({"error": {"message": "no"}}, status=int(fault[5:]), headers=self.headers)
        if fault == "timeout":
            await asyncio.sleep(3600)
        if fault == "connection":
            assert request.transport is not None
            request.transport.abort()
        if fault == "bad_json":
            return web.Response(text=json.dumps(data)[:-9], content_type="application/json")
        return web.json_response({**data, "choices": []})


def text_of(body: Mapping[str, Any]) -> str:
    """Return the text of a request's prompt or of its last message."""
    if "prompt" in body:
        return str(body["prompt"])
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "<image>") for p in content)


def is_probe(body: Mapping[str, Any]) -> bool:
    """Return whether a chat request only finds out what the server does with some messages and with limits."""
    said = [Message(**m) for m in body.get("messages", ()) if isinstance(m.get("content"), str)]
    return said in ([SYSTEM, USER], [LONGER, USER], [USER], [USER, BEGUN])


def completion(text: str, body: Mapping[str, Any], finish: str = "stop", **usage: Any) -> dict[str, Any]:
    """Return a reply's JSON as OpenAI's servers write it; tokens are words."""
    chat = "messages" in body
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text, "logprobs": None}
    counts = {"prompt_tokens": len(text_of(body).split()), "completion_tokens": len(text.split())}
    return {
        "id": "x",
        "object": "chat.completion" if chat else "text_completion",
        "model": body.get("model"),
        "choices": [{"index": 0, "finish_reason": finish, **said}],
        "usage": {**counts, "total_tokens": sum(counts.values()), **usage},
    }


def chances(share: float, faults: Sequence[str] = FAULTS, seed: int = 0) -> Callable[[str], str | None]:
    """Return a plan by which a share of all attempts fails, with all kinds of faults equally often."""
    rng = random.Random(seed)
    return lambda text: rng.choice(faults) if rng.random() < share else None


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], seconds: float = 240.0) -> None:
    """Wait until a condition is true, and fail the test if it stays false."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "the condition did not become true"
        time.sleep(0.1)

"""A server on loopback that answers chat requests, for benchmarks that measure the client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiohttp import web


async def serve_chat(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    """Print the port of a new server, and answer chat requests until the process ends."""
    from aiohttp import web

    app = web.Application(client_max_size=2**26)
    app.router.add_post("/v1/chat/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    print(site._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def serve_reply(text: str, completion_tokens: int) -> None:
    """Print the port of a new server, and answer every chat request at once with the same text."""
    from aiohttp import web

    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 300, "completion_tokens": completion_tokens}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    await serve_chat(answer)

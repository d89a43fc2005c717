"""A batch API on loopback that obeys OpenAI's published shapes, takes nothing else, and counts what it is paid for."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from servers import InThread, completion, is_probe, text_of

ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
STATES = ("validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled")
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000


class Refused(Exception):
    """A request that a strict server turns down."""

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message)


class BatchServer(InThread):
    """A server with `/files`, `/batches` and `/chat/completions`, in a thread of its own, for a `with` block.

    reply: called with the text of a prompt; returns the reply's text or the whole JSON body.
    looks: how often a batch is looked at before it has ended.
    ending: called with the number of a batch, from 0; returns how it ends: `completed`, `expired`, `cancelled`, or the
        code of the error because of which it `failed` to begin.
    line: called with the number of the batch, the text of a prompt and the line of its result; returns the lines that
        are written instead.
    stop: names of points at which it goes no further. `reached` says that one was, and `go_on` lets it continue.

    Of its attributes, `paid` counts the requests that were answered, by text, `batches` lists all batches, `direct`
    counts the requests outside of batches, and `problems` lists the requests that were turned down.
    """

    def __init__(
        self,
        reply: Callable[[str], str | dict[str, Any]] = lambda text: f"re: {text}",
        looks: int = 1,
        ending: Callable[[int], str] = lambda number: "completed",
        line: Callable[[int, str, dict[str, Any]], list[Any]] = lambda number, text, line: [line],
        keeps_metadata: bool = True,
    ) -> None:
        self.reply, self.looks, self.ending, self.line = reply, looks, ending, line
        self.keeps_metadata = keeps_metadata
        self.files: dict[str, bytes] = {}
        self.batches: list[dict[str, Any]] = []
        self.paid: Counter[str] = Counter()
        self.direct = 0
        self.problems: list[str] = []
        self.faults: Counter[str] = Counter()
        self.plan: Callable[[str], int | None] = lambda point: None
        self.stop: set[str] = set()
        self.reached, self.go_on = threading.Event(), threading.Event()
        self._left: dict[str, int] = {}
        self._random = random.Random(0)

    def __exit__(self, *error: object) -> None:
        self.go_on.set()
        super().__exit__(*error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(client_max_size=MOST_BYTES + 2**20, middlewares=[self._errors])
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._retrieve)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{port}/v1"
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()

    @web.middleware
    async def _errors(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            point = f"{request.method} {request.path.removeprefix('/v1/').split('/')[0]}"
            if (status := self.plan(point)) is not None:
                self.faults[point] += 1
                raise Refused("no", status)
            response: web.StreamResponse = await handler(request)
            return response
        except Refused as error:
            if error.status == 400:
                self.problems.append(str(error))
            body = {"error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": None}}
            return web.json_response(body, status=error.status)

    async def _at(self, point: str) -> None:
        """Go no further at a point that a test has named."""
        if point in self.stop:
            self.reached.set()
            await asyncio.to_thread(self.go_on.wait)

    # -- files -----------

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        await self._at("before upload")
        if not request.content_type.startswith("multipart/form-data"):
            raise Refused("a file is uploaded as multipart/form-data")
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField) or set(form) != {"purpose", "file"}:
            raise Refused("`purpose=batch` and `file` are needed")
        name = f"file-{len(self.files)}"
        self.files[name] = file.file.read()
        await self._at("after upload")
        return web.json_response(
            {
                "id": name, "object": "file", "bytes": len(self.files[name]), "created_at": int(time.time()),
                "filename": file.filename, "purpose": "batch", "status": "processed",
            }
        )  # fmt: skip

    async def _content(self, request: web.Request) -> web.StreamResponse:
        await self._at("download")
        if request.match_info["id"] not in self.files:
            raise Refused("no such file", 404)
        return web.Response(body=self.files[request.match_info["id"]], content_type="application/octet-stream")

    # -- batches ---------

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        known = {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
        if extra := set(body) - known:
            raise Refused(f"unknown fields: {extra}")
        if body.get("completion_window") != "24h" or body.get("endpoint") not in ENDPOINTS:
            raise Refused("`completion_window` must be 24h, and `endpoint` one that takes batches")
        if body.get("input_file_id") not in self.files:
            raise Refused("there is no such `input_file_id`")
        metadata = body.get("metadata") or {}
        sizes = [(len(key), len(value)) for key, value in metadata.items()]
        if len(sizes) > 16 or any(key > 64 or value > 512 for key, value in sizes):
            raise Refused("`metadata` is too large")
        await self._at("before create")
        requests = self._requests(self.files[body["input_file_id"]], body["endpoint"])
        number, now = len(self.batches), int(time.time())
        batch = {
            "id": f"batch_{number}", "object": "batch", "endpoint": body["endpoint"], "errors": None,
            "input_file_id": body["input_file_id"], "completion_window": "24h", "status": "validating",
            "output_file_id": None, "error_file_id": None, "created_at": now, "in_progress_at": None,
            "expires_at": now + 86_400, "finalizing_at": None, "completed_at": None, "failed_at": None,
            "expired_at": None, "cancelling_at": None, "cancelled_at": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": metadata if self.keeps_metadata else None,
        }  # fmt: skip
        self.batches.append(batch)
        self._left[str(batch["id"])] = self.looks
        self._work(number, batch, requests)
        await self._at("after create")
        return web.json_response({**batch, "status": "validating", "output_file_id": None, "error_file_id": None})

    def _requests(self, content: bytes, endpoint: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in content.splitlines()]
        if not lines or len(lines) > MOST_REQUESTS or len(content) > MOST_BYTES:
            raise Refused("a file has 1 to 50,000 requests, and at most 200 MB")
        for line in lines:
            if set(line) != {"custom_id", "method", "url", "body"} or not isinstance(line["body"], dict):
                raise Refused("a line has `custom_id`, `method`, `url` and `body`")
            if line["method"] != "POST" or line["url"] != endpoint or not isinstance(line["custom_id"], str):
                raise Refused("`method` must be POST, and `url` the endpoint of the batch")
        if len({line["custom_id"] for line in lines}) < len(lines):
            raise Refused("a `custom_id` is not unique")
        if len({line["body"].get("model") for line in lines}) > 1:
            raise Refused("a file may have one model only")
        return lines

    def _work(self, number: int, batch: dict[str, Any], requests: list[dict[str, Any]]) -> None:
        """Answer the requests of a batch, half of them if it does not complete."""
        ending = self.ending(number)
        if ending not in STATES:
            batch["errors"] = {
                "object": "list",
                "data": [{"code": ending, "message": "no", "line": None, "param": None}],
            }
            batch["end"] = "failed"
            return
        self._random.shuffle(requests)
        answered = requests if ending == "completed" else requests[: len(requests) // 2]
        good, bad = [], []
        for line in requests:
            text = text_of(line["body"])
            result: dict[str, Any] = {"id": f"batch_req_{len(good) + len(bad)}", "custom_id": line["custom_id"]}
            if line in answered:
                data = self._answer(text, line["body"])
                response = {"status_code": 200, "request_id": "r", "body": data}
                written = self.line(number, text, {**result, "response": response, "error": None})
                for one in written:
                    ok = not isinstance(one, dict) or (one.get("response") or {}).get("status_code") == 200
                    (good if ok else bad).append(one)
                if any(
                    isinstance(one, dict) and (one.get("response") or {}).get("status_code") == 200 for one in written
                ):
                    self.paid[text] += 1
            else:
                error = {"code": f"batch_{ending}", "message": "This request could not be executed in time."}
                bad.append({**result, "response": None, "error": error})
        for name, lines in (("output_file_id", good), ("error_file_id", bad)):
            if lines:
                file = f"file-{len(self.files)}"
                self.files[file] = b"".join(
                    one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in lines
                )
                batch[f"end_{name}"] = file
        batch["end"] = ending
        batch["request_counts"] = {"total": len(requests), "completed": len(good), "failed": len(bad)}

    def _shown(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        left = self._left[batch["id"]]
        shown = {key: value for key, value in batch.items() if not key.startswith("end")}
        if left > 0:
            return {**shown, "status": "in_progress", "errors": None}
        found = {name: batch.get(f"end_{name}") for name in ("output_file_id", "error_file_id")}
        return {**shown, **found, "status": batch["end"], f"{batch['end']}_at": int(time.time())}

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        await self._at("poll")
        batch = next((one for one in self.batches if one["id"] == request.match_info["id"]), None)
        if batch is None:
            raise Refused("no such batch", 404)
        shown = self._shown(batch)
        self._left[batch["id"]] -= 1
        return web.json_response(shown)

    async def _list(self, request: web.Request) -> web.StreamResponse:
        limit = int(request.query.get("limit", 20))
        if not 1 <= limit <= 100 or set(request.query) - {"limit", "after"}:
            raise Refused("`limit` must be 1 to 100")
        listed = list(reversed(self.batches))
        if after := request.query.get("after"):
            listed = listed[[one["id"] for one in listed].index(after) + 1 :]
        page = [self._shown(one) for one in listed[:limit]]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return web.json_response({"object": "list", "data": page, "has_more": len(listed) > limit, **ends})

    # -- requests outside of batches ----

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.direct += not is_probe(body)
        return web.json_response(self._answer(text_of(body), body))

    def _answer(self, text: str, body: Mapping[str, Any]) -> dict[str, Any]:
        found = self.reply(text)
        return completion(found, body) if isinstance(found, str) else found

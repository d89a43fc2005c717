"""The endpoints of an OpenAI-compatible batch API: files and batches. A batch is made once, whatever happens."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from harness_ext.backends.batch_records import Record
from harness_ext.backends.http_client import Client, Fault, Lacks, backoff
from harness_ext.backends.pool import PoolServer
from harness_ext.errors import CallFailed, LoadError
from harness_ext.terminal import note, outside

OURS = "harness_ext"  # the key of our own name of a batch in its metadata
WINDOW = "24h"  # the only one that there is
PAGE = 100
SETTLE = 5.0  # seconds after which a server lists a batch whose request it has received
NO_BATCHES = "if it takes no batches, leave out `batch=on`"
CLOCKS = 86_400.0  # seconds by which the clock of a server may differ from ours
T = TypeVar("T")
_NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._:+=-]{1,256}")


@dataclass(frozen=True)
class Batch:
    """The state of a batch.

    id: the server's name of it.
    status: `validating`, `in_progress`, `finalizing`, `completed`, `expired`, `cancelling`, `cancelled` or `failed`.
    done, failed, total: how many of its requests are answered, have failed, and how many there are.
    files: the server's names of the files with replies and with errors.
    errors: why it could not begin, as code and message.
    """

    id: str
    status: str
    done: int
    failed: int
    total: int
    files: tuple[str, ...]
    errors: tuple[tuple[str, str], ...]

    @property
    def has_ended(self) -> bool:
        """Return whether nothing will change any more."""
        return self.status in ("completed", "expired", "cancelled", "failed")

    @classmethod
    def read(cls, data: Any) -> Batch:
        """Read the server's JSON. Raises Fault if it is none of a batch."""
        try:
            counts = data.get("request_counts") or {}
            files = (data.get("output_file_id"), data.get("error_file_id"))
            errors = ((data.get("errors") or {}).get("data")) or []
            done, failed, total = (int(counts.get(name) or 0) for name in ("completed", "failed", "total"))
            return cls(
                name_in(data, "id"),
                str(data["status"]),
                done,
                failed,
                total,
                tuple(name_in({"id": name}, "id") for name in files if name),
                tuple((str(one.get("code") or ""), str(one.get("message") or "")) for one in errors),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise Fault("bad_reply", f"a malformed batch ({type(error).__name__}: {outside(error)})") from error


def name_in(data: Mapping[str, Any], key: str) -> str:
    """Return a name that a server has given. Raises ValueError if it could not stand in an address."""
    name = data[key]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"`{key}` is {outside(name, 80)}, which is no name")
    return name


@dataclass
class BatchApi:
    """The batch API of one server.

    client: the connection.
    server: the server.
    poll: the longest time between two questions whether a batch has ended, in seconds.
    """

    client: Client
    server: PoolServer
    poll: float

    async def upload(self, name: str, content: bytes) -> str:
        """Upload a file of requests and return the server's name of it. Raises LoadError."""
        import aiohttp

        async def once() -> str:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", content, filename=f"{name}.jsonl", content_type="application/jsonl")
            payload = form()
            data = await self._json("POST", "files", payload, {"Content-Type": payload.content_type})
            return _named(data)

        return await self._repeated(once, NO_BATCHES)

    async def create(self, record: Record) -> Batch:
        """Make the batch of a record whose file is uploaded. Raises LoadError.

        After an attempt that may have succeeded, the batches of the server are looked through before another one.
        """
        assert record.file is not None
        fields = {"input_file_id": record.file, "endpoint": record.endpoint, "completion_window": WINDOW}
        body = json.dumps({**fields, "metadata": {OURS: record.id}}).encode()

        sent = False

        async def once() -> Batch:
            nonlocal sent
            if sent and (found := await self._look(record)) is not None:
                return found
            sent = True
            return Batch.read(await self._json("POST", "batches", body))

        return await self._repeated(once, NO_BATCHES)

    async def find(self, record: Record) -> Batch | None:
        """Return the batch of a record, among all batches of the server; None if it was not made. Raises LoadError."""
        return await self._repeated(
            lambda: self._look(record), "the same command looks for the batch again", patient=True
        )

    async def _look(self, record: Record) -> Batch | None:
        await asyncio.sleep(SETTLE)
        found = [data async for data in self._listed(record) if _is_of(data, record)]
        if len(found) > 1:
            names = ", ".join(outside(data.get("id"), 80) for data in found)
            note(f"{self.server.name} has made several batches of one: {names}. The first one counts")
        return Batch.read(found[-1]) if found else None

    async def _listed(self, record: Record) -> AsyncIterator[Mapping[str, Any]]:
        """Yield the server's batches, newest first, as far back as the record was made."""
        after = ""
        while True:
            page = await self._json("GET", f"batches?limit={PAGE}{after}")
            try:
                listed = [dict(data) for data in page["data"]]
                more = bool(page.get("has_more")) and bool(listed)
                oldest = listed[-1].get("created_at") if listed else None
                after = f"&after={quote(name_in(listed[-1], 'id'), safe='')}" if more else ""
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Fault("bad_reply", f"a malformed list of batches ({outside(error)})") from error
            for data in listed:
                yield data
            if not more or (isinstance(oldest, int | float) and oldest < record.created - CLOCKS):
                return

    async def state(self, name: str, lacks: Lacks | None = None) -> Batch:
        """Return the state of a batch. Raises LoadError, and NotOffered if `lacks` says so."""

        async def once() -> Batch:
            return Batch.read(await self._json("GET", f"batches/{quote(name, safe='')}", lacks=lacks))

        return await self._repeated(once, "the same command continues to wait for the batch", patient=True)

    async def content(self, name: str, lacks: Lacks | None = None) -> bytes:
        """Return the content of a file. Raises LoadError, and NotOffered if `lacks` says so."""

        async def once() -> bytes:
            return await self.client.exchange(self.server, "GET", f"files/{quote(name, safe='')}/content", lacks=lacks)

        return await self._repeated(once, "the same command fetches the replies", patient=True)

    async def _json(
        self,
        method: str,
        path: str,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        lacks: Lacks | None = None,
    ) -> Any:
        content = await self.client.exchange(self.server, method, path, data, lacks, headers)
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise Fault("bad_json", f"a reply that is not JSON ({len(content)} bytes)") from None

    async def _repeated(self, once: Callable[[], Awaitable[T]], remedy: str, patient: bool = False) -> T:
        """Return the result of requests that may be repeated, once they succeed.

        once: sends the requests.
        remedy: what a user can do if they fail.
        patient: whether an outage may last as long as the wait for a server that limits its rate (`max_wait`), because
            a batch is under way. Default False: after `max_retries` it is given up.
        """
        began, attempts = time.monotonic(), 0
        while True:
            try:
                return await once()
            except Fault as fault:
                attempts += 1
                wait = fault.wait if fault.wait is not None else backoff(attempts)
                late = time.monotonic() - began + wait > self.client.max_wait
                if late or (attempts > self.client.max_retries and not patient and not fault.busy):
                    raise LoadError(f"{self.server.name}: {fault}, {attempts} times; {remedy}") from fault
                await asyncio.sleep(wait)
            except (CallFailed, LoadError) as error:
                raise LoadError(f"{error}; {remedy}") from error


def _named(data: Any) -> str:
    try:
        return name_in(data, "id")
    except (KeyError, TypeError, ValueError) as error:
        raise Fault("bad_reply", f"a malformed file ({outside(error)})") from error


def _is_of(data: Mapping[str, Any], record: Record) -> bool:
    named = data.get("metadata")
    is_ours = isinstance(named, Mapping) and named.get(OURS) == record.id
    return is_ours or (record.file is not None and data.get("input_file_id") == record.file)

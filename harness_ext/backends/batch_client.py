"""Sends the requests of a seat through a batch API: all that wait when the run comes to a standstill, as one batch."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from harness_ext.backends import batch_lines
from harness_ext.backends.batch_api import Batch, BatchApi
from harness_ext.backends.batch_lines import Line, custom_id, read_lines, request_line, split, with_shares
from harness_ext.backends.batch_records import Record, Records
from harness_ext.backends.http_client import Client, Fault, Lacks, NotOffered, Scope, given_up, refusal
from harness_ext.backends.served import Standstill
from harness_ext.errors import CallFailed, LoadError
from harness_ext.records import BATCHED, CallResult
from harness_ext.terminal import note, outside

FIRST_LOOK = 1.0  # seconds; doubled until the longest time between two looks
SAY_EVERY = 60.0  # seconds between two lines about a batch
FORGOTTEN_AFTER = 30 * 86_400.0  # seconds after which a server may have deleted a batch and its files
QUEUE_IS_FULL = "token_limit_exceeded"  # why OpenAI does not begin a batch: too many tokens are waiting


@dataclass(eq=False)
class Running:
    """A batch that is being made, waited for or fetched.

    record: what is kept about it.
    waiting: the calls that wait for its results, by `custom_id`.
    is_ours: whether this run has sent it. Default False: an earlier one has.
    """

    record: Record
    waiting: dict[str, asyncio.Future[Line]] = field(default_factory=dict)
    is_ours: bool = False


class BatchClient:
    """Posts requests as `Client` does, but in batches. It is an asynchronous context manager.

    A batch is noted in a record before it is made, so that a later run finds it: a request with the same `custom_id`
    is then not sent again. A record is deleted once its replies are stored.

    client: the connection.
    records: where batches are noted.
    run: tells when no call can be answered any more without those that wait here.
    poll: the longest time between two questions whether a batch has ended, in seconds.
    """

    def __init__(self, client: Client, records: Records, run: Standstill, poll: float) -> None:
        (server,) = client.pool.servers
        self.client, self.records, self.run = client, records, run
        self.api = BatchApi(client, server, poll)
        self.name = server.name
        self._new: dict[str, tuple[str, bytes, asyncio.Future[Line]]] = {}  # endpoint, line and caller
        self._some = asyncio.Event()
        self._homes: dict[str, Running] = {}  # the batch that each `custom_id` belongs to
        self._lines: dict[str, Line] = {}  # replies that an earlier run has paid for, and that were not asked for yet
        self._fetched: list[Record] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._most = batch_lines.MOST_REQUESTS
        self._one_at_a_time: asyncio.Lock | None = None

    async def __aenter__(self) -> BatchClient:
        """Find what earlier runs have left. Raises StoreError if a record is damaged."""
        for record in self.records.left():
            if time.time() - record.created <= FORGOTTEN_AFTER:
                self._homes |= dict.fromkeys(record.requests, Running(record))
            elif self.records.take(record) is not None:
                self._say(record, "is more than 30 days old, and forgotten")
                self.records.remove(record)
        self._start(self._send())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.run.settled:
            self._forget_stored()
        self.records.close()

    async def post(
        self,
        path: str,
        body: bytes,
        read: Callable[[Any], CallResult],
        lacks: Lacks | None = None,
        draw: int = 0,
    ) -> CallResult:
        """Return the result of a request, which becomes part of a batch.

        path, body, read, lacks: as in `Client.post`.
        draw: what tells the draws of one prompt apart. Default 0.

        A request that a batch does not answer is sent again in the next one. Raises as `Client.post` does.
        """
        name, faults = custom_id(path, body, draw), list[str]()
        while True:
            line = await self._line(name, f"/v1/{path}", body)
            try:
                line.raise_fault()
                if not line.is_good:
                    raise refusal(self.name, line.status, {}, json.dumps(line.body).encode(), lacks)
                result = read(line.body)
                notes = (*result.notes, BATCHED)
                return replace(result, seconds=line.seconds, faults=tuple(faults), notes=notes)
            except (CallFailed, LoadError):
                if line.is_ours:
                    raise
                continue  # an earlier run has not sent it, or was refused; what was wrong may have been put right
            except NotOffered as raised:
                raised.faults = tuple(faults)
                raise
            except Fault as raised:
                fault = raised
            except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
                fault = Fault("bad_reply", f"a malformed reply ({type(error).__name__}: {outside(error)})")
            faults.append(fault.name)
            if len(faults) > self.client.max_retries:
                raise given_up(self.name, self.client.max_wait, fault, faults)

    async def _line(self, name: str, endpoint: str, body: bytes) -> Line:
        """Return the result of a request, once its batch has ended."""
        if name in self._lines:
            return self._lines.pop(name)
        home = self._homes.get(name)
        if home is not None:
            if not home.waiting and not home.is_ours:
                self._start(self._take_over(home))
            waiting = home.waiting
            future = waiting.get(name) or waiting.setdefault(name, asyncio.get_running_loop().create_future())
        elif name in self._new:
            future = self._new[name][2]
        else:
            line = request_line(name, endpoint, body)
            if len(line) > batch_lines.MOST_BYTES:
                raise CallFailed("backend", f"{self.name}: a request of {len(line):,} bytes fits into no batch")
            future = asyncio.get_running_loop().create_future()
            self._new[name] = (endpoint, line, future)
            self._some.set()
        self.run.park(1)
        try:
            return await future
        finally:
            self.run.park(-1)

    # -- batches -------------------------------------------------------------------------------------------------

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self) -> None:
        """Send what is waiting whenever the run comes to a standstill."""
        while True:
            await self._some.wait()
            await self.run.standstill()
            self._forget_stored()
            new, self._new = self._new, {}
            self._some.clear()
            try:
                self._send_all(new)
            except Exception as error:
                _fail({name: future for name, (_, _, future) in new.items()}, error)

    def _send_all(self, new: Mapping[str, tuple[str, bytes, asyncio.Future[Line]]]) -> None:
        """Send requests as batches, as few as possible. Raises StoreError."""
        by_endpoint: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for name, (endpoint, line, _) in new.items():
            by_endpoint[endpoint][name] = line
        for endpoint, lines in by_endpoint.items():
            for names in split(lines, self._most, batch_lines.MOST_BYTES):
                waiting = {name: new[name][2] for name in names}
                running = Running(self.records.add(endpoint, names), waiting, is_ours=True)
                self._homes |= dict.fromkeys(names, running)
                self._start(self._run_batch(running, b"".join(lines[name] for name in names)))

    async def _run_batch(self, running: Running, content: bytes) -> None:
        """Make a batch and hand over its results."""
        record, waiting = running.record, running.waiting
        try:
            async with self._one_at_a_time or nullcontext():
                record.file = await self.api.upload(record.id, content)
                self.records.save(record)
                record.batch = (await self.api.create(record)).id
                self.records.save(record)
                many = f"{len(waiting):,} request{'s' if len(waiting) > 1 else ''}"
                self._say(record, f"sent with {many}. If this run ends, the same command collects it")
                await self._collect(running)
        except Exception as error:
            _fail(waiting, error)

    async def _take_over(self, running: Running) -> None:
        """Collect a batch that an earlier run has sent, if it was made and nobody else works on it."""
        try:
            record = await asyncio.to_thread(self.records.take, running.record)
            if record is not None and record.file is not None and record.batch is None:
                # The run was killed while it waited for the server's answer.
                batch = await self.api.find(record)
                record.batch = None if batch is None else batch.id
                self.records.save(record)
            if record is None or record.batch is None:
                if record is not None:
                    self.records.remove(record)
                for name in running.record.requests:
                    if self._homes.get(name) is running:
                        del self._homes[name]
                for future in running.waiting.values():
                    if not future.done():
                        future.set_result(Line(is_ours=False))
                return
        except Exception as error:
            _fail(running.waiting, error)
            return
        running.record = record
        await self._collect(running)

    async def _collect(self, running: Running) -> None:
        """Wait for a batch, and hand over its results."""
        record = running.record
        try:
            batch = await self._ended(record)
            found = read_lines([await self.api.content(name, _gone) for name in batch.files], record.requests)
            self._check(batch, record)
        except NotOffered as gone:
            error = LoadError(
                f"{self.name} does not know the batch {record.batch} of an earlier run any more ({gone}): use the key "
                f"and the project of that run, or delete {self.records.path(record)} to send its "
                f"{len(record.requests):,} requests again"
            )
            _fail(running.waiting, error)
            return
        except Exception as error:
            _fail(running.waiting, error)
            return
        if found.strange or found.repeated:
            self._say(
                record,
                f"returned {found.strange} lines that are about none of its requests, and several results for "
                f"{found.repeated} of them, of which the first reply counts",
            )
        good = sum(line.is_good for line in found.lines.values())
        self._say(record, f"{batch.status}, with {good:,} of {len(record.requests):,} replies")
        self._hand_over(running, batch, with_shares(found, record.requests, time.time() - record.created))

    async def _ended(self, record: Record) -> Batch:
        """Return a batch once it has ended."""
        assert record.batch is not None
        wait, said, since = min(FIRST_LOOK, self.api.poll), None, time.monotonic()
        while True:
            batch = await self.api.state(record.batch, _gone)
            if batch.has_ended:
                return batch
            state = (batch.status, batch.done, batch.failed)
            if state != said and (said is None or time.monotonic() - since >= SAY_EVERY):
                self._say(record, f"{batch.status}: {batch.done:,} of {batch.total:,} done, {batch.failed:,} failed")
                said, since = state, time.monotonic()
            await asyncio.sleep(wait)
            wait = min(2 * wait, self.api.poll)

    def _check(self, batch: Batch, record: Record) -> None:
        """Raise LoadError if a batch could not begin and smaller ones would not either."""
        if batch.status != "failed":
            return
        self.records.remove(record)  # nothing was done, so nothing is paid for twice
        if len(record.requests) > 1 and any(code == QUEUE_IS_FULL for code, _ in batch.errors):
            self._most = max(1, len(record.requests) // 2)
            self._one_at_a_time = self._one_at_a_time or asyncio.Lock()
            self._say(record, f"holds too many tokens at once: batches of {self._most:,} requests follow")
            return
        said = "; ".join(f"{code}: {message}" for code, message in batch.errors[:3]) or "it gives no reason"
        raise LoadError(f"{self.name} refuses the batch {batch.id} ({outside(said)}): leave out `batch=on` to see why")

    def _hand_over(self, running: Running, batch: Batch, lines: Mapping[str, Line]) -> None:
        record, stopped = running.record, None
        if batch.status == "cancelled" and not record.cancelled:
            # Whoever cancelled it did not want to pay for the rest, so that is not sent again by itself.
            record.cancelled = True
            self.records.save(record)
            stopped = LoadError(
                f"the batch {batch.id} was cancelled at {self.name}. What it had finished is kept; run the same "
                "command again to send the rest"
            )
        for name, found in lines.items():
            if self._homes.get(name) is not running:  # a later batch has asked for it again
                continue
            del self._homes[name]
            line = replace(found, is_ours=running.is_ours)
            if line.fault == batch_lines.MISSING and batch.status != "completed":
                line = replace(line, fault=f"batch_{batch.status}", message=f"the batch ended as {batch.status}")
            future = running.waiting.get(name)
            if future is None:
                if line.is_good:
                    self._lines[name] = line
            elif not future.done():
                if stopped is None or line.is_good:
                    future.set_result(line)
                else:
                    future.set_exception(stopped)
        self._fetched.append(record)

    def _forget_stored(self) -> None:
        """Delete the records of batches whose replies are all stored."""
        kept = []
        for record in self._fetched:
            if any(name in self._lines for name in record.requests):
                kept.append(record)
            else:
                self.records.remove(record)
        self._fetched = kept

    def _say(self, record: Record, text: str) -> None:
        note(f"{self.name}: batch {record.batch} {text}")


def _gone(status: int, text: str) -> Scope | None:
    return "server" if status == 404 else None


def _fail(waiting: Mapping[str, asyncio.Future[Line]], error: Exception) -> None:
    for future in waiting.values():
        if not future.done():
            future.set_exception(error)

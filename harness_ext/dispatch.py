"""Lanes: one a device. What waits for a model goes to it as one call, as soon as its device is free."""

from __future__ import annotations

import abc
import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan

from harness_ext.backends.base import Backend, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.chat import is_utf8, repair
from harness_ext.errors import CallFailed, LoadError, RunAborted, StoreError
from harness_ext.records import Completion

# A reply can wake a chain of coroutines (`gather` inside a protocol): only after this many passes of the event loop
# without a new request is "everything that is waiting" complete.
QUIET_PASSES = 4

# The note of a reply to a prompt whose beginning the model cut off.
CUT = "prompt_cut"


@dataclass(eq=False, slots=True)
class Pending:
    """A call on its way: its key in the store, the request, and the future its questions await.

    `cut` says that its prompt does not fit and the model cuts its beginning.
    """

    key: str
    backend: Backend
    request: Request
    future: asyncio.Future[Completion]
    cut: bool = False


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """What happens to calls that are not plain: `truncate` sends prompts that do not fit (the model cuts their
    beginning), `keep_empty` takes an empty reply for a reply."""

    truncate: bool = False
    keep_empty: bool = True

    def takes(self, stored: Completion) -> bool:
        """Return whether a stored reply, perhaps of a run with another policy, is one under this policy."""
        if CUT in stored.notes and not self.truncate:
            return False
        return self.keep_empty or not stored.is_text or bool(stored.text.strip())


Outcome = Completion | CallFailed


class Lane(abc.ABC):
    """Takes calls, has them answered, hands their results over.

    `settle` takes finished calls, in the loop's thread, several at once. `abort` ends the run with an error.
    """

    def __init__(
        self,
        name: str,
        policy: CallPolicy,
        settle: Callable[[Sequence[tuple[Pending, Outcome]]], None],
        abort: Callable[[BaseException], None],
    ) -> None:
        self.name = name
        self.policy = policy
        self._settle = settle
        self._abort = abort
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._results: list[tuple[Pending, Outcome]] = []

    @abc.abstractmethod
    def submit(self, call: Pending) -> None:
        """Take a call; in the loop's thread."""

    @abc.abstractmethod
    async def serve(self) -> None:
        """Have calls answered, for as long as the run lasts."""

    def stop(self) -> None:  # noqa: B027  (a lane without a thread ends with `serve`)
        """End what goes on outside the loop's thread; a batch in progress ends at its next result."""

    def join(self, timeout: float | None = None) -> None:  # noqa: B027
        """Wait for that end."""

    def _refusal(self, call: Pending) -> CallFailed | None:
        """Return why a call cannot be sent, or None; what the policy lets be cut is marked."""
        try:
            failure = call.backend.check(call.request)
        except Exception as error:  # a tokenizer that chokes on this prompt, and on no other
            return failure_of(call.backend, error)
        if failure is not None and failure.can_cut and self.policy.truncate:
            call.cut = True
            return None
        return failure

    def _accept(self, backend: Backend, call: Pending, completion: Completion) -> Outcome:
        if not isinstance(completion, Completion) or not isinstance(completion.text, str):
            return CallFailed("no_reply", f"{backend.name} returned no text")
        if isinstance(call.request, ScoreRequest):
            if completion.logprob is None or isnan(completion.logprob):
                return CallFailed("no_reply", f"{backend.name} returned no log-probability")
        elif isinstance(call.request, VerifyRequest):
            if completion.checks is None or len(completion.checks.best) != len(call.request.draft) + 1:
                return CallFailed("no_reply", f"{backend.name} returned no verification")
        elif not call.request.reply and not self.policy.keep_empty and not completion.text.strip():
            return CallFailed("empty", f"{backend.name} returned an empty reply (`on_empty=keep` takes it as it is)")
        if call.cut:
            completion = replace(completion, notes=(*completion.notes, CUT))
        if not is_utf8(completion.text):
            return replace(completion, text=repair(completion.text), notes=(*completion.notes, "surrogates_replaced"))
        return completion

    def _report(self, call: Pending, outcome: Outcome) -> None:
        with self._lock:
            self._results.append((call, outcome))
            first = len(self._results) == 1
        if first:
            self._call_loop(self._drain)

    def _call_loop(self, function: Callable[..., None], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    def _drain(self) -> None:
        with self._lock:
            results, self._results = self._results, []
        try:
            self._settle(results)
        except Exception as error:
            self._abort(error)


class ThreadLane(Lane):
    """One device: a thread that runs its models' calls one after the other, fed by the event loop."""

    def __init__(
        self,
        name: str,
        policy: CallPolicy,
        settle: Callable[[Sequence[tuple[Pending, Outcome]]], None],
        abort: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name, policy, settle, abort)
        self.waiting: dict[Backend, list[Pending]] = {}
        self._wake = asyncio.Event()
        self._arrivals = 0
        self._batches: queue.SimpleQueue[tuple[Backend, list[Pending]] | None] = queue.SimpleQueue()
        self._idle = asyncio.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"harness-ext {name}", daemon=True)
        self._thread.start()

    def submit(self, call: Pending) -> None:
        """Queue a call; in the loop's thread."""
        self.waiting.setdefault(call.backend, []).append(call)
        self._arrivals += 1
        self._wake.set()

    async def serve(self) -> None:
        """Send batches for as long as the run lasts."""
        while True:
            await self._wake.wait()
            quiet = 0
            while quiet < QUIET_PASSES:
                seen = self._arrivals
                await asyncio.sleep(0)
                quiet = quiet + 1 if self._arrivals == seen else 0
            backend = max(self.waiting, key=lambda b: len(self.waiting[b]))
            calls = self.waiting.pop(backend)
            if not self.waiting:
                self._wake.clear()
            self._idle.clear()
            self._batches.put((backend, calls))
            await self._idle.wait()

    def stop(self) -> None:
        """End the thread; a batch in progress ends at its next result, whatever it still had to do."""
        self._stopped.set()
        self._batches.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    # -- in the lane's thread ------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            backend, calls = batch
            try:
                with backend.lock:
                    backend.cancelled = self._stopped.is_set
                    try:
                        _load(backend)
                        self._answer(backend, calls)
                    finally:
                        backend.cancelled = lambda: False
            except RunAborted:
                return
            except BaseException as error:
                self._call_loop(self._abort, error)
                return
            self._call_loop(self._finish_batch)

    def _answer(self, backend: Backend, calls: Sequence[Pending]) -> None:
        """Send what can be sent, as one call a kind; everything in `calls` is settled when this returns."""
        good: list[Pending] = []
        for call in calls:
            failure = self._refusal(call)
            if failure is None:
                good.append(call)
            else:
                self._report(call, failure)
        self._send(backend, [call for call in good if isinstance(call.request, GenerateRequest)])
        self._send(backend, [call for call in good if isinstance(call.request, ScoreRequest)])
        self._send(backend, [call for call in good if isinstance(call.request, VerifyRequest)])

    def _send(self, backend: Backend, calls: Sequence[Pending]) -> None:
        """Send calls of one kind as one; if the model raises, halve what is left until the bad ones stand alone."""
        left = dict(enumerate(calls))

        def deliver(index: int, completion: Completion) -> None:
            if self._stopped.is_set():
                raise RunAborted
            if index in left:
                outcome = self._accept(backend, left[index], completion)
                self._report(left.pop(index), outcome)

        error: Exception | None = None
        try:
            if generate := [call.request for call in calls if isinstance(call.request, GenerateRequest)]:
                backend.generate(generate, deliver)
            elif score := [call.request for call in calls if isinstance(call.request, ScoreRequest)]:
                backend.score(score, deliver)
            elif verify := [call.request for call in calls if isinstance(call.request, VerifyRequest)]:
                backend.verify(verify, deliver)
        except (RunAborted, StoreError):
            raise
        except Exception as raised:
            error = raised
        rest = list(left.values())
        if error is None or len(calls) == 1:
            for call in rest:
                self._report(call, failure_of(backend, error))
        elif rest:
            middle = len(rest) // 2
            self._send(backend, rest[:middle])
            self._send(backend, rest[middle:])

    # -- in the loop's thread ------------------------------------------------------------------------------------

    def _finish_batch(self) -> None:
        self._idle.set()


def _load(backend: Backend) -> None:
    if backend.loaded:
        return
    try:
        backend.load()
        backend.loaded = True
    except Exception as error:
        raise LoadError(f"{backend.name} could not be loaded: {error}") from error


def failure_of(backend: Backend, error: Exception | None) -> CallFailed:
    """Return what a model raised, or that it said nothing, as the failure of one call."""
    if error is None:
        return CallFailed("no_reply", f"{backend.name} returned without answering this call")
    if isinstance(error, CallFailed):
        return error
    return CallFailed("backend", f"{backend.name} raised {type(error).__name__}: {error}")

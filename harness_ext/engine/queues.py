"""One queue per device: as soon as the device is free, all calls waiting for one of its models are sent as a batch."""

from __future__ import annotations

import abc
import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan

from harness_ext.backends.base import Backend, DecideRequest, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.engine.rest import Rest
from harness_ext.errors import CallFailed, LoadError, RunAborted, StoreError
from harness_ext.records import CallResult, Completion, Decision, Loglikelihood, Verification
from harness_ext.records.chat import is_utf8, repair

# The note on replies to prompts whose beginning the model cut off.
CUT = "prompt_cut"


@dataclass(eq=False, slots=True)
class Pending:
    """A call in flight.

    key: the call's key in the store.
    backend: the model that is called.
    request: what it is asked.
    future: resolves to the result; the questions that made the call await it.
    cut: whether the prompt does not fit and the model cuts off its beginning. Default False.
    """

    key: str
    backend: Backend
    request: Request
    future: asyncio.Future[CallResult]
    cut: bool = False


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """How prompts that do not fit and empty replies are treated.

    truncate: whether prompts that do not fit are sent all the same, for the model to cut off their beginning. Otherwise
        such calls fail. Default False.
    keep_empty: whether an empty reply is accepted. Otherwise such calls fail. Default True.
    """

    truncate: bool = False
    keep_empty: bool = True

    def takes(self, stored: CallResult) -> bool:
        """Return whether this policy accepts a stored reply, which may come from a run with another policy."""
        if CUT in stored.notes and not self.truncate:
            return False
        return self.keep_empty or not isinstance(stored, Completion) or bool(stored.text.strip())


CallOutcome = CallResult | CallFailed


class DeviceQueue(abc.ABC):
    """Accepts calls, runs them on their models and hands over the results.

    name: the name of the device.
    policy: how prompts that do not fit and empty replies are treated.
    settle: called with finished calls, several at once, in the event loop's thread.
    abort: called with an error that ends the run.
    rest: tells when no question of the run can continue by itself.
    """

    def __init__(
        self,
        name: str,
        policy: CallPolicy,
        settle: Callable[[Sequence[tuple[Pending, CallOutcome]]], None],
        abort: Callable[[BaseException], None],
        rest: Rest,
    ) -> None:
        self.name = name
        self.policy = policy
        self._settle = settle
        self._abort = abort
        self._rest = rest
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._results: list[tuple[Pending, CallOutcome]] = []

    @abc.abstractmethod
    def submit(self, call: Pending) -> None:
        """Accept a call; called in the event loop's thread."""

    @abc.abstractmethod
    async def serve(self) -> None:
        """Run the submitted calls, until the run ends."""

    def stop(self) -> None:  # noqa: B027  (a queue without a thread ends with `serve`)
        """Stop work outside the event loop's thread; a running batch stops at its next result."""

    def join(self, timeout: float | None = None) -> None:  # noqa: B027
        """Wait until that work has stopped."""

    def _refusal(self, call: Pending) -> CallFailed | None:
        """Return why a call cannot be sent, or None. A call whose prompt may be cut under the policy is marked."""
        try:
            failure = call.backend.check(call.request)
        except Exception as error:  # a tokenizer may fail on this prompt alone
            return failure_of(call.backend, error)
        if failure is not None and failure.can_cut and self.policy.truncate:
            call.cut = True
            return None
        return failure

    def _accept(self, backend: Backend, call: Pending, result: CallResult) -> CallOutcome:
        if isinstance(call.request, ScoreRequest):
            if not isinstance(result, Loglikelihood) or isnan(result.logprob):
                return CallFailed("no_reply", f"{backend.name} returned no log-probability")
        elif isinstance(call.request, VerifyRequest):
            if not isinstance(result, Verification) or len(result.best) != len(call.request.draft) + 1:
                return CallFailed("no_reply", f"{backend.name} returned no verification")
        elif isinstance(call.request, DecideRequest):
            if not isinstance(result, Decision) or result.options != call.request.options:
                return CallFailed("no_reply", f"{backend.name} returned no decision")
            if result.fault is not None:
                return CallFailed("no_reply", f"{backend.name} returned {result.fault}")
        elif not isinstance(result, Completion) or not isinstance(result.text, str):
            return CallFailed("no_reply", f"{backend.name} returned no text")
        elif not call.request.reply and not self.policy.keep_empty and not result.text.strip():
            return CallFailed("empty", f"{backend.name} returned an empty reply: set `on_empty=keep` to accept it")
        if call.cut:
            result = replace(result, notes=(*result.notes, CUT))
        if isinstance(result, Completion) and not is_utf8(result.text):
            return replace(result, text=repair(result.text), notes=(*result.notes, "surrogates_replaced"))
        return result

    def _report(self, call: Pending, outcome: CallOutcome) -> None:
        call.backend.meter.ended()
        # Only the first result schedules `_drain`. Results that arrive before it runs are drained with it, and so are
        # stored in the same transaction.
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


class ThreadQueue(DeviceQueue):
    """The queue of one device: its thread runs one batch after another, as the event loop supplies them."""

    def __init__(
        self,
        name: str,
        policy: CallPolicy,
        settle: Callable[[Sequence[tuple[Pending, CallOutcome]]], None],
        abort: Callable[[BaseException], None],
        rest: Rest,
    ) -> None:
        super().__init__(name, policy, settle, abort, rest)
        self.waiting: dict[Backend, list[Pending]] = {}
        self._wake = asyncio.Event()
        self._batches: queue.SimpleQueue[tuple[Backend, list[Pending]] | None] = queue.SimpleQueue()
        self._idle = asyncio.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"harness-ext {name}", daemon=True)
        self._thread.start()

    def submit(self, call: Pending) -> None:
        """Queue a call; called in the event loop's thread."""
        with self._lock:
            self.waiting.setdefault(call.backend, []).append(call)
        self._wake.set()

    async def serve(self) -> None:
        """Send batches until the run ends."""
        while True:
            await self._wake.wait()
            # One reply can wake a chain of coroutines (such as a `gather` inside a protocol), and the chains differ in
            # length. Sending before all questions have made their next call would split one large batch into several.
            await self._rest.wait()
            with self._lock:
                # The largest batch first: its replies wake the most questions, whose calls then join the other batches.
                backend = max(self.waiting, key=lambda b: len(self.waiting[b]), default=None)
                calls = self.waiting.pop(backend) if backend is not None else []
                if not self.waiting:
                    self._wake.clear()
            if backend is None:  # all calls have joined the batch that was running
                continue
            self._idle.clear()
            self._batches.put((backend, calls))
            await self._idle.wait()

    def stop(self) -> None:
        """Stop the thread; a running batch stops at its next result, and its other calls stay unanswered."""
        self._stopped.set()
        self._batches.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    # -- in the queue's own thread -------------------------------------------------------------------------------

    def _work(self) -> None:
        while (batch := self._batches.get()) is not None:
            backend, calls = batch
            try:
                with backend.lock:
                    backend.cancelled = self._stopped.is_set
                    try:
                        _load(backend)
                        backend.meter.started(len(calls))
                        self._answer(backend, calls)
                    finally:
                        backend.meter.idle()
                        backend.cancelled = lambda: False
            except RunAborted:
                return
            except BaseException as error:
                self._call_loop(self._abort, error)
                return
            self._call_loop(self._finish_batch)

    def _answer(self, backend: Backend, calls: Sequence[Pending]) -> None:
        """Send all valid calls, in one batch per kind of request. All of `calls` are reported when this returns."""
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
        self._send(backend, [call for call in good if isinstance(call.request, DecideRequest)])

    def _send(self, backend: Backend, calls: Sequence[Pending]) -> None:
        """Send calls of one kind as a batch. If the model raises, bisect what is left to isolate the faulty calls."""
        left, sent = dict(enumerate(calls)), list(calls)

        def waiting(free: int) -> list[GenerateRequest]:
            requests = []
            for call in self._take(backend, free):
                failure = self._refusal(call)
                if failure is not None:
                    self._report(call, failure)
                elif isinstance(call.request, GenerateRequest):
                    left[len(sent)] = call
                    sent.append(call)
                    requests.append(call.request)
            return requests

        def deliver(index: int, result: CallResult) -> None:
            if self._stopped.is_set():
                raise RunAborted  # through the model's own code, which offers no other way to end its batch
            if index in left:
                outcome = self._accept(backend, left[index], result)
                self._report(left.pop(index), outcome)

        error: Exception | None = None
        try:
            if generate := [call.request for call in calls if isinstance(call.request, GenerateRequest)]:
                backend.waiting = waiting
                try:
                    backend.generate(generate, deliver)
                finally:
                    backend.waiting = lambda _: ()
            elif score := [call.request for call in calls if isinstance(call.request, ScoreRequest)]:
                backend.score(score, deliver)
            elif verify := [call.request for call in calls if isinstance(call.request, VerifyRequest)]:
                backend.verify(verify, deliver)
            elif decide := [call.request for call in calls if isinstance(call.request, DecideRequest)]:
                backend.decide(decide, deliver)
        except (RunAborted, StoreError):
            raise
        except Exception as raised:
            error = raised
        rest = list(left.values())
        if error is None or len(sent) == 1:
            for call in rest:
                self._report(call, failure_of(backend, error))
        elif rest:
            # Results delivered before the error are kept, so nothing is paid twice. Halving isolates a faulty call in
            # O(log n) batches, and gives a model that ran out of memory batches small enough to fit.
            middle = len(rest) // 2
            self._send(backend, rest[:middle])
            self._send(backend, rest[middle:])

    def _take(self, backend: Backend, free: int) -> list[Pending]:
        """Take up to `free` generation calls that wait for a model."""
        with self._lock:
            calls = self.waiting.get(backend, [])
            taken = [call for call in calls if isinstance(call.request, GenerateRequest)][:free]
            if len(taken) == len(calls):
                self.waiting.pop(backend, None)
            elif taken:
                self.waiting[backend] = [call for call in calls if call not in taken]
        backend.meter.started(len(taken))
        return taken

    # -- in the event loop's thread ------------------------------------------------------------------------------

    def _finish_batch(self) -> None:
        self._idle.set()


def _load(backend: Backend) -> None:
    if backend.loaded:
        return
    try:
        with backend.meter.load():
            backend.load()
        backend.loaded = True
    except Exception as error:
        raise LoadError(f"{backend.name} could not be loaded: {error}") from error


def failure_of(backend: Backend, error: Exception | None) -> CallFailed:
    """Return what a model raised as the failure of one call; None means that it returned without answering it."""
    if error is None:
        return CallFailed("no_reply", f"{backend.name} returned without answering this call")
    if isinstance(error, CallFailed):
        return error
    return CallFailed("backend", f"{backend.name} raised {type(error).__name__}: {error}")

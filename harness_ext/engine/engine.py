"""Runs a protocol over many questions: each advances independently, and their calls are answered in batches."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol as Interface

from harness_ext.backends.base import Backend, Request
from harness_ext.backends.served import ServedBackend
from harness_ext.engine.budget import Budget
from harness_ext.engine.openmp import release_threads
from harness_ext.engine.queues import CallOutcome, CallPolicy, DeviceQueue, Pending, ThreadQueue
from harness_ext.engine.rest import Rest
from harness_ext.engine.served_queue import ServedQueue
from harness_ext.errors import BudgetSpent, CallFailed, HarnessExtError, RunAborted
from harness_ext.protocol import Protocol, Question, Seats, SeatSetup, question_hash
from harness_ext.protocol.conversation import converse, has_parts
from harness_ext.protocol.inner import models_of
from harness_ext.records import CallResult, Failure, Solution, Transcript, Turn
from harness_ext.records.call_store import CallStore

# How long an interrupted run waits for a model to stop, in seconds. Slurm and Kubernetes kill a process 30 seconds
# after SIGTERM, and the summary is still to be written.
STOP_WITHIN = 10.0


class Observer(Interface):
    """Watches a run (progress display); called in the engine's thread."""

    def call_finished(self, backend: Backend, result: CallResult) -> None:
        """Called when a model has answered a call."""

    def turn_noted(self, before: Turn, after: Turn) -> None:
        """Called when a protocol has recorded what it read from a turn: the turn without and with that."""

    def question_finished(self, transcript: Transcript) -> None:
        """Called when a question has been answered or has failed."""


@dataclass
class Engine:
    """Runs protocols.

    store: the call store that answers repeated calls and keeps new ones. Default None: nothing is stored.
    window: the largest number of questions open at once. Default 2048.
    policy: how prompts that do not fit and empty replies are treated.
    seed: part of the keys of sampled calls, so that another seed draws anew. Default 0.
    budget: the limit on what the run may spend. Default None: no limit.
    """

    store: CallStore | None = None
    window: int = 2048
    policy: CallPolicy = field(default_factory=CallPolicy)
    seed: int = 0
    budget: Budget | None = None

    def run(
        self,
        protocol: Protocol,
        seats: Mapping[str, SeatSetup],
        questions: Iterable[Question],
        finished: Callable[[int, Transcript], None],
        observers: Sequence[Observer] = (),
    ) -> None:
        """Answer all questions.

        protocol: the protocol to run.
        seats: the setup of each seat, by name.
        questions: the questions; each is taken only when it is opened.
        finished: called as `finished(i, transcript)` once per question, in the order in which questions finish, in the
            engine's thread.
        observers: notified of every answered call and every finished question.

        A question that fails has the failure in its transcript and does not affect other questions. Raises LoadError,
        StoreError or whatever `finished` raises if the run cannot continue, and BudgetSpent if questions are left
        unfinished because their calls did not fit into the budget. Finished calls are in the store by then.
        """
        release_threads()
        run = _Run(self, protocol, seats, enumerate(questions), finished, observers)
        thread = threading.Thread(target=run.thread_main, name="harness-ext engine", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.5)  # with a timeout, so that Ctrl-C reaches the main thread at once
        except BaseException:
            run.abort_from_outside()
            thread.join(STOP_WITHIN)
            raise
        if run.error is not None:
            raise run.error


class _Run:
    """The state of one `Engine.run`. All methods but `abort_from_outside` run in the thread of the event loop."""

    def __init__(
        self,
        engine: Engine,
        protocol: Protocol,
        seats: Mapping[str, SeatSetup],
        questions: Iterator[tuple[int, Question]],
        finished: Callable[[int, Transcript], None],
        observers: Sequence[Observer],
    ) -> None:
        self.engine, self.protocol, self.seats = engine, protocol, seats
        self.questions, self.finished, self.observers = questions, finished, observers
        self.error: BaseException | None = None
        self.queues: dict[object, DeviceQueue] = {}
        self.in_flight: dict[str, asyncio.Future[CallResult]] = {}
        self.held: deque[Pending] = deque()
        self.open: set[asyncio.Task[None]] = set()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.rest = Rest()
        # Calls that the budget holds back can only be sent once others are answered.
        self.rest.outstanding = lambda: len(self.in_flight) - len(self.held)

    def thread_main(self) -> None:
        try:
            with asyncio.Runner(loop_factory=self.rest.new_loop) as runner:
                runner.run(self._main())
        except BaseException as error:
            self.error = self.error or error
        finally:
            for queue in self.queues.values():
                queue.stop()
            for queue in self.queues.values():
                queue.join(STOP_WITHIN / 2)  # a thread inside torch must not outlive the interpreter

    def abort_from_outside(self) -> None:
        self.error = self.error or RunAborted("interrupted")
        if self.loop is not None:
            with suppress(RuntimeError):  # the loop has already ended
                self.loop.call_soon_threadsafe(self._abort, self.error)

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.done = asyncio.Event()
        services: list[asyncio.Task[None]] = []
        for setup in models_of(self.seats).values():
            key = _queue_key(setup.backend)
            if key not in self.queues:
                kind = ServedQueue if isinstance(setup.backend, ServedBackend) else ThreadQueue
                self.queues[key] = kind(setup.backend.device, self.engine.policy, self._settle, self._abort, self.rest)
                services.append(asyncio.create_task(self.queues[key].serve()))
        self._open_more()
        await self.done.wait()
        for task in [*services, *self.open]:
            task.cancel()
        await asyncio.gather(*services, *self.open, return_exceptions=True)

    def _open_more(self) -> None:
        try:
            budget = self.engine.budget
            while self.error is None and len(self.open) < self.engine.window:
                if budget is not None and not budget.lets_open(len(self.open)):
                    break
                item = next(self.questions, None)
                if item is None:
                    break
                task = asyncio.create_task(self._solve(*item))
                self.open.add(task)
                task.add_done_callback(self._close)
        except Exception as error:
            self._abort(error)
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        # A call may be in flight although no question waits for it any more. It is paid for, so it is stored first.
        if not self.open and not self.in_flight:
            if self.engine.budget is not None and self.engine.budget.reached:
                self.error = self.error or BudgetSpent(self.engine.budget.message())
            self.done.set()

    def _close(self, task: asyncio.Task[None]) -> None:
        self.open.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._abort(error)
        if self.error is None:
            self._open_more()

    def _abort(self, error: BaseException) -> None:
        self.error = self.error or error
        self.done.set()

    async def _solve(self, number: int, question: Question) -> None:
        seats = Seats(question, self.seats, self._answer, self.engine.seed, self.rest.wait)
        seats.noted = self._noted
        failure: Failure | None = None
        solution = Solution("", "failed")
        try:
            solve = converse(self.protocol, question, seats) if has_parts(question) else None
            result = await (solve or self.protocol.solve(question, seats))
            solution = result if isinstance(result, Solution) else Solution(result.text)
        except CallFailed as error:
            failure = Failure(error.code, str(error), error.faults)
        except BudgetSpent:
            await seats.settled()
            return  # neither answered nor failed: the next run continues it
        except HarnessExtError:
            raise
        except asyncio.CancelledError:
            if self.done.is_set():
                raise  # the run ends
            # The protocol cancelled itself, or awaited a task that was cancelled.
            failure = Failure("protocol", f"{type(self.protocol).__name__} raised CancelledError")
        except Exception as error:
            failure = Failure("protocol", f"{type(self.protocol).__name__} raised {type(error).__name__}: {error}")
        await seats.settled()
        if self.engine.budget is not None and not all(turn.reused for turn in seats.turns):
            self.engine.budget.questions += 1
        transcript = Transcript(
            task=question.task,
            doc_id=question.doc_id,
            doc_hash=question.doc_hash,
            repeat=question.repeat,
            index=question.index,
            question=question_hash(question, self.engine.seed),
            context=question.context,
            turns=seats.turns,
            text=solution.text,
            stop=solution.stop,
            failure=failure,
            details=solution.details,
        )
        self.finished(number, transcript)
        for observer in self.observers:
            observer.question_finished(transcript)

    def _noted(self, before: Turn, after: Turn) -> None:
        for observer in self.observers:
            observer.turn_noted(before, after)

    async def _answer(self, backend: Backend, key: str, request: Request) -> tuple[CallResult, bool]:
        """Return the reply to a call and whether it was reused, from the store or from an identical call in flight."""
        stored = self.engine.store.get(key, self.engine.policy.takes) if self.engine.store is not None else None
        if stored is not None:
            return stored, True
        # The key contains everything that a reply depends on, so an identical call in flight answers this one too. The
        # future can be shared, because the tasks that await it are cancelled only when the run ends (see `Turns.call`).
        shared = self.in_flight.get(key)
        if shared is not None:
            return await shared, True
        future: asyncio.Future[CallResult] = asyncio.get_running_loop().create_future()
        self.in_flight[key] = future
        self.held.append(Pending(key, backend, request, future))
        self._send_held()
        return await future, False

    def _send_held(self) -> None:
        """Send the held calls that the budget admits; once it is spent, end those that remain."""
        budget = self.engine.budget
        while self.held:
            call = self.held[0]
            if budget is not None and not budget.take(call.key, call.backend, call.request):
                if not budget.reached:
                    return  # calls in flight may turn out cheaper than what is reserved for them
                self.held.popleft()
                self.in_flight.pop(call.key)
                call.future.set_exception(BudgetSpent(budget.message()))
            else:
                self.held.popleft()
                self.queues[_queue_key(call.backend)].submit(call)

    def _settle(self, results: Sequence[tuple[Pending, CallOutcome]]) -> None:
        """Store finished calls in one transaction, and only then let their questions continue.

        A question builds its next prompts from these replies. If it continued first and the process were killed, the
        replies would be paid for again, and a resumed sampling run would draw others and diverge from what it had done.
        """
        if self.engine.store is not None:
            try:
                self.engine.store.put([(call.key, out) for call, out in results if isinstance(out, CallResult)])
            except HarnessExtError as error:
                self._abort(error)
                return
        for call, out in results:
            self.in_flight.pop(call.key, None)
            if self.engine.budget is not None:
                self.engine.budget.settle(call.key, call.backend, out if isinstance(out, CallResult) else None)
            if not call.future.done():  # it is cancelled when the run ends
                if isinstance(out, CallResult):
                    call.future.set_result(out)
                else:
                    call.future.set_exception(out)
            if isinstance(out, CallResult):
                for observer in self.observers:
                    observer.call_finished(call.backend, out)
        self._send_held()
        self.rest.moved()
        self._end_when_idle()


def _queue_key(backend: Backend) -> object:
    """Return what identifies a backend's queue: its device, or the backend itself if a server answers."""
    return backend if isinstance(backend, ServedBackend) else backend.device

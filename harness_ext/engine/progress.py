"""The progress display of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from harness_ext.backends.base import Backend
from harness_ext.backends.served import ServedBackend
from harness_ext.records import CallResult, Transcript, Turn
from harness_ext.terminal import note

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_EVERY = 15.0  # seconds between two lines
SILENT_AT_MOST = 60.0  # seconds after which a line is printed even if nothing has changed
LOOK_EVERY = 1.0  # seconds between two looks whether it is time for a line
BAR_EVERY = 0.25  # seconds between two states of the bar
NOBODY_READS = (OSError, ValueError)  # the stream is broken or closed, which is no reason to end the run


@dataclass(frozen=True, slots=True)
class Known:
    """What a question that an earlier run has answered contributes to the figures.

    calls: how many calls its models answered.
    accepted: for each of its reviews, whether it accepted.
    unread: for each of its decisions, the seat, and whether it could not be read.
    """

    calls: int
    accepted: tuple[bool, ...]
    unread: tuple[tuple[str, bool], ...]

    @classmethod
    def of(cls, transcript: Transcript) -> Known:
        """Return what the question of a transcript contributes."""
        verdicts = [turn.verdict for turn in transcript.turns if turn.verdict is not None]
        return cls(
            sum(not turn.reused for turn in transcript.calls),
            tuple(bool(verdict["accepted"]) for verdict in verdicts if "accepted" in verdict),
            tuple((turn.seat, turn.unread) for turn in transcript.turns if turn.unread is not None),
        )


class Progress:
    """Shows the progress of a run, as a context manager and an observer of the engine.

    What is shown is the state at the time of showing it: a thread of its own looks at a clock, not at what happens.

    total: the number of questions, those included that an earlier run has answered.
    seats: the names of each backend's seats.
    terminal: whether to draw a bar instead of printing lines. Default None: a bar if `stream` is a terminal.
    stream: where to write. Default: standard error.
    clock: returns the time in seconds. Default: the system's monotonic clock.
    """

    def __init__(
        self,
        total: int,
        seats: Mapping[Backend, str],
        terminal: bool | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.seats = seats
        self.stream = stream or sys.stderr
        self.known = self.done = self.calls = self.failed = self.reviewed = self.accepted = 0
        self.decisions: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.tokens: Counter[Backend] = Counter()
        self._clock = clock
        self._busy_before = {backend: backend.meter.busy for backend in seats}
        self._started = self._said = clock()
        self._last: tuple[int, str] | None = None
        self._terminal = self.stream.isatty() if terminal is None else terminal
        self._bar: Bar | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("questions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=Console(file=self.stream), refresh_per_second=4,
            )  # fmt: skip
            self._task = self._bar.add_task("questions", total=self.total, status="")
            self._bar.start()
        if self._terminal or self.total:
            self._ticker = threading.Thread(target=self._tick, name="harness-ext progress", daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._ticker is not None:
            self._ticker.join()  # nothing may follow the last line
        with suppress(*NOBODY_READS):
            if self._bar is not None:
                self._bar.update(self._task, completed=self.done, status=self.status())
                self._bar.stop()
            elif self.total:
                self._line(self.status())

    # -- what happens, in the engine's thread ----------------------------------------------------------------------

    def call_finished(self, backend: Backend, result: CallResult) -> None:
        with self._lock:
            self.calls += 1
            self.tokens[backend] += result.completion_tokens or 0

    def turn_noted(self, before: Turn, after: Turn) -> None:
        """Count what the protocol read from a turn, whether its question is finished or not."""
        with self._lock:
            for turn, sign in ((before, -1), (after, 1)):
                if turn.verdict is not None and "accepted" in turn.verdict:
                    self.reviewed += sign
                    self.accepted += sign * bool(turn.verdict["accepted"])
                if turn.unread is not None:
                    self.decisions[turn.seat] += sign
                    self.unread[turn.seat] += sign * turn.unread

    def question_finished(self, transcript: Transcript) -> None:
        with self._lock:
            self.done += 1
            self.failed += transcript.failure is not None

    def question_known(self, question: Known) -> None:
        """Count a question that an earlier run has answered, so that the figures are those of an undisturbed run."""
        with self._lock:
            self.known += 1
            self.done += 1
            self.calls += question.calls
            self.reviewed += len(question.accepted)
            self.accepted += sum(question.accepted)
            for seat, unread in question.unread:
                self.decisions[seat] += 1
                self.unread[seat] += unread

    # -- what is shown ---------------------------------------------------------------------------------------------

    def status(self) -> str:
        """Return the figures as one line of text."""
        with self._lock:
            parts = [f"{self.calls} calls"]
            for backend, seat in self.seats.items():
                parts += self._activity(backend, seat)
            if self.reviewed:
                parts.append(f"accepted {100 * self.accepted / self.reviewed:.0f} % of {self.reviewed} reviews")
            for seat, unread in self.unread.items():
                if unread:
                    share = f"{100 * unread / self.decisions[seat]:.0f} % of {self.decisions[seat]}"
                    parts.append(f"{seat} unreadable {share}")
            if self.failed:
                parts.append(f"{self.failed} FAILED")
            return ", ".join(parts)

    def _activity(self, backend: Backend, seat: str) -> list[str]:
        parts = []
        meter = backend.meter
        tokens, seconds = self.tokens[backend] + meter.written, meter.busy - self._busy_before[backend]
        if tokens and seconds > 0:
            parts.append(f"{seat} {tokens / seconds:.0f} tokens/s")
        if meter.loading:
            parts.append(f"{seat} is loading")
        elif meter.running:
            written = f" ({meter.written} tokens so far)" if meter.written else ""
            parts.append(f"{seat} answers {meter.running}{written}")
        if isinstance(backend, ServedBackend) and backend.limited_to is not None:
            parts.append(f"{seat} limited to {backend.limited_to} of {backend.num_concurrent} requests at once")
        return parts

    def show(self) -> None:
        """Show the present state, if it is time for that; called again and again."""
        status = self.status()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, status=status)
            return
        silent = self._clock() - self._said
        if silent >= SILENT_AT_MOST or (silent >= LINE_EVERY and (self.done, status) != self._last):
            self._line(status)

    def _tick(self) -> None:
        with suppress(*NOBODY_READS):
            while not self._over.wait(BAR_EVERY if self._terminal else LOOK_EVERY):
                self.show()

    def _line(self, status: str) -> None:
        self._said, self._last = self._clock(), (self.done, status)
        elapsed = self._said - self._started
        answered = self.done - self.known
        rest = self.total - self.done
        left = f", {as_clock(elapsed / answered * rest)} left" if answered and rest > 0 else ""
        note(f"{self.done}/{self.total} questions in {as_clock(elapsed)}{left}: {status}", self.stream)


def as_clock(seconds: float) -> str:
    """Return a time in seconds as minutes and seconds (`3:05`), or hours, minutes and seconds (`1:03:05`)."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

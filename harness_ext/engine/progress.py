"""The progress display of a run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from harness_ext.backends.base import Backend
from harness_ext.records import CallResult, Transcript

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

LINE_EVERY = 15.0  # seconds between two lines
SILENT_AT_MOST = 60.0  # seconds after which a line is printed even if no call has finished


class Progress:
    """Shows the progress of a run, as a context manager and an observer of the engine.

    total: the number of questions.
    seats: the names of each backend's seats.
    terminal: whether to draw a bar instead of printing lines. Default None: a bar if `stream` is a terminal.
    stream: where to write. Default: standard error.
    """

    def __init__(
        self, total: int, seats: Mapping[Backend, str], terminal: bool | None = None, stream: TextIO | None = None
    ) -> None:
        self.total = total
        self.seats = seats
        self.stream = stream or sys.stderr
        self.done = self.calls = self.failed = self.reviewed = self.accepted = 0
        self.decisions: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.tokens: dict[str, int] = {}
        self.busy: dict[str, float] = {}
        self._started = self._said = time.monotonic()
        self._terminal = self.stream.isatty() if terminal is None else terminal
        self._bar: Bar | None = None
        self._over = threading.Event()

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
        elif self.total:
            threading.Thread(target=self._break_silence, name="harness-ext progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, status=self.status())
            self._bar.stop()
        elif self.total:
            self._line()

    def call_finished(self, backend: Backend, result: CallResult) -> None:
        self.calls += 1
        seat = self.seats[backend]
        self.tokens[seat] = self.tokens.get(seat, 0) + (result.completion_tokens or 0)
        self.busy[seat] = self.busy.get(seat, 0.0) + result.seconds
        self._show()

    def question_finished(self, transcript: Transcript) -> None:
        self.done += 1
        self.failed += transcript.failure is not None
        for turn in transcript.turns:
            if turn.verdict is not None and "accepted" in turn.verdict:
                self.reviewed += 1
                self.accepted += bool(turn.verdict["accepted"])
            if turn.unread is not None:
                self.decisions[turn.seat] += 1
                self.unread[turn.seat] += turn.unread
        self._show()

    def status(self) -> str:
        """Return the figures as one line of text."""
        parts = [f"{self.calls} calls"]
        for seat, tokens in self.tokens.items():
            if tokens and self.busy[seat] > 0:
                parts.append(f"{seat} {tokens / self.busy[seat]:.0f} tokens/s")
        if self.reviewed:
            parts.append(f"accepted {100 * self.accepted / self.reviewed:.0f} % of {self.reviewed} reviews")
        for seat, unread in self.unread.items():
            if unread:
                parts.append(f"{seat} unreadable {100 * unread / self.decisions[seat]:.0f} % of {self.decisions[seat]}")
        if self.failed:
            parts.append(f"{self.failed} FAILED")
        return ", ".join(parts)

    def _show(self) -> None:
        now = time.monotonic()
        if self._bar is not None:
            if now - self._said > 0.1:
                self._said = now
                self._bar.update(self._task, completed=self.done, status=self.status())
        elif now - self._said > LINE_EVERY:
            self._said = now
            self._line()

    def _break_silence(self) -> None:
        while not self._over.wait(SILENT_AT_MOST / 4):
            if time.monotonic() - self._said > SILENT_AT_MOST:
                self._said = time.monotonic()
                self._line()

    def _line(self) -> None:
        elapsed = time.monotonic() - self._started
        left = f", {_clock(elapsed / self.done * (self.total - self.done))} left" if 0 < self.done < self.total else ""
        print(
            f"[harness-ext] {self.done}/{self.total} questions in {_clock(elapsed)}{left}: {self.status()}",
            file=self.stream,
            flush=True,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

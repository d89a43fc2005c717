"""What a model is doing at the moment, for those who watch a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Meter:
    """Counts the calls that a model is answering, and the time in which it answers any.

    The time is that of the clock on the wall: four replies that a server writes at once for a second take one second.
    The methods may be called from any thread.

    clock: returns the time in seconds. Default: the system's monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._busy = 0.0
        self._since = 0.0
        self._written = 0
        self._loading = False

    @property
    def running(self) -> int:
        """Return how many calls the model is answering."""
        return self._running

    @property
    def loading(self) -> bool:
        """Return whether the model's weights are being loaded."""
        return self._loading

    @property
    def written(self) -> int:
        """Return how many tokens of unfinished replies have been written; 0 if the backend cannot tell."""
        return self._written

    @property
    def busy(self) -> float:
        """Return for how many seconds the model has been answering calls, in all runs of this process."""
        with self._lock:
            return self._busy + (self._clock() - self._since if self._running else 0.0)

    def started(self, calls: int = 1) -> None:
        """Take note that the model begins to answer calls."""
        with self._lock:
            if not self._running and calls:
                self._since = self._clock()
            self._running += calls

    def ended(self, calls: int = 1) -> None:
        """Take note that calls have been answered or have failed."""
        with self._lock:
            if self._running and calls >= self._running:
                self._busy += self._clock() - self._since
            self._running = max(self._running - calls, 0)

    def idle(self) -> None:
        """Take note that the model answers nothing any more, whatever had been started."""
        self.ended(self._running)
        self._written = 0

    def wrote(self, tokens: int) -> None:
        """Take note of tokens that belong to unfinished replies."""
        self._written += tokens

    def handed_over(self, tokens: int | None = None) -> None:
        """Take note that replies whose tokens were noted are finished, so that these count with the replies.

        tokens: how many tokens were noted for them. Default: all.
        """
        self._written = 0 if tokens is None else max(self._written - tokens, 0)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Take note of the loading of the weights, for as long as the context is open."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

"""Waiting for a server that is still starting: its port is closed, or it says that it is loading the model."""

from __future__ import annotations

import time
from collections.abc import Callable

from harness_ext.terminal import note

ASK_EVERY = 2.0  # seconds between two attempts
SAY_EVERY = 15.0  # seconds between two lines about it
# What a server answers, itself or through a proxy, as long as the model is not loaded.
STARTING = frozenset({"connection", "http_502", "http_503", "http_504"})


class Awaited:
    """A server that is given time to start. Once it has answered a request, it counts as started.

    name: its name in messages.
    seconds: how long to wait for it, from the first failed attempt on. With 0 it is not waited for.
    clock: returns the time in seconds. Default: the system's monotonic clock.
    say: prints a line. Default: on standard error.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.name, self.seconds = name, seconds
        self.started = seconds <= 0
        self._clock = clock
        self._say = say or note
        self._since: float | None = None
        self._said = 0.0

    def answered(self) -> None:
        """Note that the server has answered a request."""
        if not self.started and self._since is not None:
            self._say(f"{self.name} answers after {self._clock() - self._since:.0f} s")
        self.started = True

    def pause(self, fault: str, message: str, had_started: bool) -> float | None:
        """Return for how many seconds to wait until the next attempt; None if the server is not, or no longer, awaited.

        fault: what kind of failure the attempt has met, as summaries count it.
        message: what it was, for users.
        had_started: whether the server had started (`started`) when the attempt was made.
        """
        if had_started or fault not in STARTING:
            return None
        if self.started:  # it has answered another request in the meantime
            return ASK_EVERY
        now = self._clock()
        if self._since is None:
            self._since = self._said = now
            self._say(f"{self.name} does not answer yet ({message}); waiting for up to {self.seconds:.0f} s")
        if now - self._since >= self.seconds:
            return None
        if now - self._said >= SAY_EVERY:
            self._said = now
            self._say(
                f"{self.name} does not answer yet ({message}), after {now - self._since:.0f} s of {self.seconds:.0f} s"
            )
        return min(ASK_EVERY, self.seconds - (now - self._since))

"""An event loop that tells when it rests: when none of its tasks can continue by itself."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

# A loop that polls (`while not done: await asyncio.sleep(0)`) never rests. After this many passes, it counts as resting
# all the same, so that whoever waits for rest is not kept waiting for ever. No chain of tasks is nearly as long.
MOST_PASSES = 1000


class Rest:
    """Wakes coroutines once their event loop has nothing left to run.

    Then every task waits for something outside the loop: a thread, a connection, another process or a timer. The loop
    must be one that `new_loop` has made.

    The run comes to a standstill if, besides, every call that is not answered yet is parked: it waits to be sent until
    no other call can be answered. The attribute `outstanding` returns how many calls are not answered yet.
    """

    def __init__(self) -> None:
        self.outstanding: Callable[[], int] = lambda: 0
        self._waiting: list[asyncio.Future[None]] = []
        self._passes = 0
        self._parked = 0
        self._moved = asyncio.Event()

    def new_loop(self) -> asyncio.AbstractEventLoop:
        """Return a new event loop whose rest this object notices."""
        return asyncio.SelectorEventLoop(_Selector(self))

    async def wait(self) -> None:
        """Wait until the loop rests."""
        future = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._passes = 0
        self._waiting.append(future)
        await future

    def park(self, calls: int) -> None:
        """Count calls that wait for a standstill, or that a standstill has sent; a negative number takes them off."""
        self._parked += calls
        self._moved.set()

    def moved(self) -> None:
        """Note that calls have been answered."""
        self._moved.set()

    async def standstill(self) -> None:
        """Wait until the loop rests and all calls that are not answered yet are parked."""
        while True:
            self._moved.clear()
            await self.wait()
            if self.outstanding() <= self._parked:
                return
            await self._moved.wait()

    @property
    def settled(self) -> bool:
        """Return whether all calls are answered and, with a call store, stored."""
        return not self.outstanding()

    @property
    def wanted(self) -> bool:
        """Return whether a coroutine waits for rest."""
        return bool(self._waiting)

    def passed(self, resting: bool) -> None:
        """Count a pass of the loop, and wake the waiting coroutines if the loop rests or has made too many passes."""
        self._passes += 1
        if resting or self._passes >= MOST_PASSES:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)


class _Selector(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    """A selector that recognizes rest. The loop calls `select` once per pass, and lets it block if nothing is ready."""

    def __init__(self, rest: Rest) -> None:
        super().__init__()
        self._rest = rest

    def select(self, timeout: float | None = None) -> Any:
        if not self._rest.wanted:
            return super().select(timeout)
        may_block = timeout is None or timeout > 0
        events = super().select(0)
        self._rest.passed(may_block and not events)
        return events

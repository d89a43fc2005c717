"""How fast requests go to a server: as many at once as it takes, and no more per minute than the user allows."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

TOKEN_PERIOD = 10.0  # seconds whose share of `tokens_per_minute` may be used in one go
MOST_JITTER = 0.25  # by which share a wait is prolonged at most


class Pace:
    """Admits the requests to one server, in the order in which they come.

    The number in flight follows the server, by additive increase and multiplicative decrease (Chiu and Jain, 1989): it
    is halved when the server refuses a request because of a rate limit, and grows by one each time that as many
    requests were answered as are admitted. Refusals of requests that were sent before the last decrease do not count
    again. While the server wants to be left alone, nothing is sent at all.

    most: the largest number of requests in flight.
    requests_per_minute: how many requests are sent per minute, evenly spaced. Default None: no limit.
    tokens_per_minute: how many tokens of prompts and replies are spent per minute. Default None: no limit.

    The attribute `refusing_since` is the time (of the event loop) since which the server has refused every request, or
    None. Whoever gets another response sets it to None.
    """

    def __init__(
        self, most: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        self.most = most
        self.refusing_since: float | None = None
        self._allowed = float(most)
        self._in_flight = 0
        self._slowed = self._closed_until = float("-inf")
        self._owed = 0.0  # tokens that are spent and not paid for; negative if less was spent than estimated
        self._door = asyncio.Lock()  # a lock admits its waiters in order
        self._room = asyncio.Event()
        self._requests = None if requests_per_minute is None else _limiter(1, 60 / requests_per_minute)
        self._tokens = (
            None if tokens_per_minute is None else _limiter(tokens_per_minute * TOKEN_PERIOD / 60, TOKEN_PERIOD)
        )

    @property
    def allowed(self) -> int:
        """Return how many requests may be in flight."""
        return max(1, int(self._allowed))

    @property
    def is_closed(self) -> bool:
        """Return whether the server wants to be left alone at the moment."""
        return self._closed_until > asyncio.get_running_loop().time()

    @asynccontextmanager
    async def turn(self, tokens: int) -> AsyncIterator[None]:
        """Wait until a request may be sent, and hold its place while it is in flight.

        tokens: an estimate of the tokens of prompt and reply, which `answered` corrects.
        """
        async with self._door:
            while self._in_flight >= self.allowed:
                self._room.clear()
                await self._room.wait()
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                await self._pay(self._tokens, tokens)
            while (left := self._closed_until - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(left)
            self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._room.set()

    async def _pay(self, limiter: AsyncLimiter, tokens: int) -> None:
        self._owed += tokens
        while self._owed > 0:
            part = min(self._owed, limiter.max_rate)
            await limiter.acquire(part)
            self._owed -= part

    def answered(self, estimated: int, spent: int | None) -> None:
        """Note that the server has answered a request.

        estimated: the estimate of its tokens.
        spent: the tokens that the server reports, or None.
        """
        self._allowed = min(self.most, self._allowed + 1 / self._allowed)
        if self._tokens is not None and spent is not None:
            self._owed += spent - estimated
        self._room.set()

    def refused(self, sent: float, wait: float) -> None:
        """Note that the server has refused a request because of a rate limit.

        sent: when the request was sent, in the time of the event loop.
        wait: how long the server wants to be left alone, in seconds.
        """
        now = asyncio.get_running_loop().time()
        if sent >= self._slowed:
            self._allowed = max(1.0, min(self._allowed, self._in_flight) / 2)
            self._slowed = now
        if self.refusing_since is None:
            self.refusing_since = sent
        # The random part keeps several processes that were refused together from coming back together.
        self._closed_until = max(self._closed_until, now + wait * random.uniform(1, 1 + MOST_JITTER))


def _limiter(amount: float, seconds: float) -> AsyncLimiter:
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(amount, seconds)

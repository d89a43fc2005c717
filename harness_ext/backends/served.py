"""The interface between the engine and a model on a server, which answers many independent requests at a time."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from harness_ext.backends.base import (
    Backend,
    DecideRequest,
    Deliver,
    GenerateRequest,
    Request,
    ScoreRequest,
    VerifyRequest,
)
from harness_ext.records import CallResult

Ask = Callable[[Request], Awaitable[CallResult]]
PAUSE = 0.2  # seconds after which requests that no run coordinates are sent together


class Standstill(Protocol):
    """Tells when a run has come to a standstill: none of its questions can go on before parked calls are answered."""

    def park(self, calls: int) -> None:
        """Count calls that wait for a standstill, or that a standstill has sent; a negative number takes them off."""

    async def standstill(self) -> None:
        """Wait for a standstill. All results that were handed over before are stored then."""

    @property
    def settled(self) -> bool:
        """Return whether all calls are answered and stored."""


class NoRun:
    """Stands for a run where requests are sent without one (`ServedBackend.generate`)."""

    def park(self, calls: int) -> None:
        """Do nothing."""

    async def standstill(self) -> None:
        """Wait for a moment, in which other requests may come."""
        await asyncio.sleep(PAUSE)

    @property
    def settled(self) -> bool:
        return True


class ServedBackend(Backend):
    """A backend without a device. Its requests run in the engine's own event loop, at most `num_concurrent` at a time.

    New requests are sent while others are in flight, so a reply that never comes delays only its own question.

    num_concurrent: the largest number of requests in flight. Default 64.
    run: tells when the run cannot go on without this backend. The run's queue sets it.
    """

    num_concurrent: int = 64
    run: Standstill = NoRun()

    @property
    def limited_to(self) -> int | None:
        """Return how many requests are in flight at most while the server limits its rate; None if it does not."""
        return None

    @abc.abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Ask]:
        """Return a context manager for the connection of one run, which provides the function that answers a request.

        The function raises CallFailed if this request failed, and LoadError if every request would fail.
        """

    def load(self) -> None:
        """Do nothing: the server has loaded its model."""

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    def decide(self, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    async def _ask_all(self, requests: Sequence[Request], deliver: Deliver) -> None:
        slots = asyncio.Semaphore(self.num_concurrent)

        async def one(index: int, request: Request, ask: Ask) -> None:
            async with slots:
                deliver(index, await ask(request))

        async with self.connect() as ask, asyncio.TaskGroup() as group:
            for index, request in enumerate(requests):
                group.create_task(one(index, request, ask))

"""What a model that a server runs is to the engine: something that answers many requests at once, one by one."""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.records import Completion

Ask = Callable[[Request], Awaitable[Completion]]


class ServedBackend(Backend):
    """A backend without a device: its requests run in the engine's own event loop, at most `num_concurrent` at once.

    New requests join while others are on their way, so that a reply which never comes holds up its own question only.
    """

    num_concurrent: int = 64

    @abc.abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Ask]:
        """Return the connection of one run: it gives the function that answers a request.

        The function raises CallFailed where one request fails, LoadError where every one would.
        """

    def load(self) -> None:
        """A server has its model loaded."""

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        asyncio.run(self._ask_all(requests, deliver))

    async def _ask_all(self, requests: Sequence[Request], deliver: Deliver) -> None:
        slots = asyncio.Semaphore(self.num_concurrent)

        async def one(index: int, request: Request, ask: Ask) -> None:
            async with slots:
                deliver(index, await ask(request))

        async with self.connect() as ask, asyncio.TaskGroup() as group:
            for index, request in enumerate(requests):
                group.create_task(one(index, request, ask))

"""Several servers of one model: which of them gets the next request, and what happens when one fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness_ext.backends.pacing import Pace
from harness_ext.backends.waiting import STARTING, Awaited
from harness_ext.errors import LoadError
from harness_ext.terminal import note, outside

if TYPE_CHECKING:
    import aiohttp

# Failures that say something about a server, and not about the request that met them.
DOWN = STARTING | {"timeout"}
MOST_FAILURES = 3  # others, in a row, after which they do so too
FIRST_PROBE, LONGEST_PROBE = 1.0, 30.0  # seconds until a server that has failed is asked whether it is back
PROBE_TIMEOUT = 10.0
# A question leaves its server for another one if that has twice as many requests, and at least this many more.
SLACK = 8
MOST_HOMES = 100_000  # questions whose server is remembered


@dataclass(eq=False)
class PoolServer:
    """One server of a pool.

    url: its address, up to `/v1`.
    name: the model and this address, for messages.
    pace: admits the requests to it.
    awaited: gives it time to start. Default: no time.
    reached: whether it has ever answered. Default False.
    up: whether it gets requests while others are there. Default True.
    outstanding: how many requests it has, including those that wait for their turn. Default 0.
    sent: how many requests it has been given. Default 0.
    failures: how many requests in a row it has failed. Default 0.
    probe_after: seconds until it is asked whether it is back, once it has failed. Default 1.
    """

    url: str
    name: str
    pace: Pace
    awaited: Awaited = field(default_factory=lambda: Awaited("", 0))
    reached: bool = False
    up: bool = True
    outstanding: int = 0
    sent: int = 0
    failures: int = 0
    probe_after: float = field(default_factory=lambda: FIRST_PROBE)


class Pool:
    """The servers of one model, as an asynchronous context manager. A single server is a pool of one.

    A request goes to the server that has the fewest. Later requests about the same question follow it there, because
    that server's cache holds the beginning of their prompts, unless it is down or has far more to do than another one.
    A server that fails gets no requests until it answers a probe (`/models`, which costs nothing).

    servers: the servers.
    model: the model's name on them.
    session: the HTTP session for probes. Default None: no server is probed, as befits a pool of one.
    """

    def __init__(
        self, servers: Sequence[PoolServer], model: str = "", session: aiohttp.ClientSession | None = None
    ) -> None:
        self.servers = tuple(servers)
        self.model = model
        self._session = session
        self._homes: dict[str, PoolServer] = {}
        self._probes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Pool:
        """Find out which of several servers are there. Raises LoadError if one has not got the model."""
        if len(self.servers) > 1:
            problems = await asyncio.gather(*map(self._problem, self.servers))
            for problem in problems:
                if isinstance(problem, LoadError):
                    raise problem
            for server, problem in zip(self.servers, problems, strict=True):
                if problem is not None:
                    self.failed(server, "connection", str(problem))
        return self

    async def __aexit__(self, *_: object) -> None:
        for probe in self._probes:
            probe.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)

    @property
    def reached(self) -> bool:
        """Return whether any of the servers has ever answered."""
        return any(server.reached for server in self.servers)

    def others(self, tried: Collection[PoolServer]) -> bool:
        """Return whether there is a server that is up and was not tried."""
        return any(server.up and server not in tried for server in self.servers)

    @asynccontextmanager
    async def turn(self, affinity: str, tokens: int, tried: Collection[PoolServer]) -> AsyncIterator[PoolServer]:
        """Choose a server, wait until a request may be sent to it, and hold its place while it is in flight.

        affinity: requests with the same text go to the same server; those with an empty one to any.
        tokens: an estimate of the tokens of prompt and reply.
        tried: the servers that have failed this request, which are chosen last.
        """
        while True:
            server = self._choose(affinity, tried)
            server.outstanding += 1
            server.sent += 1
            try:
                async with server.pace.turn(tokens):
                    if server.up or not self.others(tried):  # it may have failed while this request waited
                        yield server
                        return
            finally:
                server.outstanding -= 1

    def _choose(self, affinity: str, tried: Collection[PoolServer]) -> PoolServer:
        if len(self.servers) == 1:
            return self.servers[0]
        up = [server for server in self.servers if server.up]
        free = [server for server in up if server not in tried] or up or list(self.servers)
        free = [server for server in free if not server.pace.is_closed] or free
        chosen = min(free, key=lambda server: (server.outstanding, server.sent))
        if not affinity:
            return chosen
        home = self._homes.pop(affinity, chosen)
        if home in free and home.outstanding <= max(2 * chosen.outstanding, chosen.outstanding + SLACK):
            chosen = home
        self._homes[affinity] = chosen
        if len(self._homes) > MOST_HOMES:
            del self._homes[next(iter(self._homes))]  # the question that was asked least recently
        return chosen

    def answered(self, server: PoolServer) -> None:
        """Note that a server has answered a request."""
        server.awaited.answered()
        server.probe_after, server.failures = FIRST_PROBE, 0
        self._is_back(server)

    def _is_back(self, server: PoolServer) -> None:
        if not server.up:
            server.up, server.failures = True, 0
            note(f"{server.name} is there again")

    def failed(self, server: PoolServer, fault: str, message: str) -> None:
        """Note that a server has failed a request.

        server: the server.
        fault: what kind of failure it was, as summaries count it.
        message: what it was, for users.

        If there are other servers and the failure is not that of one request alone, it gets no more until it is back.
        """
        server.failures += 1
        is_down = fault in DOWN or server.failures >= MOST_FAILURES
        if len(self.servers) == 1 or not is_down or not server.up:
            return
        server.up = False
        if any(other.up for other in self.servers):
            note(f"{server.name} does not answer ({message}): the other servers get its requests")
        else:
            note(f"{server.name} does not answer ({message}), nor does any other server")
        probe = asyncio.create_task(self._take_back(server))
        self._probes.add(probe)
        probe.add_done_callback(self._probes.discard)

    async def _take_back(self, server: PoolServer) -> None:
        while not server.up:
            await asyncio.sleep(server.probe_after)
            # Doubled until it answers a request: a server may answer probes and nothing else.
            server.probe_after = min(2 * server.probe_after, LONGEST_PROBE)
            if await self._problem(server) is None:
                self._is_back(server)

    async def _problem(self, server: PoolServer) -> str | LoadError | None:
        """Return why a server cannot be used: a text if it does not answer, an error if it has another model."""
        import aiohttp

        if self._session is None:
            return None
        limit = aiohttp.ClientTimeout(total=PROBE_TIMEOUT)
        try:
            async with self._session.get(f"{server.url}/models", timeout=limit, allow_redirects=False) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return f"{type(error).__name__}: {outside(error)}"
        if f"http_{response.status}" in STARTING:
            return f"HTTP {response.status}"
        server.reached = True
        if response.status == 200:
            with suppress(ValueError, TypeError, KeyError, AttributeError):
                named = [str(entry["id"]) for entry in json.loads(content)["data"]]
                if named and self.model not in named:
                    return LoadError(
                        f"{server.name} has no model of this name, only {outside(', '.join(named), 200)}: give all "
                        "servers of a pool the same model under the same name (vLLM: `--served-model-name`, "
                        "llama.cpp: `--alias`)"
                    )
        return None

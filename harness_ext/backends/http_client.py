"""Requests to an unreliable server: which failures are retried, after how long, and how they are counted."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness_ext.backends.pool import Pool, PoolServer
from harness_ext.errors import CallFailed, LoadError
from harness_ext.records import CallResult, TokenCounts, add
from harness_ext.terminal import outside

if TYPE_CHECKING:
    import aiohttp

RETRIED = frozenset({408, 409, 425, 429}) | (frozenset(range(500, 600)) - {501})
# Every further request would be refused as well: wrong key, no credit, unknown model or path, wrong method.
HOPELESS = frozenset({401, 402, 404, 405, 501})
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds
LONGEST_MESSAGE = 600  # characters of a message that quotes a server
# For the estimate of a request's tokens before the server reports them.
BYTES_PER_TOKEN = 4
TOKENS_PER_IMAGE = 1000
# If a server has never been reached, the run ends after this many attempts: most likely its address is wrong.
ATTEMPTS_TO_FIND = 3
# What servers write about a prompt that does not fit; they share no error code.
TOO_LONG = (
    *("context_length", "context length", "context size", "context window", "maximum context", "too long"),
    *("input token count", "`inputs` must have less than", "reduce the length", "`inputs` tokens + `max_new_tokens`"),
)


class Fault(Exception):
    """A failed attempt that is worth a retry.

    name: the name by which summaries count it.
    message: the cause, for users.
    wait: how long the server asks to wait, in seconds. Default None: it does not say.
    busy: whether the server is well and only limits its rate, so that the attempt is no failure. Default False.
    """

    def __init__(self, name: str, message: str, wait: float | None = None, busy: bool = False) -> None:
        self.name = name
        self.wait = wait
        self.busy = busy
        super().__init__(outside(message, LONGEST_MESSAGE))


Scope = Literal["server", "shape", "request"]
Lacks = Callable[[int, str], Scope | None]


class NotOffered(Exception):
    """The server has not got what was asked for, so that something else may be tried.

    scope: what this is true of: every request to this `server`, those for questions of this `shape` (its type and its
        labels), or this `request` alone.
    message: what the server said, for users.
    spent: the tokens of a reply that could not be used. Default None: there was none.

    The attribute `faults` lists what went wrong in earlier attempts.
    """

    def __init__(self, scope: Scope, message: str, spent: TokenCounts | None = None) -> None:
        self.scope: Scope = scope
        self.spent = spent
        self.faults: tuple[str, ...] = ()
        super().__init__(outside(message, LONGEST_MESSAGE))


class Poster(Protocol):
    """Posts JSON and returns the result: one request at a time (`Client`), or many in a batch."""

    async def post(
        self,
        path: str,
        body: bytes,
        read: Callable[[Any], CallResult],
        lacks: Lacks | None = None,
        tokens: int | None = None,
        affinity: str = "",
    ) -> CallResult:
        """Return the result of a request, as `Client.post` does."""


@dataclass
class Client:
    """Posts JSON until there is a reply.

    Between two attempts it waits as long as the server asks (`Retry-After`). Otherwise the wait begins at 0.5 s and is
    doubled with each attempt up to a minute, less a random part of up to a half. A server that limits its rate (429, or
    503 with `Retry-After`) is not at fault: all requests wait, fewer are sent at once, and no retry is used up.

    A request that fails on one server of a pool is sent to another one at once, if there is one.

    session: the HTTP session.
    max_retries: how often a failed request is retried.
    timeout: the time that one attempt may take, in seconds.
    pool: the servers.
    connect_timeout: the time that it may take to connect, in seconds. Default: no limit of its own.
    max_wait: how long a request may wait for a server that limits its rate and answers nobody, in seconds. Default
        3600.
    ended: returns why the server cannot answer any more, and None if it may. Default: that is never known.
    """

    session: aiohttp.ClientSession
    max_retries: int
    timeout: float
    pool: Pool
    connect_timeout: float | None = None
    max_wait: float = 3600.0
    ended: Callable[[], str | None] = lambda: None

    async def post(
        self,
        path: str,
        body: bytes,
        read: Callable[[Any], CallResult],
        lacks: Lacks | None = None,
        tokens: int | None = None,
        affinity: str = "",
    ) -> CallResult:
        """Post a request, retrying it as needed, and return the result.

        path: the address, from `/v1/` on.
        body: the request's JSON.
        read: converts the reply's JSON to a result. It may raise Fault, KeyError, TypeError and the like for a
            malformed reply, which then counts as a failed attempt, and NotOffered.
        lacks: called with the status and the text of a refusal; returns of what it is true that the server has not got
            what was asked for, or None if the refusal means something else. Default None: it always does.
        tokens: an estimate of the tokens of prompt and reply, for a limit on tokens. Default: that of the body.
        affinity: requests with the same text go to the same server of a pool. Default: to any.

        Raises CallFailed if all attempts failed or the request was refused, LoadError if every request would be, and
        NotOffered as described.
        """
        faults: list[str] = []
        failed = refused = 0
        waited: dict[PoolServer, float] = {}
        tried: set[PoolServer] = set()
        estimate = len(body) // BYTES_PER_TOKEN + 1 if tokens is None else tokens
        while True:
            async with self.pool.turn(affinity, estimate, tried) as server:
                had_started = server.awaited.started
                started, sent = time.perf_counter(), asyncio.get_running_loop().time()
                try:
                    data = await self._attempt(server, path, body, lacks)
                    completion = read(data)
                    self.pool.answered(server)
                    server.pace.answered(estimate, add(completion.prompt_tokens, completion.completion_tokens))
                    return replace(completion, seconds=time.perf_counter() - started, faults=tuple(faults))
                except NotOffered as raised:
                    self.pool.answered(server)
                    raised.faults = tuple(faults)
                    raise
                except Fault as raised:
                    fault = raised
                except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
                    fault = Fault("bad_reply", f"a malformed reply ({type(error).__name__}: {outside(error)})")
                starting = server.awaited.pause(fault.name, str(fault), had_started)
                if starting is None:
                    faults.append(fault.name)
                if fault.busy and starting is None:
                    refused += 1
                    wait = backoff(refused) if fault.wait is None else fault.wait
                    waited[server] = waited.get(server, 0.0) + wait
                    since = server.pace.refusing_since
                    if waited[server] > self.max_wait or (since is not None and sent + wait - since > self.max_wait):
                        tried.add(server)
                        if not self.pool.others(tried):
                            raise given_up(server.name, self.max_wait, fault, faults, wait)
                        continue
                    server.pace.refused(sent, wait)
                    continue
            self.pool.failed(server, fault.name, str(fault))
            tried.add(server)
            if starting is not None:
                if not self.pool.others(tried):
                    await asyncio.sleep(starting)
                    tried.clear()
                continue
            if fault.name == "connection" and (ended := self.ended()) is not None:
                raise LoadError(ended)
            failed += 1
            if not self.pool.reached and failed >= max(ATTEMPTS_TO_FIND, len(self.pool.servers)):
                where = ", ".join(f"{one.url}/{path}" for one in self.pool.servers)
                raise LoadError(f"no server answers at {where}: {fault}. Is it running, and is the address right?")
            wait = backoff(failed) if fault.wait is None else fault.wait
            elsewhere = self.pool.others(tried)
            if failed > self.max_retries or (wait > self.max_wait and not elsewhere):
                raise given_up(server.name, self.max_wait, fault, faults, wait if wait > self.max_wait else None)
            if not elsewhere:
                await asyncio.sleep(wait)
                tried.clear()

    async def _attempt(self, server: PoolServer, path: str, body: bytes, lacks: Lacks | None) -> Any:
        """Return the reply's JSON; raises Fault, CallFailed, LoadError or NotOffered."""
        content = await self.exchange(server, "POST", path, body, lacks)
        try:
            return json.loads(content)
        except ValueError:
            raise Fault("bad_json", f"a reply that is not JSON ({len(content)} bytes)") from None
        except RecursionError:
            raise Fault("bad_json", f"a reply that is nested too deeply ({len(content)} bytes)") from None

    async def exchange(
        self,
        server: PoolServer,
        method: str,
        path: str,
        data: Any = None,
        lacks: Lacks | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the content of the response to one attempt.

        server: the server.
        method: `GET` or `POST`.
        path: the address, from `/v1/` on.
        data: what is sent. Default: nothing.
        lacks: as in `post`.
        headers: headers of this request. Default: those of the session.

        Raises Fault if it is worth a retry, CallFailed, LoadError or NotOffered.
        """
        import aiohttp

        url = f"{server.url}/{path}"
        try:
            more: dict[str, Any] = {} if headers is None else {"headers": headers}
            send = self.session.get if method == "GET" else self.session.post
            async with send(url, data=data, allow_redirects=False, **more) as response:
                server.reached = True
                content = await response.read()
        except aiohttp.ConnectionTimeoutError:
            raise Fault("connection", f"no connection within {self.connect_timeout or self.timeout:g} s") from None
        except TimeoutError:
            raise Fault("timeout", f"no reply within {self.timeout:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise LoadError(
                f"the certificate of {url} is not valid: {outside(error)}. Is the address right?"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Fault("connection", f"{type(error).__name__}: {outside(error)}") from error
        if not is_busy(response.status, response.headers):
            server.pace.refusing_since = None
        if 200 <= response.status < 300:
            return content
        raise refusal(server.name, response.status, response.headers, content, lacks)


def refusal(name: str, status: int, headers: Any, content: bytes, lacks: Lacks | None = None) -> Exception:
    """Return what a response without a reply means: Fault, CallFailed, LoadError or NotOffered.

    name: the server's name in messages.
    status: the HTTP status.
    headers: the headers.
    content: the content.
    lacks: as in `Client.post`. Default: None.
    """
    text = outside(content.decode("utf-8", "replace"))
    message = f"HTTP {status}: {text}" if text else f"HTTP {status}"
    too_long = any(mark in text.lower() for mark in TOO_LONG)
    if lacks is not None and not too_long and (scope := lacks(status, text)) is not None:
        return NotOffered(scope, message)
    if status in HOPELESS or "insufficient_quota" in text:
        remedy = ": is the key in the environment the right one?" if status == 401 else ""
        return LoadError(f"{name} refuses every request ({message}){remedy}")
    if 300 <= status < 400:
        return LoadError(f"{name} has moved to {outside(headers.get('Location', '?'))}: use that address")
    if status in RETRIED:
        return Fault(f"http_{status}", message, retry_after(headers), is_busy(status, headers))
    return CallFailed("overflow" if too_long else "backend", f"{name} refuses this request ({message})")


def given_up(name: str, max_wait: float, fault: Fault, faults: Sequence[str], wait: float | None = None) -> CallFailed:
    """Return the failure of a call whose last attempt met `fault`; `wait` if it failed because of a wait."""
    counts = ", ".join(f"{kind} {count}×" for kind, count in Counter(faults).items())
    asked = ""
    if wait is not None:
        asks = "asks to wait" if fault.wait is not None else "would have to be left alone for"
        asked = (
            f", and the server {asks} {wait:.0f} s: run the same command again later, or allow longer waits "
            f"(`max_wait`, now {max_wait:g} s)"
        )
    return CallFailed("backend", f"{name}: {fault}; failed attempts: {counts}{asked}", faults=tuple(faults))


def is_busy(status: int, headers: Any) -> bool:
    """Return whether a response means that the server is well and limits its rate."""
    return status == 429 or (status == 503 and retry_after(headers) is not None)


def backoff(attempts: int) -> float:
    """Return how many seconds to wait after this many failed attempts if the server does not say.

    The random part spreads out the retries of many requests that failed together.
    """
    return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempts - 1)) * random.uniform(0.5, 1.0)


def retry_after(headers: Any) -> float | None:
    """Return how many seconds the headers ask to wait, from `retry-after-ms` or `Retry-After` (seconds or a date)."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
        if (value := headers.get("Retry-After")) is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None

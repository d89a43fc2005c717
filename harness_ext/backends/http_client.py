"""Requests to an unreliable server: which failures are retried, after how long, and how they are counted."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from harness_ext.errors import CallFailed, LoadError
from harness_ext.records import CallResult, TokenCounts

if TYPE_CHECKING:
    import aiohttp

RETRIED = frozenset({408, 409, 425, 429}) | (frozenset(range(500, 600)) - {501})
# Every further request would be refused as well: wrong key, no credit, unknown model or path, wrong method.
HOPELESS = frozenset({401, 402, 404, 405, 501})
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0  # seconds
# If a server has never been reached, the run ends after this many attempts: most likely its address is wrong.
ATTEMPTS_TO_FIND = 3
# What servers write about a prompt that does not fit; they share no error code.
TOO_LONG = ("context_length_exceeded", "context length", "context window", "maximum context", "too long")


class Fault(Exception):
    """A failed attempt that is worth a retry.

    name: the name by which summaries count it.
    message: the cause, for users.
    wait: how long the server asks to wait, in seconds. Default None: it does not say.
    """

    def __init__(self, name: str, message: str, wait: float | None = None) -> None:
        self.name = name
        self.wait = wait
        super().__init__(message)


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
        super().__init__(message)


@dataclass
class Client:
    """Posts JSON until there is a reply.

    Between two attempts it waits as long as the server asks (`Retry-After`). Otherwise the wait begins at 0.5 s and is
    doubled with each attempt up to a minute, less a random part of up to a half.

    session: the HTTP session.
    name: the model's name in messages.
    max_retries: how often a failed request is retried.
    timeout: the time that one attempt may take, in seconds.
    secret: the API key, which is removed from messages. Default: none.
    reached: whether the server has ever answered. Default False.
    """

    session: aiohttp.ClientSession
    name: str
    max_retries: int
    timeout: float
    secret: str = ""
    reached: bool = False

    async def post(
        self, url: str, body: bytes, read: Callable[[Any], CallResult], lacks: Lacks | None = None
    ) -> CallResult:
        """Post a request, retrying it as needed, and return the result.

        url: the address.
        body: the request's JSON.
        read: converts the reply's JSON to a result. It may raise Fault, KeyError, TypeError and the like for a
            malformed reply, which then counts as a failed attempt, and NotOffered.
        lacks: called with the status and the text of a refusal; returns of what it is true that the server has not got
            what was asked for, or None if the refusal means something else. Default None: it always does.

        Raises CallFailed if all attempts failed or the request was refused, LoadError if every request would be, and
        NotOffered as described.
        """
        faults: list[str] = []
        while True:
            started = time.perf_counter()
            try:
                completion = read(await self._attempt(url, body, lacks))
                return replace(completion, seconds=time.perf_counter() - started, faults=tuple(faults))
            except NotOffered as raised:
                raised.faults = tuple(faults)
                raise
            except Fault as raised:
                fault = raised
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                fault = Fault("bad_reply", f"a malformed reply ({type(error).__name__}: {error})")
            faults.append(fault.name)
            if not self.reached and len(faults) >= ATTEMPTS_TO_FIND:
                raise LoadError(f"no server answers at {url}: {fault}. Is it running, and is the address right?")
            too_long = fault.wait is not None and fault.wait > max(self.timeout, LONGEST_WAIT)
            if len(faults) > self.max_retries or too_long:
                counts = ", ".join(f"{name} {count}×" for name, count in Counter(faults).items())
                asked = f", and the server asks to wait {fault.wait:.0f} s" if too_long else ""
                message = f"{self.name}: {fault}; failed attempts: {counts}{asked}"
                raise CallFailed("backend", message, faults=tuple(faults))
            await asyncio.sleep(backoff(len(faults)) if fault.wait is None else fault.wait)

    async def _attempt(self, url: str, body: bytes, lacks: Lacks | None) -> Any:
        """Return the reply's JSON; raises Fault, CallFailed, LoadError or NotOffered."""
        import aiohttp

        try:
            async with self.session.post(url, data=body, allow_redirects=False) as response:
                self.reached = True
                content = await response.read()
        except TimeoutError:
            raise Fault("timeout", f"no reply within {self.timeout:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise LoadError(
                f"the certificate of {url} is not valid: {self._clean(str(error))}. Is the address right?"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Fault("connection", self._clean(f"{type(error).__name__}: {error}")) from error
        if response.status == 200:
            try:
                return json.loads(content)
            except ValueError:
                raise Fault("bad_json", f"a reply that is not JSON ({len(content)} bytes)") from None
        raise self._refused(response.status, response.headers, content, lacks)

    def _refused(self, status: int, headers: Any, content: bytes, lacks: Lacks | None) -> Exception:
        text = self._clean(content.decode("utf-8", "replace"))
        message = f"HTTP {status}: {text}" if text else f"HTTP {status}"
        too_long = any(mark in text.lower() for mark in TOO_LONG)
        if lacks is not None and not too_long and (scope := lacks(status, text)) is not None:
            return NotOffered(scope, message)
        if status in HOPELESS or "insufficient_quota" in text:
            remedy = ": is the key in the environment the right one?" if status == 401 else ""
            return LoadError(f"{self.name} refuses every request ({message}){remedy}")
        if 300 <= status < 400:
            return LoadError(f"{self.name} has moved to {self._clean(headers.get('Location', '?'))}: use that address")
        if status in RETRIED:
            return Fault(f"http_{status}", message, retry_after(headers))
        return CallFailed("overflow" if too_long else "backend", f"{self.name} refuses this request ({message})")

    def _clean(self, text: str) -> str:
        """Return a server's message as one line without control characters and API key, for terminals and records."""
        if self.secret:
            text = text.replace(self.secret, "***")
        return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:300]


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
    except (ValueError, TypeError):
        return None

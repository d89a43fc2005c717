"""The files of a batch API: the requests that are sent, and the lines in which their results come back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.backends.http_client import Fault

# What OpenAI takes in one file.
MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000
MISSING = "batch_missing"  # the fault of a request about which a batch says nothing


@dataclass(frozen=True)
class Line:
    """The result of one request of a batch.

    status: the HTTP status of its response. Default 0: there is none.
    body: the JSON of its response.
    fault: by which name summaries count that there is none. Default: there is one.
    message: the cause, for users.
    seconds: the request's share of the time that the batch took. Default 0.
    is_ours: whether this run has sent the request. Default True.
    """

    status: int = 0
    body: Any = None
    fault: str = ""
    message: str = ""
    seconds: float = 0.0
    is_ours: bool = True

    @property
    def is_good(self) -> bool:
        """Return whether there is a reply."""
        return not self.fault and 200 <= self.status < 300

    def raise_fault(self) -> None:
        """Raise Fault if there is no response."""
        if self.fault:
            raise Fault(self.fault, self.message)


def custom_id(path: str, body: bytes, draw: int) -> str:
    """Return the name of a request, which is the same in all runs.

    path: the address, from `/v1/` on.
    body: the request's JSON.
    draw: what tells the draws of one prompt apart, also where a server takes no seed.
    """
    digest = hashlib.sha256(b"\0".join((path.encode(), str(draw).encode(), body)))
    return digest.hexdigest()[:48]


def request_line(name: str, endpoint: str, body: bytes) -> bytes:
    """Return the line of a request: its `custom_id`, its endpoint and its JSON."""
    head = json.dumps({"custom_id": name, "method": "POST", "url": endpoint})
    return head[:-1].encode() + b', "body": ' + body + b"}\n"


def split(lines: Mapping[str, bytes], most: int, most_bytes: int) -> Iterator[list[str]]:
    """Divide requests among files.

    lines: the lines of the requests, by `custom_id`.
    most: the largest number of requests in a file.
    most_bytes: the largest size of a file, which no line exceeds.
    """
    part: list[str] = []
    size = 0
    for name, line in lines.items():
        if part and (len(part) >= most or size + len(line) > most_bytes):
            yield part
            part, size = [], 0
        part.append(name)
        size += len(line)
    if part:
        yield part


@dataclass
class Found:
    """What the files of a finished batch contain.

    lines: the results by `custom_id`.
    strange: how many lines belong to no request of the batch, or cannot be read.
    repeated: how many requests have several results, of which the first reply counts.
    """

    lines: dict[str, Line]
    strange: int = 0
    repeated: int = 0


def read_lines(files: Iterable[bytes], asked: Collection[str]) -> Found:
    """Read the files of a finished batch, whose lines are in any order.

    files: the contents of the files.
    asked: the `custom_id` of each request.
    """
    asked = frozenset(asked)
    found = Found({})
    for content in files:
        for text in content.split(b"\n"):
            if not text.strip():
                continue
            named = _read_line(text)
            if named is None or named[0] not in asked:
                found.strange += 1
                continue
            name, line = named
            known = found.lines.get(name)
            found.repeated += known is not None
            if known is None or (line.is_good and not known.is_good):
                found.lines[name] = line
    return found


def _read_line(text: bytes) -> tuple[str, Line] | None:
    try:
        data = json.loads(text)
        name, response, error = data["custom_id"], data.get("response"), data.get("error")
        if not isinstance(name, str):
            return None
        if response is not None:
            return name, Line(int(response["status_code"]), response.get("body"))
        code, message = (error or {}).get("code"), (error or {}).get("message")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    known = isinstance(code, str) and re.fullmatch(r"[a-z][a-z_]{0,40}", code)
    fault = f"batch_{str(code).removeprefix('batch_')}" if known else "batch_error"
    return name, Line(fault=fault, message=str(message or "the batch reports an error without a message"))


def with_shares(found: Found, asked: Sequence[str], seconds: float) -> dict[str, Line]:
    """Return the result of each request of a batch, with its share of the time.

    found: what its files contain.
    asked: the `custom_id` of each request.
    seconds: how long the batch took.
    """
    share = max(seconds, 0.0) / len(asked)
    missing = Line(fault=MISSING, message="the files of the batch say nothing about this request")
    lines = {name: found.lines.get(name, missing) for name in asked}
    return {name: Line(line.status, line.body, line.fault, line.message, share) for name, line in lines.items()}

"""Decisions through a batch API: a way to ask for them is tried by itself first, since a batch takes hours to fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness_ext.backends.batch_client import BatchClient
from harness_ext.backends.http_client import Client, Lacks
from harness_ext.records import CallResult

IN_BATCHES = ("chat/completions", "completions")  # batch APIs know no endpoints for decisions
Kind = tuple[str, frozenset[str]]


@dataclass
class TriedFirst:
    """Posts requests in batches once one of their kind, with the same fields, has succeeded by itself.

    client: the connection.
    batched: the batch API.
    succeeded: the kinds that have; extended here.
    """

    client: Client
    batched: BatchClient
    succeeded: set[Kind]

    async def post(
        self,
        path: str,
        body: bytes,
        read: Callable[[Any], CallResult],
        lacks: Lacks | None = None,
        tokens: int | None = None,
        affinity: str = "",
    ) -> CallResult:
        """Return the result of a request. The arguments and the errors are those of `Client.post`."""
        kind = path, frozenset(json.loads(body))
        if path in IN_BATCHES and kind in self.succeeded:
            return await self.batched.post(path, body, read, lacks)
        result = await self.client.post(path, body, read, lacks, tokens, affinity)
        self.succeeded.add(kind)
        return result

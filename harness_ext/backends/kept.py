"""Models that stay loaded from one run to the next within a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from harness_ext.backends.base import Backend

_kept: ContextVar[dict[Any, Backend] | None] = ContextVar("kept", default=None)


@contextmanager
def backends_kept() -> Iterator[dict[Any, Backend]]:
    """Let all runs that are planned within the block share the models with equal specifications, as the seats of one
    run do. Gives the backends by the identity of their specifications; after the block, nothing holds them any more.
    """
    kept: dict[Any, Backend] = {}
    token = _kept.set(kept)
    try:
        yield kept
    finally:
        _kept.reset(token)


def kept_backends() -> dict[Any, Backend]:
    """Return the backends of earlier runs that a new run may use: none outside `backends_kept`."""
    kept = _kept.get()
    return {} if kept is None else kept

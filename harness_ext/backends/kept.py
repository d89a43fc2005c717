"""Models that stay loaded from one run to the next within a process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness_ext.backends.base import Backend

_kept: dict[Any, Backend] | None = None


@contextmanager
def backends_kept() -> Iterator[dict[Any, Backend]]:
    """Let all runs that are planned within the block share the models with equal specifications, as the seats of one
    run do. Gives the backends by the identity of their specifications; after the block, nothing holds them any more.
    """
    global _kept
    before, _kept = _kept, {}
    try:
        yield _kept
    finally:
        _kept = before


def kept_backends() -> dict[Any, Backend]:
    """Return the backends of earlier runs that a new run may use: none outside `backends_kept`."""
    return {} if _kept is None else _kept

"""Keeps Python's garbage collector from costing more than what it collects."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settled_heap() -> Iterator[None]:
    """Keep Python's garbage collector from searching what existed before a run, over and over, while the run lasts.

    Tasks, requests and models are many objects, and stay. What the run itself creates is collected as always. If
    somebody else has frozen objects, no others are.
    """
    gc.collect()  # garbage must not be kept for as long as the run: it may hold a model that was given up
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()

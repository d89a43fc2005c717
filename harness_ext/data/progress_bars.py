"""The progress bars of `datasets`, kept out of files and pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Let `datasets` show progress bars on a terminal only, and only those of the main process."""
    import datasets

    shown = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"
    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()

"""The threads that PyTorch computes with on a CPU."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_SOFT = 1  # omp_pause_soft: the threads end, and what was set with omp_set_num_threads stays


def release_threads() -> None:
    """End the OpenMP threads that computed for the calling thread; its next computation starts them again.

    Every Python thread that computes has a team of OpenMP threads. With more of them than cores, GCC's OpenMP runtime
    no longer lets them wait actively for their next piece of work, and a model's pass over one token takes 1.6 times as
    long on two cores. A run computes in a thread of its own, so whoever has computed before, as in a notebook, releases
    its threads first. Nothing happens without PyTorch, or with a runtime that cannot do it.
    """
    if "torch" in sys.modules:
        with suppress(AttributeError, OSError, TypeError):
            ctypes.CDLL(None).omp_pause_resource_all(_SOFT)

"""The threads that PyTorch computes with on a CPU, apart from those of the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os
import torch
from harness_ext.engine.openmp import release_threads

threads = lambda: len(os.listdir("/proc/self/task"))
release_threads()
before = threads()
values = torch.randn(1 << 20)
result = values.exp()
computing = threads()
release_threads()
released = threads()
again = values.exp()
print(before, computing, released, threads(), bool((result == again).all()))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_threads_that_have_computed_are_released_and_come_back() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    before, computing, released, again, equal = done.stdout.split()
    assert int(before) == int(released) < int(computing) == int(again)
    assert equal == "True"

"""Fixtures for all tests: `data_dir`, the folder of real rows."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# No test needs the hub; asking it costs time-outs on a machine without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The embedded pair runs slower on more threads than on one, above all when other work wants the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder that HARNESS_EXT_DATA names; without it the test is skipped, and pytest's summary counts it."""
    folder = os.environ.get("HARNESS_EXT_DATA")
    if not folder:
        pytest.skip("HARNESS_EXT_DATA is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"HARNESS_EXT_DATA names no folder: {folder}")
    return Path(folder)

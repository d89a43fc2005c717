"""Fixtures for all tests."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from real_models import small_model

# No test needs the hub, and on a machine without a network every request to it would wait for a time-out.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# The embedded pair is slower with several threads than with one, especially if other processes use the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests leave nothing in the user's cache of data sets. Their processes, and those of pytest-xdist, share this one.
if "HF_DATASETS_CACHE" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="harness_ext_datasets_")
    os.environ["HF_DATASETS_CACHE"] = _cache.name
# Deadlines, and the check whether examples are drawn fast enough, would make a test depend on what else the machine is
# doing.
settings.register_profile("harness_ext", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("harness_ext")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real rows that HARNESS_EXT_DATA names; skip the test if it is not set."""
    folder = os.environ.get("HARNESS_EXT_DATA")
    if not folder:
        pytest.skip("HARNESS_EXT_DATA is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"HARNESS_EXT_DATA is not a folder: {folder}")
    return Path(folder)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Return the folder of SmolLM2-135M-Instruct with four of its layers; skip the test if it cannot be had."""
    return small_model("smollm2")


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Return the folder of the base model Gemma 3 270M with two of its layers; skip the test if it cannot be had."""
    return small_model("gemma")


# A shell ignores Ctrl-C in what it starts in the background, and processes inherit that. Tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_before() -> None:
    """Undo what another test did to the logging of the whole process: lm-eval sets it up in its own way."""
    logging.disable(logging.NOTSET)
    logging.root.setLevel(logging.WARNING)
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.startswith(("lm_eval", "harness_ext")):
            logger.propagate, logger.disabled = True, False
            if logger.level > logging.WARNING:
                logger.setLevel(logging.NOTSET)

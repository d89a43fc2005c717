"""Fixtures for all tests."""

from __future__ import annotations

import functools
import gc
import logging
import os
import pickle
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

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


# Files that take a minute or so although they have few tests, mostly because they wait for other processes. They come
# first, or one worker would still be busy with one of them when all others have nothing left to do. Those that start
# many processes alternate with those that compute in one.
LONG_FILES = (
    "test_suite_slurm_real.py", "test_real_exact.py", "test_suite_run.py", "test_real_finetune.py",
    "test_distributed.py", "test_view_browser.py", "test_slurm_cluster.py", "test_finetune_train.py",
    "test_finetune_trackers.py",
)  # fmt: skip
# What their tests take depends on what else the machine does, so that the limit of all tests could end them.
LONG_TIMEOUT = 1200  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FILES.index(name) if (name := item.path.name) in LONG_FILES else len(LONG_FILES))
    for item in items:
        if item.path.name in LONG_FILES and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT))


@pytest.fixture(scope="module", autouse=True)
def nothing_is_done_over_and_over() -> None:
    """Keep what takes seconds from being done in every test of a process.

    Each of hundreds of runs begins with a search for garbage; what exists before the tests of a file is left out of it.
    lm-eval reads the files of its own tasks, and describes the machine, for each list of tasks and each evaluation.
    Here it does so once, and whoever asks gets objects of its own.
    """
    gc.collect()
    gc.freeze()
    if (index := sys.modules.get("lm_eval.tasks._index")) and not hasattr(index.load_yaml, "known"):
        index.load_yaml = remembering(index.load_yaml, f"{Path(index.__file__).parent}{os.sep}")
    if "torch" in sys.modules:
        from torch.utils import collect_env

        if not hasattr(collect_env.get_pretty_env_info, "cache_info"):
            collect_env.get_pretty_env_info = functools.cache(collect_env.get_pretty_env_info)


def remembering(load: Any, folder: str) -> Any:
    """Return a function that loads YAML as `load` does, but each file below a folder only once."""
    known: dict[Any, bytes] = {}

    def loaded(path: Path, **options: Any) -> Any:
        if not str(path).startswith(folder):
            return load(path, **options)
        key = (path, *sorted(options.items()))
        if key not in known:
            known[key] = pickle.dumps(load(path, **options))
        return pickle.loads(known[key])

    loaded.known = known  # type: ignore[attr-defined]
    return loaded

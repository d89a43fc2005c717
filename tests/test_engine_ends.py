"""Tests of runs that end early (Ctrl-C, errors) and of runs inside a notebook's event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support import instances

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.models.baseline import BaselineLM


def test_ctrl_c_ends_the_run_at_once_and_keeps_finished_calls(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    started = 0.0

    def slow(prompt: str) -> str:
        nonlocal started
        if prompt == "q20":
            patience = time.monotonic() + 20
            while len(lm.session.store or ()) < 20 and time.monotonic() < patience:
                time.sleep(0.01)
            started = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return f"re: {prompt}"

    # A test run in the background of a shell inherits "ignore" for SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    backend = ScriptedBackend(slow)
    lm = BaselineLM(student=backend, store=str(tmp_path / "s"), run_dir=tmp_path / "r", progress="off")
    asked = instances(f"q{i}" for i in range(400))
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until(asked)
    assert time.monotonic() - started < 5
    assert lm.session.store is not None
    kept = len(lm.session.store)
    assert 20 <= kept < 400
    time.sleep(0.3)
    assert len(lm.session.store) == kept, "the interrupted run still makes calls"
    backend.reply = lambda prompt: f"re: {prompt}"
    sent = sum(len(batch) for batch in backend.calls)
    assert lm.generate_until(asked) == [f"re: q{i}" for i in range(400)]
    assert sum(len(batch) for batch in backend.calls) - sent == 400 - kept


def test_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    lm = BaselineLM(student=ScriptedBackend(lambda p: f"re: {p}"), store="off", run_dir=tmp_path / "r", progress="off")

    async def cell() -> list[str]:
        return lm.generate_until(instances(["a", "b"]))

    assert asyncio.run(cell()) == ["re: a", "re: b"]


def test_an_error_leaves_no_process_behind(tmp_path: Path) -> None:
    """If an error ends the run during a long call on another device, the process still ends, with that error."""
    script = textwrap.dedent("""
        import sys, time
        from support import instances, scripted_pair
        from harness_ext.models.feedback_pair import FeedbackPairLM

        def endless(prompt):
            time.sleep(3600)

        student, teacher = scripted_pair(lambda p: "draft" if "1" in p else endless(p), endless)
        def missing():
            raise OSError("no weights")
        teacher.load = missing
        lm = FeedbackPairLM(student=student, teacher=teacher, store="off", run_dir=sys.argv[1], progress="off")
        lm.generate_until(instances(["q1", "q2"]))
    """)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "r")],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "LoadError: teacher could not be loaded: no weights" in ended.stderr

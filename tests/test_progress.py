"""Tests of the progress display: a bar on a terminal, lines elsewhere, also during a long call."""

from __future__ import annotations

import io
import time

import pytest

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine import progress
from harness_ext.engine.progress import Progress
from harness_ext.records import Completion, Failure, Transcript, Turn


def transcript(accepted: bool, failure: Failure | None = None) -> Transcript:
    turn = Turn("teacher", "review", "aa", Completion("…"), {"accepted": accepted})
    return Transcript("t", 0, "h", 0, 0, "q", "c", (turn,), "", "done", failure)


def test_the_last_line_has_all_figures() -> None:
    stream, backend = io.StringIO(), ScriptedBackend(str)
    with Progress(3, {backend: "teacher"}, False, stream) as shown:
        shown.call_finished(backend, Completion("a b", completion_tokens=30, seconds=2.0))
        shown.question_finished(transcript(True))
        shown.question_finished(transcript(False, Failure("backend", "gone")))
    (line,) = stream.getvalue().splitlines()
    for part in ("2/3 questions", "1 calls", "teacher 15 tokens/s", "accepted 50 % of 2 reviews", "1 FAILED", "left"):
        assert part in line


def test_lines_are_printed_during_a_long_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_AT_MOST", 0.02)
    stream = io.StringIO()
    with Progress(5, {}, False, stream):
        patience = time.monotonic() + 20
        while stream.getvalue().count("\n") < 2 and time.monotonic() < patience:
            time.sleep(0.01)
        assert stream.getvalue().count("0/5 questions") >= 2
    ended = stream.getvalue()
    time.sleep(0.1)
    assert stream.getvalue() == ended


def test_a_terminal_gets_a_bar() -> None:
    stream, backend = io.StringIO(), ScriptedBackend(str)
    with Progress(1, {backend: "teacher"}, True, stream) as shown:
        shown.call_finished(backend, Completion("a", completion_tokens=1, seconds=1.0))
        shown.question_finished(transcript(True))
    assert "1/1" in stream.getvalue()

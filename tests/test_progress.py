"""The progress display: a bar on a terminal, lines elsewhere, and figures of the moment when they are shown."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Server, wait_until
from support import instances, run_engine

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.hf_stops import AnswerStops
from harness_ext.backends.meter import Meter
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.embedded import model_path
from harness_ext.engine import progress
from harness_ext.engine.engine import Engine
from harness_ext.engine.progress import Progress
from harness_ext.models.baseline import Baseline, BaselineLM
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.protocol import Question
from harness_ext.records import Completion, Failure, Transcript, Turn


class Clock:
    """A clock that only a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def turn(**verdict: Any) -> Turn:
    return Turn("teacher", "review", "aa", Completion("…"), verdict or None)


def transcript(failure: Failure | None = None) -> Transcript:
    return Transcript("t", 0, "h", 0, 0, "q", "c", (turn(accepted=True),), "", "done", failure)


def by_hand(total: int, clock: Clock, **backends: ScriptedBackend) -> tuple[Progress, io.StringIO]:
    """Return a display that shows something only when it is told to, and what it writes to."""
    stream = io.StringIO()
    return Progress(total, {b: name for name, b in backends.items()}, False, stream, clock), stream


def test_the_last_line_has_all_figures() -> None:
    backend, clock = ScriptedBackend(str), Clock()
    backend.meter = Meter(clock)
    shown, stream = by_hand(3, clock, teacher=backend)
    with shown:
        backend.meter.started()
        clock.now = 2.0
        backend.meter.ended()
        shown.call_finished(backend, Completion("a b", completion_tokens=30, seconds=2.0))
        shown.turn_noted(turn(), turn(accepted=True))
        shown.turn_noted(turn(), turn(accepted=False, malformed=True))
        shown.question_finished(transcript())
        shown.question_finished(transcript(Failure("backend", "gone")))
    (line,) = stream.getvalue().splitlines()
    for part in (
        "2/3 questions in 0:02", "0:01 left", "1 calls", "teacher 15 tokens/s", "accepted 50 % of 2 reviews",
        "teacher unreadable 100 % of 1", "1 FAILED",
    ):  # fmt: skip
        assert part in line


def test_a_line_has_the_state_of_its_own_time_and_not_that_of_the_first_event_of_a_burst() -> None:
    backend, clock = ScriptedBackend(str), Clock()
    shown, stream = by_hand(64, clock, student=backend)
    clock.now = 540.0
    for _ in range(64):
        shown.call_finished(backend, Completion("a", completion_tokens=1))
        shown.question_finished(transcript())
    assert stream.getvalue() == "", "events print nothing"
    shown.show()
    assert "64/64 questions in 9:00: 64 calls" in stream.getvalue()


def test_lines_come_when_something_has_changed_and_at_the_latest_after_a_minute() -> None:
    backend, clock = ScriptedBackend(str), Clock()
    shown, stream = by_hand(5, clock, student=backend)
    printed = []
    for second in range(1, 200):
        clock.now = float(second)
        if second == 100:
            shown.call_finished(backend, Completion("a", completion_tokens=1))
        before = stream.getvalue()
        shown.show()
        printed += [second] if stream.getvalue() != before else []
    assert printed == [15, 75, 100, 160]


def test_a_long_batch_shows_that_it_is_running() -> None:
    backend, clock = ScriptedBackend(str), Clock()
    backend.meter = Meter(clock)
    shown, _ = by_hand(64, clock, student=backend)
    with backend.meter.load():
        assert shown.status() == "0 calls, student is loading"
    backend.meter.started(64)
    assert shown.status() == "0 calls, student answers 64"
    clock.now = 10.0
    backend.meter.wrote(1200)
    assert shown.status() == "0 calls, student 120 tokens/s, student answers 64 (1200 tokens so far)"
    backend.meter.handed_over()
    for _ in range(64):
        backend.meter.ended()
        shown.call_finished(backend, Completion("…", completion_tokens=20))
    clock.now = 1000.0
    assert shown.status() == "64 calls, student 128 tokens/s", "nothing runs, so the clock does not matter"


def test_speed_is_that_of_all_streams_together() -> None:
    """Four replies of 140 tokens, written at once in 10 seconds, are 56 tokens/s, not 14."""
    backend, clock = ScriptedBackend(str), Clock()
    backend.meter = Meter(clock)
    shown, _ = by_hand(4, clock, student=backend)
    for _ in range(4):
        backend.meter.started()
    clock.now = 10.0
    for _ in range(4):
        backend.meter.ended()
        shown.call_finished(backend, Completion("…", completion_tokens=140, seconds=10.0))
    assert "student 56 tokens/s" in shown.status()


def test_earlier_runs_of_a_model_do_not_count() -> None:
    backend, clock = ScriptedBackend(str), Clock()
    backend.meter = Meter(clock)
    backend.meter.started()
    clock.now = 100.0
    backend.meter.ended()
    shown, _ = by_hand(1, clock, student=backend)
    backend.meter.started()
    clock.now = 110.0
    backend.meter.ended()
    shown.call_finished(backend, Completion("…", completion_tokens=50))
    assert "student 5 tokens/s" in shown.status()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4), st.booleans()), max_size=30))
def test_a_meter_is_busy_exactly_while_something_runs(steps: list[tuple[int, int, bool]]) -> None:
    clock = Clock()
    meter, running, busy = Meter(clock), 0, 0.0
    for seconds, calls, starts in steps:
        clock.now += seconds
        busy += seconds if running else 0.0
        (meter.started if starts else meter.ended)(calls)
        running = running + calls if starts else max(running - calls, 0)
        assert (meter.running, meter.busy) == (running, busy)
    meter.idle()
    clock.now += 1
    assert (meter.running, meter.busy) == (0, busy)


def test_reviews_of_open_questions_count() -> None:
    """Counting finished questions only, every review would have been an acceptance so far."""
    asked = threading.Event()
    release = threading.Event()

    def student(prompt: str) -> str:
        if "Your teacher" not in prompt:
            return "wrong" if "hard" in prompt else "right"
        asked.set()
        assert release.wait(60)
        return "right"

    pair = {
        "student": ScriptedBackend(student, name="student"),
        "teacher": ScriptedBackend(lambda p: "Incorrect." if '"""\nwrong' in p else "Correct.", name="teacher"),
    }
    shown = Progress(4, {b: name for name, b in pair.items()}, False, io.StringIO(), Clock())
    questions = [
        Question(f"{kind} {i}", {"until": [], "max_gen_toks": 8}) for kind in ("easy", "hard") for i in range(2)
    ]
    seen = []

    def look() -> None:
        assert asked.wait(60)
        wait_until(lambda: shown.done == 2)
        seen.append(shown.status())
        release.set()

    watcher = threading.Thread(target=look)
    watcher.start()
    run_engine(Engine(), FeedbackPair(verdict="text"), pair, questions, observers=[shown])
    watcher.join()
    assert "accepted 50 % of 4 reviews" in seen[0]
    assert "accepted 67 % of 6 reviews" in shown.status()


def test_a_batch_that_is_running_is_metered() -> None:
    seen: list[tuple[int, bool, bool]] = []

    class Slow(ScriptedBackend):
        def load(self) -> None:
            seen.append((self.meter.running, self.meter.loading, False))

        def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
            def noting(index: int, completion: Any) -> None:
                seen.append((self.meter.running, self.meter.loading, True))
                deliver(index, completion)

            super().generate(requests, noting)

    backend = Slow(str)
    questions = [Question(f"q{i}", {"until": [], "max_gen_toks": 8}) for i in range(3)]
    run_engine(Engine(), Baseline(), {"student": backend}, questions)
    assert seen == [(0, True, False), (3, False, True), (2, False, True), (1, False, True)]
    assert backend.meter.running == 0


def test_calls_of_a_server_are_metered() -> None:
    with Server() as server:
        backend = make_openai_backend(f"m@{server.url}", {"num_concurrent": 4})
        questions = [Question(f"q{i}", {"until": [], "max_gen_toks": 8}) for i in range(8)]
        run_engine(Engine(), Baseline(), {"student": backend}, questions)
    assert backend.meter.running == 0
    assert backend.meter.busy > 0


@pytest.mark.parametrize(
    ("stops", "rows", "counts"),
    [
        ([], [[5, 5, 5], [5, 5, 5]], [2, 2, 2]),
        ([], [[5, 0, 9], [5, 5, 5]], [2, 2, 1]),
        (["7"], [[7, 9, 9], [5, 7, 9]], [2, 1, 0]),
    ],
)
def test_tokens_of_a_running_batch_are_counted_without_padding(
    stops: list[str], rows: list[list[int]], counts: list[int]
) -> None:
    """0 ends a row by itself, and 9 is padding."""
    import torch

    class Tokenizer:
        def batch_decode(self, ids: Any) -> list[str]:
            return ["".join(map(str, row.tolist())) for row in ids]

    wrote: list[int] = []
    criterion = AnswerStops(Tokenizer(), stops, 2, None, wrote.append, {0})
    prompts = [[1, 1] for _ in rows]
    for step in range(1, 4):
        criterion(torch.tensor([p + row[:step] for p, row in zip(prompts, rows, strict=True)]), None)
    assert wrote == counts


def test_hf_tells_how_many_tokens_it_has_written(tmp_path: Path) -> None:
    lm = BaselineLM(
        student=str(model_path("student")), store="off", run_dir=tmp_path, progress="off", device="cpu", batch_size=4
    )
    backend = lm.plan.seats["student"].backend
    total, most = 0, 0
    wrote = backend.meter.wrote

    def noting(tokens: int) -> None:
        nonlocal total, most
        total += tokens
        wrote(tokens)
        most = max(most, backend.meter.written)

    backend.meter.wrote = noting  # type: ignore[method-assign]
    lm.generate_until(instances([f"Mary is in room {i}." for i in range(4)], {"until": ["\n"], "max_gen_toks": 12}))
    counted = lm.session.summary["usage"]["student"]["total"]["completion_tokens"]
    assert total == most == counted
    assert backend.meter.written == 0


def test_lines_are_printed_by_a_thread_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_AT_MOST", 0.0)
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.001)
    stream = io.StringIO()
    with Progress(5, {}, False, stream):
        wait_until(lambda: stream.getvalue().count("0/5 questions") >= 2)
    threads = [thread for thread in threading.enumerate() if thread.name == "harness-ext progress"]
    assert threads == [], "nothing can follow the last line"


def test_a_terminal_gets_a_bar_of_the_present_state() -> None:
    stream, backend = io.StringIO(), ScriptedBackend(str)
    with Progress(3, {backend: "teacher"}, True, stream) as shown:
        shown.call_finished(backend, Completion("a", completion_tokens=1, seconds=1.0))
        shown.question_finished(transcript())
        shown.show()
        assert shown._bar is not None
        (task,) = shown._bar.tasks
        assert (task.completed, task.fields["status"]) == (1, "1 calls")
    assert "1/3" in stream.getvalue()


def test_a_stream_that_nobody_reads_does_not_end_a_run() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    backend = ScriptedBackend(str)
    with Progress(1, {backend: "student"}, False, Broken()) as shown:
        shown.question_finished(replace(transcript(), doc_id=1))
    assert shown.done == 1

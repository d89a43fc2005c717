"""Measures the engine's own cost per call, in seconds and memory, with a backend that answers immediately.

    python benchmarks/overhead.py --questions 100000 --output benchmarks/results/overhead.json

Runs `feedback_pair` (four calls per question: draft, review, refinement, review) with call store and transcripts in a
fresh folder, and then the same run again, answered from the store. CPU seconds are those of the whole process; those
spent inside the call store are given apart, too. The resident memory is read after every tenth of the run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measured import publish_measured

CALLS = 4


def student(prompt: str) -> str:
    return "Reasoning: 2 Mary went there.\nAnswer: 2" if "found a mistake" in prompt else "Reasoning: none.\nAnswer: 1"


def teacher(prompt: str) -> str:
    return "Correct." if "Answer: 2" in prompt else "Incorrect.\nHint: Look at line 2.\nIssue: It was overlooked."


def resident_mib() -> float:
    """Return this process's resident memory, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmRSS in /proc/self/status")


def measure(questions: int, folder: Path) -> dict[str, Any]:
    """Run once in `folder`; return the milliseconds per call and the memory over time."""
    from lm_eval.api.instance import Instance

    from harness_ext.backends.scripted import ScriptedBackend
    from harness_ext.models.feedback_pair import FeedbackPairLM

    settings = {"until": ["\n\n"], "max_gen_toks": 64, "do_sample": False}
    context = (
        "Here are the context sentences:\n1 John is here.\n2 Mary is there.\n\nNow, answer the question {}:\nWhere?\n"
    )
    requests = [
        Instance("generate_until", {"row": i}, (context.format(i), settings), 0, ("bench", i, 1))
        for i in range(questions)
    ]
    seats = {"student": ScriptedBackend(student, name="student"), "teacher": ScriptedBackend(teacher, name="teacher")}
    for backend in seats.values():
        backend.calls = _Forgetful()
    lm = FeedbackPairLM(
        **seats, store=str(folder / "calls"), run_dir=str(folder / f"run-{time.time_ns()}"), progress="off"
    )
    memory: list[float] = []
    add, done = lm.session.run.add, 0

    def counted(transcript: Any) -> None:
        nonlocal done
        add(transcript)
        done += 1
        if done % max(1, questions // 10) == 0:
            memory.append(round(resident_mib(), 1))

    lm.session.run.add = counted  # type: ignore[method-assign]
    store, in_store = lm.session.store, _Stopwatch()
    store.get, store.put = in_store.of(store.get), in_store.of(store.put)
    before, cpu, wall = resident_mib(), time.process_time(), time.perf_counter()
    lm.generate_until(requests)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    summary = json.loads((lm.session.run.path / "summary.json").read_text())
    calls = sum(seat["total"]["calls"] for seat in summary["usage"].values())
    if calls != CALLS * questions:
        raise RuntimeError(f"{calls} calls instead of {CALLS * questions}")
    return {
        "cpu_ms_a_call": round(1e3 * cpu / calls, 4),
        "wall_ms_a_call": round(1e3 * wall / calls, 4),
        "store_cpu_ms_a_call": round(1e3 * in_store.seconds / calls, 4),
        "reused_calls": sum(seat["total"]["reused"] for seat in summary["usage"].values()),
        "memory_mib": {"before": round(before, 1), "at_each_tenth": memory},
    }


class _Stopwatch:
    """Adds up the CPU seconds that functions take in the threads that call them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def of(self, function: Any) -> Any:
        """Return the function, timed."""

        def timed(*args: Any) -> Any:
            started = time.thread_time()
            try:
                return function(*args)
            finally:
                self.seconds += time.thread_time() - started

        return timed


class _Forgetful(list):  # type: ignore[type-arg]
    """A list that keeps nothing, so that only the engine's memory is measured."""

    def append(self, item: Any) -> None:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "questions": args.questions,
            "first_run": measure(args.questions, Path(folder)),
            "repeated_run": measure(args.questions, Path(folder)),
        }
    publish_measured(result, args.output)


if __name__ == "__main__":
    main()

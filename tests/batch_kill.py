"""Runs feedback_pair with a teacher in batches, kills it (SIGKILL) at named points, and runs it again; see
test_batch_kill.py.

    python batch_kill.py <folder>

It imports everything once and then forks for each run. It prints JSON: for each point, how many batches there were, how
often a request was paid for at most, and the answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from batch_server import BatchServer
from support import instances, number_of, scripted_pair

from harness_ext.backends import batch_api
from harness_ext.models.feedback_pair import FeedbackPairLM

POINTS = ("before upload", "after upload", "before create", "after create", "poll", "download", "stored")
QUESTIONS = 6


def teacher(text: str) -> str:
    number = number_of(text)
    return "Correct." if number % 3 == 0 else f"Incorrect.\nHint: {number:x}"


def run(folder: Path, url: str, answers: Path, stop_after: int | None) -> None:
    """Run to the end, or until a number of questions have their first review."""
    student, _ = scripted_pair(lambda prompt: f"answer {number_of(prompt):x}", teacher)
    if stop_after is not None:
        generate, seen = student.generate, [0]

        def stopping(requests: Any, deliver: Any) -> None:
            seen[0] += sum("Incorrect" in request.prompt for request in requests)
            if seen[0] >= stop_after:
                os.kill(os.getpid(), signal.SIGKILL)
            generate(requests, deliver)

        student.generate = stopping  # type: ignore[method-assign]
    batch_api.SETTLE = 0.0
    lm = FeedbackPairLM(
        student=student, teacher=f"openai:m@{url}", verdict="text", max_rounds=2, store=str(folder / "store"),
        run_dir=folder / f"run-{os.getpid()}", progress="off", **{"teacher.batch": "on", "teacher.batch_poll": 0.02},
    )  # fmt: skip
    found = lm.generate_until(instances([f"q{i}?" for i in range(QUESTIONS)], {"until": ["\n\n"], "max_gen_toks": 12}))
    answers.write_text(json.dumps(found))


def start(folder: Path, url: str, stop_after: int | None = None) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(folder, url, folder / "answers.json", stop_after)
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return child


def killed_at(folder: Path, server: BatchServer, point: str) -> None:
    """Start a run and kill it at a point."""
    if point == "stored":
        child = start(folder, server.url, stop_after=1)
    else:
        server.stop = {point}
        child = start(folder, server.url)
        assert server.reached.wait(120), f"{point} was not reached"
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status == signal.SIGKILL, f"the run ended with {status}"
    server.stop.clear()
    server.go_on.set()
    server.reached.clear()
    server.go_on.clear()


def outcome(folder: Path, server: BatchServer) -> dict[str, Any]:
    child = start(folder, server.url)
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"the run ended with {status}"
    return {
        "batches": [batch["request_counts"]["total"] for batch in server.batches],
        "paid": max(server.paid.values()),
        "requests": sum(server.paid.values()),
        "answers": json.loads((folder / "answers.json").read_text()),
    }


def main(folder: Path) -> None:
    import torch  # noqa: F401

    results = {}
    for point in ("", *POINTS, "twice", "without metadata"):
        here = folder / (point.replace(" ", "-") or "whole")
        here.mkdir()
        with BatchServer(teacher, keeps_metadata=point != "without metadata") as server:
            kills = {"": (), "twice": ("after create", "poll"), "without metadata": ("after create",)}.get(
                point, (point,)
            )
            for kill in kills:
                killed_at(here, server, kill)
            results[point] = outcome(here, server)
            results[point]["problems"] = server.problems
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

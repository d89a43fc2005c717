"""Runs feedback_pair in child processes and kills them (SIGKILL) until one ends; used by test_kill.py.

    python kill_and_resume.py <folder> scripted|composed|embedded <kills> <seed>

It imports everything once and then forks for each run. For comparison, the first run is not killed. It prints JSON: how
many runs were killed before they ended, and how many calls were answered again although they were in the store when the
run before was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import instances, number_of, scripted_pair

from harness_ext.engine import queues
from harness_ext.models.feedback_pair import FeedbackPairLM

QUESTIONS = {"scripted": 40, "composed": 16, "embedded": 6}


def student(prompt: str) -> str:
    time.sleep(0.002)
    return f"answer {number_of(prompt):x}"


def teacher(prompt: str) -> str:
    time.sleep(0.002)
    number = number_of(prompt)
    return f"Correct. {number:x}" if number % 3 == 0 else f"Incorrect.\nHint: {number:x}"


def run(folder: Path, mode: str, log: int) -> None:
    """Run to the end, writing the key of every answered call to `log` before it is stored."""
    accept = queues.DeviceQueue._accept

    def logged(self: Any, backend: Any, call: Any, completion: Any) -> Any:
        os.write(log, f"{call.key}\n".encode())
        return accept(self, backend, call, completion)

    queues.DeviceQueue._accept = logged  # type: ignore[method-assign]
    seats: dict[str, Any] = {"device": "cpu", "batch_size": 2, "max_rounds": 2, "review_max_tokens": 12}
    if mode != "embedded":
        pair = scripted_pair(student, teacher)
        seats = {"student": pair[0], "teacher": pair[1]}
    if mode == "composed":
        inner = {"student": "protocol:self_consistency", "student.k": 3, "student.student": seats["student"]}
        seats = {**seats, **inner, "max_rounds": 2}
    lm = FeedbackPairLM(**seats, store=str(folder / "store"), run_dir=folder / "run", progress="off")
    contexts = [f"Mary went to the garden {i} times.\nWhere is Mary?\nAnswer:" for i in range(QUESTIONS[mode])]
    lm.generate_until(instances(contexts, {"until": ["\n\n"], "max_gen_toks": 12}))


def stored_keys(store: Path) -> set[str]:
    keys: set[str] = set()
    for path in store.glob("*.sqlite"):
        connection = sqlite3.connect(path)
        with suppress(sqlite3.OperationalError):  # killed before the table was created
            keys |= {key.hex() for (key,) in connection.execute("SELECT key FROM replies")}
        connection.close()
    return keys


def start(folder: Path, mode: str) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(folder, mode, os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return child


def import_first(mode: str) -> None:
    """Import what would take each child seconds to import."""
    import torch  # noqa: F401

    if mode == "embedded":
        import lm_eval.models.huggingface  # noqa: F401
        from transformers import AutoModelForCausalLM, LlamaForCausalLM  # noqa: F401


def run_until_done(folder: Path, mode: str, kills: int, seed: int) -> dict[str, int]:
    rng = random.Random(seed)
    folder.mkdir()
    (folder / "log").touch()
    done = paid_twice = 0
    stored: set[str] = set()
    for number in range(kills + 1):
        before = len((folder / "log").read_text().split())
        child = start(folder, mode)
        if number < kills:
            wait_for = before + rng.choice([0, rng.randint(1, 4 * QUESTIONS[mode] // kills + 1)])
            ended = 0
            while not ended and len((folder / "log").read_text().split()) < wait_for:
                ended = os.waitpid(child, os.WNOHANG)[0]
                time.sleep(0.0005)
            time.sleep(rng.random() * 0.01)
            if not ended:
                os.kill(child, signal.SIGKILL)
                done += 1
        if number == kills or not ended:
            status = os.waitpid(child, 0)[1]
            assert status == (0 if number == kills else signal.SIGKILL), f"run {number} ended with {status}"
        answered = (folder / "log").read_text().split()[before:]
        paid_twice += len(stored & set(answered))
        stored = stored_keys(folder / "store")
    everything = (folder / "log").read_text().split()
    return {"killed": done, "paid_twice": paid_twice, "calls": len(stored), "answered": len(everything)}


def main(folder: Path, mode: str, kills: int, seed: int) -> None:
    import_first(mode)
    runs = {name: run_until_done(folder / name, mode, n, seed) for name, n in (("whole", 0), ("killed", kills))}
    print(json.dumps(runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

"""Annotates rows and makes preferences in child processes that are killed (SIGKILL); for test_enhance_kill.py.

    python enhance_kill.py <folder> <moment> …

A moment is a number of answered calls. The script imports everything once and forks a process per run. The first run is
not interrupted, for comparison; then one run per moment is killed, and a last one runs to its end. It prints as JSON
how many runs were killed, how many calls were answered, how many are stored, and how many were answered again although
they were in the store when the previous run was killed.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from kill_and_resume import stored_keys
from support import number_of

from harness_ext.backends.base import Backend
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine import queues
from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate
from harness_ext.enhance.candidates import Candidates
from harness_ext.enhance.preferences import PreferenceJob, write_candidates, write_judgements, write_pairs
from harness_ext.enhance.prepare import prepare
from harness_ext.enhance.running import plan_seats
from harness_ext.enhance.templates import load_templates
from harness_ext.enhance.tournament import Tournament

ROWS = 40


def reply(prompt: str) -> str:
    time.sleep(0.002)
    return f" {number_of(prompt):x}. The answer is ({'AB'[number_of(prompt) % 2]})."


def judge(prompt: str) -> str:
    time.sleep(0.002)
    return json.dumps({"preferred": number_of(prompt) % 3})


def draw(prompt: str) -> str:
    time.sleep(0.002)
    return f" {time.monotonic_ns()}. The answer is (A)."


def run(folder: Path, log: int) -> None:
    """Run everything once. The key of every answered call is written to `log` before the call is stored."""
    accept = queues.DeviceQueue._accept

    def logged(self: Any, backend: Backend, call: Any, completion: Any) -> Any:
        os.write(log, f"{call.key}\n".encode())
        return accept(self, backend, call, completion)

    queues.DeviceQueue._accept = logged  # type: ignore[method-assign]
    templates = load_templates("creak")
    raw = folder / "raw.jsonl"
    made = ({"sentence": f"Thing {i} is red.", "label": "true"} for i in range(ROWS))
    raw.write_text("".join(json.dumps(row) + "\n" for row in made) + '{"torn": ')
    prepare(raw, folder / "in.jsonl", templates)
    arguments = {"store": str(folder / "store"), "progress": "off", "window": 16}
    plan = plan_seats(Annotate, {"teacher": ScriptedBackend(reply, name="teacher")}, arguments)
    annotate(AnnotateJob(folder / "in.jsonl", folder / "out.jsonl", "cot_text", {"do_sample": False}, templates), plan)
    job = PreferenceJob(folder / "in.jsonl", folder / "prefs.jsonl", "text", {}, templates, 1.0)
    students = plan_seats(Candidates, {"student": ScriptedBackend(draw, name="student")}, {**arguments, "k": 4})
    write_candidates(job, students)
    judges = plan_seats(Tournament, {"judge": ScriptedBackend(judge, name="judge")}, arguments)
    assert isinstance(judges.protocol, Tournament)
    write_judgements(job, judges.protocol, judges)
    write_pairs(job.judgements, job.target)


def start(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(folder, os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return child


def run_until_done(folder: Path, moments: list[int]) -> dict[str, int]:
    folder.mkdir()
    log = folder / "log"
    log.touch()
    killed = paid_twice = 0
    stored: set[str] = set()
    for moment in [*moments, None]:
        before = len(log.read_text().split())
        child, ended = start(folder), 0
        while moment is not None and not ended and len(log.read_text().split()) < moment:
            ended = os.waitpid(child, os.WNOHANG)[0]
            time.sleep(0.0005)
        if moment is not None and not ended:
            os.kill(child, signal.SIGKILL)
            killed += 1
        status = 0 if ended else os.waitpid(child, 0)[1]
        assert status == (0 if moment is None else signal.SIGKILL), f"a run ended with {status}"
        paid_twice += len(stored & set(log.read_text().split()[before:]))
        stored = stored_keys(folder / "store")
    answered = len(log.read_text().split())
    return {"killed": killed, "answered": answered, "stored": len(stored), "paid_twice": paid_twice}


def main(folder: Path, moments: list[int]) -> None:
    for name in ("lm_eval.models.utils", "networkx", "torch"):  # each child would spend seconds on these imports
        importlib.import_module(name)
    runs = {name: run_until_done(folder / name, when) for name, when in (("whole", []), ("killed", moments))}
    print(json.dumps(runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(moment) for moment in sys.argv[2:]])

"""Runs a suite undisturbed, and another copy of it that is killed several times (SIGKILL), and compares the two.

    python benchmarks/suite.py --output benchmarks/results/suite.json

Six protocols answer three sets of stories with the embedded pair, each with two seeds: 36 cells. The second suite has a
store of its own. Its processes are all killed once a drawn number of calls has been sent to the models, and the same
command runs again, until every cell is finished. Each cell has to end with the transcripts, the scores and the samples
of the undisturbed suite. No finished call may be paid twice: the calls that were sent have to be as many as those that
are stored, plus those that were in flight at a kill. Each process has to load the weights of each model at most once.

`--study FOLDER` only writes the study. `benchmarks/suite_slurm.py` submits it to a real Slurm.

All decoding is greedy, because on `hf` seats only the store repeats sampled texts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

TASKS = {"short_stories": (2, 4), "stories": (2, 10), "long_stories": (8, 14)}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "skyline": {},
    "feedback_pair": {"max_rounds": 2},
    "second_look": {"rounds": 1},
    "speculative_pair": {"unit": "step"},
    "debate": {"topology": "all", "max_rounds": 1},
}
SEEDS = (1, 2)
COUNTS = "counts.txt"  # in the folder of a suite: what its processes did, one line for each load and each batch
RUNS = "harness_ext_runs"


@dataclass(frozen=True)
class Kill:
    """A moment at which all processes of the suite were killed.

    sent: how many calls had been sent to the models by then, since the beginning.
    stored: how many of them were stored, and are never paid again.
    finished: how many cells were finished.
    """

    sent: int
    stored: int
    finished: int


def main() -> None:
    """Run both suites, compare them and publish the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3, help="stories per task (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--output", type=Path, help="the file to write (default: print)")
    parser.add_argument("--study", type=Path, metavar="FOLDER", help="only write the study into a new folder")
    options = parser.parse_args()
    if options.study is not None:
        write_study(options.study.resolve(), options.rows)
        return
    from measured import embedded, publish_measured

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        started = time.perf_counter()
        whole = undisturbed(folder / "whole", options.rows)
        seconds = time.perf_counter() - started
        calls = len(stored(whole))
        print(f"undisturbed: {calls} calls, {seconds:.0f} s", flush=True)
        moments = sorted(random.Random(options.seed).sample(range(1, calls), options.kills))
        broken, kills = disturbed(folder / "broken", options.rows, moments)
        in_flight = kills[-1].sent - kills[-1].stored if kills else 0
        found = compared(whole, broken, in_flight)
    record = {
        "rows": options.rows, "seed": options.seed, "undisturbed_seconds": round(seconds), **found,
        "kills": [asdict(kill) for kill in kills], "in_flight_at_kills": in_flight,
    }  # fmt: skip
    publish_measured(record, options.output, embedded())
    sys.exit(0 if found["equal"] else 1)


def write_study(folder: Path, rows: int) -> None:
    """Write the study and its tasks to a new folder."""
    import yaml

    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    original = Path(__file__).resolve().parent.parent / "tasks" / "babi_stories" / "babi_stories.yaml"
    for name, (shortest, longest) in TASKS.items():
        drawn = f"{{rows: {rows}, shortest: {shortest}, longest: {longest}}}"
        (tasks / f"{name}.yaml").write_text(f"include: {original}\ntask: {name}\ndataset_kwargs: {drawn}\n")
    study = {
        "tasks": list(TASKS),
        "seeds": list(SEEDS),
        "defaults": {"include_path": str(tasks)},
        "settings": {name: {"model": name, "model_args": arguments} for name, arguments in PROTOCOLS.items()},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")


def start(folder: Path) -> subprocess.Popen[bytes]:
    """Start `harness-ext suite run` in a folder, with processes that count loads and calls."""
    with (folder / "run.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--counted", "run", "study.yaml"],
            cwd=folder, stdout=log, stderr=log,
        )  # fmt: skip


def undisturbed(folder: Path, rows: int) -> Path:
    """Run the suite in a new folder to its end, and return the folder."""
    write_study(folder, rows)
    finish(folder, start(folder))
    return folder


def disturbed(folder: Path, rows: int, moments: Sequence[int]) -> tuple[Path, list[Kill]]:
    """Run the suite in a new folder, and kill it once each number of calls has been sent; return folder and kills."""
    write_study(folder, rows)
    kills: list[Kill] = []
    for moment in moments:
        process = start(folder)
        while process.poll() is None and sum(sent(folder).values()) < moment:
            time.sleep(0.005)
        if process.poll() is not None:
            sys.exit(f"the suite ended before {moment} calls were sent: see {folder / 'run.log'}")
        process.kill()  # first, so that it starts nothing more
        for number in {int(number) for _, number, _ in counts(folder, "began")}:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        process.wait()
        kills.append(Kill(sum(sent(folder).values()), len(stored(folder)), len(finished(folder))))
        print(f"kill {len(kills)}: {kills[-1]}", flush=True)
    finish(folder, start(folder))
    return folder, kills


def finish(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for a suite, and end this process with its messages if it has failed."""
    if process.wait():
        sys.exit((folder / "run.log").read_text(encoding="utf-8", errors="replace"))


# -- what happened -------------------------------------------------------------------------------------------------


def counts(folder: Path, what: str) -> list[list[str]]:
    """Return the words of all lines of one kind that the processes of a suite have written."""
    path = folder / COUNTS
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [line.split(" ", 2) for line in lines if line.startswith(f"{what} ")]


def sent(folder: Path) -> Counter[int]:
    """Return how many calls each process has sent to models."""
    found: Counter[int] = Counter()
    for _, number, calls in counts(folder, "sent"):
        found[int(number)] += int(calls)
    return found


def loads(folder: Path) -> dict[int, Counter[str]]:
    """Return how often each process has loaded each model."""
    found: dict[int, Counter[str]] = {}
    for _, number, name in counts(folder, "load"):
        found.setdefault(int(number), Counter())[name] += 1
    return found


def stored(folder: Path) -> list[bytes]:
    """Return the keys of all calls in the store; a call that was paid twice would be there twice."""
    keys: list[bytes] = []
    for path in (folder / RUNS / "calls").glob("*.sqlite"):
        connection = sqlite3.connect(path)
        with suppress(sqlite3.OperationalError):  # killed before the table was created
            keys += [bytes(key) for (key,) in connection.execute("SELECT key FROM replies")]
        connection.close()
    return keys


def finished(folder: Path) -> dict[str, Path]:
    """Return the folders of the finished cells by their names."""
    return {path.parent.name: path.parent for path in (folder / RUNS / "suites" / "study").glob("*/results")}


def said(cell: Path) -> Any:
    """Return what was said and scored in a cell, without what depends on when and where it ran."""
    from harness_ext.records.run_directory import read_transcripts

    answers = sorted(
        (t.task, t.doc_id, t.text, t.stop, [(turn.seat, turn.kind, turn.text) for turn in t.turns])
        for t in read_transcripts(cell / "records")
    )
    (results,) = cell.glob("results/**/results_*.json")
    (samples,) = cell.glob("results/**/samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    kept = ("doc_id", "filter", "filtered_resps", "exact_match", "soft_match")
    scores = sorted((row["doc_id"], *(json.dumps(row[key]) for key in kept)) for row in rows)
    return answers, json.loads(results.read_text(encoding="utf-8"))["results"], scores


def compared(whole: Path, broken: Path, in_flight: int) -> dict[str, Any]:
    """Return the comparison of an undisturbed suite with one that was disturbed.

    whole, broken: the folders of the two.
    in_flight: how many calls of the second one were in flight when their processes ended.
    """
    first, second = finished(whole), finished(broken)
    same = sorted(first) == sorted(second)
    different = [name for name in first if same and said(first[name]) != said(second[name])]
    keys, wanted = stored(broken), stored(whole)
    number_sent = sum(sent(broken).values())
    most_loads = {
        name: max((most for one in loads(folder).values() for most in one.values()), default=0)
        for name, folder in (("whole", whole), ("broken", broken))
    }
    cells = len(TASKS) * len(SEEDS) * len(PROTOCOLS)
    return {
        "protocols": list(PROTOCOLS), "tasks": list(TASKS), "seeds": list(SEEDS),
        "cells": cells,
        "finished": {"whole": len(first), "broken": len(second)},
        "different_cells": different,
        "calls": len(wanted),
        "sent": {"whole": sum(sent(whole).values()), "broken": number_sent},
        "paid_twice": len(keys) - len(set(keys)),
        "processes": {"whole": len(loads(whole)), "broken": len(loads(broken))},
        "loads": {"whole": sum_of(loads(whole)), "broken": sum_of(loads(broken))},
        "most_loads_of_a_model_in_a_process": most_loads,
        "equal": (
            len(first) == len(second) == cells
            and not different
            and len(keys) == len(set(keys))
            and set(keys) == set(wanted)
            and sum(sent(whole).values()) == len(wanted)
            and number_sent == len(wanted) + in_flight
            and max(most_loads.values()) == 1
        ),
    }  # fmt: skip


def sum_of(found: dict[int, Counter[str]]) -> int:
    """Return the number of times that weights were loaded."""
    return sum(sum(one.values()) for one in found.values())


# -- in the processes of a suite -----------------------------------------------------------------------------------


def counted(arguments: Sequence[str]) -> NoReturn:
    """Run `harness-ext suite` as this process, and note each load of weights and each batch of calls in a file."""
    from harness_ext import cli
    from harness_ext.backends.base import Backend
    from harness_ext.backends.meter import Meter
    from harness_ext.engine import queues
    from harness_ext.suite import running

    def note(text: str) -> None:
        descriptor = os.open(COUNTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(descriptor, f"{text}\n".encode())
        os.close(descriptor)

    note(f"began {os.getpid()} {arguments[0]}")
    started, load = Meter.started, queues._load

    def counted_started(self: Meter, calls: int = 1) -> None:
        if calls:
            note(f"sent {os.getpid()} {calls}")
        started(self, calls)

    def counted_load(backend: Backend) -> None:
        if not backend.loaded:
            note(f"load {os.getpid()} {backend.name}")
        load(backend)

    Meter.started, queues._load = counted_started, counted_load  # type: ignore[method-assign]
    running.command = lambda *words: [sys.executable, str(Path(__file__).resolve()), "--counted", *words]
    sys.argv = ["harness-ext", "suite", *arguments]
    cli.run()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--counted"]:
        counted(sys.argv[2:])
    main()

"""What a folder contains that can be viewed: runs and suites, and how far they are, judged by their files alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from harness_ext.analysis.find_runs import RunEntry, entries
from harness_ext.records.run_lock import in_use_by

GOING_ON = "going on"


@dataclass(frozen=True)
class RunPlace:
    """A run directory.

    entry: what its files say about it.
    state: `going on`, `finished`, `stopped` (it ended before its last question) or `killed` (it left no summary).
    answered: how many questions its transcripts contain.
    """

    entry: RunEntry
    state: str
    answered: int

    @property
    def id(self) -> str:
        """Return what names the run in addresses."""
        return id_of(self.entry.path)

    @property
    def note(self) -> str:
        """Return its progress in words."""
        return f"{self.state}, {count_of(self.answered, 'question')}"


@dataclass(frozen=True)
class SuiteCell:
    """A cell of a suite.

    title: its name.
    label: the name of its run in comparisons; empty for a training.
    state: its state in words.
    answered: how many questions are answered.
    questions: how many there are; None if that is not known yet.
    records: its run directory; None if it has none.
    finished: what a comparison reads once the cell is finished; None until then.
    """

    title: str
    label: str
    state: str
    answered: int
    questions: int | None
    records: Path | None
    finished: Path | None


@dataclass(frozen=True)
class Suite:
    """A suite.

    path: its folder.
    cells: its cells.
    """

    path: Path
    cells: Sequence[SuiteCell]


FindSuites = Callable[[Path], list[Suite]]
"""Finds the suites below a folder."""


def id_of(path: Path) -> str:
    """Return what names a folder in addresses."""
    return hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:12]


def count_of(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def places_of(runs: Sequence[Path]) -> list[RunPlace]:
    """Return how far runs are, the newest first."""
    found = [_place(entry) for entry in entries(runs)]
    return sorted(found, key=lambda place: place.entry.started, reverse=True)


def version_of(paths: Sequence[Path]) -> str:
    """Return what changes whenever one of these run directories, or lm-eval results, does."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path).encode(errors="surrogateescape"))
        for file in sorted([*path.glob("transcripts*.jsonl"), *path.glob("*.json")]) if path.is_dir() else [path]:
            try:
                found = file.stat()
            except FileNotFoundError:
                continue
            digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def _place(entry: RunEntry) -> RunPlace:
    run = entry.path
    if any(in_use_by(run / lock.name[1 : -len(".lock")]) for lock in run.glob(".writer*.lock")):
        state = GOING_ON
    elif entry.questions is None:
        state = "killed"
    else:
        state = "stopped" if _unfinished(run) else "finished"
    return RunPlace(entry, state, _answered(run))


def _unfinished(run: Path) -> bool:
    try:
        return bool(json.loads((run / "summary.json").read_text(encoding="utf-8")).get("unfinished"))
    except (OSError, ValueError, AttributeError):
        return False


def _answered(run: Path) -> int:
    """Return how many lines the transcripts have: questions, unless one failed and was answered later."""
    merged, parts = 0, 0
    for path in run.glob("transcripts*.jsonl"):
        found = path.stat()
        lines = _lines(path, found.st_size, found.st_mtime_ns)
        if path.name == "transcripts.jsonl":
            merged = lines
        else:
            parts += lines
    return max(merged, parts)  # what several processes wrote is merged at the end, and stays


@lru_cache(maxsize=4096)  # the list is asked for every two seconds, and most runs have ended
def _lines(path: Path, size: int, changed: int) -> int:
    """Return how many lines a file has, given what shows that it has changed."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))

"""Finds run directories by their path, their folder's name or their label, and lists those of a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness_ext.analysis.compare.run_directories import is_run
from harness_ext.analysis.scoring.score import FIGURES, read_config
from harness_ext.config.run_options import RUNS


@dataclass(frozen=True)
class RunEntry:
    """A line of a list of runs.

    path: the run directory.
    label: its label.
    protocol: the protocol's class; empty if it is unknown.
    started: when it started; empty if it is unknown.
    questions: how many questions its summary counts; None if it has none yet.
    is_scored: whether it has scores.
    """

    path: Path
    label: str
    protocol: str
    started: str
    questions: int | None
    is_scored: bool


def runs_below(folder: Path) -> list[Path]:
    """Return the run directories below a folder, in the order of their paths."""
    return sorted({file.parent for file in folder.rglob("transcripts*.jsonl")})


def find_runs(named: str, root: Path = RUNS) -> list[Path]:
    """Return the run directories that a name stands for, the newest last.

    named: a run directory, a folder of them, the name of a folder in `root`, or a label.
    root: where runs are written. Default `harness_ext_runs`.

    Returns an empty list if there is none.
    """
    path = Path(named).expanduser()
    if is_run(path):
        return [path]
    if path.is_dir():
        return runs_below(path)
    if is_run(root / named):
        return [root / named]
    labelled = [run for run in runs_below(root) if read_config(run).get("label") == named] if root.is_dir() else []
    return sorted(labelled, key=lambda run: str(read_config(run).get("started") or ""))


def entries(runs: Sequence[Path]) -> list[RunEntry]:
    """Return the lines of a list of runs."""
    found = []
    for run in runs:
        config = read_config(run)
        identity = config.get("identity")
        try:
            questions = int(json.loads((run / "summary.json").read_text(encoding="utf-8"))["questions"])
        except (OSError, ValueError, KeyError, TypeError):
            questions = None
        found.append(
            RunEntry(
                run,
                str(config.get("label") or run.name),
                str(identity.get("protocol") or "") if isinstance(identity, dict) else "",
                str(config.get("started") or ""),
                questions,
                (run / FIGURES).is_file(),
            )
        )
    return found

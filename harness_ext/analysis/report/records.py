"""Reads everything that a report shows about the run directories behind a comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.run_directories import is_run, read_json
from harness_ext.analysis.compare.runs import Run
from harness_ext.analysis.scoring.score import Scored, read_config
from harness_ext.errors import HarnessExtError
from harness_ext.records import Transcript
from harness_ext.records.run_directory import read_transcripts


@dataclass(frozen=True)
class RunRecords:
    """A run directory.

    run: the number of the run of the comparison that it belongs to, from 0.
    name: the run's label, with the folder's name if the run consists of several.
    path: the folder.
    config: its `config.json`.
    summary: its `summary.json`; empty if the run was killed before it was written.
    figures: its `scores.json`; empty if it could not be scored.
    rows: the lines of its `scores.jsonl`.
    """

    run: int
    name: str
    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    figures: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]

    def transcripts(self) -> Iterator[Transcript]:
        """Yield the run's transcripts."""
        return read_transcripts(self.path)

    @property
    def pools(self) -> dict[str, Mapping[str, Any]]:
        """Return the figures of pools of tasks, by name, and then those of each task."""
        return {**self.figures.get("pools", {}), **self.figures.get("tasks", {})}


@dataclass(frozen=True)
class Records:
    """The run directories of a report.

    runs: the labels of the comparison's runs.
    directories: the run directories.
    remarks: one sentence for each source without transcripts or scores.
    """

    runs: tuple[str, ...]
    directories: tuple[RunRecords, ...]
    remarks: tuple[str, ...]


def read_records(runs: Sequence[Run], scored: Callable[[Path], Scored]) -> Records:
    """Read the run directories of a comparison.

    runs: the runs. Results files of this package's models stand for their run directories.
    scored: returns the scores of a run directory, which it makes if they are missing.
    """
    found: list[RunRecords] = []
    remarks: list[str] = []
    for number, run in enumerate(runs):
        folders = [(source, _folder(Path(source))) for source in run.sources]
        for source, folder in folders:
            if folder is None:
                remarks.append(f"{run.label}: {source} has no transcripts, so its questions are shown by score alone")
                continue
            figures: Mapping[str, Any]
            rows: list[dict[str, Any]]
            try:
                figures, rows = scored(folder)
            except HarnessExtError as error:
                figures, rows = {}, []
                remarks.append(f"{run.label}: {folder} has no scores of each draft: {error}")
            name = run.label if len(folders) == 1 else f"{run.label} · {folder.name}"
            found.append(RunRecords(number, name, folder, read_config(folder), _summary(folder), figures, rows))
    return Records(tuple(run.label for run in runs), tuple(found), tuple(remarks))


def _folder(source: Path) -> Path | None:
    """Return the run directory that a source is, or belongs to."""
    if source.is_dir():
        return source
    ours = (read_json(source).get("config") or {}).get("harness_ext") or {}
    folder = Path(str(ours.get("run")))
    return folder if ours.get("run") and is_run(folder) else None


def _summary(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""The run directory: what one evaluation was, said and cost. Append-only transcripts, a summary made from them."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from harness_ext.errors import StoreError
from harness_ext.files import whole_file
from harness_ext.records import Identity, Transcript

_encode = json.JSONEncoder(ensure_ascii=False).encode


class RunDirectory:
    """One evaluation's folder: `config.json`, `transcripts.jsonl`, `summary.json`.

    Opened with the config of an evaluation that stands there already, it goes on with it; with another config it
    refuses. `rank` is the process's number in a distributed run: each writes a file of its own, rank 0 merges them.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], rank: int = 0, world: int = 1) -> None:
        self.path = path
        self.rank, self.world = rank, world
        self._file: IO[str] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            known = path / "config.json"
            if known.exists():
                self._check_same(json.loads(known.read_text(encoding="utf-8")), config)
            elif rank == 0:
                write_json(known, config)
            self._part = path / ("transcripts.jsonl" if world == 1 else f"transcripts.{rank}.jsonl")
        except (OSError, ValueError) as error:  # the latter: config.json is no JSON
            raise StoreError(
                f"the run directory {path} cannot be used: {error}. Name a writable folder (`run_dir=<folder>`)"
            ) from error

    def _check_same(self, there: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(config.get("identity"), default=str))
        found = there.get("identity") if isinstance(there, dict) else None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path / 'config.json'} says of no evaluation")
        if found != wanted:
            differing = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            raise StoreError(
                f"the run directory {self.path} holds another evaluation (different: {', '.join(differing)}). "
                "Name another folder (`run_dir=<folder>`), or leave `run_dir` out for a new one"
            )

    def add(self, transcript: Transcript) -> None:
        """Append a transcript, durably. Raises StoreError when the disk is full or the folder gone."""
        try:
            if self._file is None:
                self._file = _open_to_append(self._part)
            self._file.write(_encode(transcript.to_json()) + "\n")
            self._file.flush()  # now it survives the process
        except OSError as error:
            raise StoreError(
                f"the transcripts in {self.path} cannot be written: {error}. Finished calls are in the store: "
                "make room, then run the same command again"
            ) from error

    def append(self, name: str, text: str) -> None:
        """Append to a readable file of the run, which is never overwritten. Raises StoreError."""
        path = self.path / (name if self.world == 1 else f"{Path(name).stem}.{self.rank}{Path(name).suffix}")
        try:
            with path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(text)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error}. Make room and run the same command again") from error

    def close(self) -> None:
        """Close the transcript file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def answered(self) -> Iterator[Transcript]:
        """Yield the transcripts of the questions that have an answer here already."""
        return (t for t in read_transcripts(self.path) if t.failure is None)

    def merge(self) -> None:
        """Append what the ranks wrote to `transcripts.jsonl`; rank 0 calls it at the end.

        Each question is appended once, and once more when an answer follows a failure. Raises StoreError.
        """
        merged = self.path / "transcripts.jsonl"
        try:
            have = {(t.identity, t.failure is None) for t in _read_lines(merged)} if merged.exists() else set()
            with _open_to_append(merged) as file:
                for transcript in _newest(sorted(self.path.glob("transcripts.*.jsonl"))):
                    answered = transcript.failure is None
                    if have.isdisjoint({(transcript.identity, answered), (transcript.identity, True)}):
                        file.write(_encode(transcript.to_json()) + "\n")
        except OSError as error:
            raise StoreError(
                f"the transcripts in {self.path} cannot be merged: {error}. Make room, then run the same command again"
            ) from error


def read_transcripts(run: Path) -> Iterator[Transcript]:
    """Yield a run's transcripts, one a question: the newest answer, or the newest failure where there is none.

    Half a line that a killed process left is skipped.
    """
    return _newest([f for f in [run / "transcripts.jsonl", *sorted(run.glob("transcripts.*.jsonl"))] if f.exists()])


def _newest(files: Sequence[Path]) -> Iterator[Transcript]:
    newest: dict[Identity, tuple[bool, int]] = {}
    for position, transcript in enumerate(t for f in files for t in _read_lines(f)):
        rank = (transcript.failure is None, position)
        newest[transcript.identity] = max(rank, newest.get(transcript.identity, rank))
    wanted = {position for _, position in newest.values()}
    for position, transcript in enumerate(t for f in files for t in _read_lines(f)):
        if position in wanted:
            yield transcript


def _read_lines(path: Path) -> Iterator[Transcript]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield Transcript.from_json(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue


def _open_to_append(path: Path) -> IO[str]:
    """Open a file of lines. Half a line that a killed process left stays, closed by a line's end of its own."""
    file = path.open("a", encoding="utf-8", errors="replace")
    if file.tell():
        with path.open("rb") as there:
            there.seek(-1, os.SEEK_END)
            if there.read(1) != b"\n":
                file.write("\n")
    return file


def installed_versions() -> dict[str, str]:
    """Return the versions of what an evaluation depends on, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in ("lm_eval", "torch", "transformers", "accelerate", "peft", "datasets"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file so that it is there whole or not at all."""
    with whole_file(path, errors="replace") as file:
        file.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def new_run_path(root: Path, label: str) -> Path:
    """Return a folder that does not exist yet: `<root>/<label>-<time>`; it is made, so that no other run takes it."""
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', label)}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True, exist_ok=False)
            return path
        except FileExistsError:
            number += 1

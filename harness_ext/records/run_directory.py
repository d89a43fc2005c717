"""The run directory: the configuration, transcripts and summary of one evaluation. Transcripts are only appended to."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import IO, Any

from harness_ext.errors import StoreError
from harness_ext.files import atomic_write, make_private_folder, open_to_append
from harness_ext.records.run_lock import lock_run
from harness_ext.records.transcript import Identity, Transcript

_encode = json.JSONEncoder(ensure_ascii=False).encode
# How a line of `transcripts.jsonl` begins (`Transcript.to_json`), and what identifies its question there.
_TEXT, _NUMBER = r'("(?:[^"\\]|\\.)*")', r"(-?\d+)"
_HEAD = re.compile(
    rf'\{{"task": {_TEXT}, "doc_id": {_NUMBER}, "doc_hash": {_TEXT}, "repeat": {_NUMBER}, "index": {_NUMBER}, '
    rf'"question": {_TEXT}, "status": '
)


class RunDirectory:
    """The folder of one evaluation: `config.json`, `transcripts.jsonl`, `summary.json`.

    A folder that contains the same evaluation is continued; one that contains another evaluation is refused, and so is
    one that another process writes to. In a distributed run, each process writes a file of its own, and rank 0, which
    must open the folder first, merges them.

    path: the folder.
    config: the configuration; the evaluation is the same if `identity` in it is.
    rank: the number of this process, from 0. Default 0.
    world: the number of processes. Default 1.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], rank: int = 0, world: int = 1) -> None:
        self.path = path
        self.rank, self.world = rank, world
        self._file: IO[str] | None = None
        try:
            make_private_folder(path)
            self._lock = lock_run(path, rank)  # held as long as this object exists
            known = path / "config.json"
            if known.exists():
                self._check_same(json.loads(known.read_text(encoding="utf-8")), config)
            elif rank == 0:
                write_json(known, config, private=True)
            self._part = path / ("transcripts.jsonl" if world == 1 else f"transcripts.{rank}.jsonl")
        except (OSError, ValueError, RecursionError) as error:  # the last two: config.json is not JSON
            raise StoreError(
                f"the run directory {path} cannot be used: {error}. Give a writable folder (`run_dir=<folder>`)"
            ) from error

    def _check_same(self, there: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        wanted = json.loads(json.dumps(config.get("identity"), default=str))
        found = there.get("identity") if isinstance(there, dict) else None
        if not isinstance(found, dict):
            raise ValueError(f"{self.path / 'config.json'} does not describe an evaluation")
        if found != wanted:
            differing = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            raise StoreError(
                f"the run directory {self.path} contains another evaluation (different: {', '.join(differing)}). "
                "Give another folder (`run_dir=<folder>`), or leave `run_dir` out for a new one"
            )

    def add(self, transcript: Transcript) -> None:
        """Append a transcript. Raises StoreError if the disk is full or the folder is gone."""
        try:
            if self._file is None:
                self._file = _open_to_append(self._part)
            self._file.write(_encode(transcript.to_json()) + "\n")
            self._file.flush()  # from here on, the line survives even if the process is killed
        except OSError as error:
            self._drop_file()
            raise self._unwritable(error) from error

    def append(self, name: str, text: str) -> None:
        """Append text to a readable file of the run, which is never overwritten. Raises StoreError."""
        path = self.path / (name if self.world == 1 else f"{Path(name).stem}.{self.rank}{Path(name).suffix}")
        try:
            with open_to_append(path) as file:
                file.write(text)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error}. Make room and run the same command again") from error

    def close(self) -> None:
        """Close the transcript file. Raises StoreError if it turns out only now that the disk is full."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise self._unwritable(error) from error

    def _drop_file(self) -> None:
        """Close the transcript file without what could not be written: a later attempt would only fail again."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"the transcripts in {self.path} cannot be written: {error}. Finished calls are in the store: "
            "make room, then run the same command again"
        )

    def merge(self) -> None:
        """Append the transcripts of all ranks to `transcripts.jsonl`; called by rank 0 at the end.

        A single process does so with what an earlier run of several processes has left. Each question is appended once,
        and once more if an answer follows a failure, so that a merge can be repeated. Raises StoreError.
        """
        merged, parts = self.path / "transcripts.jsonl", sorted(self.path.glob("transcripts.*.jsonl"))
        if not parts:
            return
        try:
            lines = map(_transcript, _lines(merged) if merged.exists() else ())
            have = {(t.identity, t.failure is None) for t in lines if t is not None}
            with _open_to_append(merged) as file:
                for transcript in _newest(parts):
                    answered = transcript.failure is None
                    if have.isdisjoint({(transcript.identity, answered), (transcript.identity, True)}):
                        file.write(_encode(transcript.to_json()) + "\n")
        except OSError as error:
            raise StoreError(
                f"the transcripts in {self.path} cannot be merged: {error}. Make room, then run the same command again"
            ) from error


def read_transcripts(run: Path) -> Iterator[Transcript]:
    """Yield a run's transcripts, one per question: the newest answer, or the newest failure if there is no answer.

    An incomplete line that a killed process left is skipped.
    """
    return _newest([f for f in [run / "transcripts.jsonl", *sorted(run.glob("transcripts.*.jsonl"))] if f.exists()])


def _newest(files: Sequence[Path]) -> Iterator[Transcript]:
    # Transcripts are long, so they are neither all kept nor, but for repeated questions, parsed more than once: who
    # they are about stands at the beginning of their lines.
    known, repeated = set[Identity](), set[Identity]()
    lengths = [0 for _ in files]
    for file, path in enumerate(files):
        for line in _lines(path):
            lengths[file] += 1
            if (identity := _identity(line)) is not None:
                (repeated if identity in known else known).add(identity)
    newest: dict[Identity, tuple[bool, int, int]] = {}
    for file, number, line in _placed(files, lengths) if repeated else ():
        if _identity(line) in repeated and (transcript := _transcript(line)) is not None:
            rank = (transcript.failure is None, file, number)
            newest[transcript.identity] = max(rank, newest.get(transcript.identity, rank))
    for file, number, line in _placed(files, lengths):
        identity = _identity(line) if repeated else None
        if identity is not None and identity in newest and newest[identity][1:] != (file, number):
            continue
        if (transcript := _transcript(line)) is not None:
            yield transcript


def _placed(files: Sequence[Path], lengths: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Yield the lines of files with their positions, without those that were written later than `lengths` were."""
    for file, (path, length) in enumerate(zip(files, lengths, strict=True)):
        for number, line in enumerate(islice(_lines(path), length)):
            yield file, number, line


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from file


def _identity(line: str) -> Identity | None:
    """Return what identifies the question of a line; None if the line is damaged, as far as its beginning shows."""
    if head := _HEAD.match(line):
        try:
            task, doc_id, doc_hash, repeat, index, question = json.loads(f"[{', '.join(head.groups())}]")
        except ValueError:
            return None
        return (task, doc_id, doc_hash, repeat, index, question)
    found = _transcript(line)
    return None if found is None else found.identity


def _transcript(line: str) -> Transcript | None:
    try:
        return Transcript.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _open_to_append(path: Path) -> IO[str]:
    """Open a file of lines for appending. An incomplete line that a killed process left is kept and terminated."""
    file = open_to_append(path)
    if file.tell():
        with path.open("rb") as there:
            there.seek(-1, os.SEEK_END)
            if there.read(1) != b"\n":
                file.write("\n")
    return file


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that an evaluation depends on."""
    found = {"python": platform.python_version()}
    for name in ("lm_eval", "torch", "transformers", "accelerate", "peft", "datasets"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def write_json(path: Path, data: Any, private: bool = False) -> None:
    """Write a JSON file atomically: it is either complete or not there.

    path: the file.
    data: its content.
    private: whether it belongs to a run's records, which only their owner can read. Default False.
    """
    with atomic_write(path, errors="replace", private=private) as file:
        file.write(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")


def new_run_path(root: Path, label: str) -> Path:
    """Create and return a new folder `<root>/<label>-<time>`. Since it then exists, no other run can take it."""
    stem = f"{re.sub(r'[^A-Za-z0-9._-]+', '_', label)}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        path = root / (stem if number == 1 else f"{stem}-{number}")
        try:
            make_private_folder(path, exist_ok=False)
            return path
        except FileExistsError:
            number += 1

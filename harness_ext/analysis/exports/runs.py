"""The runs that are exported: their records and scores, read question by question, with every text made safe."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from harness_ext.analysis.scoring.score import SCORES
from harness_ext.analysis.transcript_view import decision_words
from harness_ext.credentials import mask
from harness_ext.errors import HarnessExtError
from harness_ext.files import atomic_write
from harness_ext.records import Decision, Loglikelihood, SeatCost, Transcript, Turn, Usage
from harness_ext.records.costs import costs_of
from harness_ext.records.run_directory import read_transcripts
from harness_ext.terminal import safe_text, shell_word

WRONG_FIELDS = (KeyError, TypeError, IndexError, AttributeError)
"""What code raises that reads records which were changed by hand."""


class ExportError(HarnessExtError):
    """A run cannot be exported. The message names cause and remedy."""


@dataclass(frozen=True)
class ExportedQuestion:
    """A question of a run.

    transcript: what was said about it; its texts are as they were recorded.
    targets: the gold targets; empty without scores.
    scores: for each `metric,filter`, the values after each round; empty without scores. A filter that needs all repeats
        of a document gives each of them the same values.
    """

    transcript: Transcript
    targets: tuple[str, ...] = ()
    scores: Mapping[str, tuple[Any, ...]] | None = None

    @property
    def id(self) -> str:
        """Return the document's number, and the request's where a document has several."""
        number, request = self.transcript.doc_id, self.transcript.index
        return f"{number}.{request}" if request else str(number)


@dataclass(frozen=True)
class ExportedRun:
    """A run directory.

    path: the folder.
    name: a name that no other exported run has: that of the folder, with a number where two are equal.
    config: its `config.json`.
    summary: its `summary.json`; empty if the run was killed before it was written.
    figures: its `scores.json`; empty if the run is exported without scores.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    figures: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Return the run's label."""
        return plain(str(self.config.get("label") or self.path.name))

    @property
    def protocol(self) -> str:
        """Return the class of the protocol; empty if it is unknown."""
        return plain(str((self.config.get("identity") or {}).get("protocol") or ""))

    @property
    def started(self) -> datetime:
        """Return when the run began; if that is not recorded, when its configuration was written."""
        try:
            return datetime.strptime(str(self.config.get("started")), "%Y-%m-%dT%H:%M:%S%z").astimezone(UTC)
        except ValueError:
            known = self.path / "config.json"
            written = (known if known.exists() else self.path).stat().st_mtime
            return datetime.fromtimestamp(int(written), UTC)

    @property
    def ended(self) -> datetime:
        """Return when the last transcript was written."""
        written = max(file.stat().st_mtime for file in self.path.glob("transcripts*.jsonl"))
        return max(self.started, datetime.fromtimestamp(int(written), UTC))

    @property
    def seats(self) -> dict[str, Mapping[str, Any]]:
        """Return the seats as they were configured, by name."""
        return {plain(str(name)): seat for name, seat in (self.config.get("seats") or {}).items()}

    def model_of(self, seat: str) -> str:
        """Return the name of a seat's model; the seat's own name if it is unknown."""
        return str(settings(self.seats.get(seat, {}).get("name") or seat))

    def usage_of(self, turns: Iterable[Turn]) -> Usage:
        """Return what turns cost: every call counts, including reused ones."""
        seats = costs_of(self.config.get("seats"), self.summary.get("usage"))
        calls = (call for turn in turns for call in turn.calls)
        return Usage.total(seats.get(call.seat, SeatCost()).usage(call) for call in calls)

    def questions(self) -> Iterator[ExportedQuestion]:
        """Yield the questions in the order of the transcripts. Only positions of the scores are kept in memory.

        Raises ExportError if the scores are damaged.
        """
        if not self.figures:
            yield from map(ExportedQuestion, read_transcripts(self.path))
            return
        with ScoreLines(self.path / SCORES) as lines:
            for transcript in read_transcripts(self.path):
                row = lines.find(transcript)
                try:
                    targets = tuple(plain(str(target)) for target in row["target"])
                    scores = _scores(row, transcript.repeat)
                except WRONG_FIELDS as error:
                    raise damaged(self.path, error) from error
                yield ExportedQuestion(transcript, targets, scores)

    def score_lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of `scores.jsonl`; none if the run is exported without scores."""
        if not self.figures:
            return
        with (self.path / SCORES).open(encoding="utf-8") as file:
            for line in file:
                yield _parsed(line, self.path)


class ScoreLines:
    """The lines of a `scores.jsonl`, found by question without keeping them in memory. To be used in a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> ScoreLines:
        self._positions: dict[tuple[str, str], list[tuple[int, int]]] = {}
        self._last: tuple[int, dict[str, Any]] = (-1, {})
        position = 0
        with self._path.open("rb") as file:
            for line in file:
                row = _parsed(line, self._path.parent)
                self._positions.setdefault((row["task"], row["doc_hash"]), []).append((row["doc_id"], position))
                position += len(line)
        self._file = self._path.open("rb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def find(self, transcript: Transcript) -> dict[str, Any]:
        """Return the line of a question's document. Equal documents are told apart by their numbers."""
        found = self._positions.get((transcript.task, transcript.doc_hash))
        if not found:
            raise damaged(self._path.parent, f"no line for {transcript.task}, document {transcript.doc_id}")
        position = next((at for number, at in found if number == transcript.doc_id), found[0][1])
        if self._last[0] != position:
            self._file.seek(position)
            self._last = position, _parsed(self._file.readline(), self._path.parent)
        return self._last[1]


def open_run(path: Path, name: str, figures: Mapping[str, Any] | None) -> ExportedRun:
    """Return a run directory that can be exported.

    path: the directory.
    name: its name among the exported runs.
    figures: its `scores.json`; None to export it without scores.

    Raises ExportError if it has no transcripts, or if its files are damaged.
    """
    if figures is None and next(read_transcripts(path), None) is None:
        raise ExportError(f"{path} contains no transcripts yet: wait for the first answer, or run it again")
    config, summary = _object(path / "config.json"), _object(path / "summary.json")
    parts = {f"config.json: {name}": config.get(name) for name in ("identity", "run", "versions", "seats")}
    parts |= {f"summary.json: {name}": summary.get(name) for name in ("usage", "rounds", "reviews")}
    for above, seats in (("config.json: seats", config.get("seats")), ("summary.json: usage", summary.get("usage"))):
        parts |= {f"{above}.{name}": seat for name, seat in (seats if isinstance(seats, dict) else {}).items()}
    if wrong := [name for name, part in parts.items() if not isinstance(part or {}, dict)]:
        raise ExportError(f"{path} is damaged, since these are no objects: {', '.join(wrong)}. Restore the files")
    return ExportedRun(path, name, config, summary, figures or {})


def plain(text: str) -> str:
    """Return a text as exports contain it: what could control a terminal or hide is written out (`<U+202E>`).

    Unlike on terminals, tabs stay, because they belong to code and tables.
    """
    return "\t".join(map(safe_text, text.split("\t")))


def plain_values(value: Any) -> Any:
    """Return JSON values with every text in them, and every name, as by `plain`."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {plain(str(key)): plain_values(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float) else plain(str(value))


def settings(value: Any) -> Any:
    """Return settings as by `plain_values`, without the credentials that they may contain."""
    if isinstance(value, str):
        return plain(mask(value))
    if isinstance(value, Mapping):
        return {plain(str(key)): settings(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [settings(one) for one in value]
    return plain_values(value)


def words_of(turn: Turn) -> str:
    """Return what a turn said: its text, or in words what else came back."""
    if isinstance(turn.result, Decision):
        return plain(decision_words(turn.result))
    if isinstance(turn.result, Loglikelihood):
        return f"log-probability {turn.result.logprob:.4f}"
    return plain(turn.text)


def described(metric: str) -> str:
    """Return a `metric,filter` as exports name it: without the filter `none`, and with a dot before another one."""
    return plain(metric.removesuffix(",none").replace(",", "."))


@contextmanager
def atomic_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that only its owner can read, and that replaces `path` once the block ends without an error.

    Raises ExportError if the disk does not take it.
    """
    try:
        with atomic_write(path, private=True) as file:
            yield cast(TextIO, file).buffer
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error}. Make room, or give another folder (`-o`)") from error


def file_name(*parts: str) -> str:
    """Return parts of a name joined by underscores, with only letters, digits, dots, dashes and underscores."""
    kept = ("".join(c if c.isascii() and (c.isalnum() or c in ".-_") else "_" for c in part) for part in parts)
    return "_".join(part.strip(".") or "_" for part in kept)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return a name for each run directory: that of its folder, with a number where an earlier one has the same."""
    names: list[str] = []
    for path in paths:
        names.append(free_name(plain(path.resolve().name), names))
    return names


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name, with a number if it is taken."""
    return next(one for n in count(1) if (one := name if n == 1 else f"{name}-{n}") not in taken)


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; an empty one if there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ExportError(f"{path} is damaged: restore it, or repeat the run in its folder (`run_dir={path.parent}`)")
    return found


def _scores(row: Mapping[str, Any], repeat: int) -> dict[str, tuple[Any, ...]]:
    draw = next((i for i, one in enumerate(row["draws"]) if one["repeat"] == repeat), 0)
    found: dict[str, tuple[Any, ...]] = {}
    for key, entry in row["filters"].items():
        units = entry["answers"]
        unit = units[draw if len(units) == len(row["draws"]) else 0]
        found |= {f"{metric},{key}": tuple(state[metric] for state in unit) for metric in unit[-1]}
    return found


def _parsed(line: str | bytes, run: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
        row["task"], row["doc_hash"], row["doc_id"], row["target"], row["draws"], row["filters"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(run, error) from error
    return cast(dict[str, Any], row)


def damaged(run: Path, error: object) -> ExportError:
    """Return the error about a run whose scores cannot be read."""
    why = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else error
    return ExportError(f"{run / SCORES} is damaged ({why}): run `harness-ext score {shell_word(run)}` again")

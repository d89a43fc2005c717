"""Reading and writing rows: outputs are complete or absent, in input order, with bad rows and a manifest."""

from __future__ import annotations

import codecs
import hashlib
import json
import re
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from harness_ext.data.formats import read_rows
from harness_ext.errors import ConfigurationError, StoreError
from harness_ext.files import atomic_write, open_to_write, why_no_file
from harness_ext.options import suggest
from harness_ext.records.chat import is_utf8
from harness_ext.records.run_directory import write_json
from harness_ext.records.run_lock import lock_output

_encode = json.JSONEncoder(ensure_ascii=False).encode
TEXT_FILES = (".jsonl", ".csv", ".tsv")
MOST_NAMED = 30
# Longer marks come first, because the mark of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class FileRow:
    """A row of a file.

    place: its position, such as `line 7`.
    fields: its fields, or None if it cannot be read.
    problem: why it cannot be read.
    """

    place: str
    fields: dict[str, Any] | None
    problem: str = ""


def read(path: Path, split: str = "train", limit: int | None = None) -> Iterator[FileRow]:
    """Yield the rows of a JSON-lines, CSV, TSV or Parquet file or a `save_to_disk` folder, including unreadable rows.

    Text files are UTF-8, or UTF-16 or UTF-32 with a byte order mark. Raises ConfigurationError if the file as a whole
    cannot be read.

    path: the file or folder.
    split: the split to read of a saved DatasetDict. Default `train`.
    limit: number of rows to yield. Default: all.
    """
    with _as_utf8(path) as source:
        for number, (place, found) in enumerate(read_rows(source, split)):
            if not place:
                raise ConfigurationError([f"{path} {found}"])
            if limit is not None and number >= limit:
                return
            yield FileRow(place, None, found) if isinstance(found, str) else FileRow(place, dict(found))


def check_field(path: Path, name: str, split: str = "train", limit: int | None = None) -> None:
    """Raise ConfigurationError if no row has text in a field. Usually only the first row is read.

    path: the file or folder with the rows.
    name: the field.
    split, limit: as in `read`.
    """
    fields: dict[str, None] = {}
    problem = ""
    for row in read(path, split, limit):
        if row.fields is None:
            problem = problem or f"{row.place}: {row.problem}"
            continue
        if isinstance(text := row.fields.get(name), str) and text.strip():
            return
        fields.update(dict.fromkeys(row.fields))
    if not fields:
        raise ConfigurationError([f"no row of {path} can be read: {problem or 'it contains none'}"])
    listed = ", ".join([*fields][:MOST_NAMED]) + (", …" if len(fields) > MOST_NAMED else "")
    close = "" if name in fields else suggest(name, [*fields])
    raise ConfigurationError(
        [f"no row of {path} has text in the field `{name}`{close}; name one of its fields instead: {listed}"]
    )


def check_writable(path: Path) -> None:
    """Raise ConfigurationError if a file or a new folder cannot be written, before the work whose result it gets."""
    if reason := why_no_file(path):
        raise ConfigurationError([f"{path} cannot be written: {reason}. Name another output"])


def check_output(path: Path) -> None:
    """Raise ConfigurationError if no run can write its rows to a file."""
    check_writable(path)
    if path.suffix != ".jsonl":
        raise ConfigurationError([f"the output {path} must end in .jsonl"])
    if path.exists() and manifest_of(path).get("identity") is None:
        raise ConfigurationError([f"{path} exists, and no run wrote it: name another output"])


@contextmanager
def _as_utf8(path: Path) -> Iterator[Path]:
    """Yield the file itself, or a UTF-8 copy of it if its byte order mark indicates another encoding."""
    start = b""
    if path.is_file() and path.suffix in TEXT_FILES:
        with path.open("rb") as file:
            start = file.read(4)
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if encoding is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        try:
            copy.write_bytes(path.read_bytes().decode(encoding).encode())
        except UnicodeError as error:
            problem = (
                f"{path} has the byte order mark of {encoding} but is not valid {encoding} ({error}): save it as UTF-8"
            )
            raise ConfigurationError([problem]) from error
        yield copy


def to_line(fields: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON.

    Every Unicode line separator is escaped, so that all readers see a single line. Rows with lone surrogates, which
    UTF-8 cannot encode, are written in ASCII.
    """
    line = _encode(fields)
    if not is_utf8(line):
        return json.dumps(fields)
    return _LINE_ENDS.sub(lambda m: f"\\u{ord(m[0]):04x}", line)


def beside(path: Path, what: str) -> Path:
    """Return the path of a file that accompanies another: `out.<what>` for `out.jsonl`."""
    return path.with_name(f"{path.stem if path.suffix == '.jsonl' else path.name}.{what}")


class Output:
    """The output files of a run: `<out>.jsonl`, `<out>.bad.jsonl`, `<out>.records.jsonl` and `<out>.manifest.json`.

    Rows may be added in any order. Each is written at once to `<file>.partial`, so that a run that is killed leaves
    every row that it finished; `finish` puts the rows in the order of their numbers and renames all files. The output
    of a different run, or a file that no run wrote, is never overwritten: the constructor raises ConfigurationError. A
    file that another process is writing is refused with StoreError. A previous output of the same run, over fewer or
    other rows, is kept as `<file>.old-1` and so on, unless it is identical.

    path: the JSON-lines file to write.
    identity: the settings that must be equal for two runs to count as the same.
    """

    KINDS = ("bad.jsonl", "records.jsonl")

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity: dict[str, Any] = json.loads(json.dumps(identity, default=str))
        self.manifest = beside(path, "manifest.json")
        self.written = self.bad = 0
        self._check()
        self._taken = bytearray()  # for each row, by its number, whether it has been added or rejected
        self._numbers: dict[str, array[int]] = {kind: array("q") for kind in ("", *self.KINDS)}
        self._files: dict[str, IO[str]] = {}

    def _check(self) -> None:
        check_output(self.path)
        found = manifest_of(self.path)["identity"] if self.path.exists() else self.identity
        if found != self.identity:
            names = sorted(k for k in {*found, *self.identity} if found.get(k) != self.identity.get(k))
            raise ConfigurationError(
                [f"{self.path} is the output of another run (different: {', '.join(names)}): name another output"]
            )

    def __enter__(self) -> Output:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = lock_output(self.path)
            for kind in ("", *self.KINDS):
                self._files[kind] = open_to_write(_partial(self._target(kind)))
        except OSError as error:
            raise StoreError(f"cannot write the output {self.path}: {error}. Name a writable folder") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A file on a full disk fails again when it is closed, which must not hide the error that names the remedy.
        with suppress(OSError) if error is not None else nullcontext():
            self.close()
        self._lock.release()

    def close(self) -> None:
        """Close the files. Unless `finish` was called before, they keep the suffix `.partial`."""
        with ExitStack() as files:  # closes all of them, also if one fails
            for file in self._files.values():
                files.callback(file.close)

    def add(self, number: int, fields: Sequence[Mapping[str, Any]], record: Mapping[str, Any] | None = None) -> None:
        """Add the result of a row.

        number: number of the input row, from 0.
        fields: the output rows it became.
        record: the entry for `<out>.records.jsonl`. Default none.
        """
        lines = [("", to_line(one)) for one in fields]
        self._take(number, [*lines, *([("records.jsonl", to_line(record))] if record is not None else [])])
        self.written += len(fields)

    def reject(self, number: int, row: FileRow, code: str, reason: str) -> None:
        """Add a row that has no result.

        number: number of the input row, from 0.
        row: the row.
        code: the category of the problem.
        reason: a message that explains it.
        """
        entry = {"place": row.place, "code": code, "reason": reason, "row": row.fields}
        self._take(number, [("bad.jsonl", to_line(entry))])
        self.bad += 1

    def _take(self, number: int, lines: list[tuple[str, str]]) -> None:
        try:
            for kind, line in lines:
                self._files[kind].write(line + "\n")
                self._files[kind].flush()
                self._numbers[kind].append(number)
        except OSError as error:
            raise self._unwritable(error) from error
        self._taken.extend(bytes(max(0, number + 1 - len(self._taken))))
        self._taken[number] = True

    def _target(self, kind: str) -> Path:
        return beside(self.path, kind) if kind else self.path

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(
            f"cannot write {self.path}: {error}. Finished calls are in the call store: free some disk space, then "
            "run the same command again"
        )

    def end_early(self) -> None:
        """Close the files and put their rows in order, without those that will not be finished in this run."""
        try:
            self.close()
            for kind, numbers in self._numbers.items():
                _sort_lines(_partial(self._target(kind)), numbers)
        except OSError as error:
            raise self._unwritable(error) from error

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Put the rows in order and rename the files to their final names.

        Call this after every row has been added or rejected.
        """
        if (missing := self._taken.find(False)) >= 0:
            raise StoreError(f"row {missing} of {self.path} is missing: run the same command again")
        self.end_early()
        try:
            write_json(self.manifest, {"identity": self.identity, **manifest})
            for kind in (*self.KINDS, ""):
                target = self._target(kind)
                _keep_former(target, _partial(target))
                if kind and not target.exists() and not _partial(target).stat().st_size:
                    _partial(target).unlink()
                else:
                    _partial(target).replace(target)
        except OSError as error:
            raise self._unwritable(error) from error


def _keep_former(path: Path, new: Path) -> None:
    if path.exists() and path.stat().st_size and file_digest(path) != file_digest(new):
        number = 1
        while (kept := path.with_name(f"{path.name}.old-{number}")).exists():
            number += 1
        path.rename(kept)


def _sort_lines(path: Path, numbers: Sequence[int]) -> None:
    """Put the lines of a file in the order of their numbers. Lines with equal numbers keep their order."""
    order = sorted(range(len(numbers)), key=numbers.__getitem__)
    if order == list(range(len(numbers))):
        return
    # Rows may be large, so only their places are kept in memory.
    with path.open("rb") as file:
        places = array("q", [0])
        places.extend(accumulate(len(line) for line in file))
        with atomic_write(path) as text:
            for line in order:
                file.seek(places[line])
                text.write(file.read(places[line + 1] - places[line]).decode())


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")


def manifest_of(path: Path) -> dict[str, Any]:
    """Return the manifest of a file of rows, or an empty dictionary if there is none."""
    try:
        found = json.loads(beside(path, "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def text_digest(text: Any) -> str:
    """Return a hash of a row's `all`, which identifies its record."""
    return hashlib.sha256(str(text).encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file's content, or None for a folder."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

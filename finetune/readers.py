"""Opens files, folders and data sets on the hub as rows. `datasets` reads them once and caches them as Arrow tables."""

from __future__ import annotations

import csv
import errno
import glob
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.data.hub import without_waiting
from harness_ext.data.progress_bars import quiet
from harness_ext.files import why_not_writable
from harness_ext.finetune.data_names import JSON_ARRAY, PARQUET, TABLES, is_hub_name
from harness_ext.finetune.encoding import FINISHED, FINISHED_PAIR, DataError
from harness_ext.finetune.rows import LINE, Rows, no_rows

if TYPE_CHECKING:
    from datasets import Dataset

ENCODING = "utf-8-sig"  # UTF-8, with or without a byte order mark
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def open_source(name: str, config: str = "") -> dict[str, Rows]:
    """Return the splits of a source. A file has a single one, whose name is empty.

    Files are JSON lines, JSON (a list of rows), CSV, TSV or Parquet. Folders are written by `save_to_disk`, or contain
    such files as `load_dataset` reads them. Anything else is a data set on the hub, `owner/name`. Raises DataError with
    the cause and a remedy if the source cannot be read.

    name: a file, a folder, or the name of a data set on the hub.
    config: the configuration of a folder or a data set on the hub. Default none.
    """
    _create_cache()
    path = Path(name)
    if path.is_file():
        return {"": _open_file(path)}
    if path.is_dir():
        saved = (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()
        return _saved(path) if saved else _folder(path, config)
    if is_hub_name(name):
        return _hub(name, config)
    raise DataError(f"{name} is neither a file nor a folder, nor the name of a data set on the hub (`owner/name`).")


def open_table(name: str) -> Rows:
    """Return the rows of a file: JSON, Parquet, or a table separated by tabs or commas, as its header is.

    Raises DataError if the file cannot be read.
    """
    path = Path(name)
    return _open_file(path) if path.suffix in (".jsonl", JSON_ARRAY, PARQUET) else _table(path)


def cache_folder(*parts: str) -> Path:
    """Return the folder in which rows are cached, below that of `datasets` (`HF_DATASETS_CACHE`)."""
    from datasets import config

    return Path(config.HF_DATASETS_CACHE).joinpath("harness_ext", *parts)


@contextmanager
def cache_errors() -> Iterator[None]:
    """Turn errors of the cache's folder into a DataError that names the folder and a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _uncached(error.strerror or str(error)) from error


def _uncached(reason: str) -> DataError:
    return DataError(
        f"rows cannot be cached in {cache_folder()}: {reason}. Remedy: free some space, or name another folder with "
        "the environment variable HF_DATASETS_CACHE."
    )


def _create_cache() -> None:
    """Create the cache's folder. Otherwise, its errors would later look like those of the rows."""
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _uncached(why_not_writable(cache_folder()) or error.strerror or str(error)) from error


def _open_file(path: Path) -> Rows:
    if path.suffix in TABLES:
        return _table(path)
    if path.suffix == PARQUET:
        return _loaded(path, "Parquet", lambda options: _load("parquet", path, **options))
    if path.suffix == JSON_ARRAY and _is_array(path):
        return _loaded(path, "JSON", lambda options: _from_array(path, **options), json_text=True)
    from datasets import Features, Value

    features = Features({LINE: Value("string")})
    rows = _loaded(
        path,
        "JSON lines",
        lambda options: _load("text", path, features=features, encoding=ENCODING, **options),
        json_text=True,
    )
    return _without_blanks(rows)


def _load(builder: str, path: Path, **options: Any) -> Dataset:
    from datasets import load_dataset

    # Names of files are patterns to `load_dataset`.
    return load_dataset(builder, data_files={"train": glob.escape(str(path.absolute()))}, split="train", **options)


def _loaded(path: Path, form: str, load: Callable[[dict[str, Any]], Dataset], json_text: bool = False) -> Rows:
    """Return the rows of a file.

    path: the file.
    form: its format, for messages.
    load: reads it, given options for `datasets`.
    json_text: whether the table has one row of JSON text per row. Default false.
    """
    # By default, `datasets` recognises a changed file by its modification time, which copying can preserve.
    digest = _digest(path)
    with _reading(path, f"as {form}"), quiet():
        data = load({"cache_dir": str(cache_folder("rows", digest[:32]))})
    return _rows(str(path), data, digest, json_text=json_text, by_line=form == "JSON lines")


def _rows(source: str, data: Dataset, digest: str, json_text: bool = False, by_line: bool = False) -> Rows:
    import numpy as np

    data = data.with_format(None)
    columns = () if json_text else tuple(data.column_names)
    return Rows(source, data, digest, np.arange(len(data)), by_line, columns)


def _without_blanks(rows: Rows) -> Rows:
    import dataclasses

    import numpy as np
    import pyarrow.compute as pc

    blank = [
        pc.equal(pc.binary_length(pc.utf8_trim_whitespace(chunk)), 0).to_numpy(zero_copy_only=False)
        for chunk in rows.data.data.column(LINE).chunks
    ]
    return dataclasses.replace(rows, numbers=rows.numbers[~np.concatenate(blank)]) if blank else rows


def _is_array(path: Path) -> bool:
    with open(path, encoding=ENCODING, errors="replace") as file:
        while start := file.read(1024):
            if start := start.lstrip():
                return start.startswith("[")
    return False


def _from_array(path: Path, cache_dir: str) -> Dataset:
    from datasets import Dataset, Features, Value

    return Dataset.from_generator(
        _items, Features({LINE: Value("string")}), cache_dir=cache_dir, gen_kwargs={"path": str(path)}
    )


def _items(path: str) -> Iterator[dict[str, str]]:
    for item in json.loads(Path(path).read_text(encoding=ENCODING)):
        yield {LINE: json.dumps(item)}


def _table(path: Path) -> Rows:
    """Return the rows of a CSV or TSV file. Every cell is text, also if it looks like a number or is `NA`.

    Only the columns that say whether a text is finished are true or false.
    """
    from datasets import Features, Value

    with _reading(path, "as a table"), open(path, encoding=ENCODING, newline="") as file:
        first = file.readline()
        separator = "\t" if "\t" in first or path.suffix == ".tsv" else ","
        file.seek(0)
        csv.field_size_limit(2**31 - 1)
        header = next(csv.reader(file, delimiter=separator), [])
    if len(set(header)) < len(header) or "" in header or not header:
        raise DataError(
            f"{path} has a column without a name, or two with the same name: {', '.join(map(repr, header)) or 'none'}. "
            "Remedy: give every column its own name in the first line."
        )
    flags = (FINISHED, *FINISHED_PAIR)
    features = Features({name: Value("bool" if name in flags else "string") for name in header})

    def load(options: dict[str, Any]) -> Dataset:
        with warnings.catch_warnings():
            # pandas would cut rows that are all longer than the header.
            warnings.filterwarnings("error", message="Length of header or names does not match")
            return _load(
                "csv",
                path,
                sep=separator,
                features=features,
                encoding=ENCODING,
                keep_default_na=False,
                index_col=False,
                **options,
            )

    return _loaded(path, f"a table with {len(header)} columns", load)


def _saved(path: Path) -> dict[str, Rows]:
    with _reading(path, "as a folder of `datasets.save_to_disk`"), quiet():
        names = path / "dataset_dict.json"
        splits = json.loads(names.read_text(encoding="utf-8"))["splits"] if names.is_file() else [""]
        found = {split: _saved_split(path / split) for split in splits}
    return _splits(str(path), found, _digest(path))


def _saved_split(folder: Path) -> Dataset:
    from datasets import Dataset, load_from_disk

    # `load_from_disk` fails on a split without rows.
    if not json.loads((folder / "state.json").read_text(encoding="utf-8"))["_data_files"]:
        return Dataset.from_dict({})
    return load_from_disk(str(folder), keep_in_memory=False)


def _folder(path: Path, config: str) -> dict[str, Rows]:
    from datasets import load_dataset

    digest = _digest(path)
    what = "as a folder of `datasets.save_to_disk`, nor as one with files that `datasets.load_dataset` reads"
    with _reading(path, what), quiet():
        folder = str(path.absolute())
        found = load_dataset(folder, config or None, cache_dir=str(cache_folder("rows", digest[:32])))
    return _splits(str(path), dict(found), digest)


def _hub(name: str, config: str) -> dict[str, Rows]:
    from datasets import load_dataset

    with without_waiting() as fault, quiet():
        try:
            found = load_dataset(name, config or None)
        # Loading fails in many ways: no network, no such data set, a gated one, a broken cache.
        except Exception as error:
            unreachable = f" The hub cannot be reached: {fault}." if fault else ""
            raise DataError(
                f"{name} is neither a file nor a folder here, and cannot be loaded as a data set of the hub: "
                f"{_reason(error)}.{unreachable} Remedy: check the name, `dataset_config` and the connection; for a "
                "gated data set, log in with `hf auth login`; without a connection, download it beforehand or name a "
                "file."
            ) from error
    return _splits(name, dict(found), "")


def _splits(source: str, found: dict[str, Dataset], digest: str) -> dict[str, Rows]:
    """Return the splits of a data set.

    source: its name, for messages.
    found: the tables by split.
    digest: identifies their contents, or empty if their fingerprints do.
    """
    return {
        split: _rows(
            f"{source} (split `{split}`)" if split else source,
            data,
            hashlib.sha256(f"{digest or data._fingerprint}\n{split}".encode()).hexdigest(),
        )
        for split, data in found.items()
    }


def _digest(path: Path) -> str:
    """Return a digest of the contents of a file, or of a folder's files and their names. Raises DataError."""
    digest = hashlib.sha256()
    try:
        files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
        for one in files:
            with open(one, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            name = "" if one == path else os.fsdecode(one.relative_to(path))
            digest.update(f"{name}\n{content}\n".encode(errors="surrogateescape"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    with cache_errors():
        try:
            yield
        except DataError:
            raise
        # A broken file makes its reader raise almost anything.
        except Exception as error:
            cause = error.__cause__ or error
            if "corresponds to no data" in str(cause):  # what `datasets` says of a split without rows
                raise no_rows(str(path)) from None
            at_source = str(getattr(cause, "filename", "")) in (str(path), str(path.absolute()))
            if isinstance(cause, OSError) and cause.errno in _FULL and not at_source:
                raise cause from error
            raise DataError(
                f"{path} cannot be read {what}: {_reason(error)}. Remedy: repair it, or name a file of JSON lines, "
                "JSON, CSV, TSV or Parquet, or a folder with such files or written by `save_to_disk`."
            ) from error


def _reason(error: BaseException) -> str:
    """Return the first line of the error that caused this one, as libraries wrap it in general ones."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__).rstrip(".")

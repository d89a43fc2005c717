"""Turns an annotated file into a data set for training: adds `cot_tail`, drops flagged rows, saves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.enhance.checks import FLAGS, contamination_flags, flags_of
from harness_ext.enhance.contamination.findings import Findings
from harness_ext.enhance.row_files import manifest_of
from harness_ext.enhance.templates import squeeze
from harness_ext.errors import ConfigurationError
from harness_ext.records.chat import is_utf8
from harness_ext.records.run_directory import write_json


def finish(source: Path, folder: Path, drop: Collection[str] = (), contamination: Findings | None = None) -> Any:
    """Save an annotated file as a data set that `datasets.load_from_disk` reads; return its manifest.

    Every row gets `cot_tail`, its `all` cleaned as TeacherLM does. Raises ConfigurationError if a flag is unknown or
    could not be checked, if a field has values of different types, or if the folder already exists.

    source: the annotated file; it is not changed.
    folder: the folder to create.
    drop: flags whose rows are dropped and counted. Default none.
    contamination: which rows contain evaluation documents. Default: this was not checked.
    """
    problems = [f"`{flag}` is not a flag; the flags are {', '.join(FLAGS)}" for flag in drop if flag not in FLAGS]
    if folder.exists():
        problems.append(f"{folder} already exists: name another folder")
    rows, flags, unknown = flags_of(source)
    problems += [f"rows cannot be dropped by `{f}`: {why}" for f, why in unknown.items() if f in drop]
    dropped = dict.fromkeys(drop, 0)
    kept = []
    for row, found, more in zip(rows, flags, contamination_flags(contamination, len(rows)), strict=True):
        hit = (found | more) & set(drop)
        for flag in hit:
            dropped[flag] += 1
        if not hit:
            kept.append({**row, "cot_tail": squeeze(str(row["all"]))})
    problems += _unlike(kept)
    if not kept and not problems:
        problems.append(f"no row of {source} is left: drop fewer flags")
    if problems:
        raise ConfigurationError(problems)
    manifest = {
        "counts": {"read": len(rows), "written": len(kept), "dropped": len(rows) - len(kept), "by_flag": dropped},
        "annotated": manifest_of(source),
    }
    save(kept, folder, manifest)
    return manifest


def save(rows: Sequence[Mapping[str, Any]], folder: Path, manifest: Mapping[str, Any]) -> None:
    """Save rows and their manifest with `save_to_disk`. The folder appears only once it is complete."""
    from datasets import Dataset

    building = folder.with_name(f".{folder.name}.partial")
    if building.is_symlink():  # writing through it would change another folder
        building.unlink()
    Dataset.from_list([dict(row) for row in rows]).save_to_disk(str(building))
    write_json(building / "manifest.json", manifest)
    building.rename(folder)


def _unlike(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a message for every field that an Arrow table cannot store: mixed types, or text that is not Unicode."""
    import pyarrow

    problems = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError, TypeError) as error:
            bad = next((line for line, v in enumerate(values, 1) if isinstance(v, str) and not is_utf8(v)), None)
            where = f" (row {bad} contains half a surrogate pair)" if bad else ""
            problems.append(f"field {name!r} cannot be saved in one column{where}: {error}. Fix or remove these rows")
    return problems

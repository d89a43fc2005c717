"""From an annotated file to a data set for training: `cot_tail`, filters, `save_to_disk`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.chat import is_utf8
from harness_ext.enhance.checks import FLAGS, flags_of
from harness_ext.enhance.rows import manifest_of
from harness_ext.enhance.templates import squeeze
from harness_ext.errors import ConfigurationError
from harness_ext.rundir import write_json


def finish(source: Path, folder: Path, drop: Collection[str] = (), overlap_lines: Collection[int] = ()) -> Any:
    """Save an annotated file as a data set that `datasets.load_from_disk` reads; return its manifest.

    Every row gets `cot_tail`, its `all` cleaned as TeacherLM does. Rows with a flag named in `drop` are left out and
    counted; the annotated file itself stays as it is. Raises ConfigurationError where a flag is unknown or could not be
    checked, where a field's values are of different kinds, or where the folder is there already.
    """
    problems = [f"`{flag}` is no check; there are {', '.join(FLAGS)}" for flag in drop if flag not in FLAGS]
    if folder.exists():
        problems.append(f"{folder} is there already: name another folder")
    rows, flags, unknown = flags_of(source)
    problems += [f"rows cannot be dropped by `{f}`: {why}" for f, why in unknown.items() if f in drop]
    dropped = dict.fromkeys(drop, 0)
    kept = []
    for line, (row, found) in enumerate(zip(rows, flags, strict=True), start=1):
        hit = (found | ({"overlap"} if line in overlap_lines else set())) & set(drop)
        for flag in hit:
            dropped[flag] += 1
        if not hit:
            kept.append({**row, "cot_tail": squeeze(str(row["all"]))})
    problems += _unlike(kept)
    if not kept and not problems:
        problems.append(f"no row of {source} is left")
    if problems:
        raise ConfigurationError(problems)
    manifest = {
        "counts": {"read": len(rows), "written": len(kept), "dropped": len(rows) - len(kept), "by_flag": dropped},
        "annotated": manifest_of(source),
    }
    save(kept, folder, manifest)
    return manifest


def save(rows: Sequence[Mapping[str, Any]], folder: Path, manifest: Mapping[str, Any]) -> None:
    """Save rows with `save_to_disk`, whole or not at all, the manifest beside them."""
    from datasets import Dataset

    building = folder.with_name(f".{folder.name}.partial")
    Dataset.from_list([dict(row) for row in rows]).save_to_disk(str(building))
    write_json(building / "manifest.json", manifest)
    building.rename(folder)


def _unlike(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the fields that one Arrow table cannot hold: values of different kinds, and text that is no Unicode."""
    import pyarrow

    problems = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            pyarrow.array(values)
        except (pyarrow.ArrowException, UnicodeEncodeError, OverflowError, TypeError) as error:
            bad = next((line for line, v in enumerate(values, 1) if isinstance(v, str) and not is_utf8(v)), None)
            where = f" (row {bad} holds half a surrogate pair)" if bad else ""
            problems.append(
                f"field {name!r} cannot be saved in one column{where}: {error}. Mend or leave out these rows"
            )
    return problems

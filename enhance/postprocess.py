"""Turns an annotated file into a data set for training: adds `cot_tail`, drops flagged rows, saves."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness_ext.data.progress_bars import quiet
from harness_ext.enhance.checks import FLAGS, contamination_flags, finishes_of, flags_of
from harness_ext.enhance.contamination.findings import Findings
from harness_ext.enhance.row_files import check_writable, manifest_of, text_digest
from harness_ext.enhance.templates import squeeze
from harness_ext.errors import ConfigurationError, StoreError
from harness_ext.records.chat import is_utf8
from harness_ext.records.run_directory import write_json

# The column by which training tells whether a row's reply is complete. The training code reads the same name.
FINISHED = "finished"
CutMode = Literal["unfinished", "drop", "finished"]
# What to do with replies that the token limit cut off.
CUT_REPLIES: Mapping[CutMode, str] = {
    "unfinished": f"training learns them as far as they go, but not to stop there (`{FINISHED}` is false)",
    "drop": "they are left out",
    "finished": "training learns them as if they were complete, and to stop where they were cut",
}


@dataclass(frozen=True)
class CutReplies:
    """What became of the replies that the token limit cut off.

    how: what was asked for, one of `CUT_REPLIES`.
    rows: how many rows had such a reply, those included that a flag dropped.
    unknown: how many rows do not tell how their reply ended. They count as finished.
    """

    how: CutMode
    rows: int
    unknown: int

    def lines(self, read: int) -> list[str]:
        """Return this as lines of text. `read`: the number of rows."""
        found = []
        if self.rows:
            found.append(f"{self.rows} of {read} replies were cut off by the token limit: {CUT_REPLIES[self.how]}")
        if self.unknown:
            found.append(f"{self.unknown} of {read} rows do not tell how their reply ended: they count as finished")
        return found


def finish(
    source: Path,
    folder: Path,
    drop: Collection[str] = (),
    contamination: Findings | None = None,
    cut_replies: CutMode = "unfinished",
) -> Any:
    """Save an annotated file as a data set that `datasets.load_from_disk` reads; return its manifest.

    Every row gets `cot_tail`, its `all` cleaned as TeacherLM does, and `finished`: False if the token limit cut the
    reply off, None if nothing tells how it ended. Training does not teach a model to stop after a row that is not
    finished. Raises ConfigurationError if a flag is unknown or could not be checked, if a field has values of different
    types, or if the folder already exists or cannot be created.

    source: the annotated file; it is not changed.
    folder: the folder to create.
    drop: flags whose rows are dropped and counted. Default none.
    contamination: which rows contain evaluation documents. Default: this was not checked.
    cut_replies: what to do with replies that the token limit cut off, one of `CUT_REPLIES`. `drop` is the same as
        `cut_off` among the flags, and `finished` leaves out the column. Default `unfinished`.
    """
    check_new(folder)
    problems = [f"`{flag}` is not a flag; the flags are {', '.join(FLAGS)}" for flag in drop if flag not in FLAGS]
    drop = [*dict.fromkeys([*drop, *(["cut_off"] if cut_replies == "drop" else [])])]
    rows, flags, unknown = flags_of(source)
    problems += [f"rows cannot be dropped by `{f}`: {why}" for f, why in unknown.items() if f in drop]
    if cut_replies != "finished" and any(FINISHED in row for row in rows):
        problems.append(
            f"the rows of {source} already have a field {FINISHED!r}, by which training tells whether a reply is "
            "complete: rename it, or pass `--cut_replies finished` to keep it as it is"
        )
    finishes = finishes_of(source)
    ends = [finishes.get(text_digest(row.get("all"))) for row in rows]
    dropped = dict.fromkeys(drop, 0)
    kept = []
    for row, found, more, end in zip(rows, flags, contamination_flags(contamination, len(rows)), ends, strict=True):
        hit = (found | more) & set(drop)
        for flag in hit:
            dropped[flag] += 1
        if not hit:
            mark = {} if cut_replies == "finished" else {FINISHED: None if end is None else end != "length"}
            kept.append({**row, "cot_tail": squeeze(str(row["all"])), **mark})
    problems += _unlike(kept)
    if not kept and not problems:
        longer = ", or annotate with a higher `max_gen_toks`" if dropped.get("cut_off") else ""
        problems.append(f"no row of {source} is left: drop fewer flags{longer}")
    if problems:
        raise ConfigurationError(problems)
    cut = CutReplies(cut_replies, ends.count("length"), ends.count(None))
    manifest = {
        "counts": {"read": len(rows), "written": len(kept), "dropped": len(rows) - len(kept), "by_flag": dropped},
        "cut_replies": asdict(cut),
        "annotated": manifest_of(source),
    }
    save(kept, folder, manifest)
    return manifest


def check_new(folder: Path) -> None:
    """Raise ConfigurationError if a folder exists or cannot be created."""
    if os.path.lexists(folder):
        raise ConfigurationError([f"{folder} already exists: name another folder"])
    check_writable(folder)


def save(rows: Sequence[Mapping[str, Any]], folder: Path, manifest: Mapping[str, Any]) -> None:
    """Save rows and their manifest with `save_to_disk`. The folder appears only once it is complete.

    Raises StoreError if it cannot be written.
    """
    from datasets import Dataset

    building = folder.with_name(f".{folder.name}.partial")
    try:
        if building.is_symlink():  # writing through it would change another folder
            building.unlink()
        with quiet():
            Dataset.from_list([dict(row) for row in rows]).save_to_disk(str(building))
        write_json(building / "manifest.json", manifest)
        building.rename(folder)
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error}. Free some disk space, or name a writable folder") from error


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

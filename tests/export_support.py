"""Helpers for the tests of exports: three scored runs, and what reads the tables back."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report_support import three_runs

from harness_ext.analysis.exports.command import main

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
LABELS = ["base", "pair", "<b onclick='window.hacked = 7'>hostile</b> & <U+202E>co"]


def export(folder: Path, kind: str, *more: str, output: Path | None = None) -> Path:
    """Export three runs and return the output folder.

    folder: where the runs of `report_support` are, or are made.
    kind: the format.
    more: further arguments.
    output: the output folder. Default: one in `folder` with the format's name.
    """
    runs = folder / "runs"
    if not runs.is_dir():
        runs.mkdir(parents=True)
        three_runs(runs)
    output = output or folder / kind
    assert main([*runs_in(folder), "--to", kind, "-o", str(output), *more]) == 0
    return output


def runs_in(folder: Path) -> list[str]:
    """Return the runs that `export` made, in the order in which it exports them."""
    return [str(folder / "runs" / name) for name in ("base", "pair", "hostile")]


def texts_in(value: Any) -> Iterator[str]:
    """Yield every text in JSON values, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *texts_in(one))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts_in(one)


def assert_nothing_hidden(value: Any) -> None:
    """Fail if a text contains a character that could control a terminal or hide."""
    found = {c for text in texts_in(value) for c in text if unicodedata.category(c) in HIDDEN} - {"\n", "\t"}
    assert not found, sorted(map(hex, map(ord, found)))


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON values of a file of lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]

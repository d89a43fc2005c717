"""What `harness-ext view` shows of suites, from the folders of their cells alone."""

from __future__ import annotations

from pathlib import Path

from harness_ext.analysis.compare.run_directories import is_run
from harness_ext.analysis.view.places import Suite, SuiteCell
from harness_ext.suite.folders import CellFolder, Description
from harness_ext.terminal import outside


def suites_below(folder: Path) -> list[Suite]:
    """Return the suites below a folder, or that it is, in the order of their paths."""
    roots = sorted({file.parent.parent for file in folder.rglob("cell.json")})
    return [
        Suite(root, [_cell(CellFolder(path.parent)) for path in sorted(root.glob("*/cell.json"))]) for root in roots
    ]


def _cell(folder: CellFolder) -> SuiteCell:
    description, size = folder.description or Description(), folder.size
    axes = dict(description.coordinates)
    setting = axes.pop("setting", None)
    axes = {axis: value for axis, value in axes.items() if axis not in ("task", "seed")}
    label = "" if setting is None else " ".join([setting, *(f"{a}:{v}".replace("=", ":") for a, v in axes.items())])
    records = folder.records if is_run(folder.records) else None
    finished = (records or folder.results) if label and folder.results.is_dir() else None
    return SuiteCell(
        outside(description.title or folder.path.name),
        label,
        "damaged" if folder.damaged else folder.state,
        folder.answered,
        None if size is None else size.questions,
        records,
        finished,
    )

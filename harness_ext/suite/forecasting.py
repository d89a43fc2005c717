"""What the cells of a study will take, as far as finished cells, unfinished ones and pilots show it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.analysis.compare.run_directories import is_run, question_costs
from harness_ext.analysis.estimate import Total
from harness_ext.engine.progress import as_clock
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.records import Usage
from harness_ext.suite.cells import Cell, Evaluation
from harness_ext.suite.evaluating import task_manager
from harness_ext.suite.folders import Folders
from harness_ext.suite.showing import count_of

FIGURES = ("calls", "prompt_tokens", "completion_tokens", "seconds", "price")


@dataclass(frozen=True)
class Forecast:
    """What a cell will take, or has taken.

    source: where the figures come from.
    documents: the number of its documents, or None if it is unknown.
    at_most: whether it may have fewer. Default false.
    totals: the figures over all documents; None where they are unknown.
    per_document: the means per document, which are known even if the number of documents is not.
    """

    source: str
    documents: int | None = None
    at_most: bool = field(default=False, kw_only=True)
    totals: Mapping[str, Total | None] | None = None
    per_document: Mapping[str, float | None] | None = None


def forecast(cells: Sequence[Cell], folders: Folders, pilots: Mapping[str, Path]) -> list[Forecast]:
    """Return what each cell takes.

    cells: the cells.
    folders: their folders.
    pilots: run directories by the name of the setting that they are pilots of.

    The figures of an evaluation come from its own records, else from those of a cell with the same label and task and
    another seed, else from a pilot. Raises ConfigurationError for a pilot that is none.
    """
    _check_pilots(cells, pilots)
    evaluations = [cell for cell in cells if isinstance(cell, Evaluation)]
    spent = {cell.digest: _usages(folders.of(cell).records, None) for cell in evaluations}
    found = []
    for cell in cells:
        if not isinstance(cell, Evaluation):
            found.append(_of_training(cell, folders))
            continue
        documents, at_most = _documents(cell, evaluations, folders)
        own, source = spent[cell.digest], "measured"
        if not folders.of(cell).results.is_dir():
            source = f"from its first {len(own)} documents"
        if not own:
            alike = [c for c in evaluations if (c.label, c.task) == (cell.label, cell.task) and spent[c.digest]]
            if alike:
                own, source = spent[alike[0].digest], f"from {alike[0].title}"
        if not own and cell.setting in pilots:
            path = pilots[cell.setting]
            own = _usages(path, cell.task) or _usages(path, None)
            source = f"from {len(own)} documents of {path}"
        if not own:
            found.append(Forecast("unknown: no run or pilot shows it", documents, at_most=at_most))
            continue
        values = {name: [getattr(usage, name) for usage in own] for name in FIGURES}
        per_document = {n: None if None in v else sum(v) / len(v) for n, v in values.items()}
        totals = None
        if documents is not None and documents >= len(own):
            totals = {n: None if None in v else Total.of(v, documents) for n, v in values.items()}
        elif documents is not None:  # the pilot was larger than the cell will be
            totals = {n: None if m is None else Total(m * documents) for n, m in per_document.items()}
        found.append(Forecast(source, documents, totals, per_document, at_most=at_most))
    return found


def _of_training(cell: Cell, folders: Folders) -> Forecast:
    """Return what a training has taken: only its time is known, and only once it is finished."""
    seconds = folders.of(cell).duration if folders.of(cell).results.is_dir() else None
    if seconds is None:
        return Forecast("unknown: a training")
    return Forecast("measured", None, {**dict.fromkeys(FIGURES), "seconds": Total(seconds)})


def _check_pilots(cells: Sequence[Cell], pilots: Mapping[str, Path]) -> None:
    settings, problems = list(dict.fromkeys(cell.setting for cell in cells if isinstance(cell, Evaluation))), []
    for setting, path in pilots.items():
        if setting not in settings:
            problems.append(f"--pilot {setting}: there is no such setting{suggest(setting, settings)}")
        if not is_run(path):
            problems.append(f"--pilot {setting}={path}: not a run directory: name a folder with transcripts")
    if problems:
        raise ConfigurationError(problems)


def _usages(run: Path, task: str | None) -> list[Usage]:
    """Return what each document of a run cost; none if there is no such run. `task`: only this task's, None for all."""
    if not is_run(run):
        return []
    return [usage for (name, _), usage in question_costs(run).items() if task in (None, name)]


def _documents(cell: Evaluation, cells: Sequence[Evaluation], folders: Folders) -> tuple[int | None, bool]:
    """Return the number of a cell's documents, or None if it is unknown, and whether there may be fewer.

    It is what lm-eval found for this cell or one with the same documents, or else the limit, if a task has so many.
    """

    def chosen(one: Evaluation) -> str:
        options = one.options
        return json.dumps([one.task, options.limit, options.samples, options.include_path], default=str)

    sizes = [size for c in cells if chosen(c) == chosen(cell) and (size := folders.of(c).size) is not None]
    own = folders.of(cell).size
    if own is not None or sizes:
        return (own or sizes[0]).documents, False
    limit = cell.options.limit
    # A group of tasks has as many documents of each one, and a limit below 1 is a share.
    if limit is None or limit < 1 or cell.task not in task_manager(cell.options.include_path).all_subtasks:
        return None, False
    return int(limit), True


def forecast_json(cells: Sequence[Cell], folders: Folders, found: Sequence[Forecast]) -> list[dict[str, Any]]:
    """Return forecasts as JSON values: what `suite plan --json` prints."""
    return [
        {"index": i, "cell": folders.of(c).path.name, "title": c.title, "state": folders.of(c).state, **asdict(one)}
        for i, (c, one) in enumerate(zip(cells, found, strict=True))
    ]


def print_plan(cells: Sequence[Cell], folders: Folders, found: Sequence[Forecast]) -> None:
    """Print the cells with what they will take, and the sum of those that are not finished."""
    from harness_ext.terminal import console, print_table

    rows = []
    for index, (cell, one) in enumerate(zip(cells, found, strict=True)):
        cost = [_cell(one, name) for name in FIGURES]
        asked = "unknown" if one.documents is None else f"{'at most ' if one.at_most else ''}{one.documents:,}"
        rows.append((cell.title, str(index), folders.of(cell).state, asked, *cost, one.source))
    out = console()
    head = ("cell", "no.", "state", "documents", *(name.replace("_", " ") for name in FIGURES), "figures")
    print_table(out, "", head, rows)
    missing = [one for cell, one in zip(cells, found, strict=True) if not folders.of(cell).results.is_dir()]
    known = [one for one in missing if one.totals is not None]
    sums = []
    for name in FIGURES:
        totals = [one.totals[name] for one in known if one.totals is not None]
        if totals and all(total is not None for total in totals):
            value = sum(total.value for total in totals if total is not None)
            sums.append(f"{name.replace('_', ' ')} {as_clock(value) if name == 'seconds' else _number(value)}")
    line = f"{count_of(cells)}, {len(missing)} not finished."
    if missing:
        known_take = f"Those whose cost is known ({len(known)}) take: {', '.join(sums)}."
        line += f" {known_take if sums else 'What they take is unknown.'}"
    out.print(line)
    out.print(
        "Seconds are sums over all calls, without loading models. Calls that cells share are counted for each of them, "
        "but paid once."
    )


def _cell(one: Forecast, name: str) -> str:
    if one.totals is not None:
        total = one.totals[name]
        if total is None:
            return "unknown"
        text = as_clock(total.value) if name == "seconds" else _number(total.value)
        if total.low is None or total.high is None:
            return text
        ends = [as_clock(end) if name == "seconds" else _number(end) for end in (total.low, total.high)]
        return f"{text} ({ends[0]} to {ends[1]})"
    mean = None if one.per_document is None else one.per_document[name]
    return "unknown" if mean is None else f"{_number(mean)} per document"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"

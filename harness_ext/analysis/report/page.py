"""Writes the report: one file, or a folder whose parts are loaded as they are needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.analysis.compare.command import Compared
from harness_ext.analysis.compare.rendering import remarks, tables
from harness_ext.analysis.report.charts import Chart, colour
from harness_ext.analysis.report.checkpoint_charts import checkpoint_chart
from harness_ext.analysis.report.comparison_charts import comparison_charts
from harness_ext.analysis.report.encoding import inert_json, packed, packed_text, script_hash
from harness_ext.analysis.report.method import method_of, warnings_of
from harness_ext.analysis.report.questions import PER_BLOCK, Question, block_json, questions_of, table_json
from harness_ext.analysis.report.records import Records
from harness_ext.analysis.report.round_charts import round_charts, token_charts
from harness_ext.analysis.report.verdict_charts import verdict_charts
from harness_ext.errors import HarnessExtError
from harness_ext.files import atomic_write
from harness_ext.terminal import safe_line

SCRIPTS = ("data.js", "charts.js", "table.js", "diff.js", "question.js", "page.js")
PAGE = "index.html"


class ReportError(HarnessExtError):
    """A report cannot be made. The message names cause and remedy."""


@dataclass(frozen=True)
class Section:
    """A part of the report with charts.

    name: a short name, for links.
    title: its title.
    charts: its charts.
    """

    name: str
    title: str
    charts: Sequence[Chart]


@dataclass(frozen=True)
class Report:
    """Everything that a report shows.

    title: its title.
    found: the comparison.
    records: the run directories.
    questions: the questions.
    metrics: the metric of each task that says which answers are right.
    sections: the charts.
    """

    title: str
    found: Compared
    records: Records
    questions: Sequence[Question]
    metrics: Mapping[str, str]
    sections: Sequence[Section]


@dataclass(frozen=True)
class Live:
    """What a page needs to follow its runs, where a server shows it.

    version: names the state of the records that the page shows, and the folder of its parts.
    note: what is known about the runs' progress.
    home: the address of the list of runs; None if there is none.
    script: the script that asks for newer parts.
    """

    version: str
    note: str
    home: str | None
    script: str


def make_report(title: str, found: Compared, records: Records, points: Sequence[dict[str, Any]] = ()) -> Report:
    """Compute everything that a report shows.

    title: its title.
    found: the comparison.
    records: the run directories behind it.
    points: the scores of a training's checkpoints, as `read_points` returns them. Default none.
    """
    trained = checkpoint_chart(points)
    questions, metrics = questions_of(found, records)
    sections = [
        Section("comparison", "Comparison", comparison_charts(found.comparison, questions, metrics)),
        Section("rounds", "Rounds", round_charts(records)),
        Section("verdicts", "Verdicts and faults", verdict_charts(records)),
        Section("tokens", "Tokens and authors", token_charts(records)),
        Section("training", "Training", [] if trained is None else [trained]),
    ]
    return Report(title, found, records, questions, metrics, [s for s in sections if s.charts])


def write_file(report: Report, path: Path) -> int:
    """Write a report as one file, and return its size in bytes."""
    parts = {name: packed(make()) for name, make in parts_of(report).items()}
    plotly = plotly_script()
    parts["plotly"] = packed_text(plotly)
    _write(path, page_of(report, parts, [script_hash(plotly)]))
    return path.stat().st_size


def write_folder(report: Report, folder: Path) -> int:
    """Write a report as a folder that is opened at its `index.html`, and return its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for name, make in parts_of(report).items():
        size += _write(folder / f"{name}.js", f'reportPart("{name}","{packed(make())}");\n')
    size += _write(folder / "plotly.js", plotly_script())
    # A page that was opened from a disk has no origin, so `'self'` does not name its neighbours there.
    return size + _write(folder / PAGE, page_of(report, {}, ["'self'", "file:"]))


def parts_of(report: Report) -> dict[str, Callable[[], Any]]:
    """Return the parts that the page unpacks when it needs them: by name, what makes their JSON values."""
    return {
        "charts": lambda: {s.name: [chart.to_json() for chart in s.charts] for s in report.sections},
        "table": lambda: table_json(report.questions, report.metrics),
        **{
            f"block-{number}": partial(block_json, report.questions[start : start + PER_BLOCK])
            for number, start in enumerate(range(0, len(report.questions), PER_BLOCK))
        },
    }


def page_of(report: Report, parts: Mapping[str, str], sources: Sequence[str], live: Live | None = None) -> str:
    """Return the page.

    report: the report.
    parts: the packed parts that it contains; empty if they are files beside it.
    sources: what its content security policy allows as scripts, beside its own.
    live: what it needs to follow its runs. Default None: it stays as it is.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    scripts = [*(_asset(name) for name in SCRIPTS), *([] if live is None else [live.script])]
    script = "\n".join(["'use strict';", *scripts])
    environment = Environment(
        loader=PackageLoader("harness_ext.analysis.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    comparison = report.found.comparison
    # The largest pool of tasks comes first, and alone is shown at once.
    rows = sorted(comparison.rows, key=lambda row: -len(row.pool.tasks))
    first = [row for row in rows if row.pool == rows[0].pool]
    shown, every = (tables(replace(comparison, rows=tuple(some)), None) for some in (first, rows))
    about = {
        "runs": [[safe_line(run), colour(i)] for i, run in enumerate(report.records.runs)],
        "directories": [[d.run, safe_line(d.name)] for d in report.records.directories],
        "split": not parts,
        "live": None if live is None else live.version,
    }
    values = {
        "title": safe_line(report.title),
        "runs": [safe_line(run) for run in report.records.runs],
        "questions": len(report.questions),
        "tasks": [safe_line(task) for task in report.metrics],
        "version": __version__,
        "made": time.strftime("%Y-%m-%d %H:%M %Z"),
        "warnings": warnings_of(report.found, report.records),
        "tables": [_safe_table(*one) for one in shown],
        "more_tables": [_safe_table(*one) for one in every[len(shown) :]],
        "remarks": [safe_line(remark) for remark in remarks(comparison)],
        "plan": report.found.plan is not None,
        "methods": [method_of(directory) for directory in report.records.directories],
        "sections": report.sections,
        "parts": parts,
        "about": inert_json(about),
        "style": _asset("report.css"),
        "script": script,
        "policy": _policy([script_hash(script), *sources], live is not None),
        "live": live,
    }
    return environment.get_template("report.html.j2").render(values)


def _policy(scripts: Sequence[str], asks: bool) -> str:
    """Return the content security policy: nothing is loaded from anywhere, and only these scripts run.

    A page that `asks` may ask its own server for data. plotly writes styles into its drawings, so styles within the
    page are allowed.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(scripts)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "connect-src 'self'" if asks else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _safe_table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[str, list[str], list[list[str]]]:
    return safe_line(title), list(map(safe_line, head)), [list(map(safe_line, row)) for row in rows]


def _asset(name: str) -> str:
    return files("harness_ext.analysis.report").joinpath("assets", name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """Return plotly.js, from the Python package. Raises ReportError if that is not installed."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ReportError(
            f"plotly cannot be imported ({error}), which draws the charts: pip install 'harness-ext[report]'"
        ) from error
    return str(get_plotlyjs())


def _write(path: Path, text: str) -> int:
    try:
        with atomic_write(path) as file:
            file.write(text)
    except OSError as error:
        raise ReportError(f"{path} cannot be written: {error}. Give another path with --output") from error
    return path.stat().st_size

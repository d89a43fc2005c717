"""Writes the report: one file, or a folder whose parts are loaded as they are needed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
from harness_ext.analysis.report.questions import Question, blocks, questions_of, table_json
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
    parts = {name: packed(data) for name, data in _parts(report)}
    plotly = _plotly()
    parts["plotly"] = packed_text(plotly)
    page = _page(report, parts, [script_hash(plotly)])
    _write(path, page)
    return path.stat().st_size


def write_folder(report: Report, folder: Path) -> int:
    """Write a report as a folder that is opened at its `index.html`, and return its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for name, data in _parts(report):
        size += _write(folder / f"{name}.js", f'reportPart("{name}","{packed(data)}");\n')
    size += _write(folder / "plotly.js", _plotly())
    # A page that was opened from a disk has no origin, so `'self'` does not name its neighbours there.
    return size + _write(folder / PAGE, _page(report, {}, ["'self'", "file:"]))


def _parts(report: Report) -> Iterator[tuple[str, Any]]:
    """Yield the parts that the page unpacks when it needs them, by name."""
    yield "charts", {s.name: [chart.to_json() for chart in s.charts] for s in report.sections}
    yield "table", table_json(report.questions, report.metrics)
    for number, block in enumerate(blocks(report.questions)):
        yield f"block-{number}", block


def _page(report: Report, parts: Mapping[str, str], sources: Sequence[str]) -> str:
    """Return the page.

    report: the report.
    parts: the packed parts that it contains; empty if they are files beside it.
    sources: what its content security policy allows as scripts, beside its own.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    script = "\n".join(["'use strict';", *(_asset(name) for name in SCRIPTS)])
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
        "policy": _policy([script_hash(script), *sources]),
    }
    return environment.get_template("report.html.j2").render(values)


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: nothing is loaded from anywhere, and only these scripts run.

    plotly writes styles into its drawings, so styles within the page are allowed.
    """
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(scripts)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
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


def _plotly() -> str:
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

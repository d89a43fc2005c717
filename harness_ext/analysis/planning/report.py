"""Says what was computed, in words and tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from harness_ext.analysis.estimate import Total, is_shown
from harness_ext.analysis.planning.clustered import LARGEST, ClusterShape
from harness_ext.analysis.planning.costs import Cost
from harness_ext.analysis.planning.design import Answers, Design, Row, Table
from harness_ext.analysis.planning.models import MOST
from harness_ext.analysis.planning.pilot import Pilot
from harness_ext.analysis.sampling import FIGURES
from harness_ext.terminal import console, print_table, safe_line


@dataclass(frozen=True)
class Report:
    """Everything that was computed.

    design: the design of the comparison.
    table: what follows from each assumption.
    test: the name of the test.
    alpha: the probability of any false claim.
    comparisons: the number of claims.
    pilot: what the pilot says, or None.
    costs: what the planned questions cost, for each run of which something is known.
    documents: how many documents the run has whose cost was estimated; None if unknown.
    pools: how many tasks and groups the claims are about. Default 1.
    """

    design: Design
    table: Table
    test: str
    alpha: float
    comparisons: int
    pilot: Pilot | None = None
    costs: tuple[Cost, ...] = ()
    documents: int | None = None
    pools: int = 1


def as_json(report: Report) -> str:
    """Return the report as JSON; what is unknown is null."""
    design, pilot = report.design, report.pilot
    answers = design.data if isinstance(design.data, Answers) else None
    content: dict[str, Any] = {
        "test": report.test,
        "alpha": report.alpha,
        "comparisons": report.comparisons,
        "level": design.alpha,
        "power": design.power,
        "gain": design.gain,
        "questions": design.questions,
        "baseline": answers.baseline if answers else None,
        "icc": answers.icc if answers and answers.shape else None,
        "simulation_seed": design.seed,
        "rows": [asdict(row) for row in report.table.rows],
        "impossible": list(report.table.impossible),
        "pilot": None
        if pilot is None
        else {
            "runs": pilot.runs, "tasks": pilot.tasks, "metric": pilot.metric, "questions": pilot.number,
            "baseline": pilot.baseline, "changed": pilot.changed, "clusters": pilot.sizes and len(pilot.sizes),
            "changed_interval": None if pilot.changed_interval is None else asdict(pilot.changed_interval),
            "icc": pilot.icc, "notes": pilot.notes,
        },
        "costs": [asdict(cost) for cost in report.costs],
        "documents": report.documents,
    }  # fmt: skip
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def to_terminal(report: Report) -> None:
    """Print the report."""
    out = console()
    for line in summary(report):
        out.print(safe_line(line), soft_wrap=True)
    head, cells = sizes_table(report)
    for title, names, rows in (
        ("How many questions change decides:" if isinstance(report.design.data, Answers) else "", head, cells),
        *(cost_tables(report)),
    ):
        print_table(out, title, names, rows)
    for line in remarks(report):
        out.print(f"- {safe_line(line)}", soft_wrap=True)


def summary(report: Report) -> Iterator[str]:
    """Yield what was computed under the assumption to plan with, in sentences."""
    design, row = report.design, report.table.rows[0]
    if design.gain is None:
        yield _gain_found(design, row)
    elif design.questions is None:
        yield _questions_needed(design, row)
    else:
        assert row.power is not None
        more = "no number of questions would be enough" if row.needed is None else f"{row.needed:,} would be needed"
        yield (
            f"{row.questions:,} questions find {_gain(design, row)} with power {row.power.value:.3f}; {more} for power "
            f"{design.power:g}."
        )
    yield f"Assumed: {row.assumption}."
    level = f"Test: {report.test}, two-sided, at the level {design.alpha:.4g}"
    if report.comparisons > 1:
        level += f", the first step of Holm's correction for {report.comparisons} claims at {report.alpha:g} together"
    yield f"{level}."
    if isinstance(design.data, Answers) and design.data.shape is not None:
        yield f"{_shape(design.data.shape)} The intra-cluster correlation of the differences is {design.data.icc:.3g}."
    if row.power is not None and row.power.error is not None:
        yield (
            f"Simulated with seed {design.seed}: a power of {row.power.value:.3f} has a standard error of "
            f"{row.power.error:.3f}, so that numbers of questions are good to a few per cent."
        )


def sizes_table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Return the column heads and the cells of the table of assumptions."""
    design, rows = report.design, report.table.rows
    answers, clustered = isinstance(design.data, Answers), any(row.clusters is not None for row in rows)
    head = ["assumption", *(["change", "get right", "get wrong"] if answers else [])]
    head += [
        *(["gain found"] if design.gain is None else []),
        "questions",
        *(["clusters"] if clustered else []),
        "power",
    ]
    both = design.gain is not None and design.questions is not None
    head += ["needed"] if both else []
    cells = []
    for row in rows:
        line = [row.assumption]
        line += [_share(value) for value in (row.share, row.up, row.down)] if answers else []
        line += [_found(row.gain)] if design.gain is None else []
        line.append(_count(row.questions))
        line += ["—" if row.clusters is None else f"{row.clusters:,}"] if clustered else []
        line.append("—" if row.power is None else f"{row.power.value:.3f}")
        line += [_count(row.needed)] if both else []
        cells.append(line)
    return head, cells


def cost_tables(report: Report) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, column heads and cells of the table of costs, if anything is known about them."""
    if not report.costs:
        return
    used = [name for name in FIGURES if any(is_shown(name, cost.figures[name]) for cost in report.costs)]
    rows = [[cost.run, f"{cost.sample:,}", *(_total(cost.figures[name]) for name in used)] for cost in report.costs]
    number = report.costs[0].questions
    title = f"Cost of {number:,} questions in each run (95 % intervals):"
    yield title, ["run", "sample", *(name.replace("_", " ") for name in used)], rows


def remarks(report: Report) -> Iterator[str]:
    """Yield explanations and everything that was left out."""
    design, pilot = report.design, report.pilot
    if isinstance(design.data, Answers):
        yield (
            "Only questions that change tell two runs apart. For the same gain, the more of them change in both "
            "directions, the more questions are needed. Related runs usually change fewer than independent answers "
            "would; a pilot measures it (--from)."
        )
        if design.data.shape is not None and design.data.icc == 0.0 and set(design.data.shape.sizes) != {1}:
            yield "With an intra-cluster correlation of 0, clusters count like independent questions."
    yield from (
        f"Left out, because the baseline does not allow that many changes: {name}"
        if name != report.table.rows[0].assumption
        else f"The baseline does not allow that many changes ({name}); the largest possible share was assumed"
        for name in report.table.impossible
    )
    if pilot is not None:
        clusters = "" if pilot.sizes is None else f" in {len(pilot.sizes)} clusters"
        yield (
            f"Pilot: {' and '.join(pilot.runs)}, {', '.join(pilot.tasks)}, {pilot.metric.removesuffix(',none')}, "
            f"{pilot.number} questions{clusters}. Its own gain is no plan: choose the smallest one that matters"
        )
        yield from pilot.notes
        yield from (f"Cost unknown: {run}" for run in pilot.runs if run not in pilot.usages)
    if report.pools > 1 and report.costs:
        yield f"The claims are about {report.pools} tasks or groups; the cost is that of the questions of one of them"
    planned = report.table.rows[0].questions
    if report.documents is not None and planned is not None and planned > report.documents:
        yield (
            f"lm-eval's arguments select only {report.documents:,} documents: give --questions {report.documents} to "
            "know which gain they find"
        )
    yield from (
        f"{cost.run}, {name.replace('_', ' ')}: no interval ({total.reason})"
        for cost in report.costs
        for name, total in cost.figures.items()
        if total is not None and total.reason
    )


def _questions_needed(design: Design, row: Row) -> str:
    if row.questions is not None:
        size = f"{row.questions:,} questions" + ("" if row.clusters is None else f" in {row.clusters:,} clusters")
        return f"To find {_gain(design, row)} with power {design.power:g}, {size} are needed."
    number = design.data.shape.number if isinstance(design.data, Answers) and design.data.shape else None
    if number is None:
        return f"To find {_gain(design, row)} with power {design.power:g}, more than {MOST:,} questions are needed."
    return (
        f"{number} clusters do not find {_gain(design, row)} with power {design.power:g}, not even with {LARGEST:,} "
        "questions in each: more clusters are needed."
    )


def _gain_found(design: Design, row: Row) -> str:
    if row.gain is None:
        return (
            f"{row.questions:,} questions find no gain with power {design.power:g}, not even the largest possible one."
        )
    return f"{row.questions:,} questions find {_gain(design, row)} with power {design.power:g}, and no smaller one."


def _gain(design: Design, row: Row) -> str:
    gain = row.gain if row.gain is not None else 0.0
    if not isinstance(design.data, Answers):
        return f"a gain of {gain:.4g}"
    base = design.data.baseline
    return f"a gain of {gain:.4g} (from {base:.4g} to {base + gain:.4g})"


def _shape(shape: ClusterShape) -> str:
    if shape.number is not None:
        return f"There are {shape.number} clusters, and more questions make them larger."
    if len(set(shape.sizes)) == 1:
        return f"Clusters have {shape.sizes[0]} question{'' if shape.sizes[0] == 1 else 's'} each."
    ends = f"{min(shape.sizes)} to {max(shape.sizes)}"
    return f"Clusters have {ends} questions, {shape.mean:.3g} on average, as in the pilot."


def _share(value: float | None) -> str:
    return "—" if value is None else f"{value:.3f}"


def _found(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _count(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"


def _total(total: Total | None) -> str:
    if total is None:
        return "unknown"
    ends = "" if total.low is None or total.high is None else f" ({_amount(total.low)} to {_amount(total.high)})"
    return f"{_amount(total.value)}{ends}"


def _amount(value: float) -> str:
    if value >= 1e9:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"

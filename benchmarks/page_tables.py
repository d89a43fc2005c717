"""The tables of the benchmark pages, made from the committed results."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_matrix import Result, markdown

from harness_ext.analysis.statistics.intervals import share_interval

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

SPECULATIVE_ALONE = """\
Some of the questions are also answered one by one, because transformers' assisted generation takes one question at a
time. The passes are the teacher's forward passes. Student and teacher have the same size, so a draft costs as much as
the teacher's own text; and each verification of `speculative_pair` reads the prompt again, whereas transformers keeps
its cache:
"""

ENHANCE_PREFERENCES = """\
Preferences between four sampled candidates of the embedded student, without identical ones. The agreement is computed
over the matches that both the judge and the gold answers decide. The teacher has learned to review an answer, but not
to compare two:
"""


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows with equal keys as a Markdown table."""
    names = list(rows[0])
    heads = [name.replace("_a_call", "_per_call").replace("_", " ") for name in names]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(names)]
    lines += [f"| {' | '.join(str(row[n]) for n in names)} |" for row in rows]
    return "\n".join(lines) + "\n"


def load(name: str) -> Any:
    """Return a committed result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def overhead_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in ("first_run", "repeated_run"):
        run = result[name]
        memory = run["memory_mib"]
        rows.append(
            {
                "run": name.replace("_", " "),
                "questions": result["questions"],
                "CPU ms per call": run["cpu_ms_a_call"],
                "wall ms per call": run["wall_ms_a_call"],
                "MiB before": memory["before"],
                "MiB after a tenth": memory["at_each_tenth"][0],
                "MiB at the end": memory["at_each_tenth"][-1],
            }
        )
    return rows


def protocol_part(name: str) -> str:
    """Return the table of a measurement by `benchmarks/protocol.py`."""
    result = load(f"{name}.json")
    return f"{table(result['rows'])}\nBatch size {result['batch_size']}.\n"


def http_part() -> str:
    result = load("http_cost.json")
    return f"{table(result['rows'])}\n{result['questions']} calls, {result['num_concurrent']} concurrent.\n"


def overhead_part() -> str:
    result = load("overhead.json")
    return table(overhead_rows(result))


def speculative_part() -> str:
    result = load("speculative.json")
    whole = dict(result["batches"])
    times = [{"run": name, **whole.pop(name)} for name in ("plain", "speculative_pair")]
    words = f"{result['alone_questions']} questions.\n"
    return "\n".join([table([whole]), table(times), SPECULATIVE_ALONE, table(result["alone"]), words])


def faults_part() -> str:
    """Return a row for each protocol and number of processes."""
    runs = load("faults.json")["runs"]
    return table([{name.replace("_", " "): value for name, value in run.items()} for run in runs])


def reading_part() -> str:
    """Return a row for each run: what the harness could not read, and what the protocol could not read."""
    rows = []
    for run in load("reading.json")["runs"]:
        seats = run["readability"].values()
        decisions, unread = (sum(seat[name] for seat in seats) for name in ("decisions", "unread"))
        rows.append(
            {
                "model": run["model"],
                "task": run["task"],
                "rows": run["rows"],
                "exact match": run["exact_match"],
                "unparsable answers": number(run.get("unparsable"), ".3f"),
                "unreadable decisions": f"{unread} of {decisions}" if decisions else "",
            }
        )
    return table(rows)


def creak_part() -> str:
    result = load("enhance_creak.json")
    prepared = result["prepared"]
    words = f"Prepared {prepared['written']} of {prepared['read']} rows. Fields of the final data set: "
    return f"{table(result['rows'])}\n{words}{', '.join(f'`{f}`' for f in result['fields'])}.\n"


def stories_part() -> str:
    result = load("enhance_stories.json")
    return f"{table(result['rows'])}\n{ENHANCE_PREFERENCES}\n{table(result['preferences'])}"


def show_part(show: str) -> str:
    """Return the tables of a demonstration, and how long its steps took."""
    result = load(f"finetune_{show}.json")
    took = result["seconds"]
    steps = ", ".join(f"{step} {seconds}" for step, seconds in took.items())
    settings = ", ".join(f"{name}: {result[name]}" for name in ("rows", "epochs", "limit", "threads"))
    text = re.sub(r"^## ", "### ", result["text"], flags=re.MULTILINE)
    return f"{text}\n{settings}. Seconds: {steps}; {sum(took.values())} in all.\n"


def matrix_part() -> str:
    """Return the table of all combinations of method, adapter and DeepSpeed."""
    return markdown([Result(**case) for case in load("finetune_matrix.json")["cases"]])


def creak_study_part() -> str:
    """Return the accuracies, and the differences of the trained model to the others."""
    result = load("creak_study.json")
    rows = []
    for name, key in (
        ("before training", "before"),
        ("after training", "after"),
        ("constant answer", "constant_answer"),
    ):
        found = result[key]
        interval = share_interval(found["right"], found["rows"])
        rows.append(
            {
                "model": name,
                "rows": found["rows"],
                "accuracy (95 %)": f"{found['accuracy']:.3f} [{interval.low:.3f}, {interval.high:.3f}]",
            }
        )
    words = (
        f"{result['training_rows']} training rows, {result['epochs']} epoch(s), {result['seconds']} s. The constant "
    )
    words += "answer is the more frequent label of the training rows. The trained model answers A on "
    words += f"{result['answers_A_after']:.0%} of the rows."
    for key, other in (("after_to_before", "untouched model"), ("after_to_constant", "constant answer")):
        if key in result:
            found = result[key]
            words += f" Its difference to the {other} is {with_interval(found, '+.3f')} "
            words += f"({found['test']}, p = {found['p_value']:.2g})."
    return f"{table(rows)}\n{words}\n"


def speed_part(name: str) -> str:
    """Return the speeds that a result of `finetune_speed.py` has.

    name: the file of the result.
    """
    result = load(name)
    rows = [
        {"run": n, "tokens per second": ", ".join(f"{v:.0f}" for v in found)}
        for n, found in result["tokens_per_second"].items()
    ]
    return f"{table(rows)}\nRatio of the medians: {result['ratio']:.3f} ({result['tokens']} tokens per run).\n"


def intervals_part() -> str:
    """Return the table of clusters, the worst case of each property without clusters, and the p-values of few changes.

    Where the package `errorbars` was measured on the same studies, its figures stand beside ours.
    """
    result = load("intervals.json")
    return "\n".join(
        [
            "Studies of clusters of 1 to 10 questions:\n",
            table([_study(row) for row in result["clusters"]]),
            f"{result['times']} studies each; the coverage of a true 0.95 is then found within "
            f"± {1.96 * (0.95 * 0.05 / result['times']) ** 0.5:.3f} in 95 % of cases.\n",
            "Questions without clusters: the worst case of each property, and the mean of all:\n",
            table(_worst(result["questions"])),
            "P-values and intervals where few questions differ:\n",
            table([_evidence(row) for row in result["evidence"]]),
        ]
    )


def _study(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {
        "data": row["data"],
        "clusters": row["clusters"],
        "true difference": row["effect"],
        "coverage": f"{row['coverage']:.3f}",
        "rejected": f"{row['rejected']:.3f}",
        "width": f"{row['width']:.3f}",
        "finds what is detectable": number(row["found_detectable"], ".2f") if row["detectable_in"] else "",
    }
    if "errorbars_covered" in row:
        cells |= {
            "coverage, errorbars": f"{row['errorbars_covered']:.3f}",
            "rejected, errorbars": f"{row['errorbars_found']:.3f}",
        }
    return cells


def _worst(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the worst case and the mean of each property. The worst level of a test is its largest value."""
    rows = []
    for what in dict.fromkeys(row["what"] for row in found):
        cases = [row for row in found if row["what"] == what]
        worst = (max if "nothing" in what else min)(cases, key=lambda row: row["value"])
        rows.append(
            {
                "property": what,
                "settings": len(cases),
                "worst": f"{worst['value']:.3f}" + (f" ± {worst['error']:.3f}" if worst["error"] else ""),
                "where": f"{worst['data']}, n = {worst['n']}",
                "mean": f"{sum(row['value'] for row in cases) / len(cases):.3f}",
            }
        )
    return rows


def _evidence(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {
        "questions": row["questions"],
        "up": row["up"],
        "down": row["down"],
        "exact p": f"{row['exact']:.2g}",
        "p": f"{row['ours']:.2g}",
        "interval": f"{row['low']:+.3f} to {row['high']:+.3f}",
    }
    if "errorbars" in row:
        cells |= {
            "p, errorbars": f"{row['errorbars']:.2g}",
            "interval, errorbars": f"{row['errorbars_low']:+.3f} to {row['errorbars_high']:+.3f}",
        }
    return cells


def with_interval(of: Mapping[str, Any], form: str) -> str:
    """Return a value with its interval; without it, if there is none."""
    low, high = of["interval"]["low"], of["interval"]["high"]
    return f"{of['value']:{form}}" + (f" [{low:{form}}, {high:{form}}]" if low is not None else "")


def number(value: float | None, form: str = ".0f") -> str:
    """Return a number in a format, or a question mark if it is unknown."""
    return "?" if value is None else format(value, form)

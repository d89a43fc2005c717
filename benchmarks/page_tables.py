"""The tables of the benchmark pages, made from the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

COMPARED = """\
The embedded pair on {number} of bAbI's test rows ({tasks}). `harness-ext compare` compares each run with `baseline`, by
a paired bootstrap over stories with Holm's correction over the runs. `up` and `down` are the numbers of questions that
became right and wrong. `Δ to mix` is the difference to the best mix of the other runs that writes as many tokens. The
pair was not trained on the prompts of a debate, so those two rows show what a debate costs, not how much it helps."""

# The rows of `benchmarks/intervals.py` that have a shorter name on the page.
PROPERTIES = {
    "McNemar's test finds nothing that is not there": "level of McNemar's test",
    "McNemar's test finds what is detectable": "power of McNemar's test",
    "the bootstrap test finds nothing that is not there": "level of the bootstrap test",
    "the bootstrap test finds what is detectable": "power of the bootstrap test",
    "the test over clusters finds nothing that is not there": "level of the bootstrap test over clusters",
}

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
    return f"{table(result['rows'])}\nBatch size {result['batch_size']}; {result['machine']}.\n"


def http_part() -> str:
    result = load("http_cost.json")
    at_once = f"{result['questions']} calls, {result['num_concurrent']} concurrent"
    return f"{table(result['rows'])}\n{at_once}; {result['machine']}, load {result['load_average'][0]}.\n"


def overhead_part() -> str:
    result = load("overhead.json")
    return f"{table(overhead_rows(result))}\n{result['machine']}, load {result['load_average'][0]}.\n"


def speculative_part() -> str:
    result = load("speculative.json")
    whole = dict(result["batches"])
    times = [{"run": name, **whole.pop(name)} for name in ("plain", "speculative_pair")]
    words = f"{result['alone_questions']} questions; {result['machine']}."
    return "\n".join([table([whole]), table(times), SPECULATIVE_ALONE, table(result["alone"]), words + "\n"])


def faults_part() -> str:
    """Return a row for each protocol and number of processes."""
    result = load("faults.json")
    rows = [{name.replace("_", " "): value for name, value in run.items()} for run in result["runs"]]
    return f"{table(rows)}\n{result['machine']}.\n"


def reading_part() -> str:
    """Return a row for each run: what the harness could not read, and what the protocol could not read."""
    result = load("reading.json")
    rows = []
    for run in result["runs"]:
        seats = run["readability"].values()
        decisions, unread = (sum(seat[name] for seat in seats) for name in ("decisions", "unread"))
        rows.append(
            {
                "model": run["model"],
                "task": run["task"],
                "rows": run["rows"],
                "exact match": run["exact_match"],
                "unparsable answers": _number(run.get("unparsable"), ".3f"),
                "unreadable decisions": f"{unread} of {decisions}" if decisions else "",
            }
        )
    return f"{table(rows)}\n{result['machine']}.\n"


def creak_part() -> str:
    result = load("enhance_creak.json")
    prepared = result["prepared"]
    words = f"Prepared {prepared['written']} of {prepared['read']} rows. Fields of the final data set: "
    return f"{table(result['rows'])}\n{words}{', '.join(f'`{f}`' for f in result['fields'])}. {result['machine']}.\n"


def stories_part() -> str:
    result = load("enhance_stories.json")
    return f"{table(result['rows'])}\n{ENHANCE_PREFERENCES}\n{table(result['preferences'])}\n{result['machine']}.\n"


def show_part(show: str) -> str:
    """Return the tables of a demonstration: its page without the command, the steps and the comparison by task."""
    text = (RESULTS / f"finetune_{show}.md").read_text(encoding="utf-8")
    body = text.partition("thread(s)).\n\n")[2].partition("\n| step |")[0].partition("\n**")[0]
    return body.replace("\n## ", "\n### ").removeprefix("\n").replace("## ", "### ", 1) + "\n"


def creak_study_part() -> str:
    result = load("creak_study.json")
    rows = []
    for name, key in (
        ("before training", "before"),
        ("after training", "after"),
        ("constant answer", "constant_answer"),
    ):
        found = result[key]
        low, high = found["interval"]
        rows.append(
            {
                "model": name,
                "rows": found["rows"],
                "accuracy (95 %)": f"{found['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            }
        )
    p_value = result["p_after_differs_from_constant"]
    return (
        f"{table(rows)}\n{result['training_rows']} training rows, {result['epochs']} epoch(s), {result['seconds']} s. "
        f"The constant answer is the more frequent label of the training rows; the difference of the trained model to "
        f"it has p = {p_value:.2g}. The trained model answers A on {result['answers_A_after']:.0%} of the rows.\n"
    )


def speed_part() -> str:
    result = load("finetune_speed.json")
    rows = [
        {"run": n, "tokens per second": ", ".join(f"{v:.0f}" for v in found)}
        for n, found in result["tokens_per_second"].items()
    ]
    return f"{table(rows)}\nRatio of the medians: {result['ratio']:.3f} ({result['tokens']} tokens per run).\n"


def intervals_part() -> str:
    """Return the worst case and the mean of each property. The worst level of a test is its largest value."""
    result = load("intervals.json")
    rows = []
    for what in dict.fromkeys(row["what"] for row in result["rows"]):
        found = [row for row in result["rows"] if row["what"] == what]
        worst = (max if "nothing" in what else min)(found, key=lambda row: row["value"])
        rows.append(
            {
                "property": PROPERTIES.get(what, what),
                "settings": len(found),
                "worst": f"{worst['value']:.3f}" + (f" ± {worst['error']:.3f}" if worst["error"] else ""),
                "where": f"{worst['data']}, n = {worst['n']}",
                "mean": f"{sum(row['value'] for row in found) / len(found):.3f}",
            }
        )
    return f"{table(rows)}\n{result['times']} samples each; {result['machine']}.\n"


def compared_part() -> str:
    """Return the table of all protocols over all tasks, from what `harness-ext compare` wrote."""
    found = [row for row in load("protocols_table/compare.json")["rows"] if row["pool"]["name"] == "all tasks"]
    rows = []
    for row in found:
        other, cost = row["difference"], row["cost"]
        equal = row["equal_cost"].get("output tokens")
        rows.append(
            {
                "run": row["run"],
                "exact match (95 %)": _with_interval(row, ".3f"),
                "Δ to baseline (95 %)": _with_interval(other, "+.3f") if other else "",
                "p (Holm)": f"{other['adjusted']:.2g}" if other else "",
                "up": other["up"] if other else "",
                "down": other["down"] if other else "",
                "tokens read": _number(cost["prompt_tokens"]),
                "tokens written": _number(cost["completion_tokens"]),
                "seconds": _number(cost["seconds"], ".2f"),
                "Δ to mix (95 %)": _with_interval(equal | {"value": equal["difference"]}, "+.3f") if equal else "",
            }
        )
    names = [name.rpartition("_")[2] for name in found[0]["pool"]["tasks"]]
    tasks = f"tasks {', '.join(sorted(names, key=int))}"
    others = found[1:]
    no_better = [row["run"] for row in others if not _is_gain(row["difference"])]
    no_cheaper = [row["run"] for row in others if row["equal_cost"]["output tokens"]["interval"]["low"] <= 0]
    verdict = (
        f"Not better than `baseline` (p ≥ 0.05): {', '.join(no_better) or 'none'}. Not better than the mix of other "
        f"runs at equal cost (the interval includes or is below 0): {', '.join(no_cheaper) or 'none'}.\n"
    )
    words = COMPARED.format(number=found[0]["number"], tasks=tasks)
    return (
        f"{words}\n\n{table(rows)}\n{verdict}\nMeasured on {load('protocols_table/protocols_table.json')['machine']}.\n"
    )


def readme_part() -> str:
    """Return three rows of that table for the README."""
    found = [row for row in load("protocols_table/compare.json")["rows"] if row["pool"]["name"] == "all tasks"]
    rows = [
        {
            "run": f"`{row['run']}`",
            "exact match (95 %)": _with_interval(row, ".3f"),
            "tokens written per question": _number(row["cost"]["completion_tokens"]),
        }
        for row in found
        if row["run"] in ("baseline", "feedback_pair", "skyline")
    ]
    return table(rows)


def _is_gain(difference: dict[str, Any]) -> bool:
    return bool(difference["value"] > 0 and difference["adjusted"] < 0.05)


def _with_interval(of: dict[str, Any], form: str) -> str:
    low, high = of["interval"]["low"], of["interval"]["high"]
    return f"{of['value']:{form}} [{low:{form}}, {high:{form}}]"


def _number(value: float | None, form: str = ".0f") -> str:
    return "?" if value is None else format(value, form)

"""The sections on the accuracy of the protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embedded_pair import report
from page_tables import load, number, table, with_interval

PAIR = """\
## Does feedback help the embedded pair?

    HARNESS_EXT_DATA=<folder> python benchmarks/embedded_pair.py --tasks 1 2 6 7 8 9 10 11 12 13 \\
        --output benchmarks/results/embedded_pair.json

Exact match of `babi_reasoning` on bAbI's public test rows, zero-shot with plain contexts. The pair was not trained on
bAbI rows, and these rows were scored once, after its weights were final. There are two controls: `verdict only`, in
which the student sees only `Incorrect.` instead of the review, and `second look`, in which it is asked to look at its
answer again without any review, up to as many times as `feedback_pair` may ([second-look.md](second-look.md)). On
yes/no questions (tasks 6 and 9), the verdict alone can give away the answer, so they are reported separately. The pair
was made for tasks 1, 6, 9, 11, 12 and 13, and its student is weak on purpose ([embedded-pair.md](embedded-pair.md)):
the table shows that the protocol works, not how much feedback helps in general.
"""

TASKS = """\
The results by task, including tasks that the pair was not made for and whose words it cannot read:

    lm_eval --model feedback_pair --tasks babi_reasoning --limit 100 --model_args run_dir=feedback_pair
    lm_eval --model skyline --tasks babi_reasoning --limit 100 --model_args run_dir=skyline
    python benchmarks/babi_tasks.py feedback_pair skyline --output benchmarks/results/babi_tasks.json
"""

SMALL = """\
## Does feedback help a student that was taught no mistakes?

    HARNESS_EXT_DATA=<folder> python benchmarks/embedded_pair.py --student small_student \\
        --tasks 1 2 6 7 8 9 10 11 12 13 --output benchmarks/results/embedded_pair_small.json

The same with the small student, which is weak by its size and training alone, and was trained on the requests of both
controls as often as on reviews ([embedded-pair.md](embedded-pair.md#two-students)). The teacher is the same; it was not
trained on mistakes like those of this student.
"""

PROTOCOLS = """\
## All protocols compared

    HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table.py --limit 50 \\
        --output benchmarks/results/protocols_table

[compare.md](../benchmarks/results/protocols_table/compare.md) has the results by task and for yes/no and other
questions, the costs, and the score of a mix of the other runs at the same cost.
"""

SMALL_PROTOCOLS = """\
The small student, in the same way:

    HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table.py --student small_student --limit 50 \\
        --runs baseline feedback_pair "verdict only" "second look" self_consistency skyline \\
        --output benchmarks/results/protocols_table_small
"""

COMPARED = """\
{number} of bAbI's test rows ({tasks}). `harness-ext compare` compares each run with `baseline`, by the {test} (clusters
are stories), with Holm's correction over the runs. `up` and `down` are the numbers of questions that became right and
wrong. `Δ to mix` is the difference to the best mix of the other runs that writes as many tokens. `total seconds` is the
wall time of the whole run; the other figures are per question."""

DEBATES = """\
The pair was not trained on the prompts of a debate, so those rows show what a debate costs, not how much it helps."""

ALPHA = 0.05


def pair_part(name: str) -> str:
    """Return the scores of a pair, the differences to the baseline, and how many hints name the answer."""
    return report(load(name))


def tasks_part() -> str:
    """Return the scores of first drafts and final replies on every task."""
    rows = [
        {
            "task": row["task"],
            "rows": row["rows"],
            "student (first draft)": f"{row['first_draft']:.2f}",
            "feedback_pair": f"{row['final']:.2f}",
            "wrong to right": row["wrong_to_right"],
            "right to wrong": row["right_to_wrong"],
            "teacher": number(row["teacher"], ".2f"),
        }
        for row in load("babi_tasks.json")["rows"]
    ]
    return table(rows)


def compared_part(folder: str) -> str:
    """Return the table of protocols over all tasks, from what `harness-ext compare` wrote.

    folder: the folder of the result.
    """
    found = _all_tasks(folder)
    seconds = {run["run"]: run["seconds"] for run in load(f"{folder}/protocols_table.json")["runs"]}
    rows = []
    for row in found:
        other, cost, equal = row["difference"], row["cost"], _equal_cost(row)
        rows.append(
            {
                "run": row["run"],
                "exact match (95 %)": with_interval(row, ".3f"),
                "Δ to baseline (95 %)": with_interval(other, "+.3f") if other else "",
                "p (Holm)": f"{other['adjusted']:.2g}" if other else "",
                "up": other["up"] if other else "",
                "down": other["down"] if other else "",
                "tokens read": number(cost["prompt_tokens"]),
                "tokens written": number(cost["completion_tokens"]),
                "seconds": number(cost["seconds"], ".2f"),
                "total seconds": number(seconds.get(row["run"])),
                "Δ to mix (95 %)": with_interval(equal, "+.3f") if equal else "",
            }
        )
    names = [name.rpartition("_")[2] for name in found[0]["pool"]["tasks"]]
    tasks = f"tasks {', '.join(sorted(names, key=int))}"
    words = COMPARED.format(number=found[0]["number"], tasks=tasks, test=found[1]["difference"]["test"])
    if any(row["run"].startswith("debate") for row in found):
        words += f" {DEBATES}"
    return f"{words}\n\n{table(rows)}\n{to_baseline(found[1:])}\n{to_mix(found[1:])}"


def to_baseline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on which runs are better or worse than the baseline, by the corrected p-values."""

    def verdict(row: Mapping[str, Any]) -> str:
        difference = row["difference"]
        return _direction(difference["value"]) if difference["adjusted"] < ALPHA else SAME

    return f"Compared with `baseline` (p < {ALPHA:g} after correction), {_listed(rows, verdict)}.\n"


def to_mix(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sentence on which runs are better or worse than the best mix at equal cost, by the intervals."""

    def verdict(row: Mapping[str, Any]) -> str:
        equal = _equal_cost(row)
        if equal is None:
            return "cheaper than every mix"
        low, high = equal["interval"]["low"], equal["interval"]["high"]
        return SAME if low is None or low <= 0 <= high else _direction(equal["value"])

    return f"Compared with the best mix of other runs at equal cost (95 % interval), {_listed(rows, verdict)}.\n"


SAME = "not significantly different"


def _direction(value: float) -> str:
    return "better" if value > 0 else "significantly worse"


def _listed(rows: Sequence[Mapping[str, Any]], verdict: Any) -> str:
    found: dict[str, list[str]] = {"better": [], "significantly worse": [], SAME: []}
    for row in rows:
        found.setdefault(verdict(row), []).append(row["run"])
    return "; ".join(f"{name}: {', '.join(runs) or 'none'}" for name, runs in found.items())


def readme_part() -> str:
    """Return three rows of the table of all protocols for the README."""
    rows = [
        {
            "run": f"`{row['run']}`",
            "exact match (95 %)": with_interval(row, ".3f"),
            "tokens written per question": number(row["cost"]["completion_tokens"]),
        }
        for row in _all_tasks("protocols_table")
        if row["run"] in ("baseline", "feedback_pair", "skyline")
    ]
    return table(rows)


def _all_tasks(folder: str) -> list[dict[str, Any]]:
    return [row for row in load(f"{folder}/compare.json")["rows"] if row["pool"]["name"] == "all tasks"]


def _equal_cost(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the difference to the best mix that writes as many tokens, or None if no other run is as cheap."""
    equal = row["equal_cost"].get("output tokens")
    return None if equal is None else {"value": equal["difference"], "interval": equal["interval"]}

"""The page docs/results.md and the rows of the README: the protocols with real public models.

All sentences are made from the figures, so that another result gives another text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from page_protocols import readme_part as embedded_part
from page_tables import RESULTS, load, number, table, with_interval
from real_grid import FEEDBACK, LIMIT, SETTINGS, Pair, grid, task_named
from result_records import RECORD, short, stamp

from harness_ext.analysis.planning.assumptions import this_share
from harness_ext.analysis.planning.models import IndependentQuestions, smallest_gain
from harness_ext.analysis.statistics.holm import holm

NAME = "real_results.json"
ALPHA, POWER = 0.05, 0.8
# What the default number of questions was planned with.
BASELINE, DISCORDANT = 0.4, 0.2

HEAD = """\
# Results with real models

Does the second model help, what does it cost, and is the difference real? Measured with public models in 4 bits, which
llama.cpp serves, on public tasks without examples and with the models' chat templates (Gemma 3 270M is a base model
without one; llama.cpp's own, ChatML, takes its place). One command makes models and server available, runs everything
and can be interrupted at any time; given again, it continues:

    HARNESS_EXT_DATA=<folder> python benchmarks/real_results.py && python benchmarks/page.py

`--tasks`, `--pairs`, `--settings` and `--limit` select a part. `python benchmarks/page.py` writes this page from the
numbers, its sentences too.
"""

READ_AS = """\
## How to read the tables

{settings}

- `right` is the share of right answers, `Δ` the difference to the baseline on the same questions, by `harness-ext
  compare` ([how](compare.md#statistics)); `up` and `down` count the questions that became right and wrong. `p (Holm)`
  is corrected for all {family} comparisons on this page. `detectable` is the smallest difference that such a run would
  find again with power {power:g}.
- `unreadable` is the share of final texts in which the task finds no answer.
- Calls and tokens (read and written by each seat) are per question, each as if the setting had run alone. `compute` is
  2 · weights · tokens, relative to the baseline. Times are not shown, since the runs were interrupted and shared their
  machine with other work; how fast protocols run is measured in [speed.md](benchmarks/speed.md).
- Of the verdicts of `feedback_pair`, `precision` is the share of right drafts among the accepted ones, `recall` the
  share of accepted drafts among the right ones, `probability stated` the teacher's mean probability that a draft is
  right, and `AUROC` how well it tells right drafts from wrong ones, with any threshold (0.5 is chance). Every draft
  that was reviewed counts, not only the first of each question.
"""

NOTHING = "Nothing was measured yet.\n"


def results_page() -> str:
    """Return the page."""
    if not (RESULTS / NAME).exists():
        return f"{HEAD}\n{NOTHING}"
    result = load(NAME)
    return f"{page_of(result)}\nThe table that was added last: {stamp(RESULTS / NAME)}\n"


def page_of(result: Mapping[str, Any]) -> str:
    """Return the page without the sentence on how its result was made.

    result: the result of `real_results.py`.
    """
    order = list(dict.fromkeys((cell.pair.student, cell.pair.teacher) for cell in grid()))
    places = {pair: place for place, pair in enumerate(order)}
    groups = with_family(result["groups"])
    groups.sort(key=lambda group: places.get((group["student"], group["teacher"]), len(places)))
    family = sum(cell["difference"] is not None for group in groups for cell in group["cells"])
    about = "\n".join(f"- `{setting.label}`: {setting.about}." for setting in SETTINGS)
    parts = [HEAD, "## What was found\n", "\n".join(f"- {finding(group)}" for group in groups) + "\n"]
    parts += [READ_AS.format(settings=about, family=family, power=POWER)]
    for group in groups:
        parts += [f"## {title(group)}\n", table([cells_of(group, cell) for cell in group["cells"]])]
        parts += [part for part in (verdict_table(group), measured_on(group)) if part]
    parts += ["## What can be detected\n", detectable(), "## Not run yet\n", missing(groups)]
    return "\n".join(parts)


def with_family(groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups with p-values that Holm's method corrects for all comparisons in them together."""
    compared = [cell["difference"]["p_value"] for group in groups for cell in group["cells"] if cell["difference"]]
    adjusted = iter(holm(compared))

    def corrected(cell: Mapping[str, Any]) -> dict[str, Any]:
        other = cell["difference"]
        return {**cell, "difference": other and {**other, "adjusted": next(adjusted)}}

    return [{**group, "cells": [corrected(cell) for cell in group["cells"]]} for group in groups]


def title(group: Mapping[str, Any]) -> str:
    """Return the heading of a group: the task and the models."""
    return f"{task_named(group['task']).title}, {Pair(group['student'], group['teacher']).title}"


def finding(group: Mapping[str, Any]) -> str:
    """Return what was found in a group, in sentences: which settings differ from the baseline, and why."""
    cells = {cell["run"]: cell for cell in group["cells"]}
    base = cells["baseline"]
    said = [
        f"**{title(group)}**, {base['number']} questions: the student alone is right on {base['value']:.0%}.",
        *_against_baseline([cell for name, cell in cells.items() if name != "baseline"]),
    ]
    if (feedback := cells.get(FEEDBACK)) is not None:
        said += _why(feedback, times_baseline(group, feedback), cells.get("second_look"))
        if group["two_way"]:
            said.append("With two possible answers, a rejection alone gives the other one away.")
    return " ".join(said)


def _against_baseline(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    found: dict[str, list[str]] = {"better": [], "worse": [], "not": []}
    for cell in cells:
        other = cell["difference"]
        key = "not" if other["adjusted"] >= ALPHA else "better" if other["value"] > 0 else "worse"
        found[key].append(f"`{cell['run']}` ({_points(other['value'])})")
    for key in ("better", "worse"):
        if found[key]:
            yield f"Significantly {key}: {', '.join(found[key])}."
    if found["not"]:
        yield f"Not significantly different: {', '.join(found['not'])}."


def _why(feedback: Mapping[str, Any], times: float | None, control: Mapping[str, Any] | None) -> Iterator[str]:
    """Return what explains the result of `feedback_pair`: its verdicts, its cost, and its control.

    feedback: the cell of `feedback_pair`.
    times: its compute relative to the baseline; None if it is unknown.
    control: the cell of `second_look`, or None.
    """
    verdicts, other = feedback["verdicts"], feedback["difference"]
    if verdicts:
        wrong = _of(verdicts["rejected_wrong"], verdicts["accepted_wrong"])
        right = _of(verdicts["rejected_right"], verdicts["accepted_right"])
        yield f"Only a rejected draft can be corrected: the teacher of `{FEEDBACK}` rejected {wrong} wrong drafts"
        yield f"and {right} right ones; {other['up']} answers became right and {other['down']} wrong."
        if verdicts["stated"] is not None:
            share = f"{(verdicts['accepted_right'] + verdicts['rejected_right']) / _judged(verdicts):.2f}"
            yield f"Its mean probability that a draft is right is {verdicts['stated']:.2f}; {share} of them are right."
    if times is not None:
        yield f"`{FEEDBACK}` needs {times:.1f} times the compute of the student alone."
    if control is not None:
        yield f"Without any feedback, `second_look` gains {_points(control['difference']['value'])}."


def cells_of(group: Mapping[str, Any], cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the table of a group."""
    other = cell["difference"]
    name = f"`{cell['run']}`" + (f" (k={cell['k']})" if cell["k"] else "")
    return {
        "setting": name,
        "n": cell["number"],
        "right (95 %)": with_interval(cell, ".2f"),
        "Δ (95 %)": with_interval(other, "+.2f") if other else "",
        "p (Holm)": f"{other['adjusted']:.2g}" if other else "",
        "detectable": number(other["detectable"], ".2f") if other else "",
        "up": other["up"] if other else "",
        "down": other["down"] if other else "",
        "unreadable": number(cell["unread"], ".0%"),
        "calls": by_seat(cell, "calls", ".1f"),
        "tokens read": by_seat(cell, "prompt_tokens", ".0f"),
        "written": by_seat(cell, "completion_tokens", ".0f"),
        "compute": number(times_baseline(group, cell), ".1f") + " ×",
    }


def by_seat(cell: Mapping[str, Any], what: str, form: str) -> str:
    """Return a cost per question of each seat, with its name where there are several.

    cell: the cell.
    what: the name of the cost in `Usage`.
    form: its format.
    """
    seats = cell["seats"]
    shares = {seat: None if use[what] is None else use[what] / cell["number"] for seat, use in seats.items()}
    return ", ".join(f"{seat} {number(v, form)}" if len(seats) > 1 else number(v, form) for seat, v in shares.items())


def times_baseline(group: Mapping[str, Any], cell: Mapping[str, Any]) -> float | None:
    """Return the compute of a cell, relative to its baseline; None if it is unknown."""
    base = next(one for one in group["cells"] if one["run"] == "baseline")
    costs = [one["cost"] and one["cost"]["flops"] for one in (cell, base)]
    return None if None in costs or not costs[1] else costs[0] / costs[1]


def measured_on(group: Mapping[str, Any]) -> str | None:
    """Return when and at which commits a group was measured, or None if only the whole result records it."""
    made = group.get(RECORD)
    if not made:
        return None
    return f"Measured on {made['date'][:10]} at commit {', '.join(map(short, made['commit'].split(', ')))}.\n"


def verdict_table(group: Mapping[str, Any]) -> str | None:
    """Return the table of the teacher's verdicts on drafts, or None if there are none."""
    rows = [
        {
            "verdicts of": f"`{cell['run']}`",
            "reviews": found["asked"],
            "right drafts accepted": _of(found["accepted_right"], found["rejected_right"]),
            "wrong ones rejected": _of(found["rejected_wrong"], found["accepted_wrong"]),
            "precision": number(found["precision"], ".2f"),
            "recall": number(found["recall"], ".2f"),
            "probability stated": number(found["stated"], ".2f"),
            "AUROC (95 %)": _auroc(found["auroc"]),
            "malformed": number(found["malformed"] / found["asked"] if found["asked"] else None, ".0%"),
        }
        for cell in group["cells"]
        if (found := cell["verdicts"])
    ]
    return table(rows) if rows else None


def _auroc(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "?"
    return with_interval({"value": found["value"], "interval": {"low": found["low"], "high": found["high"]}}, ".2f")


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".removesuffix(".0") + " points"


def _judged(verdicts: Mapping[str, Any]) -> int:
    names = ("accepted_right", "accepted_wrong", "rejected_right", "rejected_wrong")
    return sum(int(verdicts[name]) for name in names)


def _of(some: int, others: int) -> str:
    return f"{some} of {some + others}"


def detectable() -> str:
    """Return what differences the default number of questions can find."""
    gain = smallest_gain(
        IndependentQuestions(this_share(DISCORDANT, "as given"), BASELINE, ALPHA), LIMIT, 1 - BASELINE, POWER
    )
    command = f"harness-ext plan --baseline {BASELINE:g} --discordant {DISCORDANT:g} --questions {LIMIT}"
    return (
        f"The default of {LIMIT} questions finds a gain of {number(gain, '.2f')} with power {POWER:g}, if the baseline "
        f"is right on {BASELINE:.0%} and {DISCORDANT:.0%} of the answers change (`{command}`), before any correction "
        "for several comparisons.\n"
    )


def missing(groups: Sequence[Mapping[str, Any]]) -> str:
    """Return which cells of the default grid have no result."""
    done = {(g["task"], g["student"], g["teacher"], cell["run"]) for g in groups for cell in g["cells"]}
    left: dict[str, list[str]] = {}
    for cell in grid():
        if (cell.task.name, cell.pair.student, cell.pair.teacher, cell.setting.label) not in done:
            left.setdefault(f"{cell.task.title}, {cell.pair.title}", []).append(f"`{cell.setting.label}`")
    if not left:
        return "All cells of the default grid were run.\n"
    return "\n".join(f"- {name}: {_all_or(labels)}" for name, labels in left.items()) + "\n"


def _all_or(labels: Sequence[str]) -> str:
    return "all settings" if len(labels) == len(SETTINGS) else ", ".join(labels)


def readme_part() -> str:
    """Return the rows for the README: those of real models, or those of the embedded pair if there are none yet."""
    if not (RESULTS / NAME).exists():
        return f"The built-in pair on bAbI's test rows:\n\n{embedded_part()}"
    return readme_rows(load(NAME))


def readme_rows(result: Mapping[str, Any]) -> str:
    """Return the rows of the task and pair with most settings (of these, most questions), and what they are.

    result: the result of `real_results.py`.
    """
    group = max(with_family(result["groups"]), key=lambda one: (len(one["cells"]), one["cells"][0]["number"]))
    rows = [
        {
            "run": f"`{cell['run']}`",
            "right (95 %)": with_interval(cell, ".2f"),
            "Δ (95 %)": with_interval(cell["difference"], "+.2f") if cell["difference"] else "",
            "p (Holm)": f"{cell['difference']['adjusted']:.2g}" if cell["difference"] else "",
            "compute": number(times_baseline(group, cell), ".1f") + " ×",
        }
        for cell in group["cells"]
    ]
    return f"{title(group)}, {group['cells'][0]['number']} test questions:\n\n{table(rows)}"

"""What is wrong with what a teacher wrote: held against the gold answer, and against the other rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness_ext.answers import same_answer
from harness_ext.enhance.rows import beside, manifest_of, read, text_digest
from harness_ext.enhance.templates import TemplateSet, read_templates
from harness_ext.errors import ConfigurationError

# Which checks there are, and what each finds in a row.
FLAGS = {
    "empty": "nothing but blanks",
    "cut_off": "ended by the token limit",
    "duplicate": "the same words as an earlier row's",
    "no_answer": "a rationale that states no answer at its end",
    "contradicts_gold": "a rationale whose last stated answer is not the gold one",
    "leaks_gold": "a fundamental that gives the gold answer away",
    "overlap": "shares an n-gram with an evaluation document (asked for with `--tasks`)",
}

# Which field a check is for; the others are for all.
ONLY_FOR = {"no_answer": "cot", "contradicts_gold": "cot", "leaks_gold": "fundamental"}


def check_rows(
    rows: Iterable[Mapping[str, Any]],
    field: str,
    templates: TemplateSet | None,
    finishes: Mapping[str, str | None],
) -> Iterator[set[str]]:
    """Yield each row's flags, a subset of `FLAGS`.

    `finishes` maps the digest (`text_digest`) of a row's `all` to how its reply ended; unknown rows are not `cut_off`.
    Answers are looked for in `cot` (the last one counts) and in `fundamental` (none may be there), not in other fields.
    """
    seen: set[str] = set()
    reader = templates.reader if templates else None
    for row in rows:
        text = str(row.get(field) or "")
        words = " ".join(text.casefold().split())
        flags = {"empty"} if not words else set()
        if finishes.get(text_digest(row.get("all"))) == "length":
            flags.add("cut_off")
        if words and words in seen:
            flags.add("duplicate")
        seen.add(words)
        gold = templates.gold_of(row) if templates else None
        if words and reader and gold is not None:
            if field == "cot":
                last = reader.last(text)
                if last is None:
                    flags.add("no_answer")
                elif not same_answer(last, reader.gold(gold)):
                    flags.add("contradicts_gold")
            elif field == "fundamental" and reader.says(text, gold):
                flags.add("leaks_gold")
        yield flags


def flags_of(path: Path) -> tuple[list[dict[str, Any]], list[set[str]], dict[str, Any]]:
    """Return the rows of an annotated file, each one's flags, and what could not be checked, by check with the reason.

    Raises ConfigurationError where the file is none of `annotate`'s.
    """
    manifest = manifest_of(path)
    field = manifest.get("field")
    if not isinstance(field, str):
        raise ConfigurationError([f"{path} has no manifest of `annotate` beside it ({beside(path, 'manifest.json')})"])
    found = list(read(path))
    if problems := [f"{path} {row.place}: {row.problem}" for row in found if row.fields is None]:
        raise ConfigurationError(problems)
    rows = [row.fields for row in found if row.fields is not None]
    templates = read_templates(manifest["templates"], str(path)) if manifest.get("templates") else None
    finishes = _finishes(path)
    unknown: dict[str, Any] = {}
    missing = sum(finishes.get(text_digest(row.get("all"))) is None for row in rows)
    if missing:
        unknown["cut_off"] = f"{missing} rows do not say how their reply ended"
    unknown |= {flag: f"is for `{own}`, not `{field}`" for flag, own in ONLY_FOR.items() if own != field}
    if templates is None or not templates.gold:
        unknown |= dict.fromkeys(ONLY_FOR, "no gold answer is known: give `annotate` its `--templates`")
    elif lacking := sum(templates.gold_of(row) is None for row in rows):
        unknown["gold"] = f"{lacking} rows have no gold answer"
    return rows, list(check_rows(rows, field, templates, finishes)), unknown


def _finishes(path: Path) -> dict[str, str | None]:
    records = beside(path, "records.jsonl")
    if not records.exists():
        return {}
    return {str(row.fields.get("digest")): row.fields.get("finish") for row in read(records) if row.fields}


def report(path: Path, overlap: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the checks' report of an annotated file: for each flag how many rows have it, which share, which lines.

    Raises ConfigurationError where the file is none of `annotate`'s.
    """
    rows, flags, unknown = flags_of(path)
    overlapping = set(overlap["lines"]) if overlap else set()
    unchecked = {flag for flag in ONLY_FOR if flag in unknown} | (set() if overlap else {"overlap"})
    lines: dict[str, list[int]] = {flag: [] for flag in FLAGS if flag not in unchecked}
    for number, one in enumerate(flags, start=1):
        for flag in one | ({"overlap"} if number in overlapping else set()):
            lines[flag].append(number)
    counted = {
        flag: {"means": FLAGS[flag], "rows": len(where), "share": round(len(where) / len(rows), 4) if rows else None}
        for flag, where in lines.items()
    }
    return {
        "rows": len(rows),
        "without_a_flag": sum(not one and number not in overlapping for number, one in enumerate(flags, start=1)),
        "flags": {flag: {**c, "lines": lines[flag]} for flag, c in counted.items()},
        "not_checked": unknown,
        **({"overlap": overlap} if overlap else {}),
    }


def summary_lines(checked: Mapping[str, Any]) -> list[str]:
    """Return a report as a few lines of text."""
    parts = [f"{flag} {one['rows']}" for flag, one in checked["flags"].items()]
    lines = [f"checks of {checked['rows']} rows: {', '.join(parts)}; without any {checked['without_a_flag']}"]
    return lines + [f"not checked: {name}: {json.dumps(why)}" for name, why in checked["not_checked"].items()]

"""Checks of a teacher's replies against the gold answers and against the other rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness_ext.enhance.contamination.findings import Findings, Kind
from harness_ext.enhance.row_files import beside, manifest_of, read, text_digest
from harness_ext.enhance.templates import TemplateSet, read_templates
from harness_ext.errors import ConfigurationError
from harness_ext.reading import same_answer

# All checks, with what each of them flags.
FLAGS = {
    "empty": "nothing but white space",
    "cut_off": "cut off by the token limit",
    "duplicate": "the same words as an earlier row",
    "no_answer": "a rationale that states no answer",
    "contradicts_gold": "a rationale whose last stated answer is not the gold answer",
    "leaks_gold": "a fundamental that gives away the gold answer",
    "overlap": "shares an n-gram with an evaluation document (requires `--tasks`)",
    "near_duplicate": "has nearly the same text as an evaluation document (requires `--tasks`)",
}

# The flags of rows that contain evaluation documents, with what a search for these calls them.
CONTAMINATION: Mapping[str, Kind] = {"overlap": "ngram", "near_duplicate": "near_duplicate"}

# Checks that apply to one field only; the others apply to all fields.
ONLY_FOR = {"no_answer": "cot", "contradicts_gold": "cot", "leaks_gold": "fundamental"}


def check_rows(
    rows: Iterable[Mapping[str, Any]],
    field: str,
    templates: TemplateSet | None,
    finishes: Mapping[str, str | None],
) -> Iterator[set[str]]:
    """Yield the flags of each row, a subset of `FLAGS`.

    Answers are looked for only in `cot`, where the last one counts, and in `fundamental`, which must not give one away.

    rows: the annotated rows.
    field: the field with the reply.
    templates: the set that defines the gold answers, or None.
    finishes: how each reply ended, by the `text_digest` of the row's `all`. Unknown rows are not flagged as `cut_off`.
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


def is_annotated(path: Path) -> bool:
    """Return whether a file has a manifest of `annotate`."""
    return isinstance(manifest_of(path).get("field"), str)


def contamination_flags(found: Findings | None, count: int) -> list[set[str]]:
    """Return the flags of `CONTAMINATION` of each of `count` rows."""
    flags: list[set[str]] = [set() for _ in range(count)]
    if found is not None:
        for flag, kind in CONTAMINATION.items():
            for number in found.numbers(kind):
                flags[number - 1].add(flag)
    return flags


def flags_of(path: Path) -> tuple[list[dict[str, Any]], list[set[str]], dict[str, Any]]:
    """Return the rows of an annotated file, the flags of each row, and the checks that were impossible with the reason.

    Raises ConfigurationError if `annotate` did not write the file.
    """
    manifest = manifest_of(path)
    if not is_annotated(path):
        missing_manifest = beside(path, "manifest.json")
        raise ConfigurationError([f"{path} has no manifest ({missing_manifest}): name a file that `annotate` wrote"])
    field: str = manifest["field"]
    found = list(read(path))
    if problems := [f"{path} {row.place}: {row.problem}" for row in found if row.fields is None]:
        raise ConfigurationError(problems)
    rows = [row.fields for row in found if row.fields is not None]
    templates = read_templates(manifest["templates"], str(path)) if manifest.get("templates") else None
    finishes = finishes_of(path)
    unknown: dict[str, Any] = {}
    missing = sum(finishes.get(text_digest(row.get("all"))) is None for row in rows)
    if missing:
        unknown["cut_off"] = f"{missing} rows have no record of how their reply ended"
    unknown |= {flag: f"applies to `{own}`, not to `{field}`" for flag, own in ONLY_FOR.items() if own != field}
    if templates is None or not templates.gold:
        unknown |= dict.fromkeys(ONLY_FOR, "no gold answers are known: pass `--templates` to `annotate`")
    elif lacking := sum(templates.gold_of(row) is None for row in rows):
        unknown["gold"] = f"{lacking} rows have no gold answer"
    return rows, list(check_rows(rows, field, templates, finishes)), unknown


def finishes_of(path: Path) -> dict[str, str | None]:
    """Return how the replies of an annotated file ended, by the `text_digest` of a row's `all`.

    A reply that ended by itself has `stop`, and one that the token limit cut off has `length`. None, like a row that is
    missing here, means that the model did not say.
    """
    records = beside(path, "records.jsonl")
    if not records.exists():
        return {}
    return {str(row.fields.get("digest")): row.fields.get("finish") for row in read(records) if row.fields}


def report(path: Path, contamination: Findings | None = None) -> dict[str, Any]:
    """Return the report on an annotated file: the number, share and line numbers of the rows with each flag.

    path: the annotated file.
    contamination: which rows contain evaluation documents. Default: this was not checked.

    Raises ConfigurationError if `annotate` did not write the file.
    """
    rows, flags, unknown = flags_of(path)
    unchecked = {flag for flag in ONLY_FOR if flag in unknown} | (set() if contamination else CONTAMINATION.keys())
    lines: dict[str, list[int]] = {flag: [] for flag in FLAGS if flag not in unchecked}
    flags = [one | more for one, more in zip(flags, contamination_flags(contamination, len(rows)), strict=True)]
    for number, one in enumerate(flags, start=1):
        for flag in one:
            lines[flag].append(number)
    counted = {
        flag: {"means": FLAGS[flag], "rows": len(where), "share": round(len(where) / len(rows), 4) if rows else None}
        for flag, where in lines.items()
    }
    return {
        "rows": len(rows),
        "without_a_flag": sum(not one for one in flags),
        "flags": {flag: {**c, "lines": lines[flag]} for flag, c in counted.items()},
        "not_checked": unknown,
    }


def summary_lines(checked: Mapping[str, Any]) -> list[str]:
    """Return a report as a few lines of text."""
    parts = [f"{flag} {one['rows']}" for flag, one in checked["flags"].items()]
    lines = [f"checks of {checked['rows']} rows: {', '.join(parts)}; without a flag {checked['without_a_flag']}"]
    return lines + [f"not checked: {name}: {json.dumps(why)}" for name, why in checked["not_checked"].items()]

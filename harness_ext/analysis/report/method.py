"""What a report says about how its runs were made, and what to be careful about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness_ext.analysis.compare.command import Compared
from harness_ext.analysis.report.records import Records, RunRecords
from harness_ext.terminal import clean, safe_line, safe_text

LARGE_SHARE = 0.05  # of replies that could not be used: from here on a report warns
LONG_OPTION = 60  # characters; longer options are shown as prompts


@dataclass(frozen=True)
class Method:
    """How a run directory was made.

    name: its name in the report.
    facts: names and values: folder, protocol, start, versions, seeds.
    options: the protocol's options and the run's.
    prompts: options that are texts of several words.
    seats: for each seat, names and values.
    """

    name: str
    facts: tuple[tuple[str, str], ...]
    options: tuple[tuple[str, str], ...]
    prompts: tuple[tuple[str, str], ...]
    seats: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def method_of(directory: RunRecords) -> Method:
    """Return how a run directory was made, as far as its records say."""
    config = directory.config
    identity = config.get("identity") or {}
    options = {**(config.get("run") or {}), **(identity.get("options") or {})}
    prompts = {k: v for k, v in options.items() if isinstance(v, str) and ("\n" in v or len(v) > LONG_OPTION)}
    versions = {"harness_ext": config.get("harness_ext"), **(config.get("versions") or {})}
    facts = {
        "folder": str(directory.path),
        "protocol": identity.get("protocol"),
        "started": config.get("started"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "seeds": ", ".join(f"{name} {seed}" for name, seed in (config.get("seeds") or {}).items()),
    }
    seats = [
        (safe_line(str(name)), _pairs({k: v for k, v in seat.items() if k != "args"} | dict(seat.get("args") or {})))
        for name, seat in (config.get("seats") or {}).items()
    ]
    return Method(
        safe_line(directory.name),
        _pairs(facts),
        _pairs({k: v for k, v in options.items() if k not in prompts}),
        tuple((safe_line(k), safe_text(v)) for k, v in prompts.items()),
        tuple(seats),
    )


def warnings_of(found: Compared, records: Records) -> list[str]:
    """Return in sentences what a reader should know before believing the figures."""
    lines: list[str] = []
    shown = [d for d in records.directories if d.config.get("demonstration_pair")]
    if shown:
        lines.append(
            f"{_names(shown)}: no model was named, so the built-in demonstration pair answered. Its figures say "
            "nothing about other models"
        )
    lines += [f"Different settings: {difference}" for difference in found.matched.differences]
    lines += [f"Left out: {line}" for line in found.matched.left_out]
    for directory in records.directories:
        lines += [f"{directory.name}: {line}" for line in _run_warnings(directory.summary)]
    return [safe_line(clean(line)) for line in [*lines, *records.remarks]]


def _run_warnings(summary: Mapping[str, Any]) -> list[str]:
    questions = summary.get("questions")
    if not questions:
        return ["the run has no summary: it was killed, or is still going on"]
    lines = [str(warning) for warning in summary.get("warnings") or ()]
    if summary.get("unfinished"):
        lines.append(f"{summary['unfinished']} questions were not reached")
    if failed := summary.get("failed"):
        codes = ", ".join(f"{count} {code}" for code, count in (summary.get("failures") or {}).items())
        lines.append(f"{failed} of {questions} questions have no answer ({codes}) and count as wrong")
    reviews = summary.get("reviews") or {}
    if (malformed := reviews.get("malformed_rate") or 0) >= LARGE_SHARE:
        lines.append(f"{malformed:.0%} of {reviews['total']} reviews had no readable verdict and count as rejections")
    if (cut := summary.get("cut_at_limit_rate") or 0) >= LARGE_SHARE:
        lines.append(f"{cut:.0%} of the replies were cut off by their token limit")
    return lines


def _names(directories: list[RunRecords]) -> str:
    return ", ".join(directory.name for directory in directories)


def _pairs(values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return names and values that are known, as safe text without credentials."""
    return tuple((safe_line(str(name)), _shown(value)) for name, value in values.items() if value not in (None, "", {}))


def _shown(value: Any) -> str:
    return safe_line(clean(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)))

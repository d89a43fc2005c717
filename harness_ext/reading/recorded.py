"""Answers as they are recorded with the turns they were read from."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from harness_ext.reading.kinds import Kind, Reading


def to_record(reading: Reading | None) -> dict[str, Any]:
    """Return an answer as JSON values: its value, what was written, its kind and the rule that found it."""
    if reading is None:
        return {"answer": None}
    return {
        "answer": reading.value,
        "answer_written": reading.written,
        "answer_kind": reading.kind,
        "answer_rule": reading.rule,
    }


def from_record(record: Mapping[str, Any]) -> Reading | None:
    """Return the answer that `to_record` recorded. Earlier versions recorded only the value."""
    value = record.get("answer")
    if not isinstance(value, str):
        return None
    kind: Kind = record.get("answer_kind", "text")
    number = Fraction(value) if kind == "number" else None
    return Reading(kind, record.get("answer_written", value), value, (0, 0), record.get("answer_rule", ""), number)

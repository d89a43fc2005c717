"""One transcript as plain JSON values whose every text is safe to show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.analysis.transcript_view import (
    how_read,
    result_words,
    turn_notes,
    verdict_words,
)
from harness_ext.reading import AnswerForm
from harness_ext.records import Completion, Transcript, Turn
from harness_ext.records.chat import messages_of
from harness_ext.records.lost_answers import form_of, is_answer
from harness_ext.terminal import safe_line, safe_text

USAGE = ("prompt_tokens", "cached_tokens", "completion_tokens")


def context_json(context: str) -> list[list[str]]:
    """Return a context as pairs of role and text."""
    return [[safe_line(role), safe_text(content)] for role, content in messages_of(context)]


def transcript_json(transcript: Transcript) -> dict[str, Any]:
    """Return a transcript without its context.

    The entries are `repeat`, `index`, `stop`, `text`, `turns`, and where they apply `failure`, `authors` (who wrote
    which part of the text) and `details`, which is JSON as a text.
    """
    form = form_of(transcript.context)
    found: dict[str, Any] = {
        "repeat": transcript.repeat,
        "index": transcript.index,
        "stop": safe_line(transcript.stop),
        "text": safe_text(transcript.text),
        "turns": [_turn(turn, form) for turn in transcript.turns],
    }
    if transcript.failure is not None:
        found["failure"] = safe_line(transcript.failure.message)
    if authors := _authors(transcript):
        found["authors"] = authors
    if transcript.details:
        found["details"] = safe_text(json.dumps(dict(transcript.details), ensure_ascii=False, default=str))
    return found


def _authors(transcript: Transcript) -> list[list[str]]:
    """Return a text that two seats wrote in turns as pairs of author and text; empty for any other."""
    units = (transcript.details or {}).get("units")
    if not isinstance(units, Mapping) or not isinstance(units.get("authors"), str):
        return []
    names = {"s": "student", "t": "teacher"}
    found: list[list[str]] = []
    start = 0
    for author, length in zip(units["authors"], units.get("characters") or (), strict=False):
        written = safe_text(transcript.text[start : start + length])
        start += length
        if found and found[-1][0] == names.get(author, author):
            found[-1][1] += written
        elif written:
            found.append([names.get(author, author), written])
    return found


def _turn(turn: Turn, form: AnswerForm, path: str = "") -> dict[str, Any]:
    """Return a turn. Missing entries have their usual value: no thought, no verdict, no notes, …

    turn: the turn.
    form: what its question asks for.
    path: what the name of its seat begins with (`student.`). Default: nothing.
    """
    result, read = turn.result, how_read(turn, form)
    accepted = (turn.verdict or {}).get("accepted")
    found: dict[str, Any] = {"seat": safe_line(f"{path}{turn.seat}"), "kind": safe_line(turn.kind)}
    if isinstance(result, Completion):
        found["parts"] = _parts(turn.text, read.span if read else None)
        found |= {"thought": safe_text(result.thought)} if result.thought else {}
        found |= {"rule": safe_line(read.rule), "read": safe_line(read.value)} if read else {}
    else:
        found["note"] = result_words(turn)
    found |= {"whole": 1} if is_answer(turn) else {}
    found |= {"verdict": words} if (words := verdict_words(turn)) else {}
    found |= {"accepted": int(accepted)} if isinstance(accepted, bool) else {}
    found |= {"notes": [safe_line(note) for note in notes]} if (notes := turn_notes(turn)) else {}
    counts = [getattr(result, name) for name in USAGE]
    found["usage"] = [*counts, round(result.seconds, 3), int(turn.reused)]
    if turn.inner is not None:
        below = [_turn(inner, form, f"{path}{turn.seat}.") for inner in turn.inner.turns]
        found["inner"] = {"stop": safe_line(turn.inner.stop), "turns": below}
    return found


def _parts(text: str, span: Sequence[int] | None) -> list[str]:
    """Return a text in one part, or in three of which the second is what was read."""
    if span is None:
        return [safe_text(text)]
    start, end = span
    return [safe_text(text[:start]), safe_text(text[start:end]), safe_text(text[end:])]

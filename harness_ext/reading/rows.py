"""Reading a row of a file: a reply, and what is to be read in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.reading.answer_reader import read_answer
from harness_ext.reading.choice_reader import read_choice
from harness_ext.reading.equality import same_answer
from harness_ext.reading.json_replies import read_json_choice
from harness_ext.reading.kinds import AnswerForm, Reading
from harness_ext.reading.number_reader import read_number
from harness_ext.reading.options import LETTERS
from harness_ext.reading.ratings import read_rating
from harness_ext.reading.verdicts import read_verdict
from harness_ext.reading.yes_no_reader import read_yes_no
from harness_ext.terminal import clean

KINDS = ("number", "choice", "yes_no", "verdict", "rating", "same", "json_choice")


class RowError(ValueError):
    """A row that cannot be read; the message says what is wrong and what to write instead."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a row is read: `{"read": …, "rule": …}`.

    Args:
        row: `reply`, a text (for `same` a pair of texts), `kind`, one of `KINDS`, and for choices `choices`, their
            texts without letters.

    Raises:
        RowError: if a field is missing or of another kind.
    """
    kind = row.get("kind")
    if kind not in KINDS:
        raise RowError(f"`kind` is {kind!r}: write one of {', '.join(KINDS)}")
    if kind == "same":
        return _same(row)
    reply = row.get("reply")
    if not isinstance(reply, str):
        raise RowError(f"`reply` is {_shown(reply)}: write a text")
    if kind == "number":
        # The exact value: a decimal would have to be rounded where it does not end.
        number = read_number(reply)
        return {"read": None if number is None else str(number.number), "rule": number.rule if number else None}
    if kind == "yes_no":
        found = read_yes_no(reply)
        return {"read": None if found is None else found.value == "true", "rule": found.rule if found else None}
    if kind == "verdict":
        verdict = read_verdict(reply)
        return {"read": None if verdict.malformed else verdict.accepted, "rule": verdict.rule}
    if kind == "rating":
        rating = read_rating(reply)
        return {"read": rating, "rule": None if rating is None else "rating"}
    choices = _choices(row, needed=kind == "json_choice")
    if kind == "json_choice":
        choice = read_json_choice(reply, choices).choice
        return {"read": None if choice is None else LETTERS[choice], "rule": None if choice is None else "json_choice"}
    if choices:
        return _read(read_choice(reply, choices))
    letter = read_answer(reply, form=AnswerForm("choice"))
    return _read(letter if letter is not None and letter.kind == "choice" else None)


def _read(found: Reading | None) -> dict[str, Any]:
    return {"read": found.value if found else None, "rule": found.rule if found else None}


def _same(row: Mapping[str, Any]) -> dict[str, Any]:
    pair = row.get("reply")
    if (
        not isinstance(pair, Sequence)
        or isinstance(pair, str)
        or len(pair) != 2
        or not all(isinstance(p, str) for p in pair)
    ):
        raise RowError(f"`reply` is {_shown(pair)}: write a list of two texts for `same`")
    form = AnswerForm("choice", tuple(_choices(row, needed=False))) if row.get("choices") else None
    first, second = (read_answer(text, form=form) for text in pair)
    rules = [found.rule if found else None for found in (first, second)]
    return {"read": same_answer(first, second), "rule": " / ".join(rule or "none" for rule in rules)}


def _choices(row: Mapping[str, Any], needed: bool) -> list[str]:
    choices = row.get("choices")
    if choices is None and not needed:
        return []
    if (
        not isinstance(choices, list)
        or not choices
        or len(choices) > len(LETTERS)
        or not all(isinstance(c, str) for c in choices)
    ):
        raise RowError(f"`choices` is {_shown(choices)}: write a list of 1 to {len(LETTERS)} texts, without letters")
    return choices


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

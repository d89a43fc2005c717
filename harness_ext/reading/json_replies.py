"""Reading a reply in JSON style: which choice it gives, and how it explains it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness_ext.reading.choice_reader import read_choice
from harness_ext.reading.kinds import Reading
from harness_ext.reading.literals import python_literal
from harness_ext.reading.options import LETTERS
from harness_ext.reading.reply import answer_source

_END = re.compile(r"</s>|<\|(?:im_end|eot_id|endoftext|end_of_text|end|return)\|>|<end_of_turn>")
_EXPLANATIONS = ("solution", "explanation", "reason", "rationale")
_ANSWERS = ("choice", "option", "letter", "selected", "selection", "label")
_DECODER = json.JSONDecoder(strict=False)
_OPENING = re.compile(r"\{(?=\s{0,40}[\"'\w“{}])")
MOST_OBJECTS = 60
LONGEST_OBJECT = 20_000


@dataclass(frozen=True, slots=True)
class JsonReply:
    """`choice` is the position of the choice, None where the reply names none; `explanation` may be empty."""

    choice: int | None
    explanation: str


def read_json_choice(text: str, choices: Sequence[str]) -> JsonReply:
    """Read a reply that was asked for as JSON, as JSON or as a Python dictionary, in a fence or not, whole or broken.

    Prose is read as `read_choice` reads it; it is its own explanation. Thoughts are left out.
    """
    text = _END.split(answer_source(text).text, maxsplit=1)[0]
    fields = _object(text) or _broken_object(text)
    if fields is None:
        return JsonReply(_position(text, choices), text.strip())
    answer = _answer(fields)
    explanation = _field(fields, _EXPLANATIONS)
    return JsonReply(None if answer is None else _mapped(answer, choices), _as_text(explanation).strip())


def read_listed(text: str, choices: Sequence[str]) -> Reading | None:
    """Return which of the options without letters a reply chooses: by its text, whatever the reply's form.

    A reply in JSON style is read as `read_json_choice` reads it, with the rule `json`: it stands where the option's
    text first stands in the reply, and where the reply writes it otherwise, it is the whole reply.
    """
    position = read_json_choice(text, choices).choice
    if position is None:
        return None
    choice, prose = choices[position], read_choice(text, choices)
    if prose is not None and LETTERS[position] == prose.value:
        return replace(prose, value=choice)
    start = text.find(choice)
    span = (0, len(text)) if start < 0 else (start, start + len(choice))
    return Reading("choice", text[slice(*span)], choice, span, "json")


def _position(text: str, choices: Sequence[str]) -> int | None:
    found = read_choice(text, choices)
    return None if found is None else LETTERS.index(found.value)


def _object(text: str) -> Mapping[Any, Any] | None:
    """Return the first object in a text that has an answer, written as JSON or as Python writes it."""
    for tried, opening in enumerate(_OPENING.finditer(text)):
        if tried >= MOST_OBJECTS:
            return None
        start = opening.start()
        try:
            found: Any = _DECODER.raw_decode(text[start : start + LONGEST_OBJECT])[0]
        except (ValueError, RecursionError):
            found = _python_object(text, start)
        if isinstance(found, dict) and (_answer(found) is not None or _field(found, _EXPLANATIONS) is not None):
            return found
    return None


def _python_object(text: str, start: int) -> Any:
    end = text.find("}", start, start + LONGEST_OBJECT)
    return None if end < 0 else python_literal(text[start : end + 1])


def _broken_object(text: str) -> Mapping[str, Any] | None:
    """Return the fields of an object that was cut off or badly quoted."""
    fields = {}
    for name in ("answer", "solution", "explanation"):
        label = re.search(rf"[\"'“”]?\b{name}\b[\"'“”]\s{{0,20}}:\s{{0,20}}", text, re.IGNORECASE)
        if label is None:
            continue
        quote = text[label.end() : label.end() + 1]
        if quote in ('"', "'"):
            closed = re.compile(rf"(?<!\\){quote}\s{{0,20}}(?=[,}}\n]|\Z)").search(text, label.end() + 1)
            fields[name] = text[label.end() + 1 : closed.start() if closed else len(text)]
        elif bare := re.compile(r"[^\s,}]+").match(text, label.end()):
            fields[name] = bare[0]
    return fields or None


def _answer(fields: Mapping[Any, Any]) -> Any:
    """Return the field that answers: one with `answer` in its name, else one of a few others."""
    named = _field(fields, ("answer",))
    return named if named is not None else next((v for k, v in fields.items() if str(k).lower() in _ANSWERS), None)


def _field(fields: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((v for name in names for k, v in fields.items() if name in str(k).lower() and v is not None), None)


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_as_text(item) for item in value)
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _mapped(answer: Any, choices: Sequence[str]) -> int | None:
    """Return the position of the choice that an answer field names: by text, by number from 0, or by letter."""
    if isinstance(answer, Mapping):
        inner = _answer(answer)
        return None if inner is None or isinstance(inner, Mapping) else _mapped(inner, choices)
    if isinstance(answer, list):
        return _mapped(answer[0], choices) if len(answer) == 1 else None
    said = _as_text(answer).strip()
    for same in (str.strip, _plain):  # choices may differ in their case alone
        plain = [same(choice) for choice in choices]
        if plain.count(same(said)) == 1:
            return plain.index(same(said))
    number = re.fullmatch(r"\(?(\d)\)?(?:[.):]?\s.*)?", said, re.DOTALL)
    if number and int(number[1]) < len(choices):
        return int(number[1])
    return _position(f"Answer: {said}", choices)


def _plain(text: str) -> str:
    return " ".join(text.split()).strip(" .\"'").lower()

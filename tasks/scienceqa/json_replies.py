"""Reading a reply in JSON style: which choice it gives, and how it explains it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.tasks.reasoning.extraction import read_choice

_RUN_ON = re.compile(r"</s>|<\|(?:im_end|eot_id|endoftext)\|>")
_EXPLANATIONS = ("solution", "explanation", "reason", "rationale")
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class JsonReply:
    """`choice` is the position of the choice, None where the reply names none; `explanation` may be empty."""

    choice: int | None
    explanation: str


def read_reply(text: str, choices: Sequence[str]) -> JsonReply:
    """Read a reply up to its first end mark. Without JSON, or with broken JSON, what can be found counts."""
    text = _RUN_ON.split(text, maxsplit=1)[0]
    fields = _object(text) or _broken_object(text)
    if fields is None:
        return JsonReply(read_choice(text, choices), text.strip())
    answer = _field(fields, ("answer",))
    explanation = _field(fields, _EXPLANATIONS)
    return JsonReply(None if answer is None else _mapped(answer, choices), _as_text(explanation).strip())


def _object(text: str) -> Mapping[str, Any] | None:
    """Return the first object in a text that has an answer, written as JSON or as Python writes it."""
    for start in (m.start() for m in re.finditer(r"\{", text)):
        try:
            found: Any = _DECODER.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            end = text.find("}", start)
            try:
                found = ast.literal_eval(text[start : end + 1]) if end > 0 else None
            except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                found = None
        if isinstance(found, dict) and _field(found, ("answer", *_EXPLANATIONS)) is not None:
            return found
    return None


def _broken_object(text: str) -> Mapping[str, Any] | None:
    """Return the fields of an object that was cut off or badly quoted."""
    fields = {}
    for name in ("answer", "solution", "explanation"):
        found = re.search(
            rf"""["']?\b{name}\b["']\s*:\s*(?:(["'])(.*?)(?:(?<!\\)\1\s*(?=[,}}\n]|$)|$)|([^\s,}}]+))""",
            text,
            re.I | re.S,
        )
        if found:
            fields[name] = found[2] if found[1] else found[3]
    return fields or None


def _field(fields: Mapping[Any, Any], names: Sequence[str]) -> Any:
    return next((v for name in names for k, v in fields.items() if name in str(k).lower() and v is not None), None)


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_as_text(item) for item in value)
    return (
        value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    )


def _mapped(answer: Any, choices: Sequence[str]) -> int | None:
    """Return the position of the choice that an answer field names: by text, by number from 0, or by letter."""
    if isinstance(answer, list):
        return _mapped(answer[0], choices) if len(answer) == 1 else None
    said = _as_text(answer).strip()
    for same in (str.strip, _plain):  # choices may differ in their case alone
        plain = [same(choice) for choice in choices]
        if plain.count(same(said)) == 1:
            return plain.index(same(said))
    number = re.fullmatch(r"\(?(\d)\)?(?:[.):]?\s.*)?", said)
    if number and int(number[1]) < len(choices):
        return int(number[1])
    return read_choice(f"Answer: {said}", choices)


def _plain(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" .\"'").lower()

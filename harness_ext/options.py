"""Typed options from lm-eval's model arguments: converted by declared type, every problem collected."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class PromptText(str):
    """A prompt: as an option, the path of a UTF-8 file that holds it.

    `{name}` marks in it are replaced by `fill`; a file must hold the marks that the default has.
    """

    __slots__ = ()

    @property
    def marks(self) -> frozenset[str]:
        """Return the names of the marks to be filled."""
        return frozenset(_MARK.findall(self))

    def fill(self, **values: str) -> str:
        """Return the text with every `{name}` of `values` replaced, in one pass: marks inside values stay."""
        return _MARK.sub(lambda m: values.get(m[1], m[0]), self)


_MARK = re.compile(r"\{([a-z_]+)\}")


def convert(value: Any, annotation: Any, default: Any = None) -> Any:
    """Return `value` as the annotated type; lm-eval turns `2024` into a number and `none` into None before we see it.

    Raises ValueError with what was expected.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        inner = [a for a in get_args(annotation) if a is not type(None)]
        return None if value is None else convert(value, inner[0], default)
    if origin is Literal:
        choices = get_args(annotation)
        text = {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
        for choice in choices:
            if text == str(choice):
                return choice
        raise ValueError(f"one of {', '.join(map(str, choices))}")
    if annotation is bool:
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("on", "true", "1", "yes"):
            return True
        if str(value).lower() in ("off", "false", "0", "no"):
            return False
        raise ValueError("on or off")
    if annotation is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError("a whole number")
        return _number(int, value, "a whole number")
    if annotation is float:
        if isinstance(value, bool):
            raise ValueError("a number")
        return _number(float, value, "a number")
    if annotation is PromptText:
        return _read_prompt(value, default)
    if annotation in (str, Path):
        if isinstance(value, float | bool) or value is None:
            raise ValueError(f"text; lm-eval read it as {value!r}, so quote it: '…'")
        return annotation(str(value))
    return value


def _number(kind: type, value: Any, expected: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ValueError(expected) from None


def _read_prompt(value: Any, default: Any) -> PromptText:
    path = Path(str(value)).expanduser()
    try:
        text = PromptText(path.read_text(encoding="utf-8").rstrip("\n"))
    except (OSError, ValueError) as error:  # the latter: no UTF-8, or no path at all
        raise ValueError(f"a readable UTF-8 text file ({error})") from error
    missing = PromptText(default).marks - text.marks if default else frozenset()
    if missing:
        marks = ", ".join(f"{{{mark}}}" for mark in sorted(missing))
        raise ValueError(f"a prompt with {marks} in it; the file {path} lacks that")
    return text


def build(cls: type[T], given: Mapping[str, Any], problems: list[str], where: str = "") -> T | None:
    """Make the dataclass `cls` from given arguments; append to `problems` what does not fit.

    Returns None if anything was wrong. Unknown names are for the caller to find (`known_names`).
    """
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    before = len(problems)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if field.name in given and field.init:
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
            try:
                values[field.name] = convert(given[field.name], hints[field.name], default)
            except (ValueError, TypeError) as error:
                problems.append(f"`{where}{field.name}={given[field.name]}`: expected {error}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.append(str(error))
        return None


def known_names(cls: type) -> list[str]:
    """Return the names of a dataclass's options."""
    return [f.name for f in dataclasses.fields(cls) if f.init]


def suggest(name: str, known: list[str]) -> str:
    """Return ` (did you mean …?)`, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


_SECRET_NAME = re.compile(r"(key|token|secret|passw|credential)|(^|[._-])auth", re.IGNORECASE)
# Words of language models, not of doors: `tokenizer_revision`, `max_num_batched_tokens`, `image_token_id`, `eos_token`.
_MODEL_WORDS = re.compile(
    r"tokeni[sz]e[rd]?|tokeni[sz]ation|(max|min|num|new|special|skip|batched|total)_(\w+_)?tokens|token_ids?\b"
    r"|(bos|eos|pad|unk|mask|image|prefix|think_start|think_end)_token\b",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"://[^/@\s]+:[^/@\s]+@|\b(sk|gsk|xai)-[A-Za-z0-9_-]{20,}|\b(hf|ghp|gsk)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bAKIA[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{35}|\bBearer\s+\S{8,}"
)


def secrets_in(arguments: Mapping[str, Any], harmless: frozenset[str], prefix: str = "") -> list[str]:
    """Return the names of arguments that look like secrets: lm-eval copies model arguments into its results.

    `harmless` are declared option names that only sound like one (`chunk_tokens`). Values are looked at too:
    credentials in a URL, well-known forms of keys. The values themselves are never repeated.
    """
    found = []
    for name, value in arguments.items():
        sounds = any(
            _SECRET_NAME.search(_MODEL_WORDS.sub("", part)) for part in str(name).split(".") if part not in harmless
        )
        if isinstance(value, Mapping) and not sounds:
            found += secrets_in(value, harmless, f"{prefix}{name}.")
        elif sounds or (isinstance(value, str | list | tuple) and _SECRET_VALUE.search(str(value))):
            found.append(f"{prefix}{name}")
    return found

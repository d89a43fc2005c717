"""Converts lm-eval's model arguments to options of declared types, and collects all problems."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from harness_ext.terminal import outside

T = TypeVar("T")
MOST = 10_000_000  # no count or length of a run is larger; `max_rounds=1e9` is a slip
MOST_ROUNDS = 10_000


class PromptText(str):
    """A prompt. As an option it is given as the path of a UTF-8 file (see `read_prompt`).

    `fill` replaces the `{name}` marks in it. A file must contain every mark that the default prompt contains, except
    `{demand}`, which repeats what the task asks for, and no others.
    """

    __slots__ = ()

    @property
    def marks(self) -> frozenset[str]:
        """Return the names of the marks that `fill` can replace."""
        return frozenset(_MARK.findall(self))

    def fill(self, **values: str) -> str:
        """Return the text with the mark `{name}` of each value replaced, in one pass: marks inside values stay."""
        return _MARK.sub(lambda m: values.get(m[1], m[0]), self)


_MARK = re.compile(r"\{([a-z_]+)\}")
# Braces that belong to a formula (`\boxed{answer}`, `x^{n}`) are no marks, unless the prompt has a mark of that name.
_STRAY_MARK = re.compile(r"(?<![\w\\^}])\{([a-z_]+)\}")
_HEADER = re.compile(r"---\nprompt: [a-z_]+\n(?:.*\n)*?---\n")
OPTIONAL_MARKS = frozenset({"demand"})
PURPOSE = "purpose"


def prompt(text: Callable[[], str], purpose: str) -> Any:
    """Declare an option that is a prompt, in a dataclass of options.

    text: returns the default, which can therefore be a constant below the class.
    purpose: what the prompt is for.
    """
    return dataclasses.field(default_factory=lambda: PromptText(text()), metadata={PURPOSE: purpose})


def convert(value: Any, annotation: Any, default: Any = None) -> Any:
    """Return `value` converted to the annotated type.

    lm-eval has already parsed the value by then: `2024` arrives as a number and `none` as None.

    value: the value as lm-eval passes it.
    annotation: the declared type of the option.
    default: the option's default, which says what marks a prompt must contain.

    Raises ValueError whose text says what was expected.
    """
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(annotation):
            return None
        expected = []
        for inner in get_args(annotation):
            if inner is not type(None):
                try:
                    return convert(value, inner, default)
                except ValueError as error:
                    expected.append(str(error))
        raise ValueError(", or ".join(expected))
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
        number = _number(int, value, "a whole number")
        if abs(number) > MOST:
            raise ValueError(f"a whole number of at most {MOST:,}")
        return number
    if annotation is float:
        if isinstance(value, bool):
            raise ValueError("a number")
        number = _number(float, value, "a number")
        if not math.isfinite(number):
            raise ValueError("a number that is finite")
        return number
    if annotation is PromptText:
        return read_prompt(Path(str(value)), default)
    if annotation in (str, Path):
        if isinstance(value, float | bool) or value is None:
            raise ValueError(f"text; lm-eval read it as {value!r}, so quote it: '…'")
        return annotation(str(value))
    return value


def _number(kind: type, value: Any, expected: str) -> Any:
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(expected) from None


def read_prompt(path: Path, default: str | None) -> PromptText:
    """Return the prompt in a UTF-8 file, without the header that `harness-ext prompts` writes.

    path: the file.
    default: the default prompt, whose marks the file must contain; None or empty for any marks.

    Raises ValueError whose text says what was expected.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or not a possible path
        raise ValueError(f"a readable UTF-8 text file ({outside(error)})") from error
    header = _HEADER.match(text)
    found = PromptText(text[header.end() if header else 0 :].rstrip("\n"))
    if not default:
        return found
    known = PromptText(default).marks
    problems = []
    if missing := known - found.marks - OPTIONAL_MARKS:
        problems.append(f"a prompt with {_listed(missing)}, which the file {path} does not contain")
    if unknown := set(_STRAY_MARK.findall(found)) - known:
        close = "".join(suggest(f"{{{name}}}", [f"{{{mark}}}" for mark in sorted(known)]) for name in sorted(unknown))
        fields = f"the fields of this prompt are {_listed(known)}" if known else "this prompt has no fields"
        problems.append(
            f"no {_listed(unknown)} in the file {path}{close}: {fields}; write other text in braces with a space, "
            f"`{{ {min(unknown)} }}`"
        )
    if problems:
        raise ValueError(", and ".join(problems))
    return found


def _listed(marks: Iterable[str]) -> str:
    return ", ".join(f"{{{mark}}}" for mark in sorted(marks))


def build(cls: type[T], given: Mapping[str, Any], problems: list[str], where: str = "") -> T | None:
    """Build the dataclass `cls` from arguments. Returns None if anything is wrong.

    cls: the dataclass whose fields are the options.
    given: the arguments by name; names that `cls` does not have are ignored (see `known_names`).
    problems: receives one message for each argument that does not fit.
    where: prefix of the names in messages, such as `student.`.
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
                problems.append(f"`{where}{field.name}={outside(given[field.name], 100)}`: expected {error}")
    if len(problems) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.append(f"`{where.rstrip('.')}`: {error}" if where else str(error))
        return None


def check_rounds(number: int, name: str) -> None:
    """Raise ValueError if a protocol's number of rounds is so large that it cannot be meant.

    number: the number of rounds.
    name: the name of the option.
    """
    if number > MOST_ROUNDS:
        raise ValueError(f"`{name}={number}`: expected at most {MOST_ROUNDS:,} rounds")


def known_names(cls: type) -> list[str]:
    """Return the names of a dataclass's options."""
    return [f.name for f in dataclasses.fields(cls) if f.init]


def suggest(name: str, known: list[str]) -> str:
    """Return ` (did you mean …?)` with the closest known name, or an empty text if none is close."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""

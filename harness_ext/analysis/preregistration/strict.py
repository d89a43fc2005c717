"""Reads dataclasses from JSON without guessing: unknown names, missing ones and wrong types are problems."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from harness_ext.options import suggest
from harness_ext.terminal import outside

T = TypeVar("T")
_SHOWN = 80  # characters of a value in a message
_WRONG = object()


def parse(text: str) -> Any:
    """Return the content of a JSON text.

    Raises ValueError if it is not JSON, contains NaN or infinity, has a name twice in one object, or is nested too
    deeply.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read(cls: type[T], data: Any, problems: list[str], where: str = "") -> T | None:
    """Return a dataclass read from the content of a JSON text, or None if anything is wrong.

    cls: the dataclass. Its fields may be `str`, `bool`, `int`, `float`, optional, `tuple[X, ...]`, `Mapping[str, X]`
        and dataclasses of these.
    data: the content.
    problems: receives one message for each thing that is wrong.
    where: prefix of the names in messages, such as `claims[0].`.
    """
    if not isinstance(data, Mapping):
        problems.append(f"{_name(where, '')}expected an object, not {_shown(data)}")
        return None
    before = len(problems)
    fields, hints = {field.name: field for field in dataclasses.fields(cls)}, get_type_hints(cls)  # type: ignore[arg-type]
    problems += [
        f"`{where}{outside(name, _SHOWN)}`: there is no such field{suggest(name, list(fields))}"
        for name in data
        if name not in fields
    ]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _value(data[name], hints[name], problems, f"{where}{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"`{where}{name}` is missing")
    return cls(**values) if len(problems) == before else None


def _value(value: Any, annotation: Any, problems: list[str], where: str) -> Any:
    """Return a value of the annotated type; if it is none, add a problem and return something else."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (annotation,) = (one for one in inner if one is not types.NoneType)
        return _value(value, annotation, problems, where)
    if origin is tuple:
        if not isinstance(value, list):
            return _wrong(value, "a list", problems, where)
        return tuple(_value(one, inner[0], problems, f"{where}[{i}]") for i, one in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            return _wrong(value, "an object", problems, where)
        return {k: _value(v, inner[1], problems, f"{where}[{outside(k, _SHOWN)}]") for k, v in value.items()}
    if dataclasses.is_dataclass(annotation):
        return read(annotation, value, problems, f"{where}.")  # type: ignore[arg-type]
    if annotation is float and type(value) in (int, float):
        number = _as_float(value)
        return _wrong(value, "a finite number", problems, where) if number is None else number
    if type(value) is not annotation:
        return _wrong(value, _WORDS[annotation], problems, where)
    return value


_WORDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def _wrong(value: Any, expected: str, problems: list[str], where: str) -> Any:
    problems.append(f"`{where}`: expected {expected}, not {_shown(value)}")
    return _WRONG


def _as_float(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _shown(value: Any) -> str:
    return outside("null" if value is None else repr(value), _SHOWN)


def _name(where: str, name: str) -> str:
    found = f"{where}{name}".rstrip(".")
    return f"`{found}`: " if found else ""


def _no_constant(name: str) -> Any:
    raise ValueError(f"it contains {name}, which is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it has `{outside(name, _SHOWN)}` twice in one object")
        found[name] = value
    return found

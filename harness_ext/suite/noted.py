"""The small JSON files in which a suite notes what it does. A person may have changed them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from harness_ext.terminal import outside

LARGEST = 2**62  # of the numbers: far more than any count or time
Record = TypeVar("Record")


class DamagedFileError(ValueError):
    """A file does not contain what this package writes into it. The message names the file and the cause."""


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is no such file. Raises DamagedFileError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: {outside(error)}") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} is damaged: it contains no JSON object")
    return found


def read_record(path: Path, kind: type[Record]) -> Record | None:
    """Return the record in a file; None if there is no such file, or nothing in it.

    path: the file.
    kind: the class of the record, a dataclass. Fields that only a newer version knows are left out.

    Raises DamagedFileError.
    """
    found, types = read_object(path), get_type_hints(kind)
    if not found:
        return None
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name in found:
            value = found[field.name]
            if not _fits(value, types[field.name]):
                raise DamagedFileError(f"{path} is damaged: `{field.name}` is {outside(value, 80)}")
            values[field.name] = tuple(value) if isinstance(value, list) else value
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DamagedFileError(f"{path} is damaged: `{field.name}` is missing")
    return kind(**values)


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is what a field's type says."""
    if kind in (int, float):
        known = isinstance(value, int | float if kind is float else int) and not isinstance(value, bool)
        return known and bool(abs(value) < LARGEST)
    if kind == float | None:
        return value is None or _fits(value, float)
    if kind == tuple[str, ...]:
        return isinstance(value, list) and all(isinstance(one, str) for one in value)
    if kind == Mapping[str, str]:
        return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())
    return isinstance(value, dict if kind == Mapping[str, Any] else kind)

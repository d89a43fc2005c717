"""Options whose value is given, or else taken from another run (`auto:<run directory>`)."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any, TypeVar

from harness_ext.protocol import Protocol

AUTO = "auto:"
Options = TypeVar("Options", bound=Protocol)


def check_given(name: str, given: float | str, fits: Callable[[float], bool], expected: str) -> None:
    """Raise ValueError for an option that is neither a number that fits nor names a run.

    name: the name of the option.
    given: its value.
    fits: returns whether a number fits.
    expected: what kind of number does, in words.
    """
    if run_of(given) is None and (isinstance(given, str) or not fits(given)):
        raise ValueError(f"`{name}={given}`: expected {expected}, or `{AUTO}<run directory>`")


def run_of(given: float | str) -> Path | None:
    """Return the directory of the run from which an option is to be taken; None if its value is given."""
    if not isinstance(given, str) or not given.startswith(AUTO):
        return None
    return Path(given.removeprefix(AUTO)).expanduser()


def with_values(protocol: Options, **values: Any) -> Options:
    """Return a protocol with the values that were found for some of its fields."""
    found = copy(protocol)
    for name, value in values.items():
        object.__setattr__(found, name, value)  # not as `replace`: the options that asked for it fit no value
    return found

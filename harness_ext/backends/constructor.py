"""Checks a seat's arguments against the constructor that receives them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def typed_arguments(constructor: Callable[..., Any], args: Mapping[str, Any]) -> dict[str, Any]:
    """Return a seat's arguments with the types that the constructor declares.

    lm-eval reads `revision=2024` as a number; here it becomes text again. Raises ValueError for a name that the
    constructor does not accept, or that looks like a misspelling of one that it accepts.
    """
    parameters = inspect.signature(constructor).parameters
    names = [n for n, p in parameters.items() if n != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    result: dict[str, Any] = {}
    for name, value in args.items():
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
            if close:
                raise ValueError(f"there is no argument `{name}` (did you mean `{close[0]}`?)")
            if not takes_any:
                raise ValueError(f"there is no argument `{name}`; the arguments are {', '.join(sorted(names))}")
        elif (
            str(parameters[name].annotation).startswith("str")
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ):
            if isinstance(value, float):
                raise ValueError(
                    f"`{name}` is text, but lm-eval read it as the number {value}: quote it (`{name}='…'`)"
                )
            if "int" not in str(parameters[name].annotation):
                value = str(value)
        result[name] = value
    return result

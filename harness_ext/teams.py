"""Seats that come in numbers: `agents=[a,b]`, `agent.1=a,agent.2=b`, or one model for all and how many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_SIZE = 3  # one model debating with itself, as in Du et al. (arXiv 2305.14325)
DEMONSTRATION_SIZE = 2


def spread(given: Mapping[str, Any], team: str, problems: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return flat arguments with those of a team written out for each of its seats, and the seats' names.

    `agents` (a list of models, its text form, or a number), `agent=<model>` and `agent.dtype=…` (for all of them) and
    `agent.2=…`, `agent.2.dtype=…` (for one) become `agent1`, `agent2`, `agent2.dtype`. Appends to `problems`.
    """
    plural = f"{team}s"
    given = _without_tear(given, plural, team, problems)
    listed, size = _listed(given.get(plural), plural, team, problems)
    rest: dict[str, Any] = {}
    common: dict[str, Any] = {}
    own: dict[int, dict[str, Any]] = {i: dict(args) for i, args in enumerate(listed, start=1)}
    for name, value in given.items():
        head, _, tail = name.partition(".")
        number, _, argument = tail.partition(".")
        if name == plural:
            continue
        if head == team and number.isdecimal():
            _put(own.setdefault(int(number), {}), argument or "model", value, name, problems)
        elif head.startswith(team) and head[len(team) :].isdecimal():
            _put(own.setdefault(int(head[len(team) :]), {}), tail or "model", value, name, problems)
        elif head == team:
            common[tail or "model"] = value
        else:
            rest[name] = value
    if size is None:
        nobody = "model" not in common and not any("model" in args for args in own.values())
        size = max(own, default=0) or (DEMONSTRATION_SIZE if nobody else DEFAULT_SIZE)
    if size < 2 or (own and (min(own) < 1 or max(own) > size)):
        problems.append(f"`{plural}`: there are {size} of them, numbered from 1, and it takes 2 or more")
        size = 2
    names = [f"{team}{i}" for i in range(1, size + 1)]
    for i, seat in enumerate(names, start=1):
        for argument, value in {**common, **own.get(i, {})}.items():
            rest[seat if argument == "model" else f"{seat}.{argument}"] = value
    return rest, names


def _put(args: dict[str, Any], argument: str, value: Any, name: str, problems: list[str]) -> None:
    if argument in args:
        problems.append(f"`{name}` is given twice, once in the list")
    args[argument] = value


def _without_tear(given: Mapping[str, Any], plural: str, team: str, problems: list[str]) -> dict[str, Any]:
    """Leave out the pieces of a list that lm-eval tore at its commas (in Python, arguments given as one string)."""
    value = given.get(plural)
    if not (isinstance(value, str) and value.startswith("[") and not value.endswith("]")):
        return dict(given)
    problems.append(
        f"`{plural}={value}`: the list arrived without its end, torn at a comma: write `{team}.1=…,{team}.2=…`, or "
        "give the model arguments as a dictionary"
    )
    whole: dict[str, Any] = {}
    torn = False
    for name, content in given.items():
        if name == plural:
            torn = True
        elif torn:
            torn = "]" not in name and "]" not in str(content)
        else:
            whole[name] = content
    return whole


def _listed(value: Any, plural: str, team: str, problems: list[str]) -> tuple[list[dict[str, Any]], int | None]:
    """Return each seat's arguments as the list gives them, and how many seats there are (None: not said)."""
    if value is None:
        return [], None
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = [part.strip().strip("'\"") for part in value[1:-1].split(",") if part.strip()]
    if isinstance(value, list | tuple):
        return [dict(v) if isinstance(v, Mapping) else {"model": v} for v in value], len(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return [], value
    problems.append(f"`{plural}={value}`: expected a list of models, `[<spec>,<spec>]`, or how many there are")
    return [], None

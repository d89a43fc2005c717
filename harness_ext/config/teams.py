"""Teams of numbered seats: `agents=[a,b]`, `agent.1=a,agent.2=b`, or one model for all and their number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DEFAULT_SIZE = 3  # one model debating with itself, as in Du et al. (arXiv 2305.14325)
DEMONSTRATION_SIZE = 2
MOST_MEMBERS = 1000


def expand_team(given: Mapping[str, Any], team: str, problems: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments with those of a team spelled out for each of its seats, and the names of these seats.

    `agents` (a list of models, its text form, or a number), `agent=<model>` and `agent.dtype=…` (for all members) and
    `agent.2=…` and `agent.2.dtype=…` (for one member) become `agent1`, `agent2`, `agent2.dtype`.

    given: the flat arguments.
    team: the name of the team's seats without a number, such as `agent`.
    problems: receives a message for each argument that does not fit.
    """
    plural = f"{team}s"
    given = _without_split_list(given, plural, team, problems)
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
        elif (member := member_number(head, team)) is not None:
            _put(own.setdefault(member, {}), tail or "model", value, name, problems)
        elif head == team:
            common[tail or "model"] = value
        else:
            rest[name] = value
    if size is None:
        unnamed = "model" not in common and not any("model" in args for args in own.values())
        size = max(own, default=0) or (DEMONSTRATION_SIZE if unnamed else DEFAULT_SIZE)
    if size > MOST_MEMBERS:
        problems.append(f"`{plural}`: a team has at most {MOST_MEMBERS} members, not {size}")
        own, size = {}, 2
    if size < 2 or (own and (min(own) < 1 or max(own) > size)):
        problems.append(
            f"`{plural}`: the team size is {size}: use 2 or more members, and no number below 1 or above the team size"
        )
        size = 2
    names = [f"{team}{i}" for i in range(1, size + 1)]
    for i, seat in enumerate(names, start=1):
        for argument, value in {**common, **own.get(i, {})}.items():
            rest[seat if argument == "model" else f"{seat}.{argument}"] = value
    return rest, names


def member_number(seat: str, team: str) -> int | None:
    """Return the number of a team's seat (2 for `agent2` of `agent`), or None for a seat outside the team."""
    number = seat.removeprefix(team)
    return int(number) if seat.startswith(team) and number.isdecimal() else None


def _put(args: dict[str, Any], argument: str, value: Any, name: str, problems: list[str]) -> None:
    if argument in args:
        problems.append(f"`{name}` is given twice, once in the list: remove one of the two")
    args[argument] = value


def _without_split_list(given: Mapping[str, Any], plural: str, team: str, problems: list[str]) -> dict[str, Any]:
    """Return the arguments without the fragments of a list that lm-eval split at its commas.

    That happens when arguments are passed in Python as one string. The fragments are dropped so that each of them does
    not become a further problem.
    """
    value = given.get(plural)
    if not (isinstance(value, str) and value.startswith("[") and not value.endswith("]")):
        return dict(given)
    problems.append(
        f"`{plural}={value}`: lm-eval split the list at a comma: write `{team}.1=…,{team}.2=…`, or pass the model "
        "arguments as a dictionary"
    )
    kept: dict[str, Any] = {}
    inside = False
    for name, content in given.items():
        if name == plural:
            inside = True
        elif inside:
            inside = "]" not in name and "]" not in str(content)
        else:
            kept[name] = content
    return kept


def _listed(value: Any, plural: str, team: str, problems: list[str]) -> tuple[list[dict[str, Any]], int | None]:
    """Return the arguments of each seat from the list, and the number of seats, or None if it is not given."""
    if value is None:
        return [], None
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        value = [part.strip().strip("'\"") for part in value[1:-1].split(",") if part.strip()]
    if isinstance(value, list | tuple):
        return [dict(v) if isinstance(v, Mapping) else {"model": v} for v in value], len(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return [], value
    problems.append(f"`{plural}={value}`: expected a list of models, `[<spec>,<spec>]`, or the number of members")
    return [], None

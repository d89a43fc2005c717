"""The help texts of a command's options, read from the docstring of the dataclass that holds them."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator

_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.+)")


def grouped_help(options: type) -> dict[str, dict[str, str]]:
    """Return the help texts of a dataclass's options by group: `{group: {option: text}}`.

    Its docstring describes one option per line, as `name: meaning.`, or several that share a line, as
    `name, other: meaning.`. A line that only contains words and a colon begins a group; options before the first such
    line are in the group `options`.
    """
    known = {field.name for field in dataclasses.fields(options)}
    groups: dict[str, dict[str, str]] = {}
    group = "options"
    current: list[str] = []
    for line in (inspect.getdoc(options) or "").splitlines():
        entry = _ENTRY.fullmatch(line)
        names = entry[1].split(", ") if entry else []
        if entry and set(names) <= known:
            current = names
            groups.setdefault(group, {}).update(dict.fromkeys(names, entry[2]))
        elif not line.strip() or line.endswith(":"):
            group, current = line.rstrip(":") or group, []
        else:
            for name in current:
                groups[group][name] += " " + line.strip()
    return groups


def option_help(options: type) -> dict[str, str]:
    """Return the help text of each option of a dataclass; see `grouped_help`."""
    return dict(_pairs(grouped_help(options)))


def _pairs(groups: dict[str, dict[str, str]]) -> Iterator[tuple[str, str]]:
    for texts in groups.values():
        yield from texts.items()

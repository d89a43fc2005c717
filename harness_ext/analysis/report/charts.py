"""Charts as plain data: plotly draws them in the browser, and the page shows the same figures as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from harness_ext.terminal import safe_line

# Okabe and Ito's colours can be told apart by colour-blind readers; symbols tell further runs apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star")
BETTER, WORSE = "#009e73", "#d55e00"
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Drawing:
    """One drawing.

    traces: plotly's traces.
    layout: plotly's layout, beyond what all drawings have.
    head, rows: the same figures as a table.
    """

    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Chart:
    """A chart that can be switched between drawings.

    name: a short name, which is a part of links.
    title: its title.
    caption: one or two sentences that say how to read it.
    switches: the names of the switches, each with its positions.
    drawings: the drawings, by the position of each switch.
    """

    name: str
    title: str
    caption: str
    drawings: Mapping[tuple[str, ...], Drawing]
    switches: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the chart as JSON values."""
        return {
            "name": self.name,
            "title": safe_line(self.title),
            "caption": safe_line(self.caption),
            "switches": [[name, [safe_line(p) for p in positions]] for name, positions in self.switches.items()],
            "drawings": {
                # `/` can stand in a label, U+001F cannot.
                "\x1f".join(map(safe_line, key)): {
                    "traces": plain(drawing.traces),
                    "layout": plain(drawing.layout),
                    "head": [safe_line(name) for name in drawing.head],
                    "rows": [[safe_line(cell) for cell in row] for row in drawing.rows],
                }
                for key, drawing in self.drawings.items()
            },
        }


def chart(name: str, title: str, caption: str, switch: str, drawings: Mapping[str, Drawing]) -> Chart | None:
    """Return a chart with one switch, or None if there is nothing to draw."""
    if not drawings:
        return None
    return Chart(name, title, caption, {(key,): drawing for key, drawing in drawings.items()}, {switch: list(drawings)})


def colour(number: int) -> str:
    """Return the colour of a run."""
    return COLOURS[number % len(COLOURS)]


def style(number: int, lines: bool = False) -> dict[str, Any]:
    """Return the looks of a run's points, and of the lines between them."""
    group = number // len(COLOURS)
    marker = {"color": colour(number), "symbol": SYMBOLS[number % len(SYMBOLS)], "size": 9}
    return {"marker": marker} | (
        {"line": {"color": colour(number), "dash": DASHES[group % len(DASHES)], "width": 2}} if lines else {}
    )


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": safe_line(title)}, "automargin": True, **more}


def share_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis of shares from 0 to 1."""
    return axis(title, **{"tickformat": ".0%", "rangemode": "tozero", **more})


def text(value: str) -> str:
    """Return a text for plotly, which reads tags and a few entities in labels.

    The characters that begin them are replaced by ones that look alike, since plotly knows no other way to show them.
    """
    return safe_line(value).replace("&", "＆").replace("<", "‹").replace(">", "›")


def number(value: float | None, form: str = ".3f") -> str:
    """Return a number as it stands in a table."""
    return "—" if value is None or not isfinite(value) else format(value, form)


def share(value: float | None) -> str:
    """Return a share as it stands in a table."""
    return number(value, ".1%")


def plain(value: Any) -> Any:
    """Return JSON values: sequences as lists, and numbers that JSON does not have as null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return round(value, 6) if isfinite(value) else None
    return value

"""Lays out the benchmark pages: one page per topic, and an index of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Section:
    """One measurement.

    result: the committed file in `benchmarks/results` that the section is made from.
    text: the heading, the command and a description of what was measured.
    part: returns the tables; None if the text is complete without them.
    """

    result: str
    text: str
    part: Callable[[], str] | None = None

    def render(self, results: Path) -> str:
        """Return the section as Markdown."""
        if not (results / self.result).exists():
            return f"{self.text}\nNot measured yet: `benchmarks/results/{self.result}` does not exist.\n"
        return f"{self.text}\n{self.part()}" if self.part else self.text


@dataclass(frozen=True)
class Topic:
    """One page of measurements.

    name: name of the file, without `.md`.
    title: title of the page.
    about: a sentence on what was measured.
    sections: the measurements.
    """

    name: str
    title: str
    about: str
    sections: tuple[Section, ...]

    def page(self, results: Path) -> str:
        """Return the page as Markdown. Links in the texts are relative to `docs`; the page is one folder below."""
        text = "\n".join([f"# {self.title}\n\n{self.about}\n", *(s.render(results) for s in self.sections)])
        return re.sub(r"\]\((?![a-z]+:|#)", "](../", re.sub(r"\n{3,}", "\n\n", text))

    @property
    def headings(self) -> list[str]:
        """Return the headings of the sections that have one."""
        return re.findall(r"^## (.*)$", "\n".join(section.text for section in self.sections), re.MULTILINE)


def titled(heading: str, text: str) -> str:
    """Return the text of a section with a heading before it."""
    return f"## {heading}\n\n{text}"


def anchor(heading: str) -> str:
    """Return the anchor that GitHub generates for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def index(head: str, topics: Sequence[Topic]) -> str:
    """Return the page that lists all topics and their sections."""
    parts = [head]
    for topic in topics:
        page = f"benchmarks/{topic.name}.md"
        lines = [f"- [{heading}]({page}#{anchor(heading)})" for heading in topic.headings]
        parts.append("\n".join([f"## [{topic.title}]({page})\n", f"{topic.about}\n", *lines, ""]))
    return "\n".join(parts)

"""Lays out the benchmark pages: one page per topic, and an index of all of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from result_records import stamp, stem


@dataclass(frozen=True)
class Section:
    """One measurement.

    results: the committed files in `benchmarks/results` that the section is made from.
    text: the heading, the commands and a description of what was measured.
    part: returns the tables; None if the text is complete without them.
    """

    results: tuple[str, ...]
    text: str
    part: Callable[[], str] | None = None

    def render(self, folder: Path) -> str:
        """Return the section as Markdown, with how its results in this folder were made."""
        missing = [name for name in self.results if not (folder / name).exists()]
        if missing:
            return f"{self.text}\nNot measured yet: there is no {', no '.join(missing)}.\n"
        stamps = [stamp(folder / name) for name in self.results]
        if len(stamps) > 1:
            stamps = [f"`{name}`: {line}" for name, line in zip(self.results, stamps, strict=True)]
        parts = [self.text, self.part()] if self.part else [self.text]
        return "\n".join([*parts, *(f"{line}\n" for line in stamps)])

    @property
    def commands(self) -> dict[str, str]:
        """Return the command that makes each result, by its `stem`: the one in the text that names it, or the first."""
        blocks = re.findall(r"(?:^    .*\n)+", self.text, re.MULTILINE)
        found = [
            " && ".join(" ".join(line.split()) for line in block.replace("\\\n", "").splitlines()) for block in blocks
        ]
        return {
            stem(name): next((one for one in found if re.search(rf"results/{stem(name)}\b", one)), found[0])
            for name in self.results
            if found
        }


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

    def page(self, folder: Path) -> str:
        """Return the page as Markdown. Links in the texts are relative to `docs`; the page is one folder below."""
        text = "\n".join([f"# {self.title}\n\n{self.about}\n", *(s.render(folder) for s in self.sections)])
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

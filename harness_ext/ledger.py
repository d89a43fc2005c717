"""The account of one reply that two authors write: who wrote which unit, what was thrown away, what it took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from harness_ext.acceptance import Ruling
from harness_ext.records import Completion
from harness_ext.replies import Seam
from harness_ext.seats import Seats


@dataclass(frozen=True, slots=True)
class Written:
    """A unit of the reply: its author's seat, text, the policy's figure for it (None: not judged), the call that wrote
    it and how many of that call's tokens it took (None: unknown)."""

    author: str
    text: str
    figure: float | None
    source: Completion
    tokens: int | None


@dataclass
class Ledger:
    """What happened to a reply so far; `to_json` gives the details of its transcript."""

    written: list[Written] = field(default_factory=list)
    corrections: list[dict[str, Any]] = field(default_factory=list)
    sources: list[Completion] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)

    def source(self, completion: Completion, seam: Seam | None = None) -> None:
        """Count a call that writes."""
        self.sources.append(completion)
        if seam is not None:
            self.totals[f"seams_{seam}"] += 1

    def ruled(self, ruling: Ruling) -> None:
        """Count a ruling."""
        self.totals["units_judged"] += len(ruling.probabilities)
        self.totals["units_accepted"] += ruling.accepted
        self.totals["passes"] += 1
        self.totals["undecided"] += ruling.undecided
        self.totals["malformed"] += ruling.malformed

    def write(self, author: str, text: str, figure: float | None, source: Completion, tokens: int | None) -> None:
        """Add a unit to the reply."""
        self.written.append(Written(author, text, figure, source, tokens))

    def correct(self, rejected: str, rejected_figure: float | None, written: str, figure: float | None) -> None:
        """Record the correction that was just written: what stood there, what stands there now."""
        self.corrections.append(
            {
                "unit": len(self.written) - 1,
                "position": sum(len(unit.text) for unit in self.written[:-1]),
                "rejected": rejected,
                "rejected_probability": _rounded(rejected_figure),
                "written": written,
                "probability": _rounded(figure),
            }
        )

    def repeats(self, times: int = 3, within: int = 5) -> bool:
        """Return whether the last unit stands `times` times among the last `within` (System 0's sign of a loop)."""
        last = [unit.text for unit in self.written[-within:]]
        return bool(last) and bool(last[-1].strip()) and last.count(last[-1]) >= times

    def restart(self, author: str, text: str, source: Completion) -> None:
        """Let the whole reply be one call's text again."""
        self.totals["first_draft_instead"] += 1
        self.written = [Written(author, text, None, source, None)]

    def close(self, seats: Seats, text: str) -> dict[str, Any]:
        """Note with each call how many of its tokens the reply kept, and return the details of the transcript.

        `text` is the final text: what stands behind it (a stop text) is nobody's.
        """
        left = len(text)
        for number, unit in enumerate(self.written):
            self.written[number] = replace(unit, text=unit.text[:left])
            left -= len(self.written[number].text)
        for completion in self.sources:
            units = [unit for unit in self.written if unit.source is completion]
            whole = bool(units) and "".join(unit.text for unit in units) == completion.text
            counts = [completion.completion_tokens] if whole else [unit.tokens for unit in units]
            kept = None if None in counts else sum(n for n in counts if n is not None)
            seats.note(completion, kept=kept)
        by = {author: sum(len(u.text) for u in self.written if u.author == author) for author in ("student", "teacher")}
        characters = sum(by.values())
        judged = self.totals["units_judged"]
        return {
            "acceptance": self.totals["units_accepted"] / judged if judged else None,
            "teacher_share": by["teacher"] / characters if characters else None,
            "units": {
                "authors": "".join(unit.author[0] for unit in self.written),
                "characters": [len(unit.text) for unit in self.written],
                "probabilities": [_rounded(unit.figure) for unit in self.written],
            },
            "corrections": self.corrections,
            "totals": {
                **{name: self.totals[name] for name in ("passes", "units_judged", "units_accepted")},
                **{name: number for name, number in self.totals.items() if name not in _ALWAYS and number},
                "corrections": len(self.corrections),
                **{f"characters_{author}": number for author, number in by.items()},
            },
        }


_ALWAYS = frozenset({"passes", "units_judged", "units_accepted"})


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 6)

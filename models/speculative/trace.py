"""The trace of one reply by two authors: who wrote which unit, what was discarded, and what it cost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from harness_ext.models.speculative.partial_reply import Continuation, Seam
from harness_ext.models.speculative.policy import Judgement
from harness_ext.protocol import Seats
from harness_ext.records import CallResult, Completion


@dataclass(frozen=True, slots=True)
class Written:
    """A unit of the reply.

    author: the seat that wrote it.
    text: its text.
    figure: the policy's figure for it; None if it was not judged.
    source: the result of the call that wrote it.
    tokens: how many of that call's tokens it has; None if unknown.
    """

    author: str
    text: str
    figure: float | None
    source: CallResult
    tokens: int | None


@dataclass
class GenerationTrace:
    """What has happened to a reply so far.

    written: the reply's units.
    corrections: the teacher's corrections, as JSON values.
    sources: the results of all calls that wrote text.
    totals: the trace's counts.
    """

    written: list[Written] = field(default_factory=list)
    corrections: list[dict[str, Any]] = field(default_factory=list)
    sources: list[CallResult] = field(default_factory=list)
    totals: Counter[str] = field(default_factory=Counter)

    def source(self, result: CallResult, seam: Seam | None = None) -> None:
        """Count a call that wrote text, and what was found where it was joined to the reply."""
        self.sources.append(result)
        if seam is not None:
            self.totals[f"seams_{seam}"] += 1

    def judged(self, judgement: Judgement) -> None:
        """Count a judgement."""
        self.totals["units_judged"] += len(judgement.probabilities)
        self.totals["units_accepted"] += judgement.accepted
        self.totals["passes"] += 1
        self.totals["undecided"] += judgement.undecided
        self.totals["malformed"] += judgement.malformed

    def write(self, author: str, text: str, figure: float | None, source: CallResult, tokens: int | None) -> None:
        """Add a unit to the reply; the parameters are the fields of `Written`."""
        self.written.append(Written(author, text, figure, source, tokens))

    def write_part(self, author: str, part: Continuation, figure: float | None = None) -> None:
        """Add a part of what a seat wrote to the reply.

        author: the seat.
        part: what it wrote.
        figure: the policy's figure for it. Default None: it was not judged.
        """
        self.write(author, part.text, figure, part.completion, None if part.ids is None else len(part.ids))

    def correct(self, rejected: str, rejected_figure: float | None, written: str, figure: float | None) -> None:
        """Record the correction that was just written.

        rejected: the rejected text.
        rejected_figure: the policy's figure for it.
        written: the text that replaces it.
        figure: the policy's figure for that.
        """
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
        """Return whether the last unit occurs `times` times among the last `within` units, which indicates a loop."""
        last = [unit.text for unit in self.written[-within:]]
        return bool(last) and bool(last[-1].strip()) and last.count(last[-1]) >= times

    def restart(self, author: str, text: str, source: CallResult) -> None:
        """Replace the whole reply by the text of one call."""
        self.totals["first_draft_instead"] += 1
        self.written = [Written(author, text, None, source, None)]

    def close(self, seats: Seats, text: str) -> dict[str, Any]:
        """Record with each call how many of its tokens the reply kept, and return the details for the transcript.

        `text` is the final text. What follows it, such as a stop sequence, is attributed to nobody.
        """
        left = len(text)
        for number, unit in enumerate(self.written):
            self.written[number] = replace(unit, text=unit.text[:left])
            left -= len(self.written[number].text)
        for result in self.sources:
            units = [unit for unit in self.written if unit.source is result]
            whole = isinstance(result, Completion) and "".join(unit.text for unit in units) == result.text
            counts = [result.completion_tokens] if units and whole else [unit.tokens for unit in units]
            kept = None if None in counts else sum(n for n in counts if n is not None)
            seats.note(result, kept=kept)
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

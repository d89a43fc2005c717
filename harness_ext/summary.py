"""A run's figures, computed from its transcripts alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness_ext.records import Counter, SeatCost, Transcript, Turn, Usage, add

DRAFTS = ("draft", "refine")
# Kinds of turns whose text goes into an answer, whole or in part, and those that begin a round.
WRITTEN = (*DRAFTS, "continue", "correct", "reply", "ruling")
ROUNDS = ("refine", "continue")


@dataclass
class Summary:
    """Counts over transcripts; `to_json` gives the content of `summary.json`.

    `costs` gives what turns a seat's tokens into FLOPs and money; it is asked at each turn, since the size of a model
    may be known only once it is loaded.
    """

    costs: Callable[[str], SeatCost]
    questions: int = 0
    answered: int = 0
    turns: int = 0
    generated: int = 0
    cut: int = 0
    rounds: dict[int, int] = field(default_factory=dict)
    failures: Counter = field(default_factory=Counter)
    stops: Counter = field(default_factory=Counter)
    events: Counter = field(default_factory=Counter)
    faults: Counter = field(default_factory=Counter)
    reviews: Counter = field(default_factory=Counter)
    usage: dict[str, dict[str, Usage]] = field(default_factory=dict)
    totals: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, int | None] = field(default_factory=lambda: {"kept": 0, "discarded": 0, "verification": 0})

    def add(self, transcript: Transcript) -> None:
        """Count one question."""
        self.questions += 1
        self.turns += len(transcript.turns)
        if transcript.failure is not None:
            self.failures.add(transcript.failure.code)
            self._count_faults(transcript.failure.faults)
        else:
            self.answered += 1
            self.stops.add(transcript.stop)
        for name, number in ((transcript.details or {}).get("totals") or {}).items():
            self.totals[name] = add(self.totals.get(name, 0), number)
        named = max(((turn.verdict or {}).get("round", 0) for turn in transcript.turns), default=0)
        rounds = named or sum(turn.kind in ROUNDS for turn in transcript.turns)
        self.rounds[rounds] = self.rounds.get(rounds, 0) + 1
        kept = None if transcript.details and "totals" in transcript.details else _kept(transcript)
        for turn in transcript.turns:
            kinds = self.usage.setdefault(turn.seat, {})
            kinds[turn.kind] = kinds.get(turn.kind, Usage()) + self.costs(turn.seat).usage(turn)
            self._count(turn)
            rest = "verification" if turn.kind not in WRITTEN else "discarded"
            new, noted = turn.completion.completion_tokens, (turn.verdict or {}).get("kept", 0)
            of_answer, other = (new, 0) if turn is kept else (noted, add(new, None if noted is None else -noted))
            self.tokens["kept"] = add(self.tokens["kept"], of_answer)
            self.tokens[rest] = add(self.tokens[rest], other)

    def _count(self, turn: Turn) -> None:
        self.generated += turn.completion.is_text
        self.cut += turn.completion.finish == "length"
        for note in (*turn.notes, *turn.completion.notes):
            self.events.add(note)
        if not turn.reused:
            self._count_faults(turn.completion.faults)
        if turn.completion.finish == "length":
            self.events.add(f"{turn.kind}_cut_at_limit")
        if turn.completion.is_text and not turn.completion.text.strip():
            self.events.add(f"{turn.kind}_empty")
        if turn.verdict is not None and "accepted" in turn.verdict:
            self.reviews.add("total")
            self.reviews.add("accepted", int(bool(turn.verdict["accepted"])))
            self.reviews.add("malformed", int(bool(turn.verdict.get("malformed"))))
            strict = turn.verdict.get("malformed") or turn.verdict.get("rule") in (None, "first_word", "logprob")
            self.reviews.add("loose", int(not strict))

    def _count_faults(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self.faults.add(fault)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values; rates are shares of answered questions or of reviews, null without any."""
        seats = {
            seat: {"total": asdict(Usage.total(kinds.values())), **{k: asdict(u) for k, u in kinds.items()}}
            for seat, kinds in self.usage.items()
        }
        return {
            "questions": self.questions,
            "answered": self.answered,
            "failed": self.questions - self.answered,
            "failures": self.failures.counts,
            "stops": self.stops.counts,
            "turns_per_question": _rate(self.turns, self.questions),
            "rounds": {
                "mean": _rate(sum(n * count for n, count in self.rounds.items()), self.questions),
                "max": max(self.rounds, default=None),
                "questions": {str(n): self.rounds[n] for n in sorted(self.rounds)},
            },
            "reviews": {
                **self.reviews.counts,
                "acceptance_rate": _rate(self.reviews.counts.get("accepted", 0), self.reviews.counts.get("total", 0)),
                "malformed_rate": _rate(self.reviews.counts.get("malformed", 0), self.reviews.counts.get("total", 0)),
            },
            "cut_at_limit_rate": _rate(self.cut, self.generated),
            "events": self.events.counts,
            "faults": self.faults.counts,
            "completion_tokens": self.tokens,
            **({"totals": self.totals} if self.totals else {}),
            "usage": seats,
        }


def _kept(transcript: Transcript) -> Turn | None:
    """Return the turn whose text became the answer: the last draft that says it."""
    for turn in reversed(transcript.turns):
        if turn.kind in DRAFTS and turn.completion.text == transcript.text:
            return turn
    return None


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None

"""A run's figures, computed from its transcripts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness_ext.records.lost_answers import ANSWERS, loses_answer
from harness_ext.records.readability import LARGE_SHARE, LEAST_DECISIONS, SeatReadability
from harness_ext.records.results import Completion
from harness_ext.records.transcript import Transcript, Turn
from harness_ext.records.usage import SeatCost, Usage, add

DRAFTS = ("draft", "refine")
# Kinds of turns whose text is an answer or a part of one, while those of all other kinds serve to check answers; and
# kinds of turns that begin a round.
WRITTEN = (*ANSWERS, "continue", "correct")
ROUNDS = ("refine", "continue")
UNPRICED = SeatCost()

# The rules by which a verdict is read that is in the form asked for, or needs no reading.
STRICT = (None, "first_word", "logprobs", "endpoint", "constrained")


@dataclass
class Summary:
    """Counts over transcripts. `to_json` returns the content of `summary.json`.

    costs: returns what turns a seat's tokens into FLOPs and money. It is called at the end, since the size of a model
        may be known only once it is loaded.
    """

    costs: Callable[[str], SeatCost]
    questions: int = 0
    answered: int = 0
    turns: int = 0
    generated: int = 0
    cut: int = 0
    lost: int = 0
    rounds: dict[int, int] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    stops: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reviews: Counter[str] = field(default_factory=Counter)
    usage: dict[str, dict[str, Usage]] = field(default_factory=dict)
    readability: dict[str, SeatReadability] = field(default_factory=dict)
    totals: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, int | None] = field(default_factory=lambda: {"kept": 0, "discarded": 0, "verification": 0})

    def add(self, transcript: Transcript) -> None:
        """Count one question."""
        self.questions += 1
        self.turns += len(transcript.turns)
        if transcript.failure is not None:
            self.failures[transcript.failure.code] += 1
            self._count_faults(transcript.failure.faults)
        else:
            self.answered += 1
            self.stops[transcript.stop] += 1
            self.lost += loses_answer(transcript)
        for name, number in ((transcript.details or {}).get("totals") or {}).items():
            self.totals[name] = add(self.totals.get(name, 0), number)
        named = max(((turn.verdict or {}).get("round", 0) for turn in transcript.turns), default=0)
        rounds = named or sum(turn.kind in ROUNDS for turn in transcript.turns)
        self.rounds[rounds] = self.rounds.get(rounds, 0) + 1
        for turn in transcript.turns:
            self.readability.setdefault(turn.seat, SeatReadability()).add(turn)
            self._count_review(turn)
            if turn.inner is not None:
                self.events.update(turn.notes)
            for call in turn.calls:
                kinds = self.usage.setdefault(call.seat, {})
                kinds[call.kind] = kinds.get(call.kind, Usage()) + UNPRICED.usage(call)
                self._count(call)
                if call is not turn:
                    self.readability.setdefault(call.seat, SeatReadability()).add(call)
        for name, tokens in _tokens(transcript.turns, transcript.text).items():
            self.tokens[name] = add(self.tokens[name], tokens)

    def _count(self, turn: Turn) -> None:
        self.generated += isinstance(turn.result, Completion)
        self.cut += turn.finish == "length"
        for note in (*turn.notes, *turn.result.notes):
            self.events[note] += 1
        if not turn.reused:
            self._count_faults(turn.result.faults)
        if turn.finish == "length":
            self.events[f"{turn.kind}_cut_at_limit"] += 1
        if isinstance(turn.result, Completion) and not turn.text.strip():
            self.events[f"{turn.kind}_empty"] += 1

    def _count_review(self, turn: Turn) -> None:
        if turn.verdict is not None and "accepted" in turn.verdict:
            self.reviews["total"] += 1
            self.reviews["accepted"] += bool(turn.verdict["accepted"])
            self.reviews["malformed"] += bool(turn.verdict.get("malformed"))
            strict = turn.verdict.get("malformed") or turn.verdict.get("rule") in STRICT
            self.reviews["loose"] += not strict

    def _count_faults(self, faults: Sequence[str]) -> None:
        for fault in faults:
            self.faults[fault] += 1

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values. A rate is null if there is nothing to count."""
        seats = {}
        for seat, kinds in self.usage.items():
            cost = self.costs(seat)
            named = {"total": Usage.total(kinds.values()), **kinds}
            seats[seat] = {name: asdict(cost.priced(usage)) for name, usage in named.items()}
        return {
            "questions": self.questions,
            "answered": self.answered,
            "failed": self.questions - self.answered,
            "failures": self.failures,
            "stops": self.stops,
            "turns_per_question": _rate(self.turns, self.questions),
            "rounds": {
                "mean": _rate(sum(n * count for n, count in self.rounds.items()), self.questions),
                "max": max(self.rounds, default=None),
                "questions": {str(n): self.rounds[n] for n in sorted(self.rounds)},
            },
            "reviews": {
                **self.reviews,
                "acceptance_rate": _rate(self.reviews["accepted"], self.reviews["total"]),
                "malformed_rate": _rate(self.reviews["malformed"], self.reviews["total"]),
            },
            "cut_at_limit_rate": _rate(self.cut, self.generated),
            "events": self.events,
            "faults": self.faults,
            "answers_lost": self.lost,
            "completion_tokens": self.tokens,
            **({"totals": self.totals} if self.totals else {}),
            "readability": {seat: counts.to_json() for seat, counts in self.readability.items()},
            "warnings": self.warnings(),
            "usage": seats,
        }

    def warnings(self) -> list[str]:
        """Return what is wrong with the replies of each seat, each with its remedies."""
        found = [warning for seat, counts in self.readability.items() for warning in counts.warnings(seat)]
        if self.lost >= LARGE_SHARE * max(self.answered, LEAST_DECISIONS):
            found.append(
                f"{self.lost} of {self.answered} final texts have no readable answer, but another text of the same "
                "question has one: revising it lost the answer. Look at one (`harness-ext show`)"
            )
        return found


def _tokens(turns: Sequence[Turn], text: str) -> dict[str, int | None]:
    """Return how many of the tokens of a protocol's turns are in its answer, discarded, or spent on verification.

    turns: the turns.
    text: the answer.
    """
    found: dict[str, int | None] = {"kept": 0, "discarded": 0, "verification": 0}
    # A draft is kept whole. A protocol that chooses or composes its answer notes how many tokens of each turn it kept.
    # All other tokens were discarded, or spent on verification.
    kept = None if any("kept" in (turn.verdict or {}) for turn in turns) else _kept(turns, text)
    for turn in turns:
        rest = "verification" if turn.kind not in WRITTEN else "discarded"
        new, noted = turn.result.completion_tokens, (turn.verdict or {}).get("kept", 0)
        parts = {"kept": new} if turn is kept else {"kept": noted, rest: add(new, None if noted is None else -noted)}
        if turn.inner is not None:
            below = _tokens(turn.inner.turns, turn.text)
            if parts["kept"] == 0:  # otherwise, what the protocol in the seat has kept is in the answer
                lost = add(below.pop("kept"), below.pop("discarded"))
                below[rest] = add(below.get(rest, 0), lost)
            parts = below
        for name, tokens in parts.items():
            found[name] = add(found[name], tokens)
    return found


def _kept(turns: Sequence[Turn], text: str) -> Turn | None:
    """Return the turn whose text became the answer: the last answer with this text."""
    for turn in reversed(turns):
        if turn.kind in ANSWERS and turn.text == text:
            return turn
    return None


def _rate(part: int, whole: int) -> float | None:
    return part / whole if whole else None

"""How much of what each seat wrote and decided could be used: empty replies, unread or uninformative decisions."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

from harness_ext.records.results import Completion, Decision
from harness_ext.records.transcript import Turn

UNFINISHED = "thought_unfinished"  # the note of a reply that ended within its thought
LEAST_DECISIONS = 5
LARGE_SHARE = 0.2  # of what could not be read: from here on a run warns
LEAST_PROBABILITIES = 20
LOW_MASS = 0.5  # the mean share of the labels in the probability of the next token
SMALL_SPREAD = 0.01  # the standard deviation of a yes/no question's probabilities


@dataclass
class SeatReadability:
    """The counts of one seat.

    replies: how many texts it wrote.
    empty: how many of them had no answer.
    unfinished: how many of these ended within a thought.
    decisions: in how many the protocol looked for a decision (a verdict, a rating, a vote).
    unread: in how many of these it found none.
    votes: how many of the decisions were answers that vote.
    refused: how many of the unread decisions the model declined to make.
    order_changed: in how many choices the order of the options changed the result.
    predicates: how many decisions had two options and probabilities, and `total` and `squares` are the sum of the
        first one's probabilities and of their squares.
    masses: how many decisions had a label mass, and `mass` is their sum.
    """

    replies: int = 0
    empty: int = 0
    unfinished: int = 0
    decisions: int = 0
    unread: int = 0
    votes: int = 0
    refused: int = 0
    order_changed: int = 0
    predicates: int = 0
    total: float = 0.0
    squares: float = 0.0
    masses: int = 0
    mass: float = 0.0

    def add(self, turn: Turn) -> None:
        """Count one turn."""
        self.order_changed += bool((turn.verdict or {}).get("order_changed"))
        if isinstance(turn.result, Decision):
            self._add_decision(turn.result)
        if not isinstance(turn.result, Completion):
            return
        self.replies += 1
        self.empty += not turn.text.strip()
        self.unfinished += UNFINISHED in turn.notes
        if turn.unread is not None:
            self.decisions += 1
            self.unread += turn.unread
            self.votes += "malformed" not in (turn.verdict or {})

    def _add_decision(self, decision: Decision) -> None:
        self.decisions += 1
        self.unread += decision.choice is None
        self.refused += decision.refused
        probability = decision.probability(decision.options[0])
        if probability is not None and len(decision.options) == 2:
            self.predicates += 1
            self.total += probability
            self.squares += probability**2
        if decision.label_mass is not None:
            self.masses += 1
            self.mass += decision.label_mass

    def _decision_warnings(self, seat: str) -> list[str]:
        found = []
        if self.masses >= LEAST_DECISIONS and self.mass < LOW_MASS * self.masses:
            found.append(
                f"`{seat}`: the labels of its decisions have only {self.mass / self.masses:.0%} of the probability on "
                "average: the model meant to write something else. Look at a reply (`harness-ext show`), or let it "
                f"think first (`{seat}.decide_thinking=on`; in `feedback_pair` also `verdict_order=critique_first`)"
            )
        if self.predicates >= LEAST_PROBABILITIES:
            mean, spread = self.total / self.predicates, self.spread
            if spread < SMALL_SPREAD:
                found.append(
                    f"`{seat}`: the probabilities of its {self.predicates} yes/no decisions hardly vary ({mean:.3f} ± "
                    f"{spread:.3f}): they say almost nothing about what it decides. `harness-ext score` prints how "
                    "well they separate right from wrong"
                )
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values. What there was nothing to count for is left out."""
        counts = ("replies", "empty", "unfinished", "decisions", "unread", "votes")
        found: dict[str, Any] = {name: getattr(self, name) for name in counts}
        found |= {name: n for name in ("refused", "order_changed") if (n := getattr(self, name))}
        if self.predicates:
            mean = self.total / self.predicates
            found["probability"] = {"mean": mean, "spread": self.spread, "decisions": self.predicates}
        return {**found, **({"label_mass": self.mass / self.masses} if self.masses else {})}

    @property
    def spread(self) -> float:
        """Return the standard deviation of the probabilities of yes/no decisions."""
        mean = self.total / self.predicates
        return sqrt(max(0.0, self.squares / self.predicates - mean**2))

    def warnings(self, seat: str) -> list[str]:
        """Return what is wrong with the seat's replies, each with its remedies."""
        found = self._decision_warnings(seat)
        if self.replies and self.empty == self.replies:
            within = f", {self.unfinished} of them within an unfinished thought" if self.unfinished else ""
            found.append(
                f"`{seat}`: all {self.replies} replies are empty{within}. Raise the length limit (`--gen_kwargs "
                f"max_gen_toks=…`, for reviews `{seat}.thought_tokens=…`), check the task's stop sequences, or name "
                f"the marks around its thoughts (`{seat}.thought_start=…,{seat}.thought_end=…`)"
            )
        elif self.decisions >= LEAST_DECISIONS and self.unread >= LARGE_SHARE * self.decisions:
            share = f"{self.unread} of {self.decisions} ({self.unread / self.decisions:.0%})"
            if self.votes == self.decisions:
                found.append(
                    f"`{seat}`: {share} answers could not be read, so they had no vote. State the form of the answer "
                    "in the task, or give `answer_pattern=<regular expression>`; `harness-ext read` shows how a reply "
                    "is read"
                )
            else:
                refused = f"; {self.refused} were refused" if self.refused else ""
                found.append(
                    f"`{seat}`: {share} verdicts or ratings could not be read{refused}. Is it a chat model, and is its "
                    f"chat template used (`{seat}.chat=on`)? A base model does not follow the form that is asked for; "
                    "`verdict=auto` compares probabilities where the model has them. `harness-ext read` shows how a "
                    "reply is read"
                )
        return found

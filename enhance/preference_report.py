"""A report on the judge: ties, cycles, the influence of position and length, and agreement with gold answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.analysis.scoring.judges import Comparison, Showing, accuracy_figures, judge_figures
from harness_ext.enhance.judging import PairVerdict, read_choice
from harness_ext.enhance.ranking import MatchOutcome, on_cycles
from harness_ext.enhance.tournament import ContestRecord, JudgeReply, accepts, gold_winner, read_fallbacks


@dataclass(frozen=True)
class Contested:
    """A contest with its judgement, the outcomes of its matches and the resulting pairs."""

    candidates: Sequence[str]
    correct: Sequence[bool] | None
    judgement: ContestRecord
    outcomes: Sequence[MatchOutcome]
    pairs: Sequence[tuple[int, int]]


@dataclass
class PreferenceReport:
    """Counts over contests; `to_json` returns the report.

    fallbacks: the rules by which replies are parsed.
    by_gold: whether gold answers were the judge, so that an agreement with them would mean nothing.
    counts, rules, ties: the counts so far.
    comparisons: what the judge compared so far.
    """

    fallbacks: str
    by_gold: bool
    counts: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    ties: Counter[str] = field(default_factory=Counter)
    comparisons: list[Comparison] = field(default_factory=list)

    def add(self, contested: Contested) -> None:
        """Count one contest."""
        counts, n = self.counts, len(contested.candidates)
        counts["contests"] += 1
        counts["candidates"] += n
        counts["too_few"] += n < 2
        counts["pairs"] += len(contested.pairs)
        counts["without_pairs"] += not contested.pairs
        counts["with_cycles"] += bool(on_cycles(n, contested.outcomes))
        counts["replies"] += len(contested.judgement.replies)
        for outcome in contested.outcomes:
            counts["matches"] += 1
            self._count_match(contested, outcome)

    def _count_match(self, contested: Contested, outcome: MatchOutcome) -> None:
        counts, match = self.counts, (outcome.first, outcome.second)
        asked = [r for r in contested.judgement.replies if r.second is not None and r.match == match]
        verdicts = [read_choice(reply.text, read_fallbacks(self.fallbacks)) for reply in asked]
        self.rules.update(verdict.rule for verdict in verdicts)
        if asked:
            self.comparisons.append(_comparison(counts["contests"], contested, outcome, asked, verdicts, self.by_gold))
        if outcome.winner is None or outcome.loser is None:
            self.ties[self._tie(contested, outcome, verdicts)] += 1
        else:
            won, lost = (len(contested.candidates[i]) for i in (outcome.winner, outcome.loser))
            counts["decided"] += 1
            counts["won_characters"] += won
            counts["lost_characters"] += lost
            counts["unequal_length"] += won != lost
            counts["longer_won"] += won > lost
        if contested.correct is not None and not self.by_gold:
            gold = gold_winner(match, contested.correct)
            counts["gold_decides"] += gold is not None
            counts["both_decide"] += gold is not None and outcome.winner is not None
            counts["agree"] += gold is not None and outcome.winner == gold
            counts["judge_decides_gold_ties"] += gold is None and outcome.winner is not None

    def _tie(self, contested: Contested, outcome: MatchOutcome, verdicts: Sequence[PairVerdict]) -> str:
        if self.by_gold:
            assert contested.correct is not None
            return "both_right" if contested.correct[outcome.first] else "both_wrong"
        if not verdicts:
            mine = [r for r in contested.judgement.replies if r.first in (outcome.first, outcome.second)]
            read = [accepts(reply) for reply in mine]
            return "unread" if None in read else "both_accepted" if all(read) else "both_rejected"
        if any(verdict.choice is None for verdict in verdicts):
            return "unread"
        return "neither_preferred" if all(verdict.choice == 0 for verdict in verdicts) else "orders_disagree"

    def _judge(self) -> dict[str, Any] | None:
        """Return how the judge's comparisons depended on order and length; None if it compared nothing."""
        figures = judge_figures(self.comparisons)
        return figures and {**figures, "accuracy": accuracy_figures(self.comparisons)}

    def to_json(self) -> dict[str, Any]:
        """Return the report. A rate is null if there is nothing to divide by."""
        c = self.counts
        return {
            "contests": c["contests"],
            "contests_of_fewer_than_two": c["too_few"],
            "contests_without_pairs": c["without_pairs"],
            "contests_with_cycles": c["with_cycles"],
            "candidates": c["candidates"],
            "matches": c["matches"],
            "judge_replies": c["replies"],
            "pairs": c["pairs"],
            "ties": {"total": self.ties.total(), "rate": _rate(self.ties.total(), c["matches"]), **self.ties},
            "verdicts_read_by": dict(self.rules),
            "judge": self._judge(),
            "length": {
                "longer_won_rate": _rate(c["longer_won"], c["unequal_length"]),
                "mean_characters_won": _rate(c["won_characters"], c["decided"]),
                "mean_characters_lost": _rate(c["lost_characters"], c["decided"]),
            },
            "gold": {
                "matches_gold_decides": c["gold_decides"],
                "of_these_judge_decides": c["both_decide"],
                "agreement": _rate(c["agree"], c["both_decide"]),
                "judge_decides_where_gold_ties": c["judge_decides_gold_ties"],
            }
            if not self.by_gold
            else None,
        }


def _comparison(
    contest: int,
    contested: Contested,
    outcome: MatchOutcome,
    asked: Sequence[JudgeReply],
    verdicts: Sequence[PairVerdict],
    by_gold: bool,
) -> Comparison:
    """Return a match in the form in which judges are analysed. A reply that prefers neither candidate is undecided."""
    match = (outcome.first, outcome.second)
    showings = tuple(
        Showing(
            order=(match.index(reply.first), match.index(reply.second or 0)),
            choice={1: 0, 2: 1}.get(verdict.choice or 0),
            probabilities=() if reply.preference is None else (reply.preference, 1 - reply.preference),
        )
        for reply, verdict in zip(asked, verdicts, strict=True)
    )
    right = None
    if contested.correct is not None and not by_gold:
        right = tuple(contested.correct[i] for i in match)
    lengths = tuple(len(contested.candidates[i].strip()) for i in match)
    return Comparison(
        contest, lengths, showings, None if outcome.winner is None else match.index(outcome.winner), right
    )


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None

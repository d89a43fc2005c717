"""Self-consistency: one seat answers several times, and the answers vote.

After Wang et al., "Self-Consistency Improves Chain of Thought Reasoning in Language Models" (arXiv 2203.11171).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.drawing import check_sampling, cost_of, draw, vote_among
from harness_ext.models.from_run import run_of, with_values
from harness_ext.protocol import Protocol, Question, Role, Seat, Seats, SeatSetup
from harness_ext.reading import check_pattern
from harness_ext.records import Completion, Solution
from harness_ext.records.costs import Measure, draft_cost, question_cost


@dataclass(frozen=True)
class SelfConsistency(Protocol):
    """The options of `self_consistency`.

    k: the number of draws per question; or `auto:<run directory>`: as many as cost what a question of that run cost.
        Default 5.
    by: what counts as cost for `k=auto`: `output_tokens`, `tokens`, `flops` or `price`. Default `output_tokens`.
    draws_from: the run whose drafts by the same model show what a draw costs. Default None: the run of `k=auto`.
    temperature: the temperature of the draws, unless the task's own settings sample; 0 draws greedily. Default 0.7.
    top_p: nucleus sampling, likewise. Default 1.0: off.
    answer_pattern: a regular expression whose last match (its first group) is a reply's answer. Default None: the
        built-in patterns.
    """

    k: str = "5"
    by: Measure = "output_tokens"
    draws_from: Path | None = None
    temperature: float = 0.7
    top_p: float = 1.0
    answer_pattern: str | None = None
    target: float | None = field(default=None, init=False)

    roles: ClassVar[Mapping[str, Role]] = {"student": Role("answers the task k times")}

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d{0,5}|auto:.+", self.k):
            raise ValueError(f"`k={self.k}`: expected a whole number above 0, or `auto:<run directory>`")
        check_sampling(self.temperature, self.top_p)
        check_pattern(self.answer_pattern)

    @property
    def samples(self) -> bool:
        return self.temperature > 0

    def resolved(self, seats: Mapping[str, SeatSetup]) -> SelfConsistency:
        """Return the protocol with `k` as a number. `target` is the cost per question for which `k=auto` chose it."""
        if (run := run_of(self.k)) is None:
            return self
        seat, target = seats["student"], question_cost(run, self.by)
        draw = draft_cost(self.draws_from or run, seat.backend.fingerprint, seat.cost, self.by)
        return with_values(replace(self, k=str(max(1, round(target / draw)))), target=target)

    async def solve(self, question: Question, seats: Seats) -> Solution:
        drafts = await draw(question, seats.student, int(self.k), self.temperature, self.top_p)
        result, winner = vote_among(question, seats, drafts, self.answer_pattern)
        totals = {
            "draws": len(drafts),
            "unparsable": result.unparsable,
            "ties": int(result.tie),
            "unanimous": int(len(result.counts) == 1 and not result.unparsable),
            **self._costs(seats.student, drafts),
        }
        stop = "unparsable" if result.winner is None else "tie" if result.tie else "vote"
        return Solution(winner.text, stop, {"votes": [list(count) for count in result.counts], "totals": totals})

    def _costs(self, seat: Seat, drafts: list[Completion]) -> dict[str, float | None]:
        if self.target is None:
            return {}
        return {"cost": cost_of(seat, drafts, self.by), "target_cost": self.target}


class SelfConsistencyLM(ProtocolLM):
    """`lm_eval --model self_consistency --model_args student=<spec>,k=10`."""

    protocol = SelfConsistency

"""Equal budget: one model thinks on until it has spent what another run spent on a question.

The control of protocols with several models or rounds: the same tokens, given to one answer. A model that has finished
is made to go on by the word "Wait", after the budget forcing of Muennighoff et al., "s1: Simple test-time scaling"
(arXiv 2501.19393).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import floor
from typing import ClassVar, Literal

from harness_ext.backends.base import Backend
from harness_ext.backends.served import ServedBackend
from harness_ext.backends.thinking import Thinking
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.errors import CallFailed
from harness_ext.models.continuing import Pieces
from harness_ext.models.from_run import check_given, run_of, with_values
from harness_ext.models.speculative.partial_reply import limited
from harness_ext.options import MOST, PromptText, check_rounds, prompt
from harness_ext.protocol import Protocol, Question, Role, Seats, SeatSetup
from harness_ext.records import Solution
from harness_ext.records.costs import Measure, question_cost


@dataclass(frozen=True)
class EqualBudget(Protocol):
    """The options of `equal_budget`.

    spend: what a question may cost; or `auto:<run directory>`: what a question of that run cost on average. Default
        1000.
    by: what counts as cost: `output_tokens`, `tokens`, `flops` or `price`. Default `output_tokens`.
    how: how the model is made to spend it. Default `wait`.
        `wait`: whenever it has finished, it goes on after the word `wait`.
        `thinking`: its server ends its thought after `spend` tokens (a thinking budget).
    wait: that word. Default `Wait`.
    max_waits: the largest number of continuations. Default 32.
    """

    spend: float | str = 1000
    by: Measure = "output_tokens"
    how: Literal["wait", "thinking"] = "wait"
    wait: str = "Wait"
    wait_user: PromptText = prompt(lambda: WAIT_USER, "stands for the word where a model cannot continue a reply")
    max_waits: int = 32
    target: float | None = field(default=None, init=False)

    roles: ClassVar[Mapping[str, Role]] = {"student": Role("answers, and goes on until the budget is spent")}

    def __post_init__(self) -> None:
        check_given("spend", self.spend, lambda cost: cost > 0, "a number above 0")
        if self.how == "thinking" and self.by != "output_tokens":
            raise ValueError(f"`how=thinking` counts tokens that the model writes, not `by={self.by}`: leave that out")
        if not self.wait.strip() or self.max_waits < 0:
            raise ValueError("`wait` must not be empty, and `max_waits` must be 0 or more")
        check_rounds(self.max_waits, "max_waits")

    def problems(self, seats: Mapping[str, Backend]) -> list[str]:
        student = seats.get("student")
        if self.how != "thinking" or student is None or isinstance(student, ServedBackend):
            return []
        return [f"`student`: {student.name} has no thinking budget: serve it (`serve:<model>`), or use `how=wait`"]

    def resolved(self, seats: Mapping[str, SeatSetup]) -> EqualBudget:
        """Return the protocol with `spend` as a number, which is also its `target` if another run spent it."""
        if (run := run_of(self.spend)) is None:
            return self
        target = question_cost(run, self.by)
        return with_values(self, spend=target, target=target)

    async def solve(self, question: Question, seats: Seats) -> Solution:
        pieces = Pieces(question, seats.student, self.wait, self.wait_user)
        stop = await (self._thinking(pieces) if self.how == "thinking" else self._waiting(pieces))
        winner, answer = pieces.best()
        seats.note(winner, kept=winner.completion_tokens)
        totals = {
            "waits": len(pieces.all) - 1,
            "unparsable": int(answer is None),
            "cost": pieces.cost(self.by),
            "target_cost": float(self.spend),
        }
        return Solution(winner.text, stop, {"totals": totals})

    async def _waiting(self, pieces: Pieces) -> str:
        """Let the student go on until the budget is spent, and return why it ends."""
        await pieces.begin()
        while True:
            spent = pieces.cost(self.by)
            left = float(self.spend) - spent
            if left < spent / len(pieces.all) / 2:  # not enough for half a piece of average size
                return "spent"
            if pieces.is_silent:
                return "silent"
            if len(pieces.all) > self.max_waits:
                return "max_waits"
            try:
                await pieces.go_on(floor(left) if self.by == "output_tokens" else MOST)
            except CallFailed as error:
                if error.code != "overflow":
                    raise
                return "context_full"

    async def _thinking(self, pieces: Pieces) -> str:
        """Let the student answer after a thought of at most as many tokens as it may spend."""
        tokens = round(float(self.spend))
        await pieces.begin({**limited(pieces.question, tokens + pieces.limit), **Thinking(tokens=tokens).fields})
        return Thinking(tokens=tokens).note(pieces.all[-1], None) or "answered"


class EqualBudgetLM(ProtocolLM):
    """`lm_eval --model equal_budget --model_args student=<spec>,spend=auto:<run directory>`."""

    protocol = EqualBudget


WAIT_USER = "Wait. Think on: check what you wrote, try another way, and give your final answer again in the same form."

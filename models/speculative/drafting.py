"""How many tokens the student writes before the teacher looks at them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from harness_ext.backends.base import Backend

CONFIDENCE = 0.4  # below it, a token of the student ends its draft, as in transformers' assisted generation
LEAST, MOST = 2, 16  # tokens
# What is assumed before anything was judged: 8 in 10 tokens are approved, with the weight of ten judgements.
APPROVED, JUDGED = 8, 10
UNKNOWN_COST = 0.25  # of a pass of the student in passes of the teacher, if a model's size is unknown


@dataclass(frozen=True, slots=True)
class Drafting:
    """The length of a draft that is expected to write the most tokens in the time that both models take for it.

    A draft of n tokens costs n passes of the student and one of the teacher over n + 1 tokens, and yields
    (1 - a^(n+1)) / (1 - a) tokens if each is approved with probability a (Leviathan et al. 2023, arXiv:2211.17192,
    theorem 3.8, for which the length of a pass does not matter; on a CPU it does).

    fixed: the length that the user chose. Default None: the best one.
    cost: the cost of a pass of the student, in passes of the teacher. Default 0.25.
    pass_cost: the cost of a pass of the teacher over a number of tokens, in passes over one. Default: always 1.
    approved, judged: how many tokens of this question were approved, and how many judged. Default 0.
    """

    fixed: int | None = None
    cost: float = UNKNOWN_COST
    pass_cost: Callable[[int], float] = lambda _: 1.0
    approved: int = 0
    judged: int = 0

    @staticmethod
    def of(fixed: int | None, student: Backend, teacher: Backend) -> Drafting:
        """Return the drafting of a pair: a model's pass takes time in proportion to its size."""
        if student.parameters is None or teacher.parameters is None:
            return Drafting(fixed, pass_cost=teacher.pass_cost)
        return Drafting(fixed, student.parameters / max(1, teacher.parameters), teacher.pass_cost)

    @property
    def tokens(self) -> int:
        """Return how many tokens the next draft may have."""
        if self.fixed is not None:
            return self.fixed
        rate = (APPROVED + self.approved) / (JUDGED + self.judged + 1)
        return max(range(LEAST, MOST + 1), key=lambda n: (1 - rate ** (n + 1)) / self._seconds(n))

    def _seconds(self, drafted: int) -> float:
        """Return how long it takes to write and judge a draft, in passes of the teacher over one token."""
        return drafted * self.cost + self.pass_cost(drafted + 1)

    @property
    def confidence(self) -> float:
        """Return the probability below which a token of the student ends its draft."""
        return 0.0 if self.fixed is not None else CONFIDENCE

    def after(self, accepted: int, drafted: int) -> Drafting:
        """Return it with the outcome of a judgement: the tokens after the first rejected one were not judged."""
        judged = min(drafted, accepted + 1)
        return replace(self, approved=self.approved + accepted, judged=self.judged + judged)

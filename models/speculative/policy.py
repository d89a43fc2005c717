"""The interface of an acceptance policy: what it is given, and what it decides."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import ClassVar

from harness_ext.backends.base import Capability
from harness_ext.models.speculative.partial_reply import PartialReply
from harness_ext.models.speculative.units import Unit, group
from harness_ext.protocol import Question, Seats
from harness_ext.records import CallResult

ALL_UNITS: tuple[Unit, ...] = ("token", "step", "chunk")
TEXT_UNITS: tuple[Unit, ...] = ("step", "chunk")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft to be judged.

    question: the question.
    seats: its seats.
    reply: the approved beginning of the reply, which the draft follows.
    pieces: the draft's text in pieces.
    sizes: how many pieces each unit has.
    ids: the draft's tokens, one per piece. Default None: unknown.
    """

    question: Question
    seats: Seats
    reply: PartialReply
    pieces: Sequence[str]
    sizes: Sequence[int]
    ids: tuple[int, ...] | None = None

    @property
    def units(self) -> list[str]:
        """Return the units' texts."""
        return group(self.pieces, self.sizes)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Return which pieces each unit has, as (first, end)."""
        ends = list(accumulate(self.sizes, initial=0))
        return list(pairwise(ends))


@dataclass(frozen=True, slots=True)
class Judgement:
    """A policy's judgement on a draft.

    accepted: the number of approved units.
    probabilities: the figure of each judged unit, including the rejected one (the policy's `figure` says what it is).
    passes: the results of the calls that judged the draft.
    correction: the token that replaces the rejected unit or follows the draft, with its probability. Default None: the
        pass does not show it, and the teacher must be asked.
    source: the result that the correction comes from. Default None.
    teacher_ends: whether the teacher would end the reply after the draft. Default False.
    undecided: the number of tokens that a server's figures cannot decide. Default 0.
    malformed: the number of ratings that cannot be read. Default 0.
    """

    accepted: int
    probabilities: tuple[float, ...]
    passes: tuple[CallResult, ...]
    correction: tuple[int, float] | None = None
    source: CallResult | None = None
    teacher_ends: bool = False
    undecided: int = 0
    malformed: int = 0


@dataclass(frozen=True)
class Policy(abc.ABC):
    """Base of the acceptance policies, with a threshold. The class attributes are the table of what each rule needs.

    name, rule, figure: the rule's name, when a unit is approved, and what the figures of a judgement are.
    default: the default threshold. Default None: the rule has no threshold.
    student, teacher, third: the capabilities that the models of these seats must have.
    units: the kinds of units that the rule can judge. Default: all.
    one_vocabulary: whether student and teacher must have the same vocabulary. Default False.
    exact: whether the final text is the teacher's own. Default False.
    """

    threshold: float

    name: ClassVar[str]
    rule: ClassVar[str]
    figure: ClassVar[str]
    default: ClassVar[float | None] = None
    student: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    teacher: ClassVar[frozenset[Capability]]
    third: ClassVar[frozenset[Capability]] = frozenset()
    units: ClassVar[tuple[Unit, ...]] = ALL_UNITS
    one_vocabulary: ClassVar[bool] = False
    # The final text equals the teacher's (greedy) or has its distribution (sampled). A bound or fallback would break
    # this, so none applies.
    exact: ClassVar[bool] = False

    @abc.abstractmethod
    async def judge(self, proposal: Proposal) -> Judgement:
        """Judge a draft in one pass of the teacher over all of it."""

    @classmethod
    def valid(cls, threshold: float) -> bool:
        """Return whether a threshold is valid."""
        return 0.0 < threshold <= 1.0

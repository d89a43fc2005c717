"""How a teacher judges a student's draft: one interface, one class a rule, and the table of what each needs.

A policy is shown a draft that stands after the approved beginning of a reply, cut into units, and rules on it in one
pass of the teacher: how many units are approved, and, where the pass itself tells, what the teacher would have put in
the place of the first one that is not.
"""

from __future__ import annotations

import abc
import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import exp
from typing import Any, ClassVar

from harness_ext.backends.base import Backend, Capability
from harness_ext.protocol import Message, Question
from harness_ext.records import Checks, Completion
from harness_ext.replies import Reply
from harness_ext.seats import Seats
from harness_ext.splitting import Unit, group

ALL_UNITS: tuple[Unit, ...] = ("token", "step", "chunk")
TEXT_UNITS: tuple[Unit, ...] = ("step", "chunk")


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft to be judged: it follows `reply`; unit i is `sizes[i]` of its `pieces` (and of its `ids`, if known)."""

    question: Question
    seats: Seats
    reply: Reply
    pieces: Sequence[str]
    sizes: Sequence[int]
    ids: tuple[int, ...] | None = None

    @property
    def units(self) -> list[str]:
        """Return the units' texts."""
        return group(self.pieces, self.sizes)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Return which pieces each unit is made of, as (first, end)."""
        ends = list(accumulate(self.sizes, initial=0))
        return list(pairwise(ends))


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a policy says of a draft.

    `accepted` counts the approved units, `probabilities` has a figure for each unit judged (the rejected one included;
    what it is, a policy's `figure` says). `correction` is the token that the teacher's pass puts in place of the
    rejected unit, or after the draft, with its probability; None where the teacher has to be asked. `teacher_ends`
    says that the teacher would end the reply after the draft. `passes` are the calls that judged, `source` the one
    that the correction comes from.
    """

    accepted: int
    probabilities: tuple[float, ...]
    passes: tuple[Completion, ...]
    correction: tuple[int, float] | None = None
    source: Completion | None = None
    teacher_ends: bool = False
    undecided: int = 0
    malformed: int = 0


@dataclass(frozen=True)
class Policy(abc.ABC):
    """Base of the acceptance policies. The class variables are the table of what each needs."""

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
    # The final text is the teacher's own (greedy) or has its distribution (sampled): no bound and no fallback applies.
    exact: ClassVar[bool] = False

    @abc.abstractmethod
    async def judge(self, proposal: Proposal) -> Ruling:
        """Rule on a draft, in one pass of the teacher over all of it."""

    @classmethod
    def valid(cls, threshold: float) -> bool:
        """Return whether a threshold makes sense."""
        return 0.0 < threshold <= 1.0


class TokenPolicy(Policy):
    """Judges by what the teacher's own distribution says of each token; a unit is approved if all its tokens are."""

    teacher = frozenset({"generate", "verify"})
    figure = "the teacher's probability (of several tokens: their geometric mean)"

    @abc.abstractmethod
    def passes(self, checks: Checks, place: int) -> bool | None:
        """Return whether the token at a place is approved; None where the teacher's figures do not decide it."""

    def ends(self, checks: Checks) -> bool:
        """Return whether the teacher would end the reply after the draft."""
        return checks.end_rank == 0

    @property
    def ranks(self) -> int:
        """Return how many of the likeliest tokens the rule looks at."""
        return 1

    async def judge(self, proposal: Proposal) -> Ruling:
        assert proposal.ids is not None
        assert proposal.reply.ids is not None
        completion = await proposal.seats.teacher.verify(
            proposal.question.context, proposal.reply.ids, proposal.ids, kind="verify", ranks=self.ranks
        )
        assert completion.checks is not None
        return self._rule(proposal, completion, completion.checks)

    def _rule(self, proposal: Proposal, completion: Completion, checks: Checks) -> Ruling:
        probabilities: list[float] = []
        undecided, failed = 0, None
        for start, end in proposal.spans:
            found = [self.passes(checks, place) for place in range(start, end)]
            probabilities.append(exp(sum(checks.logprobs[start:end]) / (end - start)))
            undecided += found.count(None)
            if not all(found):
                failed = start
                break
        place = len(proposal.ids or ()) if failed is None else failed
        token, logprob = checks.best[place]
        if not self.exact:
            token, logprob = checks.instead.get(place, (token, logprob))
        return Ruling(
            len(probabilities) - (failed is not None),
            tuple(probabilities),
            (completion,),
            (token, exp(logprob)),
            completion,
            failed is None and self.ends(checks),
            undecided,
        )


class Greedy(TokenPolicy):
    """Approves what the teacher's greedy decoding writes; the text is then the teacher's own greedy text."""

    name, exact, rule = "greedy", True, "each token is the teacher's likeliest"

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return False

    def passes(self, checks: Checks, place: int) -> bool | None:
        return checks.ranks[place] == 0


class TopK(TokenPolicy):
    """System 0's rule: a token among the teacher's k likeliest is approved."""

    name, default, rule = "topk", 15, "each token is among the teacher's `threshold` likeliest"

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return threshold >= 1 and float(threshold).is_integer()

    @property
    def ranks(self) -> int:
        return int(self.threshold)

    def passes(self, checks: Checks, place: int) -> bool | None:
        if checks.ranks[place] >= self.threshold:
            return False
        return None if place in checks.floors else True

    def ends(self, checks: Checks) -> bool:
        return checks.end_rank is not None and checks.end_rank < self.threshold


class Prob(TokenPolicy):
    """Approves tokens that the teacher holds likely enough."""

    name, default, rule = "prob", 0.1, "the teacher gives each token a probability of `threshold` or more"

    def passes(self, checks: Checks, place: int) -> bool | None:
        return exp(checks.logprobs[place]) >= self.threshold


class TopP(TokenPolicy):
    """System 0's other rule: the likeliest tokens that together have at most a probability p, and always the first."""

    name, default = "topp", 0.95
    rule = "with all likelier ones, each token has a probability of at most `threshold`, or is the likeliest"

    @property
    def ranks(self) -> int:
        return 1_000

    def passes(self, checks: Checks, place: int) -> bool | None:
        if checks.ranks[place] == 0 and place not in checks.floors:
            return True
        if checks.above[place] + exp(checks.logprobs[place]) > self.threshold:
            return False
        return None if place in checks.floors else True


class Sampled(TokenPolicy):
    """The rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023): the text has the distribution of the
    teacher's own samples.

    A draft token x is approved with probability min(1, p(x)/q(x)). In place of a rejected one stands a token from
    max(0, p - q), renormalised, which is had without moving whole distributions about: y is drawn from p and taken
    with probability max(0, 1 - q(y)/p(y)).
    """

    name, exact, one_vocabulary = "sampled", True, True
    rule = "a draw decides: approved with probability min(1, teacher's / student's)"
    student = frozenset({"generate", "verify", "distribution"})
    teacher = frozenset({"generate", "verify", "distribution"})
    units = ("token",)
    draws, attempts = 16, 16

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return False

    def passes(self, checks: Checks, place: int) -> bool | None:
        raise NotImplementedError("a draw decides")

    async def judge(self, proposal: Proposal) -> Ruling:
        assert proposal.ids is not None
        assert proposal.reply.ids is not None
        seats, context, reply, draft = proposal.seats, proposal.question.context, proposal.reply.ids, proposal.ids
        random = seats.random(f"sampled {len(reply)}")
        teacher, student = await asyncio.gather(
            seats.teacher.verify(context, reply, draft, kind="verify", uniforms=(random.random(),)),
            seats.student.verify(context, reply, draft, kind="verify"),
        )
        assert teacher.checks is not None
        assert student.checks is not None
        passes, probabilities = [teacher, student], list[float]()
        for place, (p, q) in enumerate(zip(teacher.checks.logprobs, student.checks.logprobs, strict=True)):
            probabilities.append(exp(p))
            if random.random() >= exp(min(p - q, 0.0)):
                prefix = (*reply, *draft[:place])
                correction, source = await self._residual(proposal, prefix, random, passes)
                return Ruling(place, tuple(probabilities), tuple(passes), correction, source)
        token, logprob = teacher.checks.drawn[0]
        return Ruling(len(draft), tuple(probabilities), tuple(passes), (token, exp(logprob)), teacher)

    async def _residual(
        self, proposal: Proposal, prefix: tuple[int, ...], random: Any, passes: list[Completion]
    ) -> tuple[tuple[int, float], Completion]:
        seats, context = proposal.seats, proposal.question.context
        for _ in range(self.attempts):
            uniforms = tuple(random.random() for _ in range(self.draws))
            teacher = await seats.teacher.verify(context, prefix, (), kind="verify", uniforms=uniforms)
            assert teacher.checks is not None
            drawn = teacher.checks.drawn
            student = await seats.student.verify(
                context, prefix, (), kind="verify", candidates=tuple(token for token, _ in drawn)
            )
            assert student.checks is not None
            passes += [teacher, student]
            for (token, p), q in zip(drawn, student.checks.candidates, strict=True):
                if random.random() < 1.0 - exp(min(q - p, 0.0)):
                    return (token, exp(p)), teacher
        return (drawn[-1][0], exp(drawn[-1][1])), teacher  # then p and q are equal up to rounding


@dataclass(frozen=True)
class Judge(Policy):
    """The teacher rates each unit from 0 to 9 in one token (SpecReason, arXiv 2504.07891)."""

    system: str = ""
    user: str = ""
    opening: str = ""
    max_tokens: int = 1
    keep_malformed: bool = False

    name, default, rule = "judge", 7, "the teacher rates it `threshold` or more, of 9"
    figure = "the rating, divided by 9"
    teacher = frozenset({"generate"})
    units = TEXT_UNITS

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return 0 <= threshold <= 9

    async def judge(self, proposal: Proposal) -> Ruling:
        seats, teacher = proposal.seats, proposal.seats.teacher
        limits = {"until": [], "max_gen_toks": self.max_tokens, "do_sample": False}
        calls = [
            teacher.generate(self._messages(proposal, before, unit), kind="judge", gen_kwargs=limits)
            for before, unit in _each(proposal)
        ]
        replies = await asyncio.gather(*calls)
        ratings = [read_rating(reply.text) for reply in replies]
        approved = [self.keep_malformed if r is None else r >= self.threshold for r in ratings]
        for reply, rating, accepted in zip(replies, ratings, approved, strict=True):
            seats.note(reply, accepted=accepted, malformed=rating is None, rating=rating)
        judged = _judged(approved)
        figures = tuple((rating or 0) / 9 for rating in ratings[:judged])
        malformed = sum(rating is None for rating in ratings[:judged])
        return Ruling(sum(approved[:judged]), figures, tuple(replies), malformed=malformed)

    def _messages(self, proposal: Proposal, before: str, unit: str) -> list[Message]:
        from harness_ext.options import PromptText

        shown = PromptText(self.user).fill(task=proposal.question.text, approved=before.strip(), unit=unit.strip())
        messages = [Message("system", self.system), Message("user", shown)]
        if "continue" in proposal.seats.teacher.backend.capabilities:
            messages.append(Message("assistant", self.opening))
        return messages


class Reward(Policy):
    """A sequence classifier on a third seat scores each unit in its context (RSD, arXiv 2501.19324)."""

    name, default, rule = "reward", 0.7, "the classifier gives the reply up to its end `threshold` or more"
    figure = "the classifier's score"
    teacher = frozenset({"generate"})
    third = frozenset({"reward"})
    units = TEXT_UNITS

    async def judge(self, proposal: Proposal) -> Ruling:
        texts = [before + unit for before, unit in _each(proposal)]
        found = await proposal.seats.reward.weigh(proposal.question.context, texts, kind="reward")
        scores = [exp(c.logprob if c.logprob is not None else float("-inf")) for c in found]
        approved = [score >= self.threshold for score in scores]
        for completion, score, accepted in zip(found, scores, approved, strict=True):
            proposal.seats.note(completion, accepted=accepted, score=round(score, 6))
        judged = _judged(approved)
        return Ruling(sum(approved[:judged]), tuple(scores[:judged]), tuple(found))


def _each(proposal: Proposal) -> list[tuple[str, str]]:
    """Return each unit with the text before it: the approved reply and the units between."""
    units = proposal.units
    befores = accumulate(units, initial=proposal.question.prefix + proposal.reply.text)
    return list(zip(befores, units, strict=False))


def _judged(approved: Sequence[bool]) -> int:
    """Return how many units count: up to the first that is not approved, with it."""
    return approved.index(False) + 1 if False in approved else len(approved)


def read_rating(text: str) -> int | None:
    """Return the first number of a reply, at most 9; None where there is none."""
    found = re.search(r"\d+", text)
    return min(int(found[0][:4]), 9) if found else None


POLICIES: Mapping[str, type[Policy]] = {
    policy.name: policy for policy in (Greedy, TopK, Prob, TopP, Sampled, Judge, Reward)
}


def table() -> str:
    """Return what each policy needs from the seats, as a Markdown table (docs/speculative.md has this very text)."""
    lines = [
        "| accept | a unit is approved if | threshold | student | teacher | reward | unit |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, policy in POLICIES.items():
        needs = [", ".join(sorted(seat)) or "–" for seat in (policy.student, policy.teacher, policy.third)]
        if policy.one_vocabulary:
            needs[1] += "; the student's vocabulary"
        default = "–" if policy.default is None else f"{policy.default:g}"
        lines.append(f"| `{name}` | {policy.rule} | {default} | {' | '.join(needs)} | {', '.join(policy.units)} |")
    return "\n".join(lines)


def vocabulary_problem(policy: type[Policy], student: Backend, teacher: Backend) -> str | None:
    """Return what is wrong with two models' vocabularies under a policy, or None."""
    if not policy.one_vocabulary or student.tokens is None or teacher.tokens is None:
        return None
    if student.tokens.vocabulary == teacher.tokens.vocabulary:
        return None
    return (
        f"`accept={policy.name}` needs one vocabulary, and those of {student.name} and {teacher.name} differ: take "
        "models of one family, or another policy"
    )

"""Policies that judge texts: a teacher's ratings, and a classifier's scores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp

from harness_ext.decisions import Score
from harness_ext.models.scoring import levels
from harness_ext.models.speculative.policy import TEXT_UNITS, Judgement, Policy, Proposal
from harness_ext.options import PromptText
from harness_ext.protocol import Message
from harness_ext.reading import read_rating
from harness_ext.records import CallResult


@dataclass(frozen=True)
class Judge(Policy):
    """The teacher rates each unit from 0 to 9 in one token (SpecReason, arXiv 2504.07891).

    The rating is the expected digit, by the probabilities that the teacher gives to all ten.

    system, user, opening: the prompts, and the beginning of the teacher's reply if its model can continue one.
    max_tokens: the length limit of a rating. Default 1.
    keep_malformed: whether a unit is approved if its rating cannot be read. Default False.
    """

    system: str = ""
    user: str = ""
    opening: str = ""
    max_tokens: int = 1
    keep_malformed: bool = False

    name, default, rule = "judge", 7, "the teacher rates it `threshold` or higher, out of 9"
    figure = "the rating, divided by 9"
    teacher = frozenset({"generate"})
    units = TEXT_UNITS

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return 0 <= threshold <= 9

    async def judge(self, proposal: Proposal) -> Judgement:
        found = await asyncio.gather(*(self._rate(proposal, before, unit) for before, unit in _each(proposal)))
        ratings = [rating for rating, _ in found]
        approved = [self.keep_malformed if r is None else r >= self.threshold for r in ratings]
        for (rating, result), accepted in zip(found, approved, strict=True):
            shown = None if rating is None else round(rating, 4)
            proposal.seats.note(result, accepted=accepted, malformed=rating is None, rating=shown)
        judged = _judged(approved)
        figures = tuple((rating or 0) / 9 for rating in ratings[:judged])
        malformed = sum(rating is None for rating in ratings[:judged])
        passes = tuple(result for _, result in found)
        return Judgement(sum(approved[:judged]), figures, passes, malformed=malformed)

    async def _rate(self, proposal: Proposal, before: str, unit: str) -> tuple[float | None, CallResult]:
        """Return a unit's rating, or None if it cannot be read, and the result of the call.

        The rating is the expected digit; a teacher without probabilities of its next token answers a score question, or
        writes the digit.
        """
        teacher = proposal.seats.teacher
        messages = self._messages(proposal, before, unit)
        wording = (self.system, self.user, self.opening)
        decision = await teacher.openings(messages, DIGITS, kind="judge", wording=wording)
        if decision is not None and decision.choice is not None:
            return decision.expected, decision
        if teacher.setup.decide in ("auto", "endpoint") and "endpoint" in teacher.backend.decision_sources:
            state = {"task": proposal.question.text, "approved": before.strip(), "step": unit.strip()}
            rated = (await teacher.decide(state, {"rating": STEP_SCORE}, kind="judge"))["rating"]
            return rated.expected, rated
        reply = await teacher.generate(messages, kind="judge", gen_kwargs=teacher.limits(self.max_tokens))
        return read_rating(reply.text), reply

    def _messages(self, proposal: Proposal, before: str, unit: str) -> list[Message]:
        shown = PromptText(self.user).fill(task=proposal.question.text, approved=before.strip(), unit=unit.strip())
        messages = [Message("system", self.system), Message("user", shown)]
        if "continue" in proposal.seats.teacher.backend.capabilities:
            messages.append(Message("assistant", self.opening))
        return messages


DIGITS = {str(digit): str(digit) for digit in range(10)}
STEP_SCORE = Score(
    "How good is the step: is it correct, does it follow from the task and what is approved, does it help?",
    levels("wrong", "certainly right"),
)


class Reward(Policy):
    """A sequence classifier on a third seat scores each unit in its context (RSD, arXiv 2501.19324)."""

    name, default, rule = "reward", 0.7, "the classifier scores the reply up to its end `threshold` or higher"
    figure = "the classifier's score"
    teacher = frozenset({"generate"})
    third = frozenset({"reward"})
    units = TEXT_UNITS

    async def judge(self, proposal: Proposal) -> Judgement:
        texts = [before + unit for before, unit in _each(proposal)]
        found = await proposal.seats.reward.loglikelihood(proposal.question.context, texts, kind="reward")
        scores = [exp(c.logprob) for c in found]
        approved = [score >= self.threshold for score in scores]
        for completion, score, accepted in zip(found, scores, approved, strict=True):
            proposal.seats.note(completion, accepted=accepted, score=round(score, 6))
        judged = _judged(approved)
        return Judgement(sum(approved[:judged]), tuple(scores[:judged]), tuple(found))


def _each(proposal: Proposal) -> list[tuple[str, str]]:
    """Return each unit with the text before it: the approved reply and the units before it."""
    units = proposal.units
    befores = accumulate(units, initial=proposal.question.prefix + proposal.reply.text)
    return list(zip(befores, units, strict=False))


def _judged(approved: Sequence[bool]) -> int:
    """Return how many units count as judged: up to and including the first one that is rejected."""
    return approved.index(False) + 1 if False in approved else len(approved)

"""Policies that judge by what the teacher's own distribution says about each token."""

from __future__ import annotations

import abc
import asyncio
from math import exp
from typing import Any

from harness_ext.models.speculative.policy import Judgement, Policy, Proposal
from harness_ext.records import CallResult, Verification


class TokenPolicy(Policy):
    """Judges each token by the teacher's own distribution. A unit is approved if all its tokens are."""

    teacher = frozenset({"generate", "verify"})
    figure = "the teacher's probability (for several tokens, their geometric mean)"

    @abc.abstractmethod
    def passes(self, verification: Verification, position: int) -> bool | None:
        """Return whether the token at a position is approved; None if the teacher's figures do not decide it."""

    def ends(self, verification: Verification) -> bool:
        """Return whether the teacher would end the reply after the draft."""
        return verification.end_rank == 0

    @property
    def ranks(self) -> int:
        """Return how many of the likeliest tokens the rule looks at."""
        return 1

    async def judge(self, proposal: Proposal) -> Judgement:
        assert proposal.ids is not None
        assert proposal.reply.ids is not None
        verification = await proposal.seats.teacher.verify(
            proposal.question.context, proposal.reply.ids, proposal.ids, kind="verify", ranks=self.ranks
        )
        return self._judge(proposal, verification)

    def _judge(self, proposal: Proposal, verification: Verification) -> Judgement:
        probabilities: list[float] = []
        undecided, failed = 0, None
        for start, end in proposal.spans:
            found = [self.passes(verification, position) for position in range(start, end)]
            probabilities.append(exp(sum(verification.logprobs[start:end]) / (end - start)))
            undecided += found.count(None)
            if not all(found):
                failed = start
                break
        # The distribution at the first token of the rejected unit, or after the draft, also shows the correction. So no
        # pass yields less than one token.
        position = len(proposal.ids or ()) if failed is None else failed
        token, logprob = verification.best[position]
        if not self.exact:
            token, logprob = verification.instead.get(position, (token, logprob))
        return Judgement(
            len(probabilities) - (failed is not None),
            tuple(probabilities),
            (verification,),
            (token, exp(logprob)),
            verification,
            failed is None and self.ends(verification),
            undecided,
        )


class Greedy(TokenPolicy):
    """Approves what the teacher's greedy decoding would write, so that the text is the teacher's own greedy text.

    Every approved token is the teacher's first choice after tokens that were its first choice themselves, and so is the
    correction. By induction the reply is what greedy decoding writes, whatever the student proposes.
    """

    name, exact, rule = "greedy", True, "each token is the teacher's likeliest"

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return False

    def passes(self, verification: Verification, position: int) -> bool | None:
        return verification.ranks[position] == 0


class TopK(TokenPolicy):
    """Approves tokens among the teacher's k likeliest. Like `TopP`, a rule of github.com/racia/research-project."""

    name, default, rule = "topk", 15, "each token is among the teacher's `threshold` likeliest"

    @classmethod
    def valid(cls, threshold: float) -> bool:
        return threshold >= 1 and float(threshold).is_integer()

    @property
    def ranks(self) -> int:
        return int(self.threshold)

    def passes(self, verification: Verification, position: int) -> bool | None:
        if verification.ranks[position] >= self.threshold:
            return False
        return None if position in verification.floors else True

    def ends(self, verification: Verification) -> bool:
        return verification.end_rank is not None and verification.end_rank < self.threshold


class Prob(TokenPolicy):
    """Approves tokens to which the teacher gives at least a certain probability."""

    name, default, rule = "prob", 0.1, "the teacher gives each token a probability of `threshold` or more"

    def passes(self, verification: Verification, position: int) -> bool | None:
        return exp(verification.logprobs[position]) >= self.threshold


class TopP(TokenPolicy):
    """Approves the likeliest tokens that together have at most the probability p, and always the likeliest one."""

    name, default = "topp", 0.95
    rule = "each token and all likelier ones together have a probability of at most `threshold`, or it is the likeliest"

    @property
    def ranks(self) -> int:
        return 1_000

    def passes(self, verification: Verification, position: int) -> bool | None:
        if verification.ranks[position] == 0 and position not in verification.floors:
            return True
        if verification.above[position] + exp(verification.logprobs[position]) > self.threshold:
            return False
        return None if position in verification.floors else True


class Sampled(TokenPolicy):
    """The rule of speculative sampling (Leviathan et al. 2023, Chen et al. 2023).

    The text has the distribution of the teacher's own samples. A draft token x is approved with probability
    min(1, p(x)/q(x)), where p is the teacher's distribution and q the student's. A rejected token is replaced by one
    from max(0, p - q), renormalised. Rejection sampling draws it without transferring whole distributions: y is drawn
    from p and accepted with probability max(0, 1 - q(y)/p(y)).
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

    def passes(self, verification: Verification, position: int) -> bool | None:
        raise NotImplementedError("a draw decides")

    async def judge(self, proposal: Proposal) -> Judgement:
        assert proposal.ids is not None
        assert proposal.reply.ids is not None
        seats, context, reply, draft = proposal.seats, proposal.question.context, proposal.reply.ids, proposal.ids
        random = seats.random(f"sampled {len(reply)}")
        teacher, student = await asyncio.gather(
            seats.teacher.verify(context, reply, draft, kind="verify", uniforms=(random.random(),)),
            seats.student.verify(context, reply, draft, kind="verify"),
        )
        passes: list[CallResult] = [teacher, student]
        probabilities: list[float] = []
        for position, (p, q) in enumerate(zip(teacher.logprobs, student.logprobs, strict=True)):
            probabilities.append(exp(p))
            if random.random() >= exp(min(p - q, 0.0)):
                prefix = (*reply, *draft[:position])
                correction, source = await self._residual(proposal, prefix, random, passes)
                return Judgement(position, tuple(probabilities), tuple(passes), correction, source)
        token, logprob = teacher.drawn[0]
        return Judgement(len(draft), tuple(probabilities), tuple(passes), (token, exp(logprob)), teacher)

    async def _residual(
        self, proposal: Proposal, prefix: tuple[int, ...], random: Any, passes: list[CallResult]
    ) -> tuple[tuple[int, float], Verification]:
        """Return a token from max(0, p - q), renormalised, with its probability p and the teacher's result.

        Several tokens are drawn per pass, since each is accepted only with some probability.
        """
        seats, context = proposal.seats, proposal.question.context
        for _ in range(self.attempts):
            uniforms = tuple(random.random() for _ in range(self.draws))
            teacher = await seats.teacher.verify(context, prefix, (), kind="verify", uniforms=uniforms)
            drawn = teacher.drawn
            student = await seats.student.verify(
                context, prefix, (), kind="verify", candidates=tuple(token for token, _ in drawn)
            )
            passes += [teacher, student]
            for (token, p), q in zip(drawn, student.candidates, strict=True):
                if random.random() < 1.0 - exp(min(q - p, 0.0)):
                    return (token, exp(p)), teacher
        # After so many rejections p and q are practically equal, and a token from p is as good.
        return (drawn[-1][0], exp(drawn[-1][1])), teacher

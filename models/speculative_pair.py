"""Speculative pair: a student writes a draft, a teacher corrects its first mistake, and the student continues.

After the speculative-decoding setting on bAbI of github.com/racia/research-project (its stopping rules and its resume
prompt). `accept=judge` is the rule of SpecReason, `accept=reward` that of RSD, `accept=sampled` that of speculative
sampling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, ClassVar, Literal

from harness_ext.backends.base import Backend
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.errors import CallFailed
from harness_ext.models.speculative.drafting import Drafting
from harness_ext.models.speculative.partial_reply import (
    Continuation,
    PartialReply,
    continue_reply,
    first_units,
    limited,
    shares,
)
from harness_ext.models.speculative.policies import POLICIES, table, vocabulary_problem
from harness_ext.models.speculative.policy import Judgement, Policy, Proposal
from harness_ext.models.speculative.text_policies import Judge
from harness_ext.models.speculative.token_policies import TokenPolicy
from harness_ext.models.speculative.trace import GenerationTrace
from harness_ext.models.speculative.units import Unit, splitter
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Capability, Protocol, Question, Role, Seats
from harness_ext.records import Solution


@dataclass(frozen=True)
class SpeculativePair(Protocol):
    """The options of `speculative_pair`.

    unit: what is approved or replaced as a whole: a `token`, a `step` or a `chunk` of `chunk_tokens` tokens. Default
        `token`.
    accept: the rule by which the teacher approves units (`docs/speculative.md`). Default `topk`.
    threshold: the rule's threshold. Default None: that of the rule.
    chunk_tokens: the length of a chunk, in tokens. Default 32.
    draft_tokens: how many tokens the student writes before the teacher looks at them: a number, `rest` for the rest of
        its answer, or `auto`. `auto` is the length that promises the most tokens in the time that both models take
        (`Drafting`) if the text is the teacher's own whatever the student writes (`greedy`, `sampled`), and elsewhere
        `rest`. Default `auto`.
    max_corrections: the largest number of corrections; 0 is the baseline. It does not apply to `greedy` and `sampled`,
        whose text is the teacher's own. Default 15.
    on_malformed: whether a unit whose rating has no number is rejected (`reject`) or approved (`accept`). Default
        `reject`.
    judge_max_tokens: the length limit of a rating, in tokens. Default 1.
    """

    unit: Unit = "token"
    accept: Literal["greedy", "topk", "prob", "topp", "sampled", "judge", "reward"] = "topk"
    threshold: float | None = None
    chunk_tokens: int = 32
    draft_tokens: int | Literal["auto", "rest"] = "auto"
    max_corrections: int = 15
    on_malformed: Literal["reject", "accept"] = "reject"
    judge_max_tokens: int = 1
    judge_system: PromptText = prompt(lambda: JUDGE_SYSTEM, "the system message that explains ratings (`accept=judge`)")
    judge_user: PromptText = prompt(lambda: JUDGE_USER, "asks for the rating of a unit")
    correct_user: PromptText = prompt(
        lambda: CORRECT_USER, "asks a teacher that cannot continue a reply for the next unit"
    )
    resume_user: PromptText = prompt(
        lambda: RESUME_USER, "asks a student that cannot continue a reply for the rest of its answer"
    )

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task and continues after corrections"),
        "teacher": Role("approves the student's answer unit by unit, and corrects it"),
        "reward": Role("scores units (`accept=reward`)"),
    }

    def __post_init__(self) -> None:
        policy = POLICIES[self.accept]
        if self.chunk_tokens < 1 or self.max_corrections < 0 or self.judge_max_tokens < 1:
            raise ValueError(
                "`chunk_tokens` and `judge_max_tokens` must be 1 or more, and `max_corrections` must be 0 or more"
            )
        check_rounds(self.max_corrections, "max_corrections")
        if isinstance(self.draft_tokens, int) and self.draft_tokens < 1:
            raise ValueError("`draft_tokens` must be 1 or more, `auto` or `rest`")
        if isinstance(self.draft_tokens, int) and not policy.exact:
            raise ValueError(
                f"`draft_tokens={self.draft_tokens}` needs a rule under which the text is the teacher's own "
                f"(`accept=greedy` or `accept=sampled`): `accept={self.accept}` judges whole answers"
            )
        if self.unit not in policy.units:
            units = " or ".join(f"`unit={unit}`" for unit in policy.units)
            raise ValueError(f"`accept={self.accept}` cannot judge `unit={self.unit}`: use {units}\n{table()}")
        if self.threshold is not None and not policy.valid(self.threshold):
            what = "takes no threshold" if policy.default is None else f"needs another threshold ({policy.rule})"
            raise ValueError(f"`threshold={self.threshold:g}`: `accept={self.accept}` {what}\n{table()}")

    @property
    def policy(self) -> Policy:
        """Return the acceptance policy with its threshold."""
        kind = POLICIES[self.accept]
        threshold = self.threshold if self.threshold is not None else kind.default or 0
        if kind is not Judge:
            return kind(threshold)
        keep = self.on_malformed == "accept"
        return Judge(threshold, self.judge_system, self.judge_user, JUDGE_OPENING, self.judge_max_tokens, keep)

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        policy = POLICIES[self.accept]
        third = {"reward": policy.third} if policy.third else {}
        return {"student": policy.student, "teacher": policy.teacher, **third}

    @property
    def spare(self) -> frozenset[str]:
        # Without corrections, the student's draft stands without a judgement, unless the rule is exact.
        return frozenset() if self.max_corrections or self.policy.exact else frozenset({"teacher", "reward"})

    def problems(self, seats: Mapping[str, Backend]) -> list[str]:
        lacks = [seat for seat, needed in self.needs().items() if seat in seats and needed - seats[seat].capabilities]
        found = [f"what `accept={self.accept}` and the other rules need from the seats:\n{table()}"] if lacks else []
        if {"student", "teacher"} <= seats.keys():
            found += filter(None, [vocabulary_problem(POLICIES[self.accept], seats["student"], seats["teacher"])])
        return found

    async def solve(self, question: Question, seats: Seats) -> Solution:
        policy, trace = self.policy, GenerationTrace()
        judges = isinstance(policy, TokenPolicy) and "teacher" in seats
        reply = PartialReply.of(seats.teacher if judges else seats.student, question)
        ahead = self._drafting(seats, reply)
        draft = first = await self._draft(question, seats, reply, ahead)
        for corrections in count():
            trace.source(draft.completion, draft.seam)
            # No corrections are left, or the student has nothing to add: what it wrote stands without a judgement.
            if not policy.exact and (corrections == self.max_corrections or not draft.text):
                proposal = self._proposal(question, seats, reply, draft)
                reply = _approve(trace, reply, proposal, draft, Judgement(len(proposal.sizes), (), ()))
                return _end(trace, seats, reply, first, "max_corrections" if draft.text else "student_stopped")
            proposal = self._proposal(question, seats, reply, draft)
            judgement = await policy.judge(proposal)
            trace.judged(judgement)
            reply = _approve(trace, reply, proposal, draft, judgement)
            if judgement.accepted == len(proposal.sizes) and not policy.exact:
                stop = "length" if draft.completion.finish == "length" else "student_stopped"
                return _end(trace, seats, reply, first, "teacher_stops" if judgement.teacher_ends else stop)
            if policy.exact and reply.ended:
                return _end(trace, seats, reply, None)
            if ahead is not None:
                ahead = ahead.after(sum(proposal.sizes[: judgement.accepted]), sum(proposal.sizes))
            reply, over = await self._correct(question, seats, trace, reply, proposal, judgement)
            if over or reply.ended:
                return _end(trace, seats, reply, None if policy.exact else first)
            if trace.repeats() and not policy.exact:
                return _end(trace, seats, reply, first, "repetition")
            resume = self.resume_user.fill(approved=question.prefix + reply.text)
            only, sure = (None, 0.0) if ahead is None else (ahead.tokens, ahead.confidence)
            draft = await continue_reply(
                seats.student, question, reply, resume, kind="continue", only=only, confidence=sure
            )
            draft = draft if policy.exact else draft.within(reply)
        raise AssertionError("unreachable")

    def _drafting(self, seats: Seats, reply: PartialReply) -> Drafting | None:
        """Return how the student drafts; None if it writes the rest of its answer each time."""
        student = seats.student.backend
        goes_on = (reply.tokens is not None and shares(student, reply.tokens)) or "continue" in student.capabilities
        # A student that has to be asked for the rest of its answer in a message would read it all again each time.
        if self.draft_tokens == "rest" or not self.policy.exact or not goes_on:
            return None
        return Drafting.of(None if self.draft_tokens == "auto" else self.draft_tokens, student, seats.teacher.backend)

    async def _draft(
        self, question: Question, seats: Seats, reply: PartialReply, ahead: Drafting | None
    ) -> Continuation:
        """Return the student's first draft.

        A whole draft is the baseline's own call, so the store shares it between both. Only samples are drawn anew:
        their token ids must be known, since another encoding of the same text would have another probability.
        """
        if self.accept == "sampled" and not (seats.student.samples() and seats.teacher.samples()):
            raise CallFailed(
                "protocol",
                "`accept=sampled` needs sampling, and the settings of this task are greedy: set "
                "`--gen_kwargs do_sample=True,temperature=1.0`, or use `accept=greedy`",
            )
        known = reply.tokens is not None and shares(seats.student.backend, reply.tokens)
        how: dict[str, Any] = {"reply": ()} if self.accept == "sampled" else {"keep_ids": True}
        if ahead is not None and known:
            how = {"reply": (), "only": ahead.tokens, "confidence": ahead.confidence}
        elif ahead is not None:
            how = {"gen_kwargs": limited(question, ahead.tokens)}
        completion = await seats.student.generate(question.context, kind="draft", **how)
        if ahead is not None:
            seats.note(completion, part=True)  # it is no answer
        draft = Continuation(completion, completion.text, completion.ids if known else None)
        return draft if self.policy.exact else draft.within(reply)

    def _proposal(self, question: Question, seats: Seats, reply: PartialReply, draft: Continuation) -> Proposal:
        """Return a draft as the policy judges it: divided into units."""
        if reply.tokens is not None and draft.ids is None:
            draft = replace(draft, ids=reply.encode(draft.text)[0])
        if reply.tokens is not None and reply.ids is not None and draft.ids is not None:
            draft = replace(draft, ids=draft.ids[: reply.room])
        pieces = draft.pieces(reply)
        return Proposal(question, seats, reply, pieces, splitter(self.unit, self.chunk_tokens)(pieces), draft.ids)

    async def _correct(
        self,
        question: Question,
        seats: Seats,
        trace: GenerationTrace,
        reply: PartialReply,
        proposal: Proposal,
        judgement: Judgement,
    ) -> tuple[PartialReply, bool]:
        """Return the reply extended by the teacher's own unit, and whether the teacher ends the reply there."""
        figure: float | None = None
        if self.unit == "token" and judgement.correction is not None and judgement.source is not None:
            token, figure = judgement.correction
            longer, over = reply.with_ids([token]), False
            trace.source(judgement.source)
            trace.write("teacher", longer.text[len(reply.text) :], figure, judgement.source, 1)
        else:
            only: Literal["step"] | int = "step" if self.unit == "step" else self.chunk_tokens
            prompt = self.correct_user.fill(approved=question.prefix + reply.text)
            unit = await continue_reply(seats.teacher, question, reply, prompt, kind="correct", only=only)
            trace.source(unit.completion, unit.seam)
            if not self.policy.exact:
                unit = unit.within(reply)
            pieces = unit.pieces(reply)
            sizes = splitter(self.unit, self.chunk_tokens)(pieces)
            ends = len(sizes) < 2 and unit.completion.finish == "stop" and not unit.asked
            unit = first_units(unit, pieces, sizes[0] if sizes else 0)
            longer = reply.extended_by(unit)
            trace.write("teacher", unit.text, None, unit.completion, None if unit.ids is None else len(unit.ids))
            # Under an exact policy the reply's own tokens decide whether it has ended, provided that they are known.
            over = (ends or not unit.text) and not (self.policy.exact and unit.completion.ids is not None)
        if judgement.accepted < len(proposal.sizes):
            rejected, before = proposal.units[judgement.accepted], judgement.probabilities[judgement.accepted]
            trace.correct(rejected, before, trace.written[-1].text, figure)
        return longer, over


def _approve(
    trace: GenerationTrace, reply: PartialReply, proposal: Proposal, draft: Continuation, judgement: Judgement
) -> PartialReply:
    """Return the reply extended by the approved units."""
    for number, ((start, end), text) in enumerate(
        zip(proposal.spans[: judgement.accepted], proposal.units, strict=False)
    ):
        figure = judgement.probabilities[number] if judgement.probabilities else None
        tokens = end - start if proposal.ids is not None else None
        trace.write("student", text, figure, draft.completion, tokens)
    taken = sum(proposal.sizes[: judgement.accepted])
    return reply.extended_by(first_units(replace(draft, ids=proposal.ids), proposal.pieces, taken))


def _end(
    trace: GenerationTrace, seats: Seats, reply: PartialReply, first: Continuation | None, stop: str | None = None
) -> Solution:
    """Return the solution.

    A reply without corrections is exactly the student's first draft. If the reply is empty or repeats itself, the first
    draft takes its place. `first` is None where it must not.
    """
    stop = stop or ("length" if reply.room is not None and reply.room <= 0 else "teacher_stops")
    text = reply.final
    if first is not None and not trace.corrections:
        text = first.text
    elif first is not None and (stop == "repetition" or not text.strip()):
        stop, text = "repetition" if stop == "repetition" else "empty_correction", first.text
        trace.restart("student", text, first.completion)
    # The units of a reply include its thought, which the teacher judges too; only the answer is scored.
    return Solution(seats.student.answer_in(text), stop, trace.close(seats, text))


class SpeculativePairLM(ProtocolLM):
    """`lm_eval --model speculative_pair --model_args student=<spec>,teacher=<spec>,unit=…,accept=…`."""

    protocol = SpeculativePair


JUDGE_OPENING = "Rating from 0 to 9: "
JUDGE_SYSTEM = """\
You are a strict, logical and attentive teacher. A student answers a task step by step, and you rate one step of the answer.
Rate whether the step is correct, follows from the task and the steps before it, and helps to answer the task.
Reply with a single digit from 0 (wrong or useless) to 9 (certainly right), and nothing else."""  # noqa: E501

JUDGE_USER = '''\
The student was given this task:
"""
{task}
"""

The answer so far, which is approved:
"""
{approved}
"""

The next step of the answer, which you rate:
"""
{unit}
"""'''

CORRECT_USER = '''\
This is the beginning of an answer to the task above:
"""
{approved}
"""

Write the next step of this answer, and nothing else. Begin where it ends; repeat nothing of it.'''

RESUME_USER = '''\
Your teacher found a mistake in your answer. This is the part of it that is right, the last words being your teacher's own:
"""
{approved}
"""

Go on from this point to the end of the answer, in the same style and format. Write only what comes after that part; repeat nothing of it, and mention neither the teacher nor the correction.'''  # noqa: E501

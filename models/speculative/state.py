"""The state of a reply that a student drafts and a teacher corrects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from harness_ext.errors import CallFailed
from harness_ext.models.speculative.drafting import Drafting
from harness_ext.models.speculative.options import SpeculativeOptions
from harness_ext.models.speculative.partial_reply import Continuation, PartialReply, continue_reply, limited, shares
from harness_ext.models.speculative.policy import Judgement, Proposal
from harness_ext.models.speculative.token_policies import TokenPolicy
from harness_ext.models.speculative.trace import GenerationTrace
from harness_ext.models.speculative.units import splitter
from harness_ext.protocol import Question, Seats
from harness_ext.records import Solution


class SpeculativeState:
    """A reply that becomes longer by what the student drafts and the teacher approves or corrects.

    options: the options of the run.
    question: the question.
    seats: its seats.
    policy: the acceptance policy.
    reply: the approved beginning of the reply.
    trace: who wrote what.
    """

    def __init__(self, options: SpeculativeOptions, question: Question, seats: Seats) -> None:
        self.options = options
        self.question = question
        self.seats = seats
        self.policy = options.policy
        self.trace = GenerationTrace()
        judges = isinstance(self.policy, TokenPolicy) and "teacher" in seats
        self.reply = PartialReply.of(seats.teacher if judges else seats.student, question)
        self._ahead = self._drafting()
        self._first: Continuation | None = None  # the first draft, where it may take the place of the reply

    def _drafting(self) -> Drafting | None:
        """Return how the student drafts; None if it writes the rest of its answer each time."""
        student = self.seats.student.backend
        goes_on = self._shares_tokens or "continue" in student.capabilities
        # A student that has to be asked for the rest of its answer in a message would read it all again each time.
        if self.options.draft_tokens == "rest" or not self.policy.exact or not goes_on:
            return None
        fixed = None if self.options.draft_tokens == "auto" else self.options.draft_tokens
        return Drafting.of(fixed, student, self.seats.teacher.backend)

    @property
    def _shares_tokens(self) -> bool:
        return self.reply.tokens is not None and shares(self.seats.student.backend, self.reply.tokens)

    async def first_draft(self) -> Continuation:
        """Return the student's first draft.

        A whole draft is the baseline's own call, so the store shares it between both. Only samples are drawn anew:
        their token ids must be known, since another encoding of the same text would have another probability.
        """
        student, sampled = self.seats.student, self.options.accept == "sampled"
        if sampled and not (student.samples() and self.seats.teacher.samples()):
            raise CallFailed(
                "protocol",
                "`accept=sampled` needs sampling, and the settings of this task are greedy: set "
                "`--gen_kwargs do_sample=True,temperature=1.0`, or use `accept=greedy`",
            )
        known, ahead = self._shares_tokens, self._ahead
        how: dict[str, Any] = {"reply": ()} if sampled else {"keep_ids": True}
        if ahead is not None and known:
            how = {"reply": (), "only": ahead.tokens, "confidence": ahead.confidence}
        elif ahead is not None:
            how = {"gen_kwargs": limited(self.question, ahead.tokens)}
        completion = await student.generate(self.question.context, kind="draft", **how)
        if ahead is not None:
            self.seats.note(completion, part=True)  # it is no answer
        draft = self._drafted(Continuation(completion, completion.text, completion.ids if known else None))
        self._first = None if self.policy.exact else draft
        return draft

    async def next_draft(self) -> Continuation:
        """Return what the student writes after the reply."""
        question, reply = self.question, self.reply
        resume = self.options.resume_user.fill(approved=question.prefix + reply.text)
        only, sure = (None, 0.0) if self._ahead is None else (self._ahead.tokens, self._ahead.confidence)
        draft = await continue_reply(
            self.seats.student, question, reply, resume, kind="continue", only=only, confidence=sure
        )
        return self._drafted(draft)

    def _drafted(self, draft: Continuation) -> Continuation:
        """Return a draft as it is judged, after counting the call that wrote it."""
        draft = draft if self.policy.exact else draft.within(self.reply)
        self.trace.source(draft.completion, draft.seam)
        return draft

    def proposal(self, draft: Continuation) -> Proposal:
        """Return a draft as the policy judges it: divided into units."""
        reply = self.reply
        if reply.tokens is not None and draft.ids is None:
            draft = replace(draft, ids=reply.encode(draft.text)[0])
        if reply.tokens is not None and reply.ids is not None and draft.ids is not None:
            draft = replace(draft, ids=draft.ids[: reply.room])
        pieces = draft.pieces(reply)
        return Proposal(self.question, self.seats, reply, pieces, self._sizes(pieces), draft.ids)

    def _sizes(self, pieces: Sequence[str]) -> list[int]:
        return splitter(self.options.unit, self.options.chunk_tokens)(pieces)

    def approve(self, draft: Continuation, proposal: Proposal, judgement: Judgement) -> None:
        """Extend the reply by the approved units of a draft."""
        for number, ((start, end), text) in enumerate(
            zip(proposal.spans[: judgement.accepted], proposal.units, strict=False)
        ):
            figure = judgement.probabilities[number] if judgement.probabilities else None
            tokens = end - start if proposal.ids is not None else None
            self.trace.write("student", text, figure, draft.completion, tokens)
        taken = sum(proposal.sizes[: judgement.accepted])
        self.reply = self.reply.extended_by(replace(draft, ids=proposal.ids).part(proposal.pieces, 0, taken))
        if self._ahead is not None:
            self._ahead = self._ahead.after(taken, sum(proposal.sizes))

    async def correct(self, proposal: Proposal, judgement: Judgement) -> bool:
        """Extend the reply by the teacher's own unit, and return whether the teacher ends the reply there."""
        reply, trace = self.reply, self.trace
        figure: float | None = None
        if self.options.unit == "token" and judgement.correction is not None and judgement.source is not None:
            token, figure = judgement.correction
            longer, over = reply.with_ids([token]), False
            trace.source(judgement.source)
            trace.write("teacher", longer.text[len(reply.text) :], figure, judgement.source, 1)
        else:
            only: Literal["step"] | int = "step" if self.options.unit == "step" else self.options.chunk_tokens
            prompt = self.options.correct_user.fill(approved=self.question.prefix + reply.text)
            teacher = self.seats.teacher
            unit = await continue_reply(teacher, self.question, reply, prompt, kind="correct", only=only)
            trace.source(unit.completion, unit.seam)
            if not self.policy.exact:
                unit = unit.within(reply)
            pieces = unit.pieces(reply)
            sizes = self._sizes(pieces)
            ends = len(sizes) < 2 and unit.completion.finish == "stop" and not unit.asked
            unit = unit.part(pieces, 0, sizes[0] if sizes else 0)
            longer = reply.extended_by(unit)
            trace.write_part("teacher", unit)
            # Under an exact policy the reply's own tokens decide whether it has ended, provided that they are known.
            over = (ends or not unit.text) and not (self.policy.exact and unit.completion.ids is not None)
        if judgement.accepted < len(proposal.sizes):
            rejected, before = proposal.units[judgement.accepted], judgement.probabilities[judgement.accepted]
            trace.correct(rejected, before, trace.written[-1].text, figure)
        self.reply = longer
        return over

    def end(self, stop: str | None = None) -> Solution:
        """Return the solution.

        A reply without corrections is exactly the student's first draft. If the reply is empty or repeats itself, the
        first draft takes its place, unless the text must be the teacher's own.

        stop: why it ends. Default None: by the length limit, or else by the teacher.
        """
        trace, first, text = self.trace, self._first, self.reply.final
        stop = stop or ("length" if self.reply.is_full else "teacher_stops")
        if first is not None and not trace.corrections:
            text = first.text
        elif first is not None and (stop == "repetition" or not text.strip()):
            stop, text = "repetition" if stop == "repetition" else "empty_correction", first.text
            trace.restart("student", text, first.completion)
        # The units of a reply include its thought, which the teacher judges too; only the answer is scored.
        return Solution(self.seats.student.answer_in(text), stop, trace.close(self.seats, text))

"""Pieces of protocols that refine an answer: the drafts of it, and reviews whose verdict is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from harness_ext.protocol import Message, Question, Seat, Seats
from harness_ext.reading import Verdict, read_verdict
from harness_ext.records import Completion, Solution


class Drafts:
    """A student's drafts of one answer.

    question: the question.
    student: the seat that answers it.
    """

    def __init__(self, question: Question, student: Seat) -> None:
        self.question = question
        self.student = student
        self.all: list[Completion] = []
        self._exchanges: list[Message] = []

    @classmethod
    async def first(cls, question: Question, student: Seat) -> Drafts:
        """Return the drafts with a first one, which is the baseline's call and has the baseline's text."""
        drafts = cls(question, student)
        drafts.all.append(await student.generate(question.context, kind="draft"))
        return drafts

    @property
    def texts(self) -> list[str]:
        """Return the texts of all drafts, the latest last."""
        return [draft.text for draft in self.all]

    async def ask(self, prompt: str, kind: str, max_tokens: int) -> Completion:
        """Return what the student says when it is asked about its latest draft.

        prompt: what it is asked.
        kind: the turn's name in the records.
        max_tokens: the length limit of the reply, in tokens.
        """
        asked = [*self.question.messages, self.student.own_turn(self.all[-1]), Message("user", prompt)]
        return await self.student.generate(asked, kind=kind, gen_kwargs=self.student.limits(max_tokens))

    async def refine(self, prompt: str, *, history: bool = False, ends_on_repeat: bool = True) -> str | None:
        """Ask for a refinement of the latest draft. Return why nothing better can follow, or None.

        prompt: what the student is told after its draft.
        history: whether it also sees its earlier drafts, and what it was told about them. Default False.
        ends_on_repeat: whether a refinement that equals an earlier draft ends the question, since all that follows
            would repeat itself. If the student samples, it does not. Default True.

        The reason is `empty_refinement`, which leaves the draft before it the latest one, or `cycle`.
        """
        self._exchanges += [self.student.own_turn(self.all[-1]), Message("user", prompt)]
        shown = self._exchanges if history else self._exchanges[-2:]
        refined = await self.student.generate(self.question.conversation(*shown), kind="refine")
        if not refined.text.strip():
            return "empty_refinement"
        known = refined.text in self.texts
        self.all.append(refined)
        return "cycle" if known and ends_on_repeat and not self.student.samples() else None

    def end(self, stop: str, **details: Any) -> Solution:
        """Return the latest draft as the answer.

        stop: why it is.
        details: the protocol's own figures.
        """
        return Solution(self.all[-1].text, stop, details or None)


async def read_review(
    seats: Seats,
    reviewer: Seat,
    messages: Sequence[Message],
    max_tokens: int,
    *,
    read: Callable[[str], Verdict] = read_verdict,
    accepts_malformed: bool = False,
) -> tuple[str, Verdict]:
    """Return a review, and the verdict that is read in it and recorded with it.

    seats: the seats of the question.
    reviewer: the seat that writes the review.
    messages: the conversation that asks for it.
    max_tokens: its length limit, in tokens.
    read: how the verdict is read. Default `read_verdict`.
    accepts_malformed: whether a review without a verdict accepts the draft. Default False.
    """
    review = await reviewer.generate(messages, kind="review", gen_kwargs=reviewer.limits(max_tokens))
    verdict = read(review.text)
    if verdict.malformed and accepts_malformed:
        verdict = replace(verdict, accepted=True)
    seats.note(review, accepted=verdict.accepted, rule=verdict.rule, malformed=verdict.malformed)
    return review.text, verdict

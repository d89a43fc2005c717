"""An answer in pieces: a model that has finished is made to go on, and each piece may give another answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness_ext.backends.settings import effective_settings
from harness_ext.errors import CallFailed
from harness_ext.models.drawing import cost_of
from harness_ext.models.speculative.partial_reply import limited, open_prompt
from harness_ext.protocol import Message, Question, Seat
from harness_ext.reading import Reading, answer_form, read_answer, same_answer
from harness_ext.records import Completion
from harness_ext.records.costs import Measure


class Pieces:
    """What a student writes about one question, one piece after the other.

    question: the question.
    student: the seat that writes.
    word: what it goes on after.
    message: what stands for the word where its model cannot continue a reply.
    """

    def __init__(self, question: Question, student: Seat, word: str, message: str) -> None:
        self.question = question
        self.student = student
        self.word = word
        self.message = message
        self.all: list[Completion] = []

    @property
    def limit(self) -> int:
        """Return the task's length limit of a reply, in tokens."""
        backend = self.student.backend
        return int(effective_settings(self.question.gen_kwargs, backend.default_max_gen_toks)["max_gen_toks"])

    @property
    def is_silent(self) -> bool:
        """Return whether the latest piece is empty."""
        return not (self.all[-1].text + self.all[-1].thought).strip()

    def cost(self, by: Measure) -> float:
        """Return what all pieces cost. Raises CallFailed if that is not known."""
        found = cost_of(self.student, self.all, by)
        if found is None:
            raise CallFailed(
                "protocol",
                f"the {by} of {self.student.backend.name} are not known: choose another `by`, or set its prices or "
                "`parameters`",
            )
        return found

    async def begin(self, settings: Mapping[str, Any] | None = None) -> None:
        """Let the student answer.

        settings: the generation settings. Default None: the task's own.
        """
        self.all.append(await self.student.generate(self.question.context, kind="draft", gen_kwargs=settings))

    async def go_on(self, room: int) -> None:
        """Let the student go on.

        room: the largest number of tokens that the piece may have, if that is less than the task's own limit.

        Raises CallFailed, with the code `overflow` if the model's context is full.
        """
        settings = limited(self.question, room) if room < self.limit else None
        self.all.append(await self.student.generate(self._prompt(), kind="continue", gen_kwargs=settings))

    def _prompt(self) -> str | list[Message]:
        """Return the prompt for the next piece. A model whose last piece has a thought goes on within its thought."""
        if not self._continues:
            turns = ((self.student.own_turn(piece), Message("user", self.message)) for piece in self.all)
            return self.question.conversation(*(message for both in turns for message in both))
        thinks = bool(self.all[-1].thought)
        reply = f"{self.student.setup.thought_markers[0][0]}\n" if thinks else ""
        for piece in self.all:
            reply += piece.thought if thinks else piece.text
            if piece.finish != "length":  # a piece that was cut off goes on where it is
                reply = f"{reply.rstrip()}\n\n{self.word}"
        return open_prompt(self.question, reply)

    @property
    def _continues(self) -> bool:
        return "continue" in self.student.backend.capabilities

    def best(self) -> tuple[Completion, Reading | None]:
        """Return the piece that gives the final answer, and that answer; None if no piece gives one.

        It is the first such piece: what only confirms it need not have the form of an answer.
        """
        read = self._answers()
        final = next((answer for answer in reversed(read) if answer is not None), None)
        written = next((piece for piece in self.all if piece.text.strip()), self.all[0])
        given = zip(self.all, read, strict=True)
        return next((piece for piece, one in given if one and final and same_answer(one, final)), written), final

    def _answers(self) -> list[Reading | None]:
        """Return the answer in each piece; None if it has none, or one of another kind than the first that there is.

        A piece that goes on after the word is read with it. Neither such a piece nor one that was cut off is an answer
        as a whole: otherwise a remark such as "yes, that is right" would be the answer yes.
        """
        form = answer_form(self.question.text)
        read: list[Reading | None] = []
        for n, piece in enumerate(self.all):
            goes_on = n > 0 and self._continues and not self.all[n - 1].thought
            begin = self.question.prefix if n == 0 else ""
            if goes_on and self.all[n - 1].finish != "length":
                begin = self.word
            answer = read_answer(f"{begin}{piece.text}", form=form)
            is_part = goes_on or piece.finish == "length"
            read.append(None if is_part and answer is not None and answer.rule == "whole" else answer)
        kind = next((answer.kind for answer in read if answer is not None), None)
        return [answer if answer is not None and answer.kind == kind else None for answer in read]

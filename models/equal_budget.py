"""Equal budget: one model thinks on until it has spent what another run spent on a question.

The control of protocols with several models or rounds: the same tokens, given to one answer. A model that has finished
is made to go on by the word "Wait", after the budget forcing of Muennighoff et al., "s1: Simple test-time scaling"
(arXiv 2501.19393).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from typing import ClassVar, Literal

from harness_ext.backends.base import Backend
from harness_ext.backends.served import ServedBackend
from harness_ext.backends.settings import effective_settings
from harness_ext.backends.thinking import Thinking
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.errors import CallFailed
from harness_ext.models.speculative.partial_reply import limited, open_prompt
from harness_ext.options import MOST, PromptText, check_rounds, prompt
from harness_ext.protocol import Message, Protocol, Question, Role, Seat, Seats, SeatSetup
from harness_ext.reading import Reading, answer_form, read_answer, same_answer
from harness_ext.records import Completion, Solution, Turn, Usage
from harness_ext.records.costs import Measure, amount, question_cost


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
        given = self.spend
        if not given.startswith("auto:") if isinstance(given, str) else given <= 0:
            raise ValueError(f"`spend={given}`: expected a number above 0, or `auto:<run directory>`")
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
        if not isinstance(self.spend, str):
            return self
        target = question_cost(Path(self.spend[5:]).expanduser(), self.by)
        chosen = replace(self, spend=target)
        object.__setattr__(chosen, "target", target)
        return chosen

    async def solve(self, question: Question, seats: Seats) -> Solution:
        student, spend = seats.student, float(self.spend)
        if self.how == "thinking":
            pieces, stop = [await self._thinking(question, student, round(spend))], "answered"
        else:
            pieces, stop = await self._waiting(question, student, spend)
        read = self._answers(question, student, pieces)
        final = next((answer for answer in reversed(read) if answer is not None), None)
        # The first piece that gives the final answer: what only confirms it need not have the form of an answer.
        winner = next(
            (p for p, answer in zip(pieces, read, strict=True) if final and answer and same_answer(answer, final)),
            next((p for p in pieces if p.text.strip()), pieces[0]),
        )
        seats.note(winner, kept=winner.completion_tokens)
        totals = {
            "waits": len(pieces) - 1,
            "unparsable": int(final is None),
            "cost": self._cost(student, pieces),
            "target_cost": spend,
        }
        return Solution(winner.text, stop, {"totals": totals})

    async def _waiting(self, question: Question, student: Seat, spend: float) -> tuple[list[Completion], str]:
        """Return what the student writes one after the other, and why it ends."""
        pieces = [await student.generate(question.context, kind="draft")]
        while True:
            left = spend - self._cost(student, pieces)
            if left < (spend - left) / len(pieces) / 2:  # not enough for half a piece of average size
                return pieces, "spent"
            if not (pieces[-1].text + pieces[-1].thought).strip():
                return pieces, "silent"
            if len(pieces) > self.max_waits:
                return pieces, "max_waits"
            room = floor(left) if self.by == "output_tokens" else MOST
            settings = limited(question, room) if room < _limit(question, student) else None
            asked = self._prompt(question, student, pieces)
            try:
                pieces.append(await student.generate(asked, kind="continue", gen_kwargs=settings))
            except CallFailed as error:
                if error.code != "overflow":
                    raise
                return pieces, "context_full"

    def _prompt(self, question: Question, student: Seat, pieces: Sequence[Completion]) -> str | list[Message]:
        """Return the prompt for the next piece. A model whose last piece has a thought goes on within its thought."""
        if "continue" not in student.backend.capabilities:
            turns = ((student.own_turn(piece), Message("user", self.wait_user)) for piece in pieces)
            return question.conversation(*(message for both in turns for message in both))
        thinks = bool(pieces[-1].thought)
        reply = f"{student.setup.thought_markers[0][0]}\n" if thinks else ""
        for piece in pieces:
            reply += piece.thought if thinks else piece.text
            if piece.finish != "length":  # a piece that was cut off goes on where it is
                reply = f"{reply.rstrip()}\n\n{self.wait}"
        return open_prompt(question, reply)

    def _answers(self, question: Question, student: Seat, pieces: Sequence[Completion]) -> list[Reading | None]:
        """Return the answer in each piece; None if it has none, or one of another kind than the first that there is.

        A piece that goes on after the word is read with it. Neither such a piece nor one that was cut off is an answer
        as a whole: otherwise a remark such as "yes, that is right" would be the answer yes.
        """
        form, continues = answer_form(question.text), "continue" in student.backend.capabilities
        read: list[Reading | None] = []
        for n, piece in enumerate(pieces):
            goes_on = n > 0 and continues and not pieces[n - 1].thought
            begin = question.prefix if n == 0 else self.wait if goes_on and pieces[n - 1].finish != "length" else ""
            answer = read_answer(f"{begin}{piece.text}", form=form)
            is_part = goes_on or piece.finish == "length"
            read.append(None if is_part and answer is not None and answer.rule == "whole" else answer)
        kind = next((answer.kind for answer in read if answer is not None), None)
        return [answer if answer is not None and answer.kind == kind else None for answer in read]

    async def _thinking(self, question: Question, student: Seat, tokens: int) -> Completion:
        """Return the student's reply after a thought of at most so many tokens."""
        settings = {**limited(question, tokens + _limit(question, student)), **Thinking(tokens=tokens).fields}
        return await student.generate(question.context, kind="draft", gen_kwargs=settings)

    def _cost(self, student: Seat, pieces: Sequence[Completion]) -> float:
        usage = Usage.total(student.setup.cost.usage(Turn(student.name, "draft", "", piece)) for piece in pieces)
        found = amount(usage, self.by)
        if found is None:
            raise CallFailed(
                "protocol",
                f"the {self.by} of {student.backend.name} are not known: choose another `by`, or set its prices or "
                "`parameters`",
            )
        return found


def _limit(question: Question, seat: Seat) -> int:
    """Return the task's length limit of a reply, in tokens."""
    return int(effective_settings(question.gen_kwargs, seat.backend.default_max_gen_toks)["max_gen_toks"])


class EqualBudgetLM(ProtocolLM):
    """`lm_eval --model equal_budget --model_args student=<spec>,spend=auto:<run directory>`."""

    protocol = EqualBudget


WAIT_USER = "Wait. Think on: check what you wrote, try another way, and give your final answer again in the same form."

"""Cascade: a small model answers, and a large one is asked only where the small one is not confident.

After FrugalGPT (Chen et al., arXiv 2305.05176). What stands for its trained scorer is the agreement of several draws
(Yue et al., arXiv 2310.03094), a yes/no question (self-verification, Aggarwal et al., arXiv 2310.12963) or the
likelihood of the answer's tokens (Gupta et al., arXiv 2404.10136).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.asking import IS_RIGHT
from harness_ext.models.confidence import Confidence, agreement, decided, likelihood, threshold_from
from harness_ext.models.drawing import check_draws, draw
from harness_ext.models.from_run import check_given, with_values
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Capability, Protocol, Question, Role, Seats, SeatSetup
from harness_ext.records import Solution


@dataclass(frozen=True)
class Cascade(Protocol):
    """The options of `cascade`.

    confidence: how confident the student is. Default `agreement`.
        `agreement`: the share of `k` draws that give the answer with the most votes.
        `correct`: the probability that its answer is right, which the gate decides, or the student itself.
        `likelihood`: how likely the student finds its answer: the geometric mean over its tokens.
    accept_at: the least confidence with which the student's answer stands; or `auto:<run directory>`: one at which a
        share of `ask_share` of the questions of that run would have gone to the teacher. Default 0.5.
    ask_share: that share, at most. Default None: only `accept_at=auto` needs it.
    k: the number of draws of `confidence=agreement`. Default 5.
    temperature: the temperature of these draws, unless the task's own settings sample. Default 0.7.
    top_p: nucleus sampling, likewise. Default 1.0: off.
    """

    confidence: Literal["agreement", "correct", "likelihood"] = "agreement"
    accept_at: float | str = 0.5
    ask_share: float | None = None
    k: int = 5
    temperature: float = 0.7
    top_p: float = 1.0
    correct_question: PromptText = prompt(lambda: IS_RIGHT, "the yes/no question of `confidence=correct`")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers first"),
        "teacher": Role("answers where the student is not confident"),
        "gate": Role("decides for the student whether its answer is right", frozenset({"decide"}), optional=True),
    }

    def __post_init__(self) -> None:
        check_given("accept_at", self.accept_at, lambda at: 0 <= at <= 1, "a number from 0 to 1")
        if isinstance(self.accept_at, str) != (self.ask_share is not None):
            raise ValueError("`accept_at=auto:<run directory>` and `ask_share` need each other: give both, or neither")
        if self.ask_share is not None and not 0 <= self.ask_share <= 1:
            raise ValueError("`ask_share` is a share from 0 to 1")
        check_draws("k", self.k, self.temperature, self.top_p)

    @property
    def samples(self) -> bool:
        return self.confidence == "agreement" and self.temperature > 0

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        student: set[Capability] = {"generate", "score"} if self.confidence == "likelihood" else {"generate"}
        needed: dict[str, frozenset[Capability]] = {"teacher": frozenset({"generate"})}
        if self.confidence == "correct":
            needed["gate"] = frozenset({"decide"})
        return {"student": frozenset(student), **needed}

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Cascade:
        """Return the protocol with `accept_at` as a number."""
        if not isinstance(self.accept_at, str) or self.ask_share is None:
            return self
        measure = {name: getattr(self, name) for name in MEASURE}
        asked = {name: seats[name].identity if name in seats else None for name in ("student", "gate")}
        return with_values(self, accept_at=threshold_from(self.accept_at, self.ask_share, measure, asked))

    async def solve(self, question: Question, seats: Seats) -> Solution:
        found, threshold = await self._answer(question, seats), float(self.accept_at)
        accepted = found.suffices(threshold)
        figures = {"probability": found.share, "threshold": threshold}
        seats.note(found.evidence, accepted=accepted, malformed=found.unknown, **figures)
        answer, stop = found.answer, "accepted"
        if not accepted:
            final = await seats.teacher.generate(question.context, kind="answer")
            answer, stop = (final, "asked") if final.text.strip() else (found.answer, "silent_teacher")
            seats.note(found.answer, kept=0)
        seats.note(answer, kept=answer.completion_tokens)
        totals = {"asked": int(not accepted), "undecided": int(found.unknown)}
        return Solution(answer.text, stop, {"confidence": found.share, "totals": totals})

    async def _answer(self, question: Question, seats: Seats) -> Confidence:
        """Return the student's answer with how confident it is."""
        student = seats.student
        if self.confidence == "agreement":
            return agreement(question, seats, await draw(question, student, self.k, self.temperature, self.top_p))
        draft = await student.generate(question.context, kind="draft")
        if not draft.text.strip():
            return Confidence(draft, draft, 0.0)
        if self.confidence == "likelihood":
            return await likelihood(student, question, draft)
        return await decided(seats.either("gate", "student"), question, draft, self.correct_question)


class CascadeLM(ProtocolLM):
    """`lm_eval --model cascade --model_args student=<spec>,teacher=<spec>`."""

    protocol = Cascade


# The options on which a confidence depends.
MEASURE = ("confidence", "k", "temperature", "top_p", "correct_question")

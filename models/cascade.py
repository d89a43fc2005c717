"""Cascade: a small model answers, and a large one is asked only where the small one is not confident.

After FrugalGPT (Chen et al., arXiv 2305.05176). What stands for its trained scorer is the agreement of several draws
(Yue et al., arXiv 2310.03094), a yes/no question (self-verification, Aggarwal et al., arXiv 2310.12963) or the
likelihood of the answer's tokens (Gupta et al., arXiv 2404.10136).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from harness_ext.backends.base import Backend
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.decisions import Predicate
from harness_ext.decisions.questions import YES
from harness_ext.models.drawing import check_sampling, draw, mean_likelihood, vote_among
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Capability, Protocol, Question, Role, Seats, SeatSetup
from harness_ext.records import CallResult, Completion, Solution
from harness_ext.records.confidences import recorded_confidences, threshold_for


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
    correct_question: PromptText = prompt(lambda: CORRECT_QUESTION, "the yes/no question of `confidence=correct`")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers first"),
        "teacher": Role("answers where the student is not confident"),
        "gate": Role("decides in the student's place whether its answer is right", optional=True),
    }

    def __post_init__(self) -> None:
        given = self.accept_at
        if not given.startswith("auto:") if isinstance(given, str) else not 0 <= given <= 1:
            raise ValueError(f"`accept_at={given}`: expected a number from 0 to 1, or `auto:<run directory>`")
        if isinstance(given, str) != (self.ask_share is not None):
            raise ValueError("`accept_at=auto:<run directory>` and `ask_share` need each other: give both, or neither")
        if self.ask_share is not None and not 0 <= self.ask_share <= 1:
            raise ValueError("`ask_share` is a share from 0 to 1")
        if not 1 <= self.k <= 100_000:
            raise ValueError("`k` must be 1 or more, and at most 100,000")
        check_sampling(self.temperature, self.top_p)

    @property
    def samples(self) -> bool:
        return self.confidence == "agreement" and self.temperature > 0

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        student: frozenset[Capability] = frozenset(
            {"generate", "score"} if self.confidence == "likelihood" else {"generate"}
        )
        gate: Mapping[str, frozenset[Capability]] = {"gate": frozenset()} if self.confidence == "correct" else {}
        return {"student": student, "teacher": frozenset({"generate"}), **gate}

    def problems(self, seats: Mapping[str, Backend]) -> list[str]:
        gate = seats.get("gate")
        if gate is None or gate.decision_sources or gate.capabilities & {"generate", "score"}:
            return []
        return [f"`gate`: {gate.name} cannot decide: give a decision model, or one that writes or scores texts"]

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Cascade:
        """Return the protocol with `accept_at` as a number."""
        if not isinstance(self.accept_at, str) or self.ask_share is None:
            return self
        options = {name: getattr(self, name) for name in MEASURE}
        asked = {name: seats[name].identity if name in seats else None for name in ("student", "gate")}
        try:
            found = recorded_confidences(Path(self.accept_at[5:]).expanduser(), options, asked)
        except ValueError as error:
            raise ValueError(f"`accept_at={self.accept_at}`: {error}") from error
        chosen = copy(self)
        object.__setattr__(chosen, "accept_at", threshold_for(found, self.ask_share))
        return chosen

    async def solve(self, question: Question, seats: Seats) -> Solution:
        draft, evidence, confidence, says_yes = await self._answer(question, seats)
        confident = bool(says_yes) if confidence is None else confidence >= float(self.accept_at)
        accepted = confident and bool(draft.text.strip())
        undecided = confidence is None and says_yes is None
        seats.note(
            evidence, accepted=accepted, malformed=undecided, probability=confidence, threshold=float(self.accept_at)
        )
        details = {"confidence": confidence, "totals": {"asked": int(not accepted), "undecided": int(undecided)}}
        answer, stop = draft, "accepted"
        if not accepted:
            final = await seats.teacher.generate(question.context, kind="answer")
            answer, stop = (final, "asked") if final.text.strip() else (draft, "silent_teacher")
            seats.note(draft, kept=0)
        seats.note(answer, kept=answer.completion_tokens)
        return Solution(answer.text, stop, details)

    async def _answer(
        self, question: Question, seats: Seats
    ) -> tuple[Completion, CallResult, float | None, bool | None]:
        """Return the student's answer, the result that shows how confident it is, the confidence, and the decision.

        The confidence is None if a decision has no probabilities, and the decision is None if there is none.
        """
        student = seats.student
        if self.confidence == "agreement":
            drafts = await draw(question, student, self.k, self.temperature, self.top_p)
            result, winner = vote_among(question, seats, drafts)
            return winner, winner, max((votes for _, votes in result.counts), default=0.0) / len(drafts), None
        draft = await student.generate(question.context, kind="draft")
        if not draft.text.strip():
            return draft, draft, 0.0, None
        if self.confidence == "likelihood":
            found = (await student.loglikelihood(question.context, [draft.text], kind="score"))[0]
            return draft, found, mean_likelihood(found.logprob, draft), None
        state = {"task": question.text, "answer": question.shown(draft.text)}
        asked = {"correct": Predicate(self.correct_question)}
        decision = (await seats.either("gate", "student").decide(state, asked, kind="verdict"))["correct"]
        says_yes = None if decision.choice is None else decision.choice == YES
        return draft, decision, decision.probability(YES), says_yes


class CascadeLM(ProtocolLM):
    """`lm_eval --model cascade --model_args student=<spec>,teacher=<spec>`."""

    protocol = Cascade


# The options on which a confidence depends.
MEASURE = ("confidence", "k", "temperature", "top_p", "correct_question")
CORRECT_QUESTION = "Is the answer to the task right?"

"""Best of n: a student answers several times, and a verifier chooses the answer.

`by=aspects` is BoN-MAV of Lifshitz et al., "Multi-Agent Verification: Scaling Test-Time Compute with Multiple
Verifiers" (arXiv 2502.20379): verifiers of single aspects approve or not, and their approvals are added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.models.asking import IS_RIGHT
from harness_ext.models.drawing import answers_in, check_draws, draw, vote_among
from harness_ext.models.scoring import SCORERS
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Capability, Protocol, Question, Role, Seats
from harness_ext.reading import vote
from harness_ext.records import Completion, Solution


@dataclass(frozen=True)
class BestOfN(Protocol):
    """The options of `best_of_n`.

    n: the number of drafts. Default 5.
    by: what a draft's score is. Default `correct`.
        `correct`: the probability that the verifier answers yes to `correct_question`; 1 or 0 without probabilities.
        `rating`: the verifier's rating from 0 to 9, expected over its probabilities where it has some.
        `aspects`: how many of the questions in `aspects` the verifier answers with yes.
        `reward`: the score of a sequence classifier, the verifier.
        `likelihood`: how likely the verifier finds the draft: the geometric mean over its tokens.
        `self_certainty`: how far the student's own distributions are from the uniform one (Kang et al., arXiv
            2502.18581). There is no verifier.
    combine: the answer is that of the draft with the highest score (`best`), or the one whose drafts have the highest
        sum of scores (`weighted`). Default `best`.
    temperature: the temperature of the drafts, unless the task's own settings sample. Default 0.7.
    top_p: nucleus sampling, likewise. Default 1.0: off.
    """

    n: int = 5
    by: Literal["correct", "rating", "aspects", "reward", "likelihood", "self_certainty"] = "correct"
    combine: Literal["best", "weighted"] = "best"
    temperature: float = 0.7
    top_p: float = 1.0
    correct_question: PromptText = prompt(lambda: IS_RIGHT, "the yes/no question of `by=correct`")
    rating_question: PromptText = prompt(lambda: RATING_QUESTION, "the question of `by=rating`")
    aspects: PromptText = prompt(lambda: ASPECTS, "the yes/no questions of `by=aspects`, one per line")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task n times"),
        "verifier": Role("scores the answers"),
    }

    def __post_init__(self) -> None:
        check_draws("n", self.n, self.temperature, self.top_p)
        if not self.aspects.split():
            raise ValueError("`aspects` contains no question")

    @property
    def samples(self) -> bool:
        return self.temperature > 0

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        if self.by == "self_certainty":
            return {"student": frozenset({"generate", "distribution"})}
        verifier: Mapping[str, Capability] = {"reward": "reward", "likelihood": "score"}
        return {"student": frozenset({"generate"}), "verifier": frozenset({verifier.get(self.by, "decide")})}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        drafts = await draw(question, seats.student, self.n, self.temperature, self.top_p)
        # Equal texts get equal scores, so each is scored once. Empty ones get none: their likelihood would be 1.
        texts = {draft.text: draft for draft in drafts if draft.text.strip()}
        seat = seats.student if self.by == "self_certainty" else seats.verifier
        questions = {"correct": self.correct_question, "rating": self.rating_question, "aspects": self.aspects}
        score_of, asked = SCORERS[self.by], questions.get(self.by, "")
        scored = await asyncio.gather(*(score_of(seat, question, draft, asked) for draft in texts.values()))
        found = dict(zip(texts, scored, strict=True))
        scores = [found.get(draft.text) for draft in drafts]
        for draft, score in zip(drafts, scores, strict=True):
            seats.note(draft, score=None if score is None else round(score, 6))
        unscored = scores.count(None)
        totals = {"drafts": len(drafts), "unscored": unscored, "different": len({draft.text for draft in drafts})}
        if unscored == len(scores):
            _, winner = vote_among(question, seats, drafts)
            return Solution(winner.text, "unscored", {"totals": totals})
        winner = self._winner(question, drafts, [-1.0 if score is None else score for score in scores])
        seats.note(winner, kept=winner.completion_tokens)
        return Solution(winner.text, self.combine, {"scores": scores, "totals": totals})

    def _winner(self, question: Question, drafts: Sequence[Completion], scores: Sequence[float]) -> Completion:
        """Return the draft whose text is the answer: of equal ones the first."""
        if self.combine == "weighted":
            result = vote(answers_in(question, drafts), [max(0.0, score) for score in scores])
            if result.winner is not None:
                return drafts[result.winner]
        return drafts[max(range(len(drafts)), key=scores.__getitem__)]


class BestOfNLM(ProtocolLM):
    """`lm_eval --model best_of_n --model_args student=<spec>,verifier=<spec>,n=8`."""

    protocol = BestOfN


RATING_QUESTION = "How good is the answer: is it right, does every step hold, does it answer what the task asks for?"
ASPECTS = """\
Is every calculation in the answer right?
Does each step of the answer follow from the task and the steps before it?
Are all facts that the answer relies on true?
Does the answer take into account everything that the task says?
Does the answer give exactly what the task asks for?
Is the final result right?"""

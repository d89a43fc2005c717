"""Best of n: a student answers several times, and a verifier chooses the answer.

`by=aspects` is BoN-MAV of Lifshitz et al., "Multi-Agent Verification: Scaling Test-Time Compute with Multiple
Verifiers" (arXiv 2502.20379): verifiers of single aspects approve or not, and their approvals are added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import ClassVar, Literal

from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.decisions import Predicate, Score
from harness_ext.decisions.questions import YES
from harness_ext.models.drawing import check_sampling, draw, mean_likelihood, vote_among
from harness_ext.options import PromptText, prompt
from harness_ext.protocol import Capability, Protocol, Question, Role, Seat, Seats
from harness_ext.reading import answer_form, read_answer, vote
from harness_ext.records import Completion, Decision, Solution


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
    correct_question: PromptText = prompt(lambda: CORRECT_QUESTION, "the yes/no question of `by=correct`")
    rating_question: PromptText = prompt(lambda: RATING_QUESTION, "the question of `by=rating`")
    aspects: PromptText = prompt(lambda: ASPECTS, "the yes/no questions of `by=aspects`, one per line")

    roles: ClassVar[Mapping[str, Role]] = {
        "student": Role("answers the task n times"),
        "verifier": Role("scores the answers"),
    }

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 100_000:
            raise ValueError("`n` must be 1 or more, and at most 100,000")
        check_sampling(self.temperature, self.top_p)
        if not self.aspects.split():
            raise ValueError("`aspects` contains no question")

    @property
    def samples(self) -> bool:
        return self.temperature > 0

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        if self.by == "self_certainty":
            return {"student": frozenset({"generate", "distribution"})}
        verifier: Mapping[str, Capability] = {"reward": "reward", "likelihood": "score"}
        return {"student": frozenset({"generate"}), "verifier": frozenset({verifier.get(self.by, "generate")})}

    async def solve(self, question: Question, seats: Seats) -> Solution:
        drafts = await draw(question, seats.student, self.n, self.temperature, self.top_p)
        # Equal texts get equal scores, so each is scored once. Empty ones get none: their likelihood would be 1.
        texts = list(dict.fromkeys(draft.text for draft in drafts if draft.text.strip()))
        found = dict(zip(texts, await self._scores(question, seats, texts, drafts), strict=True))
        scores = [found.get(draft.text) for draft in drafts]
        for draft, score in zip(drafts, scores, strict=True):
            seats.note(draft, score=None if score is None else round(score, 6))
        unscored = scores.count(None)
        totals = {"drafts": len(drafts), "unscored": unscored, "different": len({draft.text for draft in drafts})}
        if unscored == len(scores):
            _, winner = vote_among(question, seats, drafts)
            return Solution(winner.text, "unscored", {"totals": totals})
        winner = self._winner(question, drafts, scores)
        seats.note(winner, kept=winner.completion_tokens)
        return Solution(winner.text, self.combine, {"scores": scores, "totals": totals})

    def _winner(self, question: Question, drafts: Sequence[Completion], scores: Sequence[float | None]) -> Completion:
        """Return the draft whose text is the answer: of equal ones the first."""
        given = [-1.0 if score is None else score for score in scores]
        if self.combine == "weighted":
            form = answer_form(question.text)
            answers = [read_answer(question.prefix + draft.text, form=form) for draft in drafts]
            result = vote(answers, [max(0.0, score) for score in given])
            if result.winner is not None:
                return drafts[result.winner]
        return drafts[max(range(len(drafts)), key=given.__getitem__)]

    async def _scores(
        self, question: Question, seats: Seats, texts: Sequence[str], drafts: Sequence[Completion]
    ) -> list[float | None]:
        """Return the score of each text; None if the verifier made no decision about it."""
        if self.by == "self_certainty":
            return list(await asyncio.gather(*(_certainty(question, seats.student, text) for text in texts)))
        verifier, shown = seats.verifier, [question.prefix + text for text in texts]
        if self.by == "reward":
            found = await verifier.loglikelihood(question.context, shown, kind="reward")
            return [exp(one.logprob) for one in found]
        if self.by == "likelihood":
            written = {draft.text: draft for draft in drafts}
            logprobs = await verifier.score(question.context, texts, kind="score")
            return [mean_likelihood(logprob, written[text]) for text, logprob in zip(texts, logprobs, strict=True)]
        return list(await asyncio.gather(*(self._decided(verifier, question, text) for text in shown)))

    async def _decided(self, verifier: Seat, question: Question, text: str) -> float | None:
        """Return a draft's score by the verifier's decisions."""
        state = {"task": question.text, "answer": text.strip()}
        if self.by == "rating":
            asked = {"rating": Score(self.rating_question, LEVELS)}
            return (await verifier.decide(state, asked, kind="score"))["rating"].expected
        if self.by == "correct":
            found = await verifier.decide(state, {"correct": Predicate(self.correct_question)}, kind="score")
            return _approval(found["correct"])
        lines = [line.strip() for line in self.aspects.splitlines() if line.strip()]
        answers = await verifier.decide(state, {line: Predicate(line) for line in lines}, kind="score")
        decided = [one.choice == YES for one in answers.values() if one.choice is not None]
        return float(sum(decided)) if decided else None


async def _certainty(question: Question, student: Seat, text: str) -> float | None:
    """Return the student's self-certainty about a draft; None for one without text."""
    assert student.backend.tokens is not None
    ids = student.backend.tokens.encode(text)
    found = await student.verify(question.context, (), ids, kind="score", certainty=True)
    return found.certainty


def _approval(decision: Decision) -> float | None:
    """Return the probability of yes; without probabilities 1 or 0, and None without a decision."""
    probability = decision.probability(YES)
    if probability is not None:
        return probability
    return None if decision.choice is None else float(decision.choice == YES)


class BestOfNLM(ProtocolLM):
    """`lm_eval --model best_of_n --model_args student=<spec>,verifier=<spec>,n=8`."""

    protocol = BestOfN


LEVELS = tuple(f"{n} of 9{note}" for n, note in enumerate([" (certainly wrong)", *[""] * 8, " (certainly right)"]))
CORRECT_QUESTION = "Is the answer to the task right?"
RATING_QUESTION = "How good is the answer: is it right, does every step hold, does it answer what the task asks for?"
ASPECTS = """\
Is every calculation in the answer right?
Does each step of the answer follow from the task and the steps before it?
Are all facts that the answer relies on true?
Does the answer take into account everything that the task says?
Does the answer give exactly what the task asks for?
Is the final result right?"""

"""How confident a seat is of its answer, and from which confidence on an answer stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.decisions.questions import YES
from harness_ext.models.asking import ask_whether_right
from harness_ext.models.drawing import vote_among
from harness_ext.models.from_run import run_of
from harness_ext.models.scoring import logprob_of, mean_likelihood, tokens_of
from harness_ext.protocol import Question, Seat, Seats
from harness_ext.records import CallResult, Completion
from harness_ext.records.confidences import recorded_confidences, threshold_for


@dataclass(frozen=True, slots=True)
class Confidence:
    """How confident a seat is of an answer.

    answer: the answer.
    evidence: the result of the call that shows it.
    share: the confidence, from 0 to 1; None for a decision without probabilities.
    choice: what such a decision is; None if there is none, or if there is a share. Default None.
    """

    answer: Completion
    evidence: CallResult
    share: float | None
    choice: str | None = None

    @property
    def unknown(self) -> bool:
        """Return whether the seat was asked and made no decision."""
        return self.share is None and self.choice is None

    def suffices(self, threshold: float) -> bool:
        """Return whether there is an answer, and a confidence of at least `threshold` in it."""
        confident = self.choice == YES if self.share is None else self.share >= threshold
        return confident and bool(self.answer.text.strip())


def agreement(question: Question, seats: Seats, drafts: Sequence[Completion]) -> Confidence:
    """Return the answer that most drafts give, with their share."""
    result, winner = vote_among(question, seats, drafts)
    return Confidence(winner, winner, max((votes for _, votes in result.counts), default=0.0) / len(drafts))


async def decided(seat: Seat, question: Question, draft: Completion, asked: str) -> Confidence:
    """Return a draft with the probability that a seat gives to its being right.

    seat: the seat.
    question: the question.
    draft: the draft.
    asked: the yes/no question that the seat answers.
    """
    decision = await ask_whether_right(seat, question, draft.text, kind="verdict", asked=asked)
    share = decision.probability(YES)
    return Confidence(draft, decision, share, decision.choice if share is None else None)


async def likelihood(seat: Seat, question: Question, draft: Completion) -> Confidence:
    """Return a draft with how likely a seat finds it: the geometric mean over its tokens."""
    found = await logprob_of(seat, question, draft)
    return Confidence(draft, found, mean_likelihood(found.logprob, draft, tokens_of(seat, draft)))


def threshold_from(given: str, share: float, options: Mapping[str, Any], seats: Mapping[str, Any]) -> float:
    """Return the highest threshold that at most a share of the answers of another run do not reach.

    given: the run, as `auto:<run directory>`.
    share: the share.
    options: the options on which confidences depend, as the run must have had them.
    seats: what identifies each seat on which they depend, likewise; None for a seat without a model.

    Raises ValueError with cause and remedy.
    """
    run = run_of(given)
    assert run is not None
    try:
        return threshold_for(recorded_confidences(run, options, seats), share)
    except ValueError as error:
        raise ValueError(f"`accept_at={given}`: {error}") from error

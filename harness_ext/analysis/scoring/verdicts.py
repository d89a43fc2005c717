"""Reads the verdicts on drafts from transcripts: what was decided, how probable it was, and what it cost until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, fsum
from typing import Any

from harness_ext.records import CallResult, Decision, Loglikelihood, Transcript, Turn, Usage
from harness_ext.records.usage import SeatCost

REVIEWS = ("review", "verdict")


@dataclass(frozen=True)
class JudgedDraft:
    """A draft with a verdict, and whether it is right.

    document: the task and the number of the document.
    right: whether the task's metric counts the draft as right.
    review: the entry of `reviews_of`.
    """

    document: tuple[str, int]
    right: bool
    review: Mapping[str, Any]

    @property
    def probability(self) -> float | None:
        """Return the probability that the draft is right, as the run used it."""
        found: float | None = self.review["probability"]
        return found


def reviews_of(transcript: Transcript) -> list[dict[str, Any]]:
    """Return one entry per reviewed draft. A review that was asked for again counts with its last verdict.

    A draft's own turn, or that of its score, may record the verdict and its probability as well: a confidence.

    The entries are:

    round: how many refinements came before the draft.
    accepted, malformed: whether the verdict accepted the draft, and whether it could not be read.
    seat, source: which seat decided, and where the decision comes from (`Decision.source`).
    question: the digest of what was asked; null if it was not recorded.
    probability, raw: the probability that the draft is right, as it was used and before any calibration; null if there
        is none.
    threshold: the least probability that was accepted; null if it was not recorded.
    label_mass: the share of probability that the labels had; null if it is unknown.
    prompt_tokens, completion_tokens: the tokens of the question's calls up to and including this verdict; null if they
        are unknown.
    tokens_by_seat: the same two numbers by seat.
    """
    found: dict[int, dict[str, Any]] = {}
    refined = 0
    for number, turn in enumerate(transcript.turns):
        refined += turn.kind == "refine"
        verdict = turn.verdict or {}
        if "accepted" not in verdict or (turn.kind not in REVIEWS and not _is_confidence(turn)):
            continue
        last = max(number, _scored_with(transcript.turns, number).stop - 1)
        if turn.kind == "draft":  # the agreement of several drafts is known once all of them are there
            last = max(i for i, other in enumerate(transcript.turns) if other.kind == "draft")
        probability = _probability(verdict.get("probability"))
        found[refined] = {
            "round": refined,
            "accepted": bool(verdict["accepted"]),
            "malformed": bool(verdict.get("malformed")),
            "seat": turn.seat,
            "source": source_of(turn.result),
            "question": verdict.get("question"),
            "probability": probability,
            "raw": None if probability is None else _raw(turn, probability),
            "threshold": _probability(verdict.get("threshold")),
            "label_mass": label_mass(transcript.turns, number) if turn.kind in REVIEWS else None,
            **tokens(transcript.turns[: last + 1]),
        }
    return list(found.values())


def _is_confidence(turn: Turn) -> bool:
    return turn.kind in ("draft", "score") and "probability" in (turn.verdict or {})


def tokens(turns: Sequence[Turn]) -> dict[str, Any]:
    """Return the tokens that turns read and wrote, together and by seat; None where a part is unknown.

    Reused calls count in full. Where a protocol takes a seat, its calls count, by the seats of their models.
    """
    calls = [call for turn in turns for call in turn.calls]

    def of(turns: Sequence[Turn]) -> dict[str, int | None]:
        usage = Usage.total(SeatCost().usage(turn) for turn in turns)
        return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}

    seats = dict.fromkeys(call.seat for call in calls)
    by_seat = {seat: list(of([call for call in calls if call.seat == seat]).values()) for seat in seats}
    return {**of(calls), "tokens_by_seat": by_seat}


def _scored_with(turns: Sequence[Turn], number: int) -> range:
    """Return the indices of the calls that scored the labels of a decision, one call each; empty for other decisions.

    Only one of them records the verdict.
    """
    turn = turns[number]
    if not isinstance(turn.result, Loglikelihood):
        return range(0)

    def belongs(other: Turn) -> bool:
        return isinstance(other.result, Loglikelihood) and (other.seat, other.kind) == (turn.seat, turn.kind)

    begin, end = number, number + 1
    while begin > 0 and belongs(turns[begin - 1]):
        begin -= 1
    while end < len(turns) and belongs(turns[end]):
        end += 1
    return range(begin, end)


def source_of(result: CallResult) -> str:
    """Return where a decision comes from (`Decision.source`)."""
    if isinstance(result, Decision):
        return result.source
    return "logprobs" if isinstance(result, Loglikelihood) else "text"


def _raw(turn: Turn, probability: float) -> float:
    """Return the probability before calibration."""
    verdict = turn.verdict or {}
    if (raw := _probability(verdict.get("raw"))) is not None:
        return raw
    if "calibrated" in verdict and isinstance(turn.result, Decision):
        found = turn.result.probability(turn.result.options[0])
        return probability if found is None else found
    return probability


def label_mass(turns: Sequence[Turn], number: int) -> float | None:
    """Return the share of probability that the labels of a decision had, or None if it is unknown.

    turns: the turns of a question.
    number: the index of the turn that records the decision.
    """
    result = turns[number].result
    if isinstance(result, Decision):
        return result.label_mass
    scored = [turns[i].result for i in _scored_with(turns, number)]
    masses = [exp(one.logprob) for one in scored if isinstance(one, Loglikelihood)]
    return min(1.0, fsum(masses)) if masses else None


def _probability(value: Any) -> float | None:
    """Return a recorded probability, or None if it is missing or not a probability."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else None

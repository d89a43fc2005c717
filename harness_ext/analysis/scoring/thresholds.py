"""What a run would have given with another threshold of acceptance, as far as its records can say.

With a threshold, a question stops at the first draft whose probability reaches it. A lower threshold than the run's
stops at a draft that the run recorded. A higher one may go on where the run stopped: the refinements that would have
followed were never written, and the question is unknown at that threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 101


@dataclass(frozen=True)
class Stop:
    """What a question amounts to if it ends at some point.

    right: whether its answer is then right.
    rounds: how many refinements were made.
    tokens: the tokens of all calls up to there; None if they are unknown.
    completion_tokens: those of them that were written.
    tokens_by_seat: the tokens that each seat read and wrote.
    """

    right: bool
    rounds: int
    tokens: int | None = None
    completion_tokens: int | None = None
    tokens_by_seat: Mapping[str, Sequence[int | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class ReviewedDraft:
    """A draft on which a verdict was given.

    probability: the probability that it is right; None if the verdict had none, so that no threshold changes it.
    accepted: whether the run accepted it, and so ended there.
    stop: what the question amounts to if the draft is accepted.
    """

    probability: float | None
    accepted: bool
    stop: Stop


@dataclass(frozen=True)
class Course:
    """What a run recorded of one question.

    drafts: the reviewed drafts, in order. Only the last can have been accepted.
    end: what the question amounts to if none of them is accepted; if the run accepted the last, what it recorded.
    """

    drafts: tuple[ReviewedDraft, ...]
    end: Stop


@dataclass(frozen=True)
class Point:
    """What a run would have given with one threshold.

    accept_at: the threshold.
    exact: how many questions the records answer exactly.
    unknown: how many would have gone on where the run stopped.
    accuracy: the share of right answers; None if a question is unknown.
    accuracy_low, accuracy_high: what it is if all unknown questions end wrong, and if all of them end right.
    accepted: how many questions end with an accepted draft, of those that are exact.
    accepted_right: how many of these drafts are right.
    rounds: the mean number of refinements. With unknown questions, this and the tokens are lower bounds.
    tokens: the mean number of tokens per question, read and written; None if it is unknown.
    completion_tokens: the mean number of written tokens.
    tokens_by_seat: the mean numbers of tokens that each seat read and wrote.
    """

    accept_at: float
    exact: int
    unknown: int
    accuracy: float | None
    accuracy_low: float
    accuracy_high: float
    accepted: int
    accepted_right: int
    rounds: float
    tokens: float | None
    completion_tokens: float | None
    tokens_by_seat: Mapping[str, tuple[float | None, float | None]]


def curve(courses: Sequence[Course], thresholds: Sequence[float]) -> list[Point]:
    """Return what the questions of a run would have given with each of the thresholds."""
    if not courses:
        return []
    width = max((len(course.drafts) for course in courses), default=0)
    reached = np.full((len(courses), width + 1), -np.inf)
    stops = []
    for i, course in enumerate(courses):
        reached[i, : len(course.drafts)] = [_decisive(draft) for draft in course.drafts]
        stops.append([*(draft.stop for draft in course.drafts), course.end])
    ended = np.array([bool(course.drafts) and course.drafts[-1].accepted for course in courses])
    lengths = np.array([len(course.drafts) for course in courses])
    by_seat = _by_seat(stops, width + 1)
    return [_point(threshold, reached, stops, ended, lengths, by_seat) for threshold in thresholds]


def thresholds_of(courses: Sequence[Course], used: Sequence[float]) -> list[float]:
    """Return the thresholds worth looking at: 0, 1, those that were used, and the recorded probabilities.

    Of more than a hundred distinct probabilities, evenly spaced quantiles stand for all.
    """
    recorded = sorted(d.probability for course in courses for d in course.drafts if d.probability is not None)
    distinct = sorted(set(recorded))
    if len(distinct) > MOST_POINTS:
        places = np.linspace(0, len(recorded) - 1, MOST_POINTS).round().astype(int)
        distinct = [recorded[place] for place in places]
    return sorted({0.0, 1.0, *used, *distinct})


def _decisive(draft: ReviewedDraft) -> float:
    """Return the highest threshold at which a draft is accepted."""
    if draft.probability is None:
        return np.inf if draft.accepted else -np.inf
    return draft.probability


def _point(
    threshold: float,
    reached: NDArray[np.float64],
    stops: Sequence[Sequence[Stop]],
    ended: NDArray[np.bool_],
    lengths: NDArray[np.int64],
    by_seat: Mapping[str, NDArray[np.float64]],
) -> Point:
    passes = reached >= threshold
    accepts = passes.any(axis=1)
    unknown = ~accepts & ended
    at = np.where(accepts, passes.argmax(axis=1), lengths)
    chosen = [stops[i][index] for i, index in enumerate(at)]
    right = np.array([stop.right for stop in chosen])
    known_right = int((right & ~unknown).sum())
    number, open_ = len(chosen), int(unknown.sum())
    return Point(
        threshold,
        number - open_,
        open_,
        None if open_ else known_right / number,
        known_right / number,
        (known_right + open_) / number,
        int(accepts.sum()),
        int((accepts & right).sum()),
        sum(stop.rounds for stop in chosen) / number,
        _mean([stop.tokens for stop in chosen]),
        _mean([stop.completion_tokens for stop in chosen]),
        {seat: _means(found[np.arange(number), at]) for seat, found in by_seat.items()},
    )


def _by_seat(stops: Sequence[Sequence[Stop]], width: int) -> dict[str, NDArray[np.float64]]:
    """Return the tokens that each seat read and wrote, by question and stop; unknown ones are not a number."""
    seats = dict.fromkeys(seat for row in stops for stop in row for seat in stop.tokens_by_seat)
    found = {seat: np.zeros((len(stops), width, 2)) for seat in seats}
    for i, row in enumerate(stops):
        for j, stop in enumerate(row):
            for seat, tokens in stop.tokens_by_seat.items():
                found[seat][i, j] = [np.nan if count is None else count for count in tokens]
    return found


def _means(tokens: NDArray[np.float64]) -> tuple[float | None, float | None]:
    read, written = (None if np.isnan(mean) else float(mean) for mean in tokens.mean(axis=0))
    return read, written


def _mean(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None

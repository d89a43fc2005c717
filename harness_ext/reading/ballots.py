"""Reading votes among numbered answers: approvals, rankings, and points."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Literal

from harness_ext.reading.prose import cut_run_on
from harness_ext.reading.reply import cleaned

Ballot = Literal["approval", "ranked", "cumulative"]

POINTS = 10.0  # what each voter distributes in a cumulative vote

_NUMBER = re.compile(r"(?<![\w.])\d{1,4}(?!\w|\.\d|%)")
_LIST = re.compile(
    r"\W*(?:(?:final|my|vote|votes|ballot|ranking|order|approved?|approvals?|acceptable|answers?|numbers?|are|is)\W+)*"
    r"\d{1,4}(?:\W+(?:(?:and|then|answers?)\W+){0,3}\d{1,4})*\W*",
    re.IGNORECASE,
)
_POINTS = re.compile(
    r"(?<![\w.])(\d{1,4})[ \t]*(?:[:=]|->|→|\bgets\b)[ \t]*(\d{1,6}(?:\.\d{1,6})?)(?!\w|\.\d|%)", re.IGNORECASE
)
_NONE = re.compile(r"\b(?:none|neither|no answer)\b", re.IGNORECASE)


def read_ballot(text: str, kind: Ballot, answers: int) -> tuple[float, ...] | None:
    """Return how many points a voter gives to each of several answers, or None if its reply is not a valid ballot.

    text: the reply, which names the answers by their numbers, from 1.
    kind: what the numbers mean.
        `approval`: each answer that is named gets one point. `none` approves of none.
        `ranked`: of n answers, the first one gets n - 1 points and the last one none (Borda). Answers that are not
        named share what is left.
        `cumulative`: pairs such as `2: 7` give points, which are scaled to a sum of 10.
    answers: the number of answers.

    A ballot that names an answer twice, or one that does not exist, is not valid. The list of numbers at the end of a
    reply counts; without one, the numbers of its only line that contains any.
    """
    body = cleaned(cut_run_on(text)[0]).text
    if kind == "cumulative":
        return _points(body, answers)
    named = _named(body)
    if named is None:
        nothing = kind == "approval" and not _NUMBER.search(body) and _NONE.search(body)
        return (0.0,) * answers if nothing else None
    if not _are_different(named, answers):
        return None
    if kind == "approval":
        return tuple(float(number in named) for number in range(1, answers + 1))
    shared = max(answers - len(named) - 1, 0) / 2
    return tuple(
        float(answers - 1 - named.index(number)) if number in named else shared for number in range(1, answers + 1)
    )


def _named(body: str) -> list[int] | None:
    """Return the numbers of the answers that a reply names, in their order; None if it is unclear which they are."""
    lines = [line for line in body.splitlines() if _NUMBER.search(line)]
    listed = [_numbers(line) for line in takewhile(_LIST.fullmatch, reversed(lines))][::-1]
    if not listed:
        return _numbers(lines[0]) if len(lines) == 1 else None
    if len(listed) == 1:
        return listed[0]
    if all(len(numbers) == 1 for numbers in listed):
        return [numbers[0] for numbers in listed]
    if all(len(numbers) == 2 and numbers[0] == place for place, numbers in enumerate(listed, start=1)):
        return [numbers[1] for numbers in listed]  # `1. Answer 3`
    return None


def _points(body: str, answers: int) -> tuple[float, ...] | None:
    pairs = [(int(number), float(points)) for number, points in _POINTS.findall(body)]
    total = sum(points for _, points in pairs)
    if not total or not _are_different([number for number, _ in pairs], answers):
        return None
    given = dict(pairs)
    return tuple(POINTS * given.get(number, 0.0) / total for number in range(1, answers + 1))


def _numbers(line: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(line)]


def _are_different(named: Sequence[int], answers: int) -> bool:
    return len(set(named)) == len(named) and all(1 <= number <= answers for number in named)

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
_RANGE = re.compile(r"(?<![\w.–-])(\d{1,2})[ \t]*(?:-|–|\bto\b|\bthrough\b)[ \t]*(\d{1,2})(?![\w.–-])", re.IGNORECASE)
_POINTS = re.compile(
    r"(?<![\w.-])(\d{1,4})[\"')\]]{0,2}[ \t]*(?:[:=|]|->|→|\bgets\b|[-–—](?=[ \t]))[ \t]*"
    r"(-?\d{1,6}(?:\.\d{1,6})?)(?!\w|\.\d|%)"
    r"|^[ \t]*(\d{1,2})[.)][ \t]+(\d{1,6})(?:[ \t]*points?)?[ \t.]*$",
    re.IGNORECASE | re.MULTILINE,
)
# A list in which letters stand for answers, so that its numbers are not the whole ballot: "B, 1", "none, B".
_ENTRY = r"(?:(?-i:[A-J])|none|\d{1,4})"
_MIXED = re.compile(rf"(?=(?-i:[^A-J]*[A-J]))\W*{_ENTRY}(?:\W+{_ENTRY})+\W*", re.IGNORECASE)
_NONE = re.compile(r"\b(?:none|neither|no answer)\b", re.IGNORECASE)
_ALL = re.compile(r"\W*(?:all|both)(?:\W+(?:of|them|the|these|three|answers?|are|acceptable|correct|right))*\W*", re.I)
_EXCEPT = re.compile(r"\b(?:except|excluding|all but|other than|apart from|others?|rest)\b", re.IGNORECASE)
_CLAUSE = re.compile(
    r"\n|(?<=\w)[.;](?=\s)|,?\s+\b(?:but|while|whereas)\b|,(?=\s*(?:and\s+)?(?:answer\s+)?\d{1,4}\s+(?:is|are|was)\b)",
    re.I,
)
_JUDGED = re.compile(
    r"\W*(?:(?:and|neither|both|only|answers?)\W+)*\d{1,4}(?:\W+(?:(?:and|or|nor|answers?)\W+)*\d{1,4}(?!\w))*(?=\W)",
    re.I,
)
_REJECTS = re.compile(
    r"\b(?:not|no|nor|none|neither|cannot|un-?acceptable|incorrect|wrong)\b|n't\b|[✗✘❌]", re.IGNORECASE
)
_ACCEPTS = re.compile(r"\b(?:acceptable|accepted|approved?|correct|right|yes|valid)\b|[✓✔✅]", re.IGNORECASE)


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
    reply counts, or the one that it begins with. Without one, what its sentences say of each answer counts as approval,
    or the numbers of its only line that contains any, if it denies nothing.
    """
    body = cleaned(cut_run_on(text)[0]).text
    if kind == "cumulative":
        return _points(body, answers)
    named = None if _MIXED.fullmatch(body) else _named(body, kind, answers)
    if named is None or not _are_different(named, answers):
        return None
    if kind == "approval":
        return tuple(float(number in named) for number in range(1, answers + 1))
    shared = max(answers - len(named) - 1, 0) / 2
    return tuple(
        float(answers - 1 - named.index(number)) if number in named else shared for number in range(1, answers + 1)
    )


def _named(body: str, kind: Ballot, answers: int) -> list[int] | None:
    """Return the numbers of the answers that a reply names, in their order; None if it is unclear which they are."""
    lines = [line for line in body.splitlines() if _NUMBER.search(line)]
    if kind == "approval":
        if not lines:
            return [] if _NONE.search(body) else [*range(1, answers + 1)] if _ALL.fullmatch(body) else None
        lines = [_RANGE.sub(_spelled_out, line) for line in lines]
    listed = [_numbers(line) for line in takewhile(_LIST.fullmatch, reversed(lines))][::-1]
    if not listed:
        if len(lines) > 1 and _LIST.fullmatch(lines[0]) and not lines[0].rstrip().endswith(":"):
            return _numbers(lines[0])
        if len(lines) != 1 or _REJECTS.search(body) or _EXCEPT.search(body):
            return _approved(body, answers) if kind == "approval" and not _EXCEPT.search(body) else None
        return _numbers(lines[0])
    if len(listed) == 1:
        return listed[0]
    if all(len(numbers) == 1 for numbers in listed):
        return [numbers[0] for numbers in listed]
    if all(len(numbers) == 2 and numbers[0] == place for place, numbers in enumerate(listed, start=1)):
        return [numbers[1] for numbers in listed]  # `1. Answer 3`
    return None


def _approved(body: str, answers: int) -> list[int] | None:
    """Return the answers of which a reply's sentences approve; None if it is unclear what one says of which."""
    judged: dict[int, bool] = {}
    for clause in _CLAUSE.split(body):
        if not _NUMBER.search(clause):
            continue
        subject = _JUDGED.match(clause)
        rejects, accepts = _REJECTS.search(clause) is not None, _ACCEPTS.search(clause) is not None
        if subject is None or not (rejects or accepts):
            return None
        for number in _numbers(subject[0]):
            if judged.setdefault(number, not rejects) is rejects:
                return None
    approved = [number for number, accepted in judged.items() if accepted]
    return approved if approved or len(judged) == answers else None


def _points(body: str, answers: int) -> tuple[float, ...] | None:
    pairs = [(int(a or c), float(b or d)) for a, b, c, d in _POINTS.findall(body)]
    total = sum(points for _, points in pairs)
    if total <= 0 or min(points for _, points in pairs) < 0 or not _are_different([n for n, _ in pairs], answers):
        return None
    given = dict(pairs)
    return tuple(POINTS * given.get(number, 0.0) / total for number in range(1, answers + 1))


def _spelled_out(found: re.Match[str]) -> str:
    first, last = int(found[1]), int(found[2])
    return ", ".join(map(str, range(first, last + 1))) if first < last else found[0]


def _numbers(line: str) -> list[int]:
    return [int(number) for number in _NUMBER.findall(line)]


def _are_different(named: Sequence[int], answers: int) -> bool:
    return len(set(named)) == len(named) and all(1 <= number <= answers for number in named)

"""A judge compares candidates along a schedule; all matches of a round, of all prompts, are asked together."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from harness_ext.enhance.judging import FALLBACKS, JUDGE_SYSTEM, JUDGE_USER, RULES, pairwise_messages, read_choice
from harness_ext.enhance.ranking import Outcome
from harness_ext.enhance.schedules import SCHEDULES, Match, Schedule
from harness_ext.models.feedback_pair import REVIEW_SYSTEM, REVIEW_USER
from harness_ext.options import PromptText
from harness_ext.protocol import Message, Protocol, Question, Role
from harness_ext.records import Solution
from harness_ext.seats import Seats
from harness_ext.verdicts import read_verdict

Name = Literal["single_elimination", "round_robin", "swiss"]


@dataclass(frozen=True)
class Contest(Question):
    """A prompt with its candidates; of each, `correct` says whether it states the gold answer (None: no gold)."""

    candidates: tuple[str, ...] = ()
    correct: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class Reply:
    """What a judge said on two candidates in the order shown (`second` None: on one), in a match of a round."""

    round: int
    match: Match
    first: int
    second: int | None
    text: str


@dataclass(frozen=True)
class Judgement:
    """All that a contest brought: its matches by round, and the judge's replies (none where gold answers judged)."""

    matches: tuple[tuple[int, int, int], ...]
    replies: tuple[Reply, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the judgement as JSON values."""
        return {"matches": [list(m) for m in self.matches], "replies": [vars(reply) for reply in self.replies]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judgement:
        """Read what `to_json` wrote."""
        replies = tuple(Reply(**{**reply, "match": tuple(reply["match"])}) for reply in data["replies"])
        return cls(tuple((r, a, b) for r, a, b in data["matches"]), replies)


@dataclass(frozen=True)
class Tournament(Protocol):
    """Comparisons by a judge.

    `schedule` and `rounds`: see `harness_ext.enhance.schedules`. `orders=both` asks each match twice, the candidates
    changing places; a judge that does not name the same one twice has called a tie. `style=pairwise` shows two
    candidates and reads JSON (then by `fallbacks`); `style=review` shows one at a time, as `feedback_pair` does, and an
    accepted one beats one that is not. `seed` draws another bracket.
    """

    schedule: Name = "single_elimination"
    rounds: int = 0
    orders: Literal["both", "one"] = "both"
    style: Literal["pairwise", "review"] = "pairwise"
    fallbacks: str = ",".join(FALLBACKS)
    judge_max_tokens: int = 350
    judge_system: PromptText = field(default_factory=lambda: PromptText(JUDGE_SYSTEM))
    judge_user: PromptText = field(default_factory=lambda: PromptText(JUDGE_USER))
    seed: int = 0

    roles: ClassVar[Mapping[str, Role]] = {"judge": Role("compares the candidates")}

    def __post_init__(self) -> None:
        read_fallbacks(self.fallbacks)
        if self.rounds < 0 or self.judge_max_tokens < 1:
            raise ValueError("`rounds` must be 0 or more and `judge_max_tokens` 1 or more")

    async def solve(self, question: Question, seats: Seats) -> Solution:
        assert isinstance(question, Contest)
        replies: list[Reply] = []
        if self.style == "review":
            numbers = range(len(question.candidates))
            replies += await asyncio.gather(*(self._review(question, seats, i) for i in numbers))
        play = bracket(self.schedule, question, self.rounds, self.seed)
        matches, played, number = next(play, None), list[tuple[int, int, int]](), 0
        while matches:
            number += 1
            if self.style == "pairwise":
                asked = [(m, pair) for m in matches for pair in ((m, m[::-1]) if self.orders == "both" else (m,))]
                replies += await asyncio.gather(*(self._compare(question, seats, number, m, p) for m, p in asked))
            played += [(number, *match) for match in matches]
            winners = [winner_of(match, replies, self.fallbacks) for match in matches]
            try:
                matches = play.send(winners)
            except StopIteration:
                break
        return Solution(json.dumps(Judgement(tuple(played), tuple(replies)).to_json()))

    async def _compare(self, question: Contest, seats: Seats, number: int, match: Match, shown: Match) -> Reply:
        first, second = (question.candidates[i].strip() for i in shown)
        messages = pairwise_messages(self.judge_system, self.judge_user, question.text, first, second)
        reply = await seats.judge.generate(messages, kind="comparison", gen_kwargs=self._limits)
        return Reply(number, match, *shown, reply.text)

    async def _review(self, question: Contest, seats: Seats, candidate: int) -> Reply:
        user = PromptText(REVIEW_USER).fill(task=question.text, draft=question.candidates[candidate].strip())
        messages = [Message("system", REVIEW_SYSTEM), Message("user", user)]
        reply = await seats.judge.generate(messages, kind="review", gen_kwargs=self._limits)
        return Reply(0, (candidate, candidate), candidate, None, reply.text)

    @property
    def _limits(self) -> dict[str, object]:
        return {"until": [], "max_gen_toks": self.judge_max_tokens, "do_sample": False}


def read_fallbacks(text: str) -> tuple[str, ...]:
    """Return the rules named, parted by commas (`none`: no rule). Raises ValueError for a rule nobody knows."""
    names = tuple(name.strip() for name in text.split(",") if name.strip() and name.strip() != "none")
    if unknown := [name for name in names if name not in RULES]:
        raise ValueError(f"`fallbacks`: {', '.join(unknown)} is no rule; there are {', '.join(RULES)}, and none")
    return names


def bracket(schedule: str, contest: Contest, rounds: int, seed: int) -> Schedule:
    """Start a contest's schedule. Its lots depend on prompt, candidates and seed alone, not on the rows around it."""
    content = json.dumps([seed, contest.context, contest.candidates]).encode()
    rng = random.Random(hashlib.sha256(content).digest())
    return SCHEDULES[schedule](len(contest.candidates), rng, rounds)


def judge_by_gold(schedule: str, contest: Contest, rounds: int, seed: int) -> Judgement:
    """Play a contest by gold answers: a right candidate beats a wrong one, two of a kind tie."""
    assert contest.correct is not None
    play, number, played = bracket(schedule, contest, rounds, seed), 0, list[tuple[int, int, int]]()
    matches = next(play, None)
    while matches:
        number += 1
        played += [(number, *match) for match in matches]
        try:
            matches = play.send([gold_winner(match, contest.correct) for match in matches])
        except StopIteration:
            break
    return Judgement(tuple(played))


def gold_winner(match: Match, correct: Sequence[bool]) -> int | None:
    """Return which of two candidates is right, None where both or neither are."""
    a, b = match
    return None if correct[a] == correct[b] else a if correct[a] else b


def winner_of(match: Match, replies: Sequence[Reply], fallbacks: str) -> int | None:
    """Return a match's winner by the judge's replies: the one that every reply on it names, else None, a tie."""
    choices = {named(reply, fallbacks) for reply in replies if reply.second is not None and reply.match == match}
    if choices:
        return choices.pop() if len(choices) == 1 else None
    accepted = {r.first: accepts(r) for r in replies if r.second is None and r.first in match}
    a, b = (accepted.get(one) for one in match)
    return None if a is None or b is None or a == b else match[0] if a else match[1]


def named(reply: Reply, fallbacks: str) -> int | None:
    """Return the candidate that a comparison prefers; None for neither, and for what cannot be read."""
    choice = read_choice(reply.text, read_fallbacks(fallbacks)).choice
    return {1: reply.first, 2: reply.second}.get(choice or 0)


def accepts(reply: Reply) -> bool | None:
    """Return whether a review accepts its candidate; None where it says neither."""
    verdict = read_verdict(reply.text)
    return None if verdict.malformed else verdict.accepted


def outcomes(judgement: Judgement, fallbacks: str, correct: Sequence[bool] | None = None) -> list[Outcome]:
    """Return the outcome of every match played; with `correct`, by gold answers instead of the judge's replies."""
    played = [(a, b) for _, a, b in judgement.matches]
    if correct is not None:
        return [Outcome(*match, gold_winner(match, correct)) for match in played]
    return [Outcome(*match, winner_of(match, judgement.replies, fallbacks)) for match in played]

"""Tournaments: a judge compares candidates according to a schedule, with all matches of a round in parallel."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from harness_ext.decisions import Choice
from harness_ext.enhance.judging import FALLBACKS, JUDGE_SYSTEM, JUDGE_USER, RULES, pairwise_messages, read_choice
from harness_ext.enhance.ranking import MatchOutcome
from harness_ext.enhance.schedules import SCHEDULES, Match, Schedule
from harness_ext.models.reviewing import OPENINGS, REVIEW_SYSTEM, REVIEW_USER
from harness_ext.options import PromptText
from harness_ext.protocol import Message, Protocol, Question, Role, Seats
from harness_ext.reading import read_verdict
from harness_ext.records import Solution

ScheduleName = Literal["single_elimination", "round_robin", "swiss"]


@dataclass(frozen=True)
class Contest(Question):
    """A prompt with its candidates.

    candidates: the candidates.
    correct: whether each candidate states the gold answer, or None if there is no gold answer.
    """

    candidates: tuple[str, ...] = ()
    correct: tuple[bool, ...] | None = None


@dataclass(frozen=True)
class JudgeReply:
    """A judge's reply.

    round: number of the round, from 1; 0 for the review of a single candidate.
    match: the match that the reply belongs to.
    first, second: the candidates in the order shown; `second` is None for a review.
    text: the reply; a decision is written in the form that `pairwise` asks for.
    preference: the probability that the judge prefers the first candidate, if its reply was a decision with
        probabilities. Default None.
    """

    round: int
    match: Match
    first: int
    second: int | None
    text: str
    preference: float | None = None


@dataclass(frozen=True)
class ContestRecord:
    """The record of a contest.

    matches: the matches, as (round, candidate, candidate).
    replies: the judge's replies; empty if gold answers decided.
    """

    matches: tuple[tuple[int, int, int], ...]
    replies: tuple[JudgeReply, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"matches": [list(m) for m in self.matches], "replies": [vars(reply) for reply in self.replies]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ContestRecord:
        """Read what `to_json` wrote."""
        replies = tuple(JudgeReply(**{**reply, "match": tuple(reply["match"])}) for reply in data["replies"])
        return cls(tuple((r, a, b) for r, a, b in data["matches"]), replies)


@dataclass(frozen=True)
class Tournament(Protocol):
    """Has a judge compare the candidates of a prompt.

    schedule: `single_elimination`, `round_robin` or `swiss`. Default `single_elimination`.
    rounds: number of rounds; 0 plays all rounds, and ceil(log2 n) rounds of a Swiss schedule. Default 0.
    orders: `both` shows each pair in both orders, and the match is a tie unless the judge prefers the same candidate
        twice; `one` shows it once. Default `both`.
    style: `pairwise` shows two candidates and expects JSON; `choice` shows two and asks a choice question, whose
        probabilities are averaged over both orders; `review` shows one at a time and decides as `feedback_pair` does,
        and an accepted candidate beats a rejected one. Default `pairwise`.
    fallbacks: rules for replies that are not JSON, separated by commas, or `none`. Default `json_inside,key`.
    judge_max_tokens: maximum tokens of a judge's reply. Default 350.
    judge_system: the judge's system message.
    judge_user: template of the judge's user message, with `{task}`, `{first}` and `{second}`.
    seed: seed of the bracket. Default 0.
    """

    schedule: ScheduleName = "single_elimination"
    rounds: int = 0
    orders: Literal["both", "one"] = "both"
    style: Literal["pairwise", "choice", "review"] = "pairwise"
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
        replies: list[JudgeReply] = []
        if self.style == "review":
            numbers = range(len(question.candidates))
            replies += await asyncio.gather(*(self._review(question, seats, i) for i in numbers))
        play = bracket(self.schedule, question, self.rounds, self.seed)
        matches, played, number = next(play, None), list[tuple[int, int, int]](), 0
        while matches:
            number += 1
            if self.style != "review":
                asked = [(m, pair) for m in matches for pair in ((m, m[::-1]) if self.orders == "both" else (m,))]
                replies += await asyncio.gather(*(self._compare(question, seats, number, m, p) for m, p in asked))
            played += [(number, *match) for match in matches]
            winners = [winner_of(match, replies, self.fallbacks) for match in matches]
            try:
                matches = play.send(winners)
            except StopIteration:
                break
        return Solution(json.dumps(ContestRecord(tuple(played), tuple(replies)).to_json()))

    async def _compare(self, question: Contest, seats: Seats, number: int, match: Match, shown: Match) -> JudgeReply:
        first, second = (question.candidates[i].strip() for i in shown)
        if self.style == "choice":
            state = {"task": question.text, "answer 1": first, "answer 2": second}
            decision = (await seats.judge.decide(state, {"better": WHICH_IS_BETTER}, kind="comparison"))["better"]
            seats.note(decision, malformed=decision.choice is None)
            share = decision.probability("answer 1")
            # Written in the form of `pairwise`, so that everything that reads replies reads decisions too.
            preferred = {"answer 1": 1, "answer 2": 2}.get(decision.choice or "")
            text = "" if preferred is None else json.dumps({"preferred": preferred})
            return JudgeReply(number, match, *shown, text, share)
        messages = pairwise_messages(self.judge_system, self.judge_user, question.text, first, second)
        reply = await seats.judge.generate(messages, kind="comparison", gen_kwargs=self._limits)
        return JudgeReply(number, match, *shown, reply.text)

    async def _review(self, question: Contest, seats: Seats, candidate: int) -> JudgeReply:
        user = PromptText(REVIEW_USER).fill(task=question.text, draft=question.candidates[candidate].strip())
        messages = [Message("system", REVIEW_SYSTEM), Message("user", user)]
        wording = (REVIEW_SYSTEM, REVIEW_USER)
        decision = await seats.judge.openings(messages, OPENINGS, kind="review", wording=wording)
        if decision is not None and decision.choice is not None:
            return JudgeReply(0, (candidate, candidate), candidate, None, OPENINGS[decision.choice])
        reply = await seats.judge.generate(messages, kind="review", gen_kwargs=self._limits)
        return JudgeReply(0, (candidate, candidate), candidate, None, reply.text)

    @property
    def _limits(self) -> dict[str, object]:
        return {"until": [], "max_gen_toks": self.judge_max_tokens, "do_sample": False}


WHICH_IS_BETTER = Choice(
    "Which answer to the task is better? Weigh first which is correct, then which follows the task better.",
    ("answer 1", "answer 2"),
)


def read_fallbacks(text: str) -> tuple[str, ...]:
    """Return the rules in a comma-separated list; `none` is the empty list. Raises ValueError for an unknown rule."""
    names = tuple(name.strip() for name in text.split(",") if name.strip() and name.strip() != "none")
    if unknown := [name for name in names if name not in RULES]:
        raise ValueError(f"`fallbacks`: unknown rule {', '.join(unknown)}; the rules are {', '.join(RULES)}, or none")
    return names


def bracket(schedule: str, contest: Contest, rounds: int, seed: int) -> Schedule:
    """Start the schedule of a contest.

    Its random numbers depend only on the prompt, the candidates and the seed, not on other rows. A resumed or extended
    run therefore plays the same matches and finds their calls in the store.
    """
    content = json.dumps([seed, contest.context, contest.candidates]).encode()
    rng = random.Random(hashlib.sha256(content).digest())
    return SCHEDULES[schedule](len(contest.candidates), rng, rounds)


def judge_by_gold(schedule: str, contest: Contest, rounds: int, seed: int) -> ContestRecord:
    """Play a contest by gold answers: a correct candidate beats a wrong one, otherwise the match is a tie."""
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
    return ContestRecord(tuple(played))


def gold_winner(match: Match, correct: Sequence[bool]) -> int | None:
    """Return which of two candidates is correct, or None if both or neither are."""
    a, b = match
    return None if correct[a] == correct[b] else a if correct[a] else b


def winner_of(match: Match, replies: Sequence[JudgeReply], fallbacks: str) -> int | None:
    """Return the winner of a match, or None for a tie.

    By probabilities, it is the candidate that the judge prefers on average over both orders; otherwise the one that all
    of its replies prefer.
    """
    shares = [
        reply.preference if reply.first == match[0] else 1 - reply.preference
        for reply in replies
        if reply.match == match and reply.preference is not None
    ]
    if shares:
        mean = sum(shares) / len(shares)
        return None if mean == 0.5 else match[0] if mean > 0.5 else match[1]
    choices = {named(reply, fallbacks) for reply in replies if reply.second is not None and reply.match == match}
    if choices:
        return choices.pop() if len(choices) == 1 else None
    accepted = {r.first: accepts(r) for r in replies if r.second is None and r.first in match}
    a, b = (accepted.get(one) for one in match)
    return None if a is None or b is None or a == b else match[0] if a else match[1]


def named(reply: JudgeReply, fallbacks: str) -> int | None:
    """Return the candidate that a comparison prefers, or None if it prefers neither or cannot be parsed."""
    choice = read_choice(reply.text, read_fallbacks(fallbacks)).choice
    return {1: reply.first, 2: reply.second}.get(choice or 0)


def accepts(reply: JudgeReply) -> bool | None:
    """Return whether a review accepts its candidate, or None if its verdict cannot be read."""
    verdict = read_verdict(reply.text)
    return None if verdict.malformed else verdict.accepted


def outcomes(judgement: ContestRecord, fallbacks: str, correct: Sequence[bool] | None = None) -> list[MatchOutcome]:
    """Return the outcome of every match: by gold answers if `correct` is given, else by the judge's replies."""
    played = [(a, b) for _, a, b in judgement.matches]
    if correct is not None:
        return [MatchOutcome(*match, gold_winner(match, correct)) for match in played]
    return [MatchOutcome(*match, winner_of(match, judgement.replies, fallbacks)) for match in played]

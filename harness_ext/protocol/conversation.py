"""Conversations of several parts: the protocol answers one part after another, and its answers stay in the history.

A task builds such a request from messages with the role `part`. Each is a user turn that is answered before the next
one is asked. After the feedback setting on bAbI of github.com/racia/research-project, where a story is one chat.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness_ext.protocol.base import Protocol
from harness_ext.protocol.question import Question, reply_of
from harness_ext.protocol.seats import Seats
from harness_ext.records import Completion, Message, Solution, Transcript
from harness_ext.records.chat import ChatContext, context_messages
from harness_ext.records.lost_answers import ANSWERS
from harness_ext.records.summary import DRAFTS, ROUNDS

PART = "part"


@dataclass(frozen=True)
class Answered:
    """The answer to one part.

    before: the first draft; None if the protocol made none.
    after: the final text.
    rounds: how often the draft was refined or continued.
    stop: why the protocol stopped.
    """

    before: str | None
    after: str
    rounds: int
    stop: str


def has_parts(question: Question) -> bool:
    """Return whether a question is a conversation of several parts."""
    return isinstance(question.context, ChatContext) and any(m.role == PART for m in context_messages(question.context))


async def converse(protocol: Protocol, question: Question, seats: Seats) -> Solution:
    """Answer a conversation part by part.

    The text of the solution is a JSON list of `Answered`, which `read_answers` parses. If one part fails, so does the
    conversation.
    """
    messages = context_messages(question.context)
    history = [m for m in messages if m.role != PART]
    answered: list[Answered] = []
    for number, part in enumerate((m for m in messages if m.role == PART), start=1):
        history.append(Message("user", part.content))
        asked = replace(question, context=ChatContext.of([asdict(m) for m in history]), part=number)
        seats.question = asked
        answered.append(await _answer(protocol, asked, seats))
        history.append(reply_of(asked, answered[-1].after))
    stops = list(dict.fromkeys(one.stop for one in answered))
    return Solution(_text(answered), "+".join(stops))


async def _answer(protocol: Protocol, question: Question, seats: Seats) -> Answered:
    start = len(seats.turns)
    result = await protocol.solve(question, seats)
    solution = Solution(result.text) if isinstance(result, Completion) else result
    turns = seats.turns[start:]
    for turn in reversed(turns):
        if turn.kind in ANSWERS and turn.text == solution.text:
            seats.note(turn.result, kept=turn.result.completion_tokens)
            break
    first = next((turn.text for turn in turns if turn.kind in DRAFTS and not turn.is_part), None)
    return Answered(first, solution.text, sum(turn.kind in ROUNDS for turn in turns), solution.stop)


def drafts_of(transcript: Transcript) -> str | None:
    """Return what the text of a conversation would be with each part's first draft; None for any other question."""
    try:
        roles = {message["role"] for message in json.loads(transcript.context)}
    except (ValueError, TypeError, KeyError):
        return None
    answered = read_answers(transcript.text) if PART in roles else []
    drafts = [one if one.before is None else replace(one, after=one.before, rounds=0) for one in answered]
    return _text(drafts) if drafts else None


def _text(answered: Sequence[Answered]) -> str:
    return json.dumps([asdict(one) for one in answered], ensure_ascii=False)


def read_answers(text: str) -> list[Answered]:
    """Parse the text that `converse` returned. Any other text, as of a failed conversation, has no answers."""
    try:
        found: Any = json.loads(text)
        return [Answered(**one) for one in found]
    except (ValueError, TypeError, RecursionError):
        return []

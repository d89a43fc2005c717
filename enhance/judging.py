"""A judge's preference between two answers: the prompts, and how replies are parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.options import PromptText
from harness_ext.protocol import Message

# Rules for replies that are not the requested JSON, in the order in which they are tried. `last_digit`, the last 0, 1
# or 2 of the reply, must be enabled explicitly: in a truncated reply it may be any number of the reasoning.
RULES = ("json_inside", "key", "last_digit")
FALLBACKS = ("json_inside", "key")
_CHOICES = {"1": 1, "2": 2, "0": 0, "tie": 0, "none": 0, "both": 0, "equal": 0}
_KEY = re.compile(r"(?i)\bprefer\w*\W{0,4}(?:is\W{0,3})?(?:answer|profile|candidate|response)?\W{0,3}(0|1|2|tie)\b")
_DIGIT = re.compile(r"(?<![\w.])[012](?![\w]|\.\d)")


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """The preference that a reply states.

    choice: 1 for the first answer, 2 for the second, 0 for neither, None if the reply cannot be parsed.
    rule: how the reply was parsed: `json` (the requested form), one of `RULES`, or `none`.
    """

    choice: int | None
    rule: str


def read_choice(text: str, fallbacks: Sequence[str] = FALLBACKS) -> PairVerdict:
    """Parse a judge's reply. A reply without a readable choice has the choice None; there is no default.

    A reply that is a JSON object but names no choice, or two, is not parsed by the other rules: the judge followed the
    form, so any other digit in it means something else.
    """
    reply = text.strip()
    try:
        whole = json.loads(reply)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict):
        choice = _choice_in(whole)
        return PairVerdict(choice, "none" if choice is None else "json")
    for rule in fallbacks:
        found = list(_READERS[rule](reply))
        if found:
            return PairVerdict(found[-1], rule)
    return PairVerdict(None, "none")


def _choice_in(value: Any) -> int | None:
    """Return the choice of a JSON object that has exactly one key beginning with `preferred`, otherwise None."""
    if not isinstance(value, dict):
        return None
    named = [v for k, v in value.items() if str(k).lower().startswith("preferred")]
    if len(named) != 1 or isinstance(named[0], bool):
        return None
    return _CHOICES.get(str(named[0]).strip().lower())


def _json_inside(text: str) -> Iterator[int]:
    decoder = json.JSONDecoder()
    start = text.find("{")
    while start >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            if (choice := _choice_in(value)) is not None:
                yield choice
        start = text.find("{", end)


def _key(text: str) -> Iterator[int]:
    for match in _KEY.finditer(text):
        yield _CHOICES[match[1].lower()]


def _last_digit(text: str) -> Iterator[int]:
    for match in _DIGIT.finditer(text):
        yield int(match[0])


_READERS = {"json_inside": _json_inside, "key": _key, "last_digit": _last_digit}


def pairwise_messages(system: str, user: PromptText, task: str, first: str, second: str) -> list[Message]:
    """Return the conversation that asks the judge to compare two answers.

    system: the system message.
    user: the template of the user message.
    task: the prompt that the answers reply to.
    first, second: the answers, in the order shown.
    """
    return [Message("system", system), Message("user", user.fill(task=task, first=first, second=second))]


JUDGE_SYSTEM = """\
You compare two answers to the same task and say which one is better.
Weigh whether they are correct first, then whether they follow the task, then how clear they are. Neither the order in
which they stand nor their length counts. Reply with one JSON object and nothing else:
{"reasoning": "<your comparison, in a few sentences>", "preferred": <1, 2, or 0 if neither is better>}"""

JUDGE_USER = '''\
The task:
"""
{task}
"""

Answer 1:
"""
{first}
"""

Answer 2:
"""
{second}
"""

Compare them and reply in the form {"reasoning": "…", "preferred": 1}.'''

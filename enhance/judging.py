"""A judge's preference between two answers: how it is asked, and how its reply is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.options import PromptText
from harness_ext.protocol import Message

# How a reply that is not the JSON asked for may still be read, in this order. `last_digit`, the 0, 1 or 2 that stands
# last, is on request only: in a reply that was cut off it may be any number of the reasoning.
RULES = ("json_inside", "key", "last_digit")
FALLBACKS = ("json_inside", "key")
_CHOICES = {"1": 1, "2": 2, "0": 0, "tie": 0, "none": 0, "both": 0, "equal": 0}
_KEY = re.compile(r"(?i)\bprefer\w*\W{0,4}(?:is\W{0,3})?(?:answer|profile|candidate|response)?\W{0,3}(0|1|2|tie)\b")
_DIGIT = re.compile(r"(?<![\w.])[012](?![\w]|\.\d)")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reply prefers: 1 the first answer, 2 the second, 0 neither, None where it says nothing that can be read.

    `rule` is how it was read: `json` (the form asked for), one of `RULES`, or `none`.
    """

    choice: int | None
    rule: str


def read_choice(text: str, fallbacks: Sequence[str] = FALLBACKS) -> Verdict:
    """Return a judge's verdict. Any text is read; one that says nothing has no verdict, never a default one.

    A reply that is one JSON object but names no choice, or two, is not read by other rules.
    """
    reply = text.strip()
    try:
        whole = json.loads(reply)
    except (ValueError, RecursionError):
        whole = None
    if isinstance(whole, dict):
        choice = _choice_in(whole)
        return Verdict(choice, "none" if choice is None else "json")
    for rule in fallbacks:
        found = list(_READERS[rule](reply))
        if found:
            return Verdict(found[-1], rule)
    return Verdict(None, "none")


def _choice_in(value: Any) -> int | None:
    """Return the choice of a JSON object with exactly one key that begins with `preferred`."""
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
    """Return the conversation that asks for a comparison."""
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

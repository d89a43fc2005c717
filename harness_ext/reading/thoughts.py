"""Splitting a reply into what a reasoning model thought and what it answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Markers = tuple[tuple[str, str], ...]

DEFAULT_MARKERS: Markers = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
Spans = list[tuple[int, int]]

_CHANNEL = re.compile(
    r"(?:<\|start\|>[ \t]*(?:assistant)?[ \t]*)?"
    r"(?:<\|channel\|>[ \t]*(?P<channel>analysis|commentary|final)\b[^<\n]{0,200}(?:<\|constrain\|>[^<\n]{0,40})?"
    r"|\A\s*(?P<first>analysis|commentary|final)[ \t]*(?=<\|message\|>))(?:<\|message\|>)?",
    re.IGNORECASE,
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call|start)\|>")
# What is left of the channels where a server decoded without special tokens: `analysisWe need …assistantfinalIt is …`.
_BARE_FIRST = re.compile(r"\A\s*analysis(?=[A-Z0-9\"'(*])")
_BARE_FINAL = re.compile(r"assistant[ \t]{0,2}(?:<\|channel\|>)?final(?:<\|message\|>)?(?=\S|\s*\Z|\s)")
_BARE_OTHER = re.compile(r"(?<=\S)assistant(?:commentary|analysis)(?=\S)")


@dataclass(frozen=True, slots=True)
class Thought:
    """A reply in its two parts.

    `finished` is False where a thought began and never ended; such a reply has no answer. `start` is where in the
    reply the answer (its last part, if thoughts stand between) begins.
    """

    thought: str
    answer: str
    finished: bool
    start: int


def split_thought(text: str, markers: Sequence[tuple[str, str]] = DEFAULT_MARKERS) -> Thought:
    """Split a reply into thought and answer.

    Marked thoughts (`<think>…</think>` and its like), one whose beginning the prompt held (a closing mark alone), and
    the channels of the harmony format are known. A reply without thoughts is all answer, unchanged.

    Args:
        text: the reply.
        markers: pairs of the marks that begin and end a thought; upper and lower case are the same.
    """
    parts, thoughts, finished = answer_parts(text, tuple(markers))
    answer = "".join(text[a:b] for a, b in parts)
    thought = "\n".join(text[a:b].strip() for a, b in thoughts if text[a:b].strip())
    start = parts[-1][0] if parts else len(text) if thoughts or not finished else 0
    return Thought(thought, answer, finished, start)


def answer_parts(text: str, markers: Markers = DEFAULT_MARKERS) -> tuple[Spans, Spans, bool]:
    """Return where a reply's answer stands, where its thoughts stand, and whether the thoughts ended."""
    split = _channels(text) or _bare_channels(text)
    if split is None:
        split = _marked(text, markers)
    parts, thoughts, finished = split
    if not finished:
        return [], thoughts, False
    if thoughts:
        parts = [_without_first_breaks(text, part) for part in parts]
    return [part for part in parts if part[0] < part[1]], thoughts, True


def _channels(text: str) -> tuple[Spans, Spans, bool] | None:
    """Split by harmony's channels; None where the text has none."""
    heads = list(_CHANNEL.finditer(text)) if "<|" in text else []
    if not heads:
        return None
    final: Spans = []
    thoughts: Spans = []
    for number, head in enumerate(heads):
        limit = heads[number + 1].start() if number + 1 < len(heads) else len(text)
        ended = _CHANNEL_END.search(text, head.end(), limit)
        span = (head.end(), ended.start() if ended else limit)
        channel = (head["channel"] or head["first"]).lower()
        (final if channel == "final" else thoughts).append(span)
    # With several final messages the last one is the answer: earlier ones belong to turns that were recited.
    return final[-1:], thoughts, bool(final)


def _bare_channels(text: str) -> tuple[Spans, Spans, bool] | None:
    first = _BARE_FIRST.match(text)
    final = None
    if "assistantfinal" in text or first:
        final = _BARE_FINAL.search(text)
    if final is not None:
        return [(final.end(), len(text))], [(first.end() if first else 0, final.start())], True
    if first is not None and (_BARE_OTHER.search(text) or re.match(r"\s*analysis(?:We|I|The|User|Let|Need)\b", text)):
        return [], [(first.end(), len(text))], False
    return None


@lru_cache(maxsize=64)
def _tags(markers: Markers) -> tuple[re.Pattern[str], dict[str, tuple[int, bool]]]:
    known = {mark.lower(): (n, closing) for n, pair in enumerate(markers) for closing, mark in enumerate(pair) if mark}
    names = sorted(known, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)) or r"(?!)", re.IGNORECASE), {
        name: (n, bool(closing)) for name, (n, closing) in known.items()
    }


def _marked(text: str, markers: Markers) -> tuple[Spans, Spans, bool]:
    pattern, known = _tags(markers)
    parts: Spans = []
    thoughts: Spans = []
    inside: int | None = None
    since = 0
    for tag in pattern.finditer(text):
        found = known.get(tag[0].lower())
        if found is None:
            continue
        number, closing = found
        if inside is None and not closing:
            parts.append((since, tag.start()))
            inside, since = number, tag.end()
        elif inside is None:
            # The thought began before the reply (its opening mark stood in the prompt), or ends a second time. A mark
            # with nothing behind it, after an answer, is a stray one.
            if text[tag.end() :].strip() or not any(text[a:b].strip() for a, b in [*parts, (since, tag.start())]):
                thoughts += [*parts, (since, tag.start())]
                parts = []
            else:
                parts.append((since, tag.start()))
            since = tag.end()
        elif closing and number == inside:
            thoughts.append((since, tag.start()))
            inside, since = None, tag.end()
    if inside is not None:
        return [], [*thoughts, (since, len(text))], False
    parts.append((since, len(text)))
    return [part for part in parts if text[part[0] : part[1]].strip()] or parts[-1:], thoughts, True


def _without_first_breaks(text: str, part: tuple[int, int]) -> tuple[int, int]:
    start, end = part
    while start < end and text[start] in " \t\r\n":
        start += 1
    return start, end

"""Exact and soft match of `Reasoning: … / Answer: …` replies.

The rules are those of the bAbI feedback setting (github.com/racia/research-project, `evaluation/Statistics.py`),
reimplemented. `docs/tasks.md` lists the differences and the reasons for them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# The first such line counts, because later ones belong to a model that continues with questions of its own. A heading
# with nothing after it takes the next line that is not blank, unless that is the other heading. The possessive `\s*+`
# makes the lookahead apply after all white space: with `\s*`, backtracking would let the other heading match.
_ANSWER = re.compile(r"^answer:\s*+(?!reasoning:)(.+)", re.IGNORECASE | re.MULTILINE)
_REASONING = re.compile(r"^reasoning:\s*+(?!answer:)(.+)", re.IGNORECASE | re.MULTILINE)

_BARE_ANSWER_WORDS = 3
_EDGES = "-,.:;!?"
_DIRECTIONS = frozenset({"north", "south", "east", "west"})
_NUMBERS = {
    "zero": "none",
    "0": "none",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
    "5": "five",
    "6": "six",
    "7": "seven",
    "8": "eight",
    "9": "nine",
}
_PLURALS = {
    "calves": "calf",
    "children": "child",
    "feet": "foot",
    "geese": "goose",
    "halves": "half",
    "knives": "knife",
    "leaves": "leaf",
    "loaves": "loaf",
    "men": "man",
    "mice": "mouse",
    "shelves": "shelf",
    "teeth": "tooth",
    "thieves": "thief",
    "wolves": "wolf",
    "women": "woman",
}


@dataclass(frozen=True)
class ReasonedReply:
    """The answer and the reasoning of a reply. A missing part is empty."""

    answer: str
    reasoning: str


def parse_reply(text: str) -> ReasonedReply:
    """Read the first `Answer:` and the first `Reasoning:` line of a reply, in either order and regardless of case.

    Without either heading, a text of at most three words is the answer, and a longer one is reasoning without an
    answer.
    """
    text = text.strip()
    answer, reasoning = _first(_ANSWER, text), _first(_REASONING, text)
    if answer or reasoning:
        return ReasonedReply(answer, reasoning)
    return ReasonedReply(text, "") if len(text.split()) <= _BARE_ANSWER_WORDS else ReasonedReply("", text)


def exact_match(gold: str, predicted: str) -> bool:
    """Return whether two answers consist of the same words. The relation is symmetric.

    Case, punctuation at the edges of a word, order, repetition, "and" and plural endings of nouns are ignored. Digits
    equal number words, and 0 equals "none". The number of directions matters: "east, east" is not "east". An answer
    without words matches nothing, not even another empty answer.
    """
    gold_words, predicted_words = _words(gold), _words(predicted)
    if not gold_words or _directions(gold_words) != _directions(predicted_words):
        return False
    return _singulars(gold_words) == _singulars(predicted_words)


def soft_match(gold: str, predicted: str) -> float:
    """Grade an answer: 1 for an exact match, 0.75 if it contains the gold answer, 0.5 if the gold answer contains it or
    shares a word with it, else 0.

    As in the original, "contains" refers to the text, not to whole words. "no", "not", "none" and "one", which contain
    one another, are distinguished by `_misleading`.
    """
    if exact_match(gold, predicted):
        return 1.0
    gold_words, predicted_words = _words(gold), _words(predicted)
    if not gold_words or not predicted_words or _misleading(set(gold_words), set(predicted_words)):
        return 0.0
    gold_text, predicted_text = " ".join(gold_words), " ".join(predicted_words)
    if gold_text in predicted_text:
        return 0.75
    if predicted_text in gold_text or set(gold_words) & set(predicted_words):
        return 0.5
    return 0.0


def process_results(doc: Mapping[str, object], results: Sequence[str]) -> dict[str, float]:
    """Score a reply for lm-eval: `doc["answer"]` is the gold answer, `results[0]` the filtered reply.

    Returns `exact_match` (0 or 1) and `soft_match` (0, 0.5, 0.75 or 1).
    """
    gold, predicted = str(doc["answer"]), parse_reply(results[0]).answer
    return {"exact_match": float(exact_match(gold, predicted)), "soft_match": soft_match(gold, predicted)}


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip() if found else ""


def _words(answer: str) -> tuple[str, ...]:
    """Split an answer at white space and commas (bAbI's lists look like "milk,football").

    Numbers become words, and "and" is dropped.
    """
    stripped = (part.strip(_EDGES) for part in re.split(r"[\s,]+", answer.lower()))
    return tuple(_NUMBERS.get(word, word) for word in stripped if word and word != "and")


def _directions(words: Iterable[str]) -> Counter[str]:
    return Counter(word for word in words if word in _DIRECTIONS)


def _singulars(words: Iterable[str]) -> frozenset[str]:
    return frozenset(_singular(word) for word in words)


def _singular(word: str) -> str:
    """Return the singular of a noun, by rule. As in the original (WordNet's noun lemmas), verb forms are unchanged."""
    if word in _PLURALS:
        return _PLURALS[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _misleading(gold: set[str], predicted: set[str]) -> bool:
    """Return whether the answers only seem to match partially because one word contains another."""
    if "none" in gold and predicted & {"no", "one"}:
        return True
    if gold & {"no", "one"} and predicted & {"none", "mentioned"}:
        return True
    return "no" in gold and "not" in predicted

"""Exact and soft match of `Reasoning: … / Answer: …` replies.

Rules: the bAbI feedback setting (github.com/racia/research-project, `evaluation/Statistics.py`), in our own code. Where
this module differs, and why, stands in `docs/tasks.md`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# The first such line counts: what follows it is a model running on. A heading with nothing behind it takes the next
# line that is not blank, but never the other heading.
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
class Reply:
    """What a reply says; a part that is not there is empty."""

    answer: str
    reasoning: str


def parse_reply(text: str) -> Reply:
    """Read the first `Answer:` and the first `Reasoning:` line of a reply, in any case and either order.

    Without either heading, three words or fewer are the answer, and more are reasoning without an answer.
    """
    text = text.strip()
    answer, reasoning = _first(_ANSWER, text), _first(_REASONING, text)
    if answer or reasoning:
        return Reply(answer, reasoning)
    return Reply(text, "") if len(text.split()) <= _BARE_ANSWER_WORDS else Reply("", text)


def exact_match(gold: str, predicted: str) -> bool:
    """Tell whether two answers hold the same words: a symmetric relation.

    Case, punctuation at the edges of a word, order, repetition, "and" and the plural of nouns do not count; digits
    equal number words, and 0 equals "none". Directions count as often as they stand there: "east, east" is not "east".
    An answer without a word matches nothing, not even another one.
    """
    gold_words, predicted_words = _words(gold), _words(predicted)
    if not gold_words or _directions(gold_words) != _directions(predicted_words):
        return False
    return _singulars(gold_words) == _singulars(predicted_words)


def soft_match(gold: str, predicted: str) -> float:
    """Grade an answer: 1 exact; 0.75 if the gold answer is a part of it; 0.5 if it is a part of the gold answer or
    shares a word with it; else 0.

    Parts are parts of the text, not whole words, as in the original. "no", "not", "none" and "one", which lie in each
    other, are kept apart: see `_misleading`.
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
    """Score one reply for lm-eval: `doc["answer"]` is the gold answer, `results[0]` the filtered reply.

    Returns `exact_match` (0 or 1) and `soft_match` (0, 0.5, 0.75 or 1).
    """
    gold, predicted = str(doc["answer"]), parse_reply(results[0]).answer
    return {"exact_match": float(exact_match(gold, predicted)), "soft_match": soft_match(gold, predicted)}


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1].strip() if found else ""


def _words(answer: str) -> tuple[str, ...]:
    """Split at blanks and commas ("milk,football" is how bAbI writes a list); numbers become words, "and" goes."""
    stripped = (part.strip(_EDGES) for part in re.split(r"[\s,]+", answer.lower()))
    return tuple(_NUMBERS.get(word, word) for word in stripped if word and word != "and")


def _directions(words: Iterable[str]) -> Counter[str]:
    return Counter(word for word in words if word in _DIRECTIONS)


def _singulars(words: Iterable[str]) -> frozenset[str]:
    return frozenset(_singular(word) for word in words)


def _singular(word: str) -> str:
    """Fold the plural of a noun by rule. Verb forms stay, as they do in the original (WordNet's noun lemmas)."""
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
    """Tell whether words that lie in each other would pass for a partial match."""
    if "none" in gold and predicted & {"no", "one"}:
        return True
    if gold & {"no", "one"} and predicted & {"none", "mentioned"}:
        return True
    return "no" in gold and "not" in predicted

"""Typed decisions: questions with fixed options that a model answers with a probability for each.

The terms are those of the Decisions API: a predicate is a yes/no question, a choice has named options, and a score has
ordered levels (docs/decisions-api.md).
"""

from harness_ext.decisions.prompts import decision_prompt, labels_of
from harness_ext.decisions.questions import (
    Choice,
    Predicate,
    Score,
    TypedQuestion,
    as_state,
    openings_digest,
    parts_of,
    question_digest,
)

__all__ = [
    "Choice",
    "Predicate",
    "Score",
    "TypedQuestion",
    "as_state",
    "decision_prompt",
    "labels_of",
    "openings_digest",
    "parts_of",
    "question_digest",
]

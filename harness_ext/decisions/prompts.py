"""How a typed question is put to a model that writes text: the question's labels, and the prompt that asks for one.

The wording is that of the decision pipeline of the transformers library (5.23), so that a model gives the same
probabilities here, there, and behind `transformers serve`.
"""

from __future__ import annotations

import string

from harness_ext.decisions.questions import Predicate, Score, TypedQuestion

MOST_OPTIONS = len(string.ascii_uppercase)


def labels_of(question: TypedQuestion) -> tuple[str, ...]:
    """Return what stands for each option in the prompt and in the reply: `Yes` and `No`, or letters.

    There are letters for the first `MOST_OPTIONS` options only.
    """
    if isinstance(question, Predicate):
        return ("Yes", "No")
    return tuple(string.ascii_uppercase[: len(question.options)])


def decision_prompt(state: str, question: TypedQuestion) -> str:
    """Return the user message that asks for the label of the option that fits."""
    labels = labels_of(question)
    lines = [question.instructions]
    for label, option, description in zip(labels, question.options, question.descriptions, strict=True):
        if isinstance(question, Predicate):
            lines += [f"{label}: {description}"] if description else []
        elif isinstance(question, Score):
            lines.append(f"{label}. {description}")
        else:
            lines.append(f"{label}. {option}: {description}" if description else f"{label}. {option}")
    if isinstance(question, Predicate):
        demand = f"Answer {labels[0]} or {labels[1]} only."
    else:
        kind = "level" if isinstance(question, Score) else "option"
        demand = f"Answer with the letter of the {kind} that fits best ({labels[0]} to {labels[-1]}) only."
    return "\n".join([f"{state}\n", *filter(None, lines), demand])

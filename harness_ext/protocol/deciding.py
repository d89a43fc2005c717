"""How a seat decides: which sources it may ask, how a written label is read, how decisions are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, fsum
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.decisions import (
    Predicate,
    Score,
    TypedQuestion,
    decision_prompt,
    labels_of,
    parts_of,
    question_digest,
)
from harness_ext.decisions.calibration import Calibration
from harness_ext.decisions.prompts import MOST_OPTIONS
from harness_ext.errors import CallFailed
from harness_ext.protocol.setup import Decide
from harness_ext.records import Completion, Decision, Loglikelihood, Message, Source

LABEL_TOKENS = 16  # the length limit of a written label, in tokens


@dataclass(frozen=True)
class Asked:
    """A question as it is put to a model.

    prompt: the messages after which the model would write a label.
    options: the options.
    labels: what the model would write for each; none if there are too many to ask in one token.
    digest: identifies what is asked, apart from what it is about.
    question: the typed question. Default None: the prompt is the protocol's own.
    state: what the typed question is about.
    notes: what was done to the state. Default: nothing.
    """

    prompt: tuple[Message, ...]
    options: tuple[str, ...]
    labels: tuple[str, ...]
    digest: str
    question: TypedQuestion | None = None
    state: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def typed(cls, state: str, question: TypedQuestion, notes: tuple[str, ...] = ()) -> Asked:
        """Return a typed question about a state."""
        digest = question_digest(*parts_of(question))
        if len(question.options) > MOST_OPTIONS:
            return cls((), question.options, (), digest, question, state, notes)
        prompt = (Message("user", decision_prompt(state, question)),)
        return cls(prompt, question.options, labels_of(question), digest, question, state, notes)


def sources_of(setting: Decide, backend: Backend, asked: Asked) -> tuple[Source, ...]:
    """Return the sources that a backend may be asked for a decision, in order; empty if only its text can be read.

    setting: the seat's setting.
    backend: the seat's model.
    asked: the question. An endpoint answers only typed ones, and only an endpoint takes more options than letters.

    Raises CallFailed if there are more options than the sources can take.
    """
    able: tuple[Source, ...] = ("endpoint", "logprobs", "constrained")
    if asked.question is None:
        able = able[1:]
    wanted = able if setting == "auto" else tuple(source for source in able if source == setting)
    found = tuple(source for source in wanted if source in backend.decision_sources)
    if not asked.labels:
        found = tuple(source for source in found if source == "endpoint")
        if not found:
            raise CallFailed(
                "backend",
                f"a question with {len(asked.options)} options cannot be put to {backend.name}, since one token tells "
                f"at most {MOST_OPTIONS} apart: ask about fewer options, or use a decisions endpoint that takes more",
            )
    return found


def scores_labels(setting: Decide, backend: Backend, asked: Asked) -> bool:
    """Return whether the labels are scored one by one, by a backend that can do no better.

    That takes a call per label, so by default only questions with two labels are worth it: writing one takes one call.
    """
    able = "score" in backend.capabilities and bool(asked.labels)
    return able and (setting == "logprobs" or (setting == "auto" and len(asked.labels) == 2))


def from_scores(options: Sequence[str], scores: Sequence[Loglikelihood]) -> Decision:
    """Return the decision that the log-probabilities of the labels amount to."""
    masses = [exp(score.logprob) for score in scores]
    total = fsum(masses)
    if not total:
        return Decision(tuple(options), (), None, "logprobs", label_mass=0.0)
    shares = tuple(mass / total for mass in masses)
    return Decision.likeliest(tuple(options), shares, "logprobs", label_mass=min(total, 1.0))


def from_text(question: TypedQuestion, completion: Completion) -> Decision:
    """Return the decision that a written reply states, without probabilities."""
    from harness_ext.reading import read_choice, read_rating, read_yes_no

    if isinstance(question, Predicate):
        answer = read_yes_no(completion.text)
        choice = answer.value if answer else None
    else:
        named = [d or o for o, d in zip(question.options, question.descriptions, strict=True)]
        letter = read_choice(completion.text, named)
        choice = question.options[ord(letter.value) - ord("A")] if letter else None
        if choice is None and isinstance(question, Score):
            rating = read_rating(completion.text, most=len(question.levels) - 1)
            # A number is a level only if the levels are shown with their numbers ("7 of 9").
            if rating is not None and question.levels[rating].split()[:1] == [str(rating)]:
                choice = str(rating)
    return Decision(question.options, (), choice, "text")


def reordered(decision: Decision, order: Sequence[int]) -> Decision:
    """Return a decision between texts that were shown in an order, with their positions as its options.

    decision: the decision; its options are the places at which the texts were shown.
    order: the position of the text at each place.
    """
    places = sorted(range(len(order)), key=lambda place: order[place])
    options = tuple(str(order[place]) for place in places)
    shares = tuple(decision.probabilities[place] for place in places) if decision.probabilities else ()
    choice = None if decision.choice is None else str(order[decision.options.index(decision.choice)])
    return replace(decision, options=options, probabilities=shares, choice=choice)


def comparison_record(
    texts: Sequence[str], orders: Sequence[Sequence[int]], decisions: Sequence[Decision], verdict: Decision
) -> dict[str, Any]:
    """Return what is recorded about a comparison of texts that were shown in several orders, as JSON values.

    texts: the texts.
    orders: for each order, the position of the text at each place.
    decisions: the decision in each order; its options are the places.
    verdict: the decision that they amount to; its options are the positions.

    The entries are:

    characters: the length of each text.
    orders: for each order, `shown` (the order itself), `choice` (the chosen place, or null) and `probabilities` (of
        each place, null for those that the model did not report; empty if there are none).
    preferred: the position of the preferred text, or null.
    """
    return {
        "characters": [len(text) for text in texts],
        "orders": [
            {
                "shown": list(order),
                "choice": None if one.choice is None else one.options.index(one.choice),
                "probabilities": list(one.probabilities),
            }
            for order, one in zip(orders, decisions, strict=True)
        ],
        "preferred": None if verdict.choice is None else int(verdict.choice),
    }


def averaged(decisions: Sequence[Decision]) -> Decision:
    """Return the mean of several decisions between the same options.

    If one of them lacks probabilities, there is none either, and only equal choices make a decision.
    """
    first = decisions[0]
    if any(None in decision.probabilities or not decision.probabilities for decision in decisions):
        choices = {decision.choice for decision in decisions}
        return replace(first, probabilities=(), choice=choices.pop() if len(choices) == 1 else None)
    columns = zip(*(decision.probabilities for decision in decisions), strict=True)
    means = tuple(fsum(p for p in column if p is not None) / len(decisions) for column in columns)
    masses = [decision.label_mass for decision in decisions if decision.label_mass is not None]
    choice = first.options[means.index(max(means))]
    return replace(first, probabilities=means, choice=choice, label_mass=min(masses, default=None))


def calibrated(decision: Decision, calibration: Calibration) -> Decision:
    """Return a decision between two options, the first of which a calibration is about, with honest probabilities."""
    raw = decision.probability(decision.options[0])
    if raw is None:
        return decision
    share = calibration.apply(raw)
    choice = decision.options[0 if share >= 0.5 else 1]
    return replace(decision, probabilities=(share, 1 - share), choice=choice, at_most=0.0)

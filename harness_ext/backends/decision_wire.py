"""The wire formats of decisions endpoints: System One (`/systemone`) and the Decisions API (`/decisions`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import fsum, isfinite
from typing import Any, NamedTuple

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.http_client import Fault
from harness_ext.backends.openai_wire import decision_usage
from harness_ext.decisions import Predicate, Score, TypedQuestion
from harness_ext.records import Decision
from harness_ext.records.results import ROUNDING

NAME = "question"  # the name of the only question of a request
MOST_CHOICES = 255  # of the Decisions API


class Format(NamedTuple):
    """A wire format.

    path: the endpoint's path after the base URL.
    fields: returns the fields of a request, apart from the model.
    read: returns the decision that the JSON of a reply states. Raises Fault, KeyError, TypeError and the like for a
        malformed one.
    most_options: how many options a question may have. Default None: the server sets the limit.
    """

    path: str
    fields: Callable[[DecideRequest], dict[str, Any]]
    read: Callable[[Any, DecideRequest], Decision]
    most_options: int | None = None


# -- System One ------------------------------------------------------------------------------------------------------


def systemone_fields(request: DecideRequest) -> dict[str, Any]:
    """Return the fields of a request to `/systemone`, which are those of the decision pipeline of transformers."""
    from harness_ext.backends.hf_decide import pipeline_request

    return pipeline_request(request)


def read_systemone(data: Any, request: DecideRequest) -> Decision:
    """Return the decision that a reply of `/systemone` states. Raises Fault and the like for a malformed one."""
    question, answer = _question(request), data["answers"][NAME]
    if answer["type"] == "refusal":
        return _refusal(data, request)
    if isinstance(question, Predicate):
        _expect("noul", answer["type"])
        return _predicate(data, request, answer["noul"], _label_mass(data))
    _expect(question.type, answer["type"])
    found = answer["probabilities"]
    if not isinstance(found, Mapping):
        raise Fault("bad_decision", f"probabilities of type {type(found).__name__}")
    shares = _shares(request, found)
    return _decision(
        data, request, shares, None if isinstance(question, Score) else answer["choice"], _label_mass(data)
    )


def _label_mass(data: Any) -> float | None:
    """Return what vLLM reports as the labels' share of the whole vocabulary; None from other servers."""
    reported: Any = data.get("diagnostics")
    for name in (NAME, "label_mass"):
        reported = reported.get(name) if isinstance(reported, Mapping) else None
    return None if reported is None else min(1.0, _probability(reported))


# -- the Decisions API -----------------------------------------------------------------------------------------------


def decisions_fields(request: DecideRequest) -> dict[str, Any]:
    """Return the fields of a request to `/decisions`, apart from the model.

    The format has no descriptions of a predicate's answers, so they are a part of its instructions.
    """
    question = _question(request)
    asked: dict[str, Any] = {"type": question.type, "name": NAME, "instructions": question.instructions}
    described = zip(question.options, question.descriptions, strict=True)
    if isinstance(question, Predicate):
        asked["instructions"] = "\n".join([question.instructions, *(f"{o}: {d}" for o, d in described if d)])
    elif isinstance(question, Score):
        asked["levels"] = [{"label": level} for level in question.levels]
    else:
        asked["choices"] = [{"value": o, "description": d} if d else {"value": o} for o, d in described]
    return {"input": request.state, "questions": [asked]}


def read_decisions(data: Any, request: DecideRequest) -> Decision:
    """Return the decision that a reply of `/decisions` states. Raises Fault and the like for a malformed one."""
    question, answers = _question(request), data["answers"]
    if not isinstance(answers, list) or len(answers) != 1:
        raise Fault("bad_decision", "answers that are not a list of one answer")
    answer = answers[0]
    if answer.get("name") not in (None, NAME):
        raise Fault("bad_decision", f"an answer to a question {answer['name']!r} that was not asked")
    if answer["type"] == "refusal":
        return _refusal(data, request)
    _expect(question.type, answer["type"])
    if isinstance(question, Predicate):
        return _predicate(data, request, answer["probability"])
    # Values are typed: the boolean `true` is not the text `true`.
    scored = isinstance(question, Score)
    pairs = [(entry["value"], entry["probability"]) for entry in answer["probabilities"]]
    wrong = [value for value, _ in pairs if type(value) is not (int if scored else str)]
    found = {str(value): probability for value, probability in pairs}
    if wrong or len(found) < len(pairs):
        raise Fault("bad_decision", f"values that are repeated or of a wrong type: {[value for value, _ in pairs]}")
    return _decision(data, request, _shares(request, found), None if scored else answer["choice"])


SYSTEM_ONE = Format("systemone", systemone_fields, read_systemone)
DECISIONS = Format("decisions", decisions_fields, read_decisions, MOST_CHOICES)


# -- both ------------------------------------------------------------------------------------------------------------


def _question(request: DecideRequest) -> TypedQuestion:
    assert request.question is not None, "an endpoint answers typed questions only"
    return request.question


def _expect(wanted: str, found: Any) -> None:
    if found != wanted:
        raise Fault("bad_decision", f"an answer of type {found!r} instead of {wanted!r}")


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault("bad_decision", f"a probability of type {type(value).__name__}")
    if not (isfinite(value) and 0 <= value <= 1 + ROUNDING):
        raise Fault("bad_decision", f"a probability that is none: {value}")
    return float(value)


def _shares(request: DecideRequest, found: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the probability of each option, from those that the server reports by the options' names."""
    missing = [option for option in request.options if option not in found]
    unknown = [option for option in found if option not in request.options]
    if missing or unknown:
        raise Fault("bad_decision", f"probabilities that lack the options {missing} and have the options {unknown}")
    shares = [_probability(found[option]) for option in request.options]
    total = fsum(shares)
    if abs(total - 1) > ROUNDING:
        raise Fault("bad_decision", f"probabilities that sum to {total:.4g}")
    return tuple(share / total for share in shares)


def _predicate(data: Any, request: DecideRequest, value: Any, label_mass: float | None = None) -> Decision:
    yes = min(1.0, _probability(value))
    return _decision(data, request, (yes, 1 - yes), None, label_mass)


def _decision(
    data: Any,
    request: DecideRequest,
    shares: Sequence[float],
    choice: str | None,
    label_mass: float | None = None,
) -> Decision:
    """Return a decision, in which a choice of None stands for the most probable option."""
    best = request.options[shares.index(max(shares))] if choice is None else choice
    if best not in request.options:
        raise Fault("bad_decision", f"the choice {best!r}, which is not among the options")
    return Decision(request.options, tuple(shares), best, "endpoint", label_mass=label_mass, **decision_usage(data))


def _refusal(data: Any, request: DecideRequest) -> Decision:
    return Decision(request.options, (), None, "endpoint", refused=True, **decision_usage(data))

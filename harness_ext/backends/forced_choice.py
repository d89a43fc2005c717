"""Decisions by a forced choice: the server lets a model write nothing but one of the labels."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.http_client import NotOffered
from harness_ext.backends.openai_wire import first_choice, text_of, usage_of
from harness_ext.records import Decision, add

KEY = "label"  # of the object that a reply is where a server's schemas must describe objects


class Constraint(NamedTuple):
    """A way to restrict a reply to labels.

    field: the request field that does it.
    value: returns the field's value for some labels.
    label: returns the label that a reply states. Raises ValueError and the like if the reply disobeys.
    """

    field: str
    value: Callable[[Sequence[str]], Any]
    label: Callable[[str], Any]


def _schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": KEY, "strict": True, "schema": schema}}


def _of_labels(labels: Sequence[str]) -> dict[str, Any]:
    return {"type": "string", "enum": list(labels)}


def _in_object(labels: Sequence[str]) -> dict[str, Any]:
    fields = {"properties": {KEY: _of_labels(labels)}, "required": [KEY], "additionalProperties": False}
    return _schema({"type": "object", **fields})


# OpenAI's schemas must describe objects; llama.cpp, vLLM and SGLang also take a text, which costs fewer tokens.
OBJECT = Constraint("response_format", _in_object, lambda text: json.loads(text)[KEY])
TEXT = Constraint("response_format", lambda labels: _schema(_of_labels(labels)), json.loads)
VLLM = Constraint("structured_outputs", lambda labels: {"choice": list(labels)}, str)


def room_for(labels: Sequence[str]) -> int:
    """Return a number of tokens in which any label can be written as JSON: one per byte, and the object around it."""
    return max(len(json.dumps({KEY: label})) for label in labels) + 1


def read_forced(data: Any, request: DecideRequest, constraint: Constraint) -> Decision:
    """Return the decision of a reply, without probabilities.

    Raises NotOffered if the reply is none of the labels, so that the server ignores the constraint, and Fault and the
    like for a malformed reply.
    """
    message = first_choice(data)["message"]
    usage = usage_of(data)
    if message.get("refusal"):
        return Decision(request.options, (), None, "constrained", refused=True, **usage)
    text = text_of(message.get("content"))
    try:
        number = request.labels.index(constraint.label(text))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        raise NotOffered("server", f"it ignores `{constraint.field}` and replies {text[:40]!r}", usage) from None
    return Decision(request.options, (), request.options[number], "constrained", **usage)


def seed_of(request: DecideRequest, draw: int) -> int:
    """Return the seed of a draw: different for each draw and prompt, and the same in every run.

    It has 31 bits, since some servers read a signed 32-bit number.
    """
    text = json.dumps([request.prompt, request.labels, draw])
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big") >> 1


def frequencies(draws: Sequence[Decision]) -> Decision:
    """Return the decision that several draws amount to: the share of each option, of which the largest is chosen.

    Refused draws are left out. If all are refused, so is the decision.
    """
    first = draws[0]
    made = Counter(draw.choice for draw in draws if draw.choice is not None)
    shares = tuple(made[option] / made.total() for option in first.options) if made else ()
    counts: dict[str, Any] = dict.fromkeys(("prompt_tokens", "cached_tokens", "completion_tokens"), 0)
    for draw in draws:
        counts = {name: add(total, getattr(draw, name)) for name, total in counts.items()}
    return replace(
        first,
        probabilities=shares,
        choice=first.options[shares.index(max(shares))] if shares else None,
        refused=not made,
        seconds=sum(draw.seconds for draw in draws),
        faults=tuple(fault for draw in draws for fault in draw.faults),
        **counts,
    )

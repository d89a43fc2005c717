"""Decisions from the probabilities of a reply's first token, of which a server reports the likeliest ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, fsum, isnan
from typing import Any, NamedTuple

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.http_client import Fault, NotOffered
from harness_ext.backends.openai_wire import decision_usage, first_choice, text_of
from harness_ext.records import Decision
from harness_ext.records.results import ROUNDING


class Token(NamedTuple):
    """A token that a reply may begin with.

    text: its bytes, since a token may end within a character.
    probability: its probability.
    """

    text: bytes
    probability: float


def read_first_token(data: Any, request: DecideRequest) -> Decision:
    """Return the decision that the first token of a reply of `/chat/completions` or `/completions` amounts to.

    Raises NotOffered if the reply has no log-probabilities, and Fault and the like for a malformed reply. If the reply
    ends within a character, that is true of this request alone: llama.cpp does not report tokens that are no text yet.
    """
    choice = first_choice(data)
    usage = decision_usage(data)
    message = choice.get("message") or {}
    if message.get("refusal"):
        return Decision(request.options, (), None, "logprobs", refused=True, **usage)
    tokens = reported_tokens(choice)
    if tokens is None:
        if text_of(message.get("content") or choice.get("text")).endswith("\ufffd"):
            raise NotOffered("request", "it does not report the first token, which is a part of a character", usage)
        raise NotOffered("server", "its replies have no log-probabilities", usage)
    shares, mass, at_most, shared = shares_of(request.labels, tokens)
    if shared > mass:
        raise NotOffered(
            "shape",
            f"the first token does not tell the labels {list(request.labels)} apart, which begin alike",
            usage,
        )
    if not shares:
        return Decision(request.options, (), None, "logprobs", label_mass=0.0, **usage)
    best = max(range(len(shares)), key=lambda i: shares[i] or 0.0)
    return Decision(
        request.options,
        shares,
        request.options[best],
        "logprobs",
        label_mass=min(1.0, mass),
        at_most=at_most if None in shares else 0.0,
        **usage,
    )


def reported_tokens(choice: Mapping[str, Any]) -> list[Token] | None:
    """Return the tokens that a reply may have begun with, or None if the server reports none.

    Chat servers, and llama.cpp for text as well, report `content`, a list with the `top_logprobs` of each token. The
    older form of `/completions`, which vLLM uses, reports `top_logprobs`, a list with the tokens of each position by
    their text. An empty list means that the reply ended before its first token.
    """
    reported = choice.get("logprobs")
    if not reported:
        return None
    if "content" in reported:
        content = reported["content"]
        if not content:
            return [] if content == [] and choice.get("finish_reason") == "stop" else None
        entries = content[0].get("top_logprobs") or [content[0]]
        tokens = [Token(_bytes_of(entry), _exp(entry["logprob"])) for entry in entries]
    else:
        positions = reported.get("top_logprobs")
        if not positions:
            return [] if positions == [] and choice.get("finish_reason") == "stop" else None
        tokens = [Token(text.encode(), _exp(value)) for text, value in positions[0].items()]
    total = fsum(token.probability for token in tokens)
    if total > 1 + ROUNDING:
        raise Fault("bad_decision", f"probabilities of first tokens that sum to {total:.4g}")
    return tokens


def _bytes_of(entry: Mapping[str, Any]) -> bytes:
    found = entry.get("bytes")
    return bytes(found) if isinstance(found, list) else str(entry["token"]).encode()


def _exp(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Fault("bad_decision", f"a log-probability of type {type(value).__name__}")
    if isnan(value) or value > ROUNDING:
        raise Fault("bad_decision", f"a log-probability that is none: {value}")
    return exp(value)


class Shares(NamedTuple):
    """What first tokens say about labels.

    shares: the probability of each label among the labels, None for one without a token. Empty if there is none at all.
    mass: the probability of all tokens of labels.
    at_most: the highest share that a label without a token can have: the server reports its likeliest tokens, so the
        label's is no likelier than the least likely of them.
    shared: the probability of tokens that may begin more than one label.
    """

    shares: tuple[float | None, ...]
    mass: float
    at_most: float
    shared: float


def shares_of(labels: Sequence[str], tokens: Sequence[Token]) -> Shares:
    """Return how the probability of the first token is shared among labels (see `labels_begun`)."""
    encoded = [label.encode() for label in labels]
    single = all(len(token.text.strip()) <= 1 for token in tokens)
    found: dict[int, list[float]] = {}
    shared: list[float] = []
    for token in tokens:
        begun = labels_begun(encoded, token.text, single)
        if len(begun) == 1:
            found.setdefault(begun[0], []).append(token.probability)
        elif begun and token.text.strip():
            shared.append(token.probability)
    masses = {i: fsum(values) for i, values in found.items()}
    mass = fsum(masses.values())
    if not mass:
        return Shares((), 0.0, 0.0, fsum(shared))
    least = min(token.probability for token in tokens)
    known = tuple(masses[i] / mass if i in masses else None for i in range(len(labels)))
    return Shares(known, mass, least / (mass + least), fsum(shared))


def labels_begun(labels: Sequence[bytes], token: bytes, single: bool = False) -> list[int]:
    """Return the numbers of the labels that a reply may be about to write, or has written, after its first token.

    These are the labels that the token is a beginning of, and the longest label that it begins with, unless that label
    goes on as a longer word: `Yes.` has written the label `Yes`, and `Yesterday` has not. A letter of one byte within a
    word is no beginning, since a tokenizer that knows words does not split off their first letter: `I` begins a
    sentence about the writer rather than the label `Incorrect`. (Digits are often tokens of their own.)

    labels: the labels, in bytes.
    token: the token, in bytes.
    single: whether the tokenizer writes single bytes, so that they are beginnings all the same. Default False.
    """
    if not token:
        return []
    is_letter = len(token.strip()) == 1 and not token.strip().isdigit()
    begun = [
        i
        for i, label in enumerate(labels)
        if label.startswith(token) and (single or not (is_letter and _within_word(label, len(token))))
    ]
    written = [i for i, label in enumerate(labels) if label and token.startswith(label)]
    if written:
        longest = max(written, key=lambda i: len(labels[i]))
        if longest not in begun and not _within_word(token, len(labels[longest])):
            begun.append(longest)
    return begun


def _within_word(text: bytes, at: int) -> bool:
    """Return whether a text, cut at a position, is cut within a word."""
    before, after = text[:at].decode("utf-8", "replace")[-1:], text[at:].decode("utf-8", "replace")[:1]
    return (before.isalnum() or before == "\ufffd") and (after.isalnum() or after == "\ufffd")

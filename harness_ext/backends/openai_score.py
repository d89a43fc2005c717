"""Log-probabilities of a given text from servers that return those of a prompt (`echo` with `logprobs`)."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate
from typing import Any

from harness_ext.backends.base import ScoreRequest
from harness_ext.backends.openai_wire import first_choice, usage_of
from harness_ext.errors import CallFailed, LoadError
from harness_ext.records import Loglikelihood


def score_body(model: str, request: ScoreRequest) -> bytes:
    """Return the body of a request for the log-probability of a text.

    model: the model's name on the server.
    request: the request.
    """
    fields = {"model": model, "prompt": request.prompt + request.continuation, "max_tokens": 1}
    return json.dumps({**fields, "temperature": 0.0, "echo": True, "logprobs": 1}).encode()


def read_score(name: str, data: Any, request: ScoreRequest) -> Loglikelihood:
    """Return the log-probability in a reply.

    name: the model's name in messages.
    data: the reply's JSON.
    request: the request.

    Raises LoadError if the server does not return log-probabilities of a prompt, and CallFailed if its tokens do not
    match the text.
    """
    usage = usage_of(data)
    new, usage["completion_tokens"] = usage["completion_tokens"], 0  # the one token that must be generated
    logprobs = first_choice(data).get("logprobs") or {}
    values, tokens, offsets = (logprobs.get(n) or [] for n in ("token_logprobs", "tokens", "text_offset"))
    end = len(tokens) - (1 if new is None else new)
    if end < 1 or not len(values) == len(tokens) == len(offsets):
        raise LoadError(
            f"{name} returns no log-probabilities of a prompt (`echo` with `logprobs`), which this run needs: "
            "choose options that need no scoring, or a server that returns them (vLLM does)"
        )
    if min(offsets) < 0:  # SGLang does not report them
        offsets = list(accumulate(map(len, tokens), initial=0))
    # The boundary is counted from the end, since a BOS token in front may have a text that shifts all offsets.
    boundary = offsets[end - 1] + len(tokens[end - 1]) - len(request.continuation)
    first = next(i for i in range(end) if offsets[i] + len(tokens[i]) > boundary)
    if not "".join(tokens[first:end]).endswith(request.continuation) or None in values[first:end]:
        raise CallFailed(
            "backend", f"the tokens that {name} returned do not match the text to score: use a local model for scoring"
        )
    tops = (logprobs.get("top_logprobs") or [None] * len(tokens))[first:end]
    greedy = all(v >= max(top.values()) for v, top in zip(values[first:end], tops, strict=True)) if all(tops) else None
    return replace(Loglikelihood(float(sum(values[first:end])), greedy), **usage)

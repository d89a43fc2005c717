"""Sends requests through an lm-eval model and hands over results while the call is still running.

lm-eval models report each result to their cache hook as soon as it exists, so this module installs a hook of its own. A
result is matched to its request by the prompt object, which models pass back. If a model passes back a copy, the result
is matched by the prompt's text, provided that it occurs only once; otherwise it is delivered when the call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from harness_ext.backends.base import GenerateRequest, ScoreRequest

LMRequest = TypeVar("LMRequest", GenerateRequest, ScoreRequest)


class IndexedPrompt(str):
    """A prompt that knows which request it belongs to."""

    position: int

    def __new__(cls, text: str, position: int) -> IndexedPrompt:
        prompt = super().__new__(cls, text)
        prompt.position = position
        return prompt


class WireChat(str):
    """A conversation as JSON, for models that send messages to a server (lm-eval's `JsonChatStr`)."""

    __slots__ = ()


class ResultHook:
    """Takes the place of lm-eval's `CacheHook` and calls `found(index, result)` at most once per request."""

    dbdict = None

    def __init__(self, prompts: Sequence[Any], found: Callable[[int, Any], None]) -> None:
        self.found = found
        self.seen: set[int] = set()
        texts = [str(getattr(p, "prompt", p)) for p in prompts]
        counts: dict[str, int] = {}
        for text in texts:
            counts[text] = counts.get(text, 0) + 1
        self.unique = {text: i for i, text in enumerate(texts) if counts[text] == 1}

    def add_partial(self, attr: str, req: Sequence[Any], res: Any) -> None:
        """Called by lm-eval's models with the request's arguments and its result."""
        index = getattr(req[0], "position", None)
        if not isinstance(index, int):
            index = self.unique.get(str(getattr(req[0], "prompt", req[0])))
        if index is not None:
            self.deliver(index, res)

    def deliver(self, index: int, res: Any) -> None:
        """Hand over a result, unless it was handed over before."""
        if index not in self.seen:
            self.seen.add(index)
            self.found(index, res)


def call_lm(lm: Any, requests: Sequence[LMRequest], found: Callable[[int, Any], None]) -> None:
    """Answer all requests with one call of an lm-eval model.

    lm: an `lm_eval.api.model.LM`.
    requests: requests of one kind.
    found: called as `found(index, result)` for each result as soon as it exists.

    Raises what the model raises; the results that it reported until then have been handed over.
    """
    from lm_eval.api.instance import Instance

    method = "loglikelihood" if isinstance(requests[0], ScoreRequest) else "generate_until"
    if isinstance(requests[0], ScoreRequest) and requests[0].rolling:
        method = "loglikelihood_rolling"
    prompts = [_as_argument(r.prompt, i) for i, r in enumerate(requests)]
    instances = [
        Instance(
            request_type=method,
            doc={},
            arguments=_arguments(p, r),
            idx=i,
            metadata=(None, i, 1),
        )
        for i, (p, r) in enumerate(zip(prompts, requests, strict=True))
    ]
    hook, former = ResultHook(prompts, found), lm.cache_hook
    lm.set_cache_hook(hook)
    try:
        for index, result in enumerate(getattr(lm, method)(instances, disable_tqdm=True)):
            hook.deliver(index, result)
    finally:
        lm.set_cache_hook(former)


def _arguments(prompt: Any, request: GenerateRequest | ScoreRequest) -> tuple[Any, ...]:
    if isinstance(request, ScoreRequest):
        return (prompt,) if request.rolling else (prompt, request.continuation)
    images = getattr(request, "images", ())
    return (prompt, dict(request.gen_kwargs), *([{"visual": [i.open() for i in images]}] if images else []))


def _as_argument(prompt: str, position: int) -> Any:
    if not isinstance(prompt, WireChat):
        return IndexedPrompt(prompt, position)
    from lm_eval.models.api_models import JsonChatStr

    return JsonChatStr(str(prompt))

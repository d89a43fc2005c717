"""Scores texts with lm-eval's `HFLM`: each result is handed over as soon as the model has read its batch."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from harness_ext.backends.base import Deliver, ScoreRequest
from harness_ext.backends.registered_calls import call_lm
from harness_ext.records import CallResult, Loglikelihood

Windows = Sequence[tuple[float, bool]]


class ScoreWatch:
    """Tells how the time of an `HFLM`'s forward passes is shared among the requests that they answer.

    The `HFLM` calls `begin`, `forward` and `end`. `on_windows` is called with the results of a batch of windows of
    whole texts; default None: nothing wants them.
    """

    def __init__(self) -> None:
        self.on_windows: Callable[[Windows], None] | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was watched before."""
        self._sharing: dict[int, int] = {}
        self._per_row = 0.0
        self._rows: int | None = None
        self.go_on()

    def go_on(self) -> None:
        """Let the time until now count for no request."""
        self._last = time.perf_counter()

    def begin(self, requests: Sequence[tuple[Any, list[int], list[int]]], groups: bool) -> None:
        """Called before requests are scored.

        requests: (context and continuation, tokens of the context, tokens of the continuation) for each.
        groups: whether requests that differ in their last token alone share a row of the batch.
        """
        if self.on_windows is not None or not groups:
            return
        rows = [hash((*context, *continuation[:-1])) for _, context, continuation in requests]
        sizes = Counter(rows)
        for (texts, *_), row in zip(requests, rows, strict=True):
            position = getattr(texts[0], "position", None) if texts else None
            if position is not None:
                self._sharing[position] = sizes[row]

    def forward(self, rows: int) -> None:
        """Called before the model reads a batch of this many rows."""
        self._rows = rows

    def end(self, results: Windows) -> Windows:
        """Called with the results of all requests; returns them."""
        if self.on_windows is not None:
            self.on_windows(results)
        return results

    def seconds(self, index: int) -> float:
        """Return a request's share of the time; called when its result is there.

        The first result of a batch comes after the forward pass, which is divided among the batch's rows.
        """
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        if self._rows is not None:
            self._per_row, self._rows, elapsed = elapsed / self._rows, None, 0.0
        return elapsed + self._per_row / self._sharing.get(index, 1)

    def elapsed(self) -> float:
        """Return the time since the last result."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        return elapsed


def score(lm: Any, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
    """Answer scoring requests with an `HFLM` that has a `ScoreWatch` as its `scoring`."""
    for rolling in (False, True):
        group = [i for i, request in enumerate(requests) if request.rolling == rolling]

        def deliver_one(index: int, result: CallResult, group: list[int] = group) -> None:
            deliver(group[index], result)

        if group:
            ask = _score_whole_texts if rolling else _score_continuations
            ask(lm, [requests[i] for i in group], deliver_one)


def _score_continuations(lm: Any, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
    watch: ScoreWatch = lm.scoring
    watch.restart()

    def found(index: int, result: Any) -> None:
        seconds = watch.seconds(index)
        tokens = len(lm.tok_encode(requests[index].prompt + requests[index].continuation))
        deliver(index, scored(result, tokens, 0, seconds))
        watch.go_on()

    call_lm(lm, requests, found)


def _score_whole_texts(lm: Any, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
    """`HFLM` reads the windows of all texts in their order, and returns the texts' sums only at the end."""
    watch: ScoreWatch = lm.scoring
    tokens = [lm.tok_encode(request.prompt) for request in requests]
    counts = [_count_windows(lm, ids) for ids in tokens]
    windows: list[tuple[float, float]] = []
    done: set[int] = set()

    def hand_over(index: int, logprob: float, seconds: float) -> None:
        if index not in done:
            done.add(index)
            deliver(index, scored(logprob, len(tokens[index]), 0, seconds))

    def read(results: Windows) -> None:
        share = watch.elapsed() / max(len(results), 1)
        windows.extend((logprob, share) for logprob, _ in results)
        while len(done) < len(requests) and len(windows) >= counts[len(done)]:
            own = windows[: counts[len(done)]]
            del windows[: len(own)]
            hand_over(len(done), sum(logprob for logprob, _ in own), sum(seconds for _, seconds in own))
        watch.go_on()

    watch.restart()
    watch.on_windows = read
    try:
        call_lm(lm, requests, lambda index, result: hand_over(index, result, 0.0))
    finally:
        watch.on_windows = None


def _count_windows(lm: Any, tokens: list[int]) -> int:
    from lm_eval.utils import get_rolling_token_windows

    return sum(1 for _ in get_rolling_token_windows(tokens, lm.prefix_token_id, lm.max_length, context_len=1))


def scored(result: Any, read: int | None, cached: int | None, seconds: float) -> Loglikelihood:
    """Return the result of a scoring request.

    result: what lm-eval's model returned: log-probability and greedy flag, or for a whole text the log-probability.
    read: the number of tokens that the model read; None if unknown.
    cached: the number of those that were cached; None if unknown.
    seconds: the request's share of the wall time.
    """
    logprob, greedy = result if isinstance(result, tuple | list) else (result, None)
    greedy = None if greedy is None else bool(greedy)
    return Loglikelihood(
        float(logprob), prompt_tokens=read, cached_tokens=cached, completion_tokens=0, seconds=seconds, greedy=greedy
    )

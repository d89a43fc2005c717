"""The rows of a batch that `HFLM` generated, and the replies in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from harness_ext.reading.stops import cut_at_stop
from harness_ext.reading.thoughts import Markers, split_thought
from harness_ext.records import Completion, Finish


@dataclass(frozen=True, slots=True)
class GeneratedRow:
    """One row of a generated batch.

    prompt_tokens: the length of the prompt.
    tokens: the new tokens, with whatever follows the reply's end.
    max_new: the largest number of new tokens.
    stops: the stop sequences.
    seconds: the row's share of the batch's wall time (`RowSeconds`).
    markers: how thoughts are marked; None if the stop sequences apply to the whole text. Default None.
    number: the row's place in its batch, from 0. Default 0.
    """

    prompt_tokens: int
    tokens: list[int]
    max_new: int
    stops: list[str]
    seconds: float
    markers: Markers | None = None
    number: int = 0


class RowSeconds:
    """Divides the wall time of a batch among its rows: each moment among the rows that are still being written.

    The shares add up to the time in which there are any rows.

    rows: the number of rows with which the batch begins, numbered from 0. Default 0.
    clock: returns the time in seconds. Default: the system's most precise clock.
    """

    def __init__(self, rows: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._since = clock()
        self._shares: dict[Hashable, float] = dict.fromkeys(range(rows), 0.0)

    def begin(self, row: Hashable) -> None:
        """Take note that a row has joined the batch."""
        self._share()
        self._shares[row] = 0.0

    def end(self, row: Hashable) -> float:
        """Take note that a row has ended, and return its share."""
        self._share()
        return self._shares.pop(row)

    def _share(self) -> None:
        now = self._clock()
        if self._shares:
            each = (now - self._since) / len(self._shares)
            self._shares = {one: share + each for one, share in self._shares.items()}
        self._since = now


def reply_text(lm: Any, row: GeneratedRow) -> str:
    """Return the text of a row as `HFLM.generate_until` returns it.

    lm: the `HFLM`.
    row: the row.
    """
    from lm_eval.models.utils import postprocess_generated_text

    tokens, thinking = row.tokens, lm.think_end_token
    if isinstance(thinking, int):
        after = next((i for i in range(len(tokens), 0, -1) if tokens[i - 1] == thinking), 0)
        text = lm.tok_decode(tokens[after:]).lstrip()
    else:
        text = lm.tok_decode(tokens)
    marker = thinking if isinstance(thinking, str) else None
    cut: str = postprocess_generated_text(generation=text, stop=row.stops, think_end_token=marker)
    return cut


def completion_of(lm: Any, text: str, row: GeneratedRow, keep_ids: bool) -> Completion:
    """Return the completion of a row.

    lm: the `HFLM`.
    text: the reply, as `HFLM` decoded it.
    row: the row.
    keep_ids: whether to include the token ids.
    """
    used, finish = _used_tokens(lm, row)
    if row.markers is not None and lm.think_end_token is None:
        whole = lm.tok_decode(row.tokens[:used])
        thought = split_thought(whole, row.markers)
        if thought.start or not thought.finished:  # HFLM has cut the text at a stop sequence inside the thought
            text = cut_at_stop(whole, row.stops, row.markers)[0]
    ids = tuple(row.tokens[:used]) if keep_ids else None
    return Completion(
        text,
        finish,
        prompt_tokens=row.prompt_tokens,
        cached_tokens=0,
        completion_tokens=used,
        seconds=row.seconds,
        ids=ids,
    )


def _used_tokens(lm: Any, row: GeneratedRow) -> tuple[int, Finish]:
    """Return how many tokens a row has up to its own end, and how it ended. (A batch runs until its last row ends.)"""
    end = next((i + 1 for i, token in enumerate(row.tokens) if token in lm.end_ids), None)
    tokens = row.tokens[:end]

    def stopped(length: int) -> bool:
        return cut_at_stop(lm.tok_decode(tokens[:length]), row.stops, row.markers)[1]

    if not stopped(len(tokens)):
        return len(tokens), "stop" if end is not None or len(tokens) < row.max_new else "length"
    # Once a prefix contains a stop sequence, every longer one does, so the shortest is found by bisection.
    low, high = 1, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if stopped(middle) else (middle + 1, high)
    return low, "stop"

"""The rows of a batch that `HFLM` generated, and the replies in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness_ext.records import Completion, Finish


@dataclass(frozen=True, slots=True)
class GeneratedRow:
    """One row of a generated batch.

    prompt_tokens: the length of the prompt.
    tokens: the new tokens, with whatever follows the reply's end.
    max_new: the largest number of new tokens.
    stops: the stop sequences.
    seconds: the row's share of the batch's wall time.
    """

    prompt_tokens: int
    tokens: list[int]
    max_new: int
    stops: list[str]
    seconds: float


def completion_of(lm: Any, text: str, row: GeneratedRow, keep_ids: bool) -> Completion:
    """Return the completion of a row.

    lm: the `HFLM`.
    text: the reply, as `HFLM` decoded it.
    row: the row.
    keep_ids: whether to include the token ids.
    """
    used, finish = _used_tokens(lm, row)
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
        text = lm.tok_decode(tokens[:length])
        return any(stop and stop in text for stop in row.stops)

    if not stopped(len(tokens)):
        return len(tokens), "stop" if end is not None or len(tokens) < row.max_new else "length"
    # Once a prefix contains a stop sequence, every longer one does, so the shortest is found by bisection.
    low, high = 1, len(tokens)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if stopped(middle) else (middle + 1, high)
    return low, "stop"

"""Ends the rows of a batch at stop sequences in their answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from harness_ext.reading.stops import cut_at_stop
from harness_ext.reading.thoughts import Markers


def lookback(stops: Collection[str]) -> int:
    """Return in how many of the last tokens a stop sequence that has just been completed must lie.

    Decoding all tokens at each step would take quadratic time. A token has at least one byte, so a stop sequence spans
    at most as many tokens as it has bytes; four more for a character that is split over tokens.
    """
    return max((len(stop.encode()) for stop in stops), default=0) + 4


class AnswerStops:
    """A `StoppingCriteria` of transformers: called with all tokens so far, it returns which rows have ended.

    lm-eval's own criterion also ends a row at a stop sequence inside a thought, which leaves the row without an answer.

    tokenizer: the tokenizer.
    stops: the stop sequences.
    width: the padded length of the prompts, in tokens.
    markers: how thoughts are marked; None if the stop sequences apply to the whole text.
    wrote: called after each step with the number of tokens that it added to rows that had not ended. Default none.
    end_ids: the tokens that end a row by themselves. Default none.
    row_ended: called as `row_ended(row, new)` once for each row that a stop sequence or one of these tokens has ended,
        in the step in which it ends, with the new tokens of all rows. Default none.
    """

    def __init__(
        self,
        tokenizer: Any,
        stops: Sequence[str],
        width: int,
        markers: Markers | None,
        wrote: Callable[[int], None] | None = None,
        end_ids: Collection[int] = (),
        row_ended: Callable[[int, Any], None] | None = None,
    ) -> None:
        self.tokenizer, self.width, self.markers = tokenizer, width, markers
        self.wrote, self.end_ids, self.row_ended = wrote, end_ids, row_ended
        self.stops = [stop for stop in stops if stop]
        self.lookback = lookback(self.stops)
        self.ended: set[int] = set()
        self._full: set[int] = set()  # the rows to which no more tokens are added but padding

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        full_before = set(self._full)
        if self.wrote is not None:
            self.wrote(len(input_ids) - len(full_before))
        self._full |= {row for row, token in enumerate(input_ids[:, -1].tolist()) if token in self.end_ids}
        new = input_ids[:, self.width :]
        open_rows = [row for row in range(len(new)) if row not in self.ended] if self.stops else []
        tails = self.tokenizer.batch_decode(new[open_rows, -self.lookback :]) if open_rows else []
        for row, tail in zip(open_rows, tails, strict=True):
            if any(stop in tail for stop in self.stops):
                text = tail if self.markers is None else self.tokenizer.decode(new[row])
                if cut_at_stop(text, self.stops, self.markers)[1]:
                    self.ended.add(row)
        self._full |= self.ended
        if self.row_ended is not None:
            for row in sorted(self._full - full_before):
                self.row_ended(row, new)
        return torch.tensor([row in self.ended for row in range(len(new))], device=input_ids.device)

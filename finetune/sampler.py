"""The order of rows in which batches hold rows of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator


class LengthGroupedSampler:
    """Row order in which the rows of a batch have similar lengths, while batches come in random order.

    Less padding than a plain shuffle; unlike transformers' `group_by_length`, which sorts the batches within a pool,
    short and long batches alternate at random, so that kinds of rows that differ in length are not learned in turns.
    `lengths` are in tokens; equal seeds and epochs give equal orders.
    """

    POOL = 25

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        """Prepare the order of epoch 0; `set_epoch` changes it."""
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield every row's index once."""
        rng = random.Random(f"{self.seed} {self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        size = self.batch_size * self.POOL
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            pool = sorted(order[start : start + size], key=self.lengths.__getitem__)
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        # The one short batch, if any, goes last: anywhere else it would shift the rows of all later batches.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rng.shuffle(full)
        for batch in full + short:
            yield from batch

"""A row order in which batches contain rows of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator


class LengthGroupedSampler:
    """A row order in which the rows of a batch have similar lengths and batches come in random order.

    This needs less padding than a plain shuffle. transformers' `group_by_length` sorts the batches within a pool; here
    short and long batches come in random order, so that kinds of rows that differ in length are not learned one after
    the other. Equal seeds and epochs give equal orders.

    lengths: the length of each row, in tokens.
    batch_size: rows per batch.
    seed: seed of the order.
    """

    POOL = 25

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        """Create the sampler for epoch 0; `set_epoch` changes the epoch."""
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield the index of every row once."""
        rng = random.Random(f"{self.seed} {self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        size = self.batch_size * self.POOL
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            # Sorting within a pool of random rows, not globally, keeps the composition of batches random.
            pool = sorted(order[start : start + size], key=self.lengths.__getitem__)
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        # The incomplete batch, if any, goes last: anywhere else it would shift the rows of all later batches.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rng.shuffle(full)
        for batch in full + short:
            yield from batch

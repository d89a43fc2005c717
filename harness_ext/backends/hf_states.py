"""How an `HFLM` reads token sequences: with its states kept or, where that is impossible, from their beginning."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from harness_ext.backends.hf_cache import Read, StateCache, Unsupported
from harness_ext.errors import RunAborted

_TOLERANCE = 0.1  # of the logits' spread; in bfloat16, rounding alone makes up to some hundredths


class States(Protocol):
    """What reads sequences; see `StateCache` for its methods."""

    def read(self, sequences: Sequence[Sequence[int]], kept: Sequence[int], first: int = 0) -> Iterator[Read]:
        """Read sequences into the rows from `first` on."""

    def extend(self, new: Sequence[Sequence[int]], kept: int = 1, first: int = 0) -> Any:
        """Read further tokens of the sequences in the rows from `first` on, and return the last logits."""

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""

    def clear(self) -> None:
        """Forget all sequences."""


class Recomputed:
    """Reads every sequence from its beginning each time, for models whose states cannot be kept.

    Rows are padded on the right, where a causal model does not look.

    model: a causal model of transformers.
    keeps_logits: whether the model can be asked for the logits at some positions only.
    """

    def __init__(self, model: Any, keeps_logits: bool) -> None:
        self.model, self.keeps_logits = model, keeps_logits
        self._rows: list[list[int]] = []

    def read(self, sequences: Sequence[Sequence[int]], kept: Sequence[int], first: int = 0) -> Iterator[Read]:
        """Read sequences into the rows from `first` on; see `StateCache.read`."""
        self._rows[first:] = map(list, sequences)
        for i, logits in enumerate(self._logits(self._rows[first:], max(kept))):
            yield Read(i, 0, logits[-kept[i] :])

    def extend(self, new: Sequence[Sequence[int]], kept: int = 1, first: int = 0) -> Any:
        """Read further tokens of the sequences in the rows from `first` on; see `StateCache.extend`."""
        import torch

        rows = self._rows[first : first + len(new)]
        for row, tokens in zip(rows, new, strict=True):
            row.extend(tokens)
        return torch.stack(self._logits(rows, kept))

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        self._rows[a], self._rows[b] = self._rows[b], self._rows[a]

    def clear(self) -> None:
        """Forget all sequences."""
        self._rows = []

    def _logits(self, rows: Sequence[list[int]], kept: int) -> list[Any]:
        """Return the logits at the last positions of each row, of shape (kept or the row's length, vocabulary)."""
        import torch

        width = max(map(len, rows))
        first = max(0, min(map(len, rows)) - kept)  # the first position whose logits are wanted
        inputs = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=self.model.device)
        kwargs = {"logits_to_keep": width - first} if self.keeps_logits else {}
        logits = self.model(inputs, use_cache=False, **kwargs).logits[:, -(width - first) :]
        return [logits[i, max(0, len(row) - kept - first) : len(row) - first] for i, row in enumerate(rows)]


def open_states(lm: Any, budget: int) -> tuple[States, str]:
    """Return what reads sequences for a loaded `HFLM`, and why no states are kept; an empty text if they are.

    lm: the `HFLM`.
    budget: the bytes that the states of sequences may take; 0 to keep none.

    Whether a model's states can be kept is tried out: a few sequences are read in parts and as a whole.
    """
    plain = Recomputed(lm.model, lm.keeps_logits)
    if not budget:
        return plain, "`kv_cache_gb=0`"
    try:
        states = StateCache(lm.model, budget, lm.keeps_logits)
        reason = _difference(lm, states, plain)
    except RunAborted:
        raise
    except Unsupported as error:
        return plain, str(error)
    except Exception as error:  # models take arguments of many kinds, and raise anything at those that they do not know
        return plain, f"{type(error).__name__}: {error}"
    states.clear()
    return (plain, reason) if reason else (states, "")


def _difference(lm: Any, states: States, plain: States) -> str:
    """Return how sequences that are read in parts come out differently, or an empty text."""
    import torch

    source = random.Random(0)
    size = lm.model.config.get_text_config().vocab_size

    def tokens(number: int) -> list[int]:
        return [source.randrange(size) for _ in range(number)]

    shared, ends = tokens(12), [tokens(3), tokens(1)]
    wholes = [shared + tokens(9), shared + tokens(2)]
    with reading(lm, states):
        order = [read.index for read in states.read(wholes, [1, 1])]
        found = states.extend([ends[i] for i in order])[:, -1].float()
        whole = [wholes[i] + ends[i] for i in order]
        expected = torch.stack([read.logits[-1] for read in plain.read(whole, [1] * len(whole))]).float()
    spread = (expected - expected.mean(dim=-1, keepdim=True)).norm()
    error = float((found - expected).norm() / spread)
    return "" if error <= _TOLERANCE else f"sequences that are read in parts differ by {error:.0%}"


@contextmanager
def reading(lm: Any, states: States) -> Iterator[None]:
    """The context in which an `HFLM` reads: without gradients, and with the precision that the user asked for.

    After an error nothing is kept, since it may have been for lack of memory.
    """
    import torch

    dtype = lm.mixed_precision_dtype
    with torch.no_grad(), torch.autocast(device_type=lm.device.type, dtype=dtype, enabled=dtype is not None):
        try:
            yield
        except BaseException:
            states.clear()
            raise


def state_budget(lm: Any, gigabytes: float | None) -> int:
    """Return the bytes that the states of sequences may take.

    gigabytes: the user's own limit in GB; None for a quarter of the device's free memory, or a tenth on a CPU.
    """
    if gigabytes is not None:
        return int(gigabytes * 1e9)
    if lm.device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(lm.device)[0]) // 4
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available) // 10

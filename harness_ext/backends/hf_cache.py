"""The key/value states of many token sequences, so that a model reads no token twice.

The states of a sequence fill one row of a buffer from its first column on, and rows have different lengths. A sequence
that is not read further stays until its room is needed: one that begins with the same tokens takes over or copies their
states. This is the prefix caching of vLLM (Kwon et al. 2023, arXiv:2309.06180) with whole sequences in place of blocks.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]

# The rest of a kept sequence is given up for one that shares all but this many of its tokens.
_TAIL = 32
# Two new sequences that share this many tokens are read one after the other, so that the second copies them.
_WORTH = 64
_STEP = 64  # columns by which the buffer grows at least
_CHUNK = 2048  # tokens that are read at once, unless a single sequence has more


class Unsupported(Exception):
    """A model whose states cannot be kept in a `StateCache`; the message says what it has."""


@dataclass(eq=False, slots=True)
class Held:
    """A sequence whose states are kept.

    ids: its tokens.
    used: when it was read last, as a number that grows with time.
    """

    ids: array[int] = field(default_factory=lambda: array("q"))
    used: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """A sequence that was read.

    index: its index among the given ones.
    cached: how many of its tokens had been read before.
    logits: the logits at its last positions, of shape (kept, vocabulary).
    """

    index: int
    cached: int
    logits: Any


class StateCache:
    """The states of sequences in the rows of one buffer. The first rows are those that the caller reads further.

    model: a causal model of transformers.
    budget: the bytes that the states may take in all. The sequences that are being read are kept whatever they take.
    keeps_logits: whether the model can be asked for the logits at the last positions only.
    """

    def __init__(self, model: Any, budget: int, keeps_logits: bool = True) -> None:
        self.model, self.budget, self.keeps_logits = model, budget, keeps_logits
        self.held: list[Held] = []
        self._states: Any = None
        self._rows = self._columns = self._clock = 0
        self._begin = self._first = self._view = 0
        self._places: Any = None
        self._windows = attention_windows(model.config.get_text_config())

    # -- sequences ---------------------------------------------------------------------------------------------------

    def read(self, sequences: Sequence[Sequence[int]], kept: Sequence[int], first: int = 0) -> Iterator[Read]:
        """Read sequences into the rows from `first` on, in the order in which they are yielded.

        sequences: the tokens of each.
        kept: at how many of its last positions the logits of each are wanted; 1 or more.
        first: how many rows are in use.
        """
        arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
        left = list(range(len(arrays)))
        while left:
            now = self._next(arrays, left, first)
            left = [i for i in left if i not in now]
            cached = [self._place(arrays[i], kept[i], first + place) for place, i in enumerate(now)]
            new = [sequences[i][begin:] for i, begin in zip(now, cached, strict=True)]
            logits = self.extend(new, max(kept[i] for i in now), first)
            for i, begin, found in zip(now, cached, logits, strict=True):
                yield Read(i, begin, found[-kept[i] :])
            first += len(now)

    def extend(self, new: Sequence[Sequence[int]], kept: int = 1, first: int = 0) -> Any:
        """Read further tokens of the sequences in the rows from `first` on. Rows after them are not in use.

        new: the tokens, one or more per row.
        kept: at how many of the last positions the logits are wanted.

        Returns the logits, of shape (rows, kept, vocabulary). Rows with fewer tokens have no meaningful logits before
        their own.
        """
        import torch

        held, size = self.held[first : first + len(new)], max(map(len, new))
        begins = [len(one.ids) for one in held]
        self._begin, self._first = max(begins), first
        self._view = max(begin + len(tokens) for begin, tokens in zip(begins, new, strict=True))
        self._fit(0, self._view, first + len(new))
        device = self.model.device
        # Shorter rows are padded on the left, so that the last tokens of all rows are in the same place. The padding
        # sees the first column, which is never empty, and its own states go to the last one, which nobody sees.
        pads = [size - len(tokens) for tokens in new]
        inputs = torch.tensor([[0] * pad + list(tokens) for pad, tokens in zip(pads, new, strict=True)], device=device)
        offsets = torch.arange(size, device=device) - torch.tensor(pads, device=device)[:, None]
        positions = torch.tensor(begins, device=device)[:, None] + offsets
        self._places = positions.masked_fill(offsets < 0, self._columns - 1)
        positions = positions.masked_fill(offsets < 0, 0)
        kwargs = {"logits_to_keep": kept} if self.keeps_logits else {}
        if self._states is None:
            self._states = _states_class()(self, self.model.config.get_text_config().num_hidden_layers)
        logits = self.model(
            inputs,
            attention_mask=self._masks(positions),
            position_ids=positions,
            past_key_values=self._states,
            use_cache=True,
            **kwargs,
        ).logits[:, -kept:]
        self._clock += 1
        for one, tokens in zip(held, new, strict=True):
            one.ids.extend(tokens)
            one.used = self._clock
        return logits

    def swap(self, a: int, b: int) -> None:
        """Exchange two rows."""
        if a == b:
            return
        width = max(len(self.held[a].ids), len(self.held[b].ids))
        for buffer in self._buffers():
            former = buffer[a, :, :width].clone()
            buffer[a, :, :width] = buffer[b, :, :width]
            buffer[b, :, :width] = former
        self.held[a], self.held[b] = self.held[b], self.held[a]

    def clear(self) -> None:
        """Forget all sequences and release their memory."""
        self.held, self._states, self._rows, self._columns = [], None, 0, 0

    def _next(self, sequences: Sequence[Tokens], left: Sequence[int], first: int) -> list[int]:
        """Return which sequences to read next, at once, in the order of the rows that they get, from `first` on."""
        rows = {one: row for row, one in enumerate(self.held)}
        now: list[int] = []
        at: dict[int, int] = {}  # which of them goes on from what is in a row
        longest = 0
        for i in left:
            source, known = self._match(sequences[i])
            longest = max(longest, len(sequences[i]) - known)
            if now and longest * (len(now) + 1) > _CHUNK:
                break
            if not any(_shared(sequences[i], sequences[j]) - known >= _WORTH for j in now):
                now.append(i)
                if source:
                    at[rows[source]] = i
        # States are megabytes: what can stay where it is does so.
        places = range(first, first + len(now))
        staying = {row: i for row, i in at.items() if row in places}
        moving = (i for i in now if i not in staying.values())
        return [staying[row] if row in staying else next(moving) for row in places]

    def _match(self, sequence: Tokens) -> tuple[Held | None, int]:
        """Return the sequence that begins with the most tokens of another one, and how many these are."""
        best: tuple[Held | None, int] = (None, 0)
        for one in self.held:
            if (
                len(one.ids) > best[1]
                and (count := _shared(sequence, np.frombuffer(one.ids, dtype=np.int64))) > best[1]
            ):
                best = one, count
        return best

    def _place(self, sequence: Tokens, kept: int, row: int) -> int:
        """Let a row hold as much of the beginning of a sequence as is known, and return how many tokens that is.

        row: the first row that is not in use.
        """
        source, count = self._match(sequence)
        count = min(count, len(sequence) - kept)
        if source is None or count <= 0:
            self._vacate(row, None)
            return 0
        at = self.held.index(source)
        if at >= row and len(source.ids) - count <= _TAIL:
            self.swap(row, at)
        elif not self._vacate(row, source):
            at = self.held.index(source)
            for buffer in self._buffers():
                buffer[row, :, :count] = buffer[at, :, :count]
            self.held[row].ids.extend(sequence[:count].tolist())
        del self.held[row].ids[count:]
        return count

    def _vacate(self, row: int, source: Held | None) -> bool:
        """Let a row hold an empty sequence, in place of the one that was read least recently if there is no room.

        Returns whether `source` had to be given up, which then is what the row holds.
        """
        if len(self.held) == row or len(self.held) < self._most(self._columns):
            self._fit(1, 0, row)
            self.held.append(Held())
            self.swap(row, len(self.held) - 1)
            return False
        victim = min(self.held[row:], key=lambda one: (one is source, one.used))
        self.swap(row, self.held.index(victim))
        if victim is not source:
            self.held[row] = Held()
        return victim is source

    # -- attention ---------------------------------------------------------------------------------------------------

    def _masks(self, positions: Any) -> Any:
        """Return what tokens at these positions see, in the form in which the model takes it.

        positions: of shape (rows, tokens).
        """
        import torch

        if len(positions) == 1:
            return None  # transformers has faster kernels where there is neither padding nor another row
        columns = torch.arange(self._view, device=positions.device)
        masks = {}
        for kind, window in self._windows.items():
            visible = columns <= positions[:, :, None]
            if window is not None:
                visible &= columns > positions[:, :, None] - window
            hidden = torch.zeros(visible.shape, dtype=self.model.dtype, device=positions.device)
            masks[kind] = hidden.masked_fill(~visible, torch.finfo(self.model.dtype).min)[:, None]
        return masks if len(masks) > 1 else next(iter(masks.values()))

    # -- memory ------------------------------------------------------------------------------------------------------

    def _buffers(self) -> Iterator[Any]:
        for layer in self._states.layers if self._states is not None else ():
            if layer.is_initialized:
                yield layer.keys
                yield layer.values

    def _most(self, columns: int) -> float:
        """Return how many rows of this many columns the budget allows."""
        token = sum(b.shape[1] * b.shape[3] * b.element_size() for b in self._buffers())
        return self.budget // (token * columns) if token else inf

    def _fit(self, more: int, columns: int, in_use: int) -> None:
        """Make room for more rows and for this many columns, and give up the sequences that do not fit any more.

        in_use: the number of rows that must be kept.
        """
        import torch

        if len(self.held) + more <= self._rows and columns < self._columns:
            return
        width = self._columns
        if columns >= width:  # the last column is for padding
            width = -(-max(columns + 1, width * 3 // 2) // _STEP) * _STEP
        most = max(in_use + more, self._most(width))
        while len(self.held) + more > most:
            least = min(self.held[in_use:], key=lambda one: one.used)
            self.swap(self.held.index(least), len(self.held) - 1)
            self.held.pop()
        rows = len(self.held) + more
        rows = int(min(most, max(rows, self._rows if rows <= self._rows else 2 * self._rows)))
        count, former = len(self.held), self._columns
        self._rows, self._columns = rows, width
        for layer in self._states.layers if self._states is not None else ():
            for name in ("keys", "values") if layer.is_initialized else ():
                old = getattr(layer, name)
                # Zeros, because what is in a column that a token does not see is multiplied by 0 all the same.
                buffer = torch.zeros(rows, old.shape[1], width, old.shape[3], dtype=old.dtype, device=old.device)
                buffer[:count, :, : former - 1] = old[:count, :, : former - 1]
                setattr(layer, name, buffer)


def attention_windows(config: Any) -> dict[str, int | None]:
    """Return how many tokens each kind of a model's layers looks back, None for all.

    config: the configuration of a transformers model.

    Raises Unsupported if a kind of layer has states other than keys and values, or attends in another way.
    """
    attention = getattr(config, "_attn_implementation", None)
    if attention not in ("sdpa", "eager"):
        raise Unsupported(f"attn_implementation={attention}")
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = list(dict.fromkeys(getattr(config, "layer_types", None) or []))
    if unknown := [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]:
        raise Unsupported(f"layers of the type {unknown[0]}")
    return {kind: window if kind == "sliding_attention" else None for kind in kinds} or {"": window}


@lru_cache(maxsize=1)
def _states_class() -> Any:
    """Return the subclass of transformers' `Cache` that keeps the states of a `StateCache`."""
    import torch
    from transformers.cache_utils import Cache, CacheLayerMixin

    class Layer(CacheLayerMixin):  # type: ignore[misc]
        """The keys and values of one layer, each of shape (rows, heads, columns, dimensions)."""

        is_sliding = False

        def __init__(self, cache: StateCache) -> None:
            super().__init__()
            self.cache = cache

        def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
            for name, new in (("keys", key_states), ("values", value_states)):
                shape = (self.cache._rows, new.shape[1], self.cache._columns, new.shape[3])
                setattr(self, name, torch.zeros(shape, dtype=new.dtype, device=new.device))
            self.is_initialized = True

        def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            first, view = self.cache._first, self.cache._view
            rows = slice(first, first + len(key_states))
            if len(key_states) == 1:
                begin = view - key_states.shape[2]
                self.keys[first, :, begin:view] = key_states[0]
                self.values[first, :, begin:view] = value_states[0]
            else:
                places = self.cache._places.to(key_states.device)
                numbers = torch.arange(rows.start, rows.stop, device=key_states.device)[:, None]
                self.keys[numbers, :, places] = key_states.transpose(1, 2)
                self.values[numbers, :, places] = value_states.transpose(1, 2)
            return self.keys[rows, :, :view], self.values[rows, :, :view]

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
            return self.cache._view, 0

        def get_seq_length(self) -> int:
            return self.cache._begin

        def get_max_length(self) -> int:
            return -1

    class States(Cache):  # type: ignore[misc]
        def __init__(self, cache: StateCache, layers: int) -> None:
            super().__init__(layers=[Layer(cache) for _ in range(layers)])

    return States


def _shared(a: Tokens, b: Tokens) -> int:
    """Return how many tokens two sequences begin with alike."""
    length = min(len(a), len(b))
    differ = np.flatnonzero(a[:length] != b[:length])
    return int(differ[0]) if len(differ) else length

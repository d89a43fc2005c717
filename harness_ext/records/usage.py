"""What calls cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness_ext.records.results import BATCHED, CallResult, Completion
from harness_ext.records.transcript import Turn


def add(a: float | None, b: float | None) -> Any:
    """Return the sum; None (unknown) if either part is."""
    return None if a is None or b is None else a + b


@dataclass(frozen=True, slots=True)
class Usage:
    """What calls cost. Usages can be added; a sum with an unknown part is unknown (None), never 0.

    Reused calls count in full: the figures are what the protocol would have cost on its own.

    calls: all calls that the protocol made.
    reused: those of them that the store answered, or that shared the result of an identical call.
    prompt_tokens, cached_tokens, completion_tokens: tokens as the seat's own tokenizer counts them.
    seconds: shares of wall time.
    flops: 2 · parameters · tokens.
    price: in the currency of the seats' prices.
    thinking_tokens: those completion tokens in which reasoning models thought: as they were counted, or else about, by
        the share of a reply's characters that its thought has.
    batched_prompt_tokens, batched_completion_tokens: those tokens that a batch API read and wrote.
    """

    calls: int = 0
    reused: int = 0
    prompt_tokens: int | None = 0
    cached_tokens: int | None = 0
    completion_tokens: int | None = 0
    seconds: float = 0.0
    flops: float | None = 0.0
    price: float | None = 0.0
    thinking_tokens: float | None = 0.0
    batched_prompt_tokens: int | None = 0
    batched_completion_tokens: int | None = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.reused + other.reused,
            add(self.prompt_tokens, other.prompt_tokens),
            add(self.cached_tokens, other.cached_tokens),
            add(self.completion_tokens, other.completion_tokens),
            self.seconds + other.seconds,
            add(self.flops, other.flops),
            add(self.price, other.price),
            add(self.thinking_tokens, other.thinking_tokens),
            add(self.batched_prompt_tokens, other.batched_prompt_tokens),
            add(self.batched_completion_tokens, other.batched_completion_tokens),
        )

    @staticmethod
    def total(usages: Iterable[Usage]) -> Usage:
        """Return the sum."""
        result = Usage()
        for usage in usages:
            result = result + usage
        return result


@dataclass(frozen=True, slots=True)
class SeatCost:
    """What turns a seat's tokens into FLOPs and money.

    parameters: the number of the model's weights. Default None: unknown.
    price_in: the price per million prompt tokens. Default None: unknown.
    price_out: the price per million completion tokens. Default None: unknown.
    batch_discount: the share of the price that a batch API takes off. Default 0.5.
    """

    parameters: int | None = None
    price_in: float | None = None
    price_out: float | None = None
    batch_discount: float = 0.5

    @classmethod
    def read(cls, seat: Mapping[str, Any]) -> SeatCost:
        """Return the costs of a seat as `config.json` records it; a run without batches records no discount."""
        return cls(seat.get("parameters"), seat.get("price_in"), seat.get("price_out"), seat.get("batch_discount", 0.5))

    def in_batches(self) -> SeatCost:
        """Return the costs of calls that a batch API will answer."""
        left = 1 - self.batch_discount
        read, written = (None if price is None else left * price for price in (self.price_in, self.price_out))
        return replace(self, price_in=read, price_out=written, batch_discount=0.0)

    def flops(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Return the FLOPs of this many tokens."""
        tokens = add(prompt_tokens, completion_tokens)
        return None if self.parameters is None or tokens is None else 2.0 * self.parameters * tokens

    def price(
        self,
        prompt_tokens: int | None,
        completion_tokens: int | None,
        batched_prompt_tokens: int | None = 0,
        batched_completion_tokens: int | None = 0,
    ) -> float | None:
        """Return the price of this many tokens, of which a batch API read and wrote some."""
        if self.price_in is None or self.price_out is None or prompt_tokens is None or completion_tokens is None:
            return None
        if batched_prompt_tokens is None or batched_completion_tokens is None:
            return None
        read = prompt_tokens - self.batch_discount * batched_prompt_tokens
        written = completion_tokens - self.batch_discount * batched_completion_tokens
        return (self.price_in * read + self.price_out * written) / 1e6

    def usage(self, turn: Turn) -> Usage:
        """Return the usage of one turn; of one that a protocol took, that of the calls behind it."""
        if turn.inner is not None:
            return Usage.total(self.usage(call) for call in turn.calls)
        result = turn.result
        read, written = result.prompt_tokens, result.completion_tokens
        batched = (read, written) if BATCHED in (*turn.notes, *result.notes) else (0, 0)
        return Usage(
            calls=1,
            reused=int(turn.reused),
            prompt_tokens=read,
            cached_tokens=result.cached_tokens,
            completion_tokens=written,
            seconds=result.seconds,
            flops=self.flops(read, written),
            price=self.price(read, written, *batched),
            thinking_tokens=tokens_of_thought(result),
            batched_prompt_tokens=batched[0],
            batched_completion_tokens=batched[1],
        )

    def priced(self, usage: Usage) -> Usage:
        """Return a usage with the FLOPs and the price of its tokens."""
        read, written = usage.prompt_tokens, usage.completion_tokens
        price = self.price(read, written, usage.batched_prompt_tokens, usage.batched_completion_tokens)
        return replace(usage, flops=self.flops(read, written), price=price)


def tokens_of_thought(result: CallResult) -> float | None:
    """Return how many tokens of a reply were a thought: as they were counted, or about; None if it is unknown."""
    if not isinstance(result, Completion):
        return 0.0
    # A server without a reasoning parser reports 0 where the thought is a part of the text.
    if result.thinking_tokens or not result.thought:
        return result.thinking_tokens or 0.0
    if result.completion_tokens is None:
        return None
    return result.completion_tokens * len(result.thought) / (len(result.thought) + len(result.text))

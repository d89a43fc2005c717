"""What calls cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from harness_ext.records.results import CallResult, Completion
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
    thinking_tokens: those completion tokens in which reasoning models thought, about: the share of a reply's characters
        that its thought has.
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
    """

    parameters: int | None = None
    price_in: float | None = None
    price_out: float | None = None

    def flops(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Return the FLOPs of this many tokens."""
        tokens = add(prompt_tokens, completion_tokens)
        return None if self.parameters is None or tokens is None else 2.0 * self.parameters * tokens

    def price(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Return the price of this many tokens."""
        if self.price_in is None or self.price_out is None or prompt_tokens is None or completion_tokens is None:
            return None
        return (self.price_in * prompt_tokens + self.price_out * completion_tokens) / 1e6

    def usage(self, turn: Turn) -> Usage:
        """Return the usage of one turn."""
        result = turn.result
        read, written = result.prompt_tokens, result.completion_tokens
        return Usage(
            calls=1,
            reused=int(turn.reused),
            prompt_tokens=read,
            cached_tokens=result.cached_tokens,
            completion_tokens=written,
            seconds=result.seconds,
            flops=self.flops(read, written),
            price=self.price(read, written),
            thinking_tokens=_thinking_tokens(result),
        )

    def priced(self, usage: Usage) -> Usage:
        """Return a usage with the FLOPs and the price of its tokens."""
        read, written = usage.prompt_tokens, usage.completion_tokens
        return replace(usage, flops=self.flops(read, written), price=self.price(read, written))


def _thinking_tokens(result: CallResult) -> float | None:
    if not isinstance(result, Completion) or not result.thought:
        return 0.0
    if result.completion_tokens is None:
        return None
    return result.completion_tokens * len(result.thought) / (len(result.thought) + len(result.text))

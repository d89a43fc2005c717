"""What a run will cost before it runs: calls, tokens, hours, price.

The arithmetic of tournaments is that of github.com/BertilBraun/Master-Thesis, src/dpo_cluster/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.enhance.ranking import Outcome, preferred_pairs
from harness_ext.enhance.schedules import SCHEDULES, round_sizes
from harness_ext.records import SeatCost

BYTES_A_TOKEN = 4  # where a model has no tokenizer here: a usual figure for English


@dataclass(frozen=True)
class Pace:
    """How fast calls are answered: `seconds` a call, `at_once` calls side by side. None: not known."""

    seconds: float | None = None
    at_once: float = 1.0

    def hours(self, calls: int) -> float | None:
        """Return the hours that so many calls take."""
        return None if self.seconds is None else calls * self.seconds / self.at_once / 3600


@dataclass(frozen=True)
class SeatEstimate:
    """What one seat will be asked: totals over all calls. `completion_tokens` are the most there can be, unless a
    length was measured or given. `discount` is the share of the price that is paid (1: all)."""

    seat: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: SeatCost
    pace: Pace = Pace()
    discount: float = 1.0
    counted: str = "exact"

    @property
    def price(self) -> float | None:
        """Return the price, None where prices are not known."""
        full = self.cost.price(self.prompt_tokens, self.completion_tokens)
        return None if full is None else full * self.discount

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as JSON values."""
        hours, price = self.pace.hours(self.calls), self.price
        return {
            "seat": self.seat,
            "calls": self.calls,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_are": self.counted,
            "hours": None if hours is None else round(hours, 4),
            "price": None if price is None else round(price, 4),
        }


def count_tokens(backend: Backend, text: str) -> int:
    """Return a text's length in a model's tokens; estimated from its bytes where no tokenizer is at hand."""
    encode = getattr(getattr(backend, "lm", None), "tok_encode", None)
    if backend.token_counts == "none" or encode is None:
        return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN)
    return len(encode(text))


def counting(backend: Backend) -> str:
    """Return how `count_tokens` counts for a model: `exact` or `estimated`."""
    has = callable(getattr(getattr(backend, "lm", None), "tok_encode", None))
    return "exact" if has and backend.token_counts == "exact" else "estimated"


def pairs_of(schedule: str, candidates: int, rounds: int = 0) -> int:
    """Return how many preferences a tournament brings when the one named first always wins.

    For single elimination of n = 2^L that is (n/2) log2 n, whoever wins; otherwise the number depends on the winners.
    """
    import random

    play, played = SCHEDULES[schedule](candidates, random.Random(0), rounds), list[Outcome]()
    matches = next(play, None)
    while matches:
        played += [Outcome(a, b, a) for a, b in matches]
        try:
            matches = play.send([a for a, _ in matches])
        except StopIteration:
            break
    return len(preferred_pairs(candidates, played))


def tournaments_for(pairs: int, schedule: str, candidates: int, rounds: int = 0) -> int:
    """Return how many tournaments bring so many preferences: 2,000 of 16 candidates take 63."""
    return ceil(pairs / pairs_of(schedule, candidates, rounds))


def comparisons(schedule: str, candidates: int, rounds: int = 0, orders: int = 1) -> int:
    """Return a tournament's judge calls: its matches, once for each order asked."""
    return orders * sum(round_sizes(schedule, candidates, rounds))


def batched_share(sizes: Sequence[int], batched: int, discount: float = 0.5) -> float:
    """Return the share of the price to pay when the first `batched` rounds go to a batch interface at a discount.

    For single elimination of many candidates that is 1 - (1 - 2^-j)/2: 3/4 for one round, 5/8 for two.
    """
    total = sum(sizes)
    return 1.0 if not total else 1.0 - discount * sum(sizes[:batched]) / total


def table(estimates: Sequence[SeatEstimate]) -> str:
    """Return estimates as lines of text."""
    lines = []
    for one in estimates:
        row = one.to_json()
        hours = "unknown (`--seconds_a_call`, or `--probe`)" if row["hours"] is None else f"{row['hours']:.2f}"
        price = "unknown (give price_in and price_out)" if row["price"] is None else f"{row['price']:.2f}"
        lines.append(
            f"{one.seat}: {one.calls} calls, {one.prompt_tokens} prompt tokens ({one.counted}), "
            f"{one.completion_tokens} completion tokens, hours {hours}, price {price}"
        )
    return "\n".join(lines)

"""Cost estimates: calls, tokens, hours and price of a run.

The arithmetic of tournaments follows github.com/BertilBraun/Master-Thesis, src/dpo_cluster/README.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.enhance.ranking import MatchOutcome, preferred_pairs
from harness_ext.enhance.schedules import SCHEDULES, round_sizes
from harness_ext.records import SeatCost

BYTES_A_TOKEN = 4  # a common estimate for English, used if no tokenizer is available


@dataclass(frozen=True)
class Pace:
    """How fast calls are answered.

    seconds: seconds per call. Default: unknown.
    at_once: number of concurrent calls. Default 1.
    """

    seconds: float | None = None
    at_once: float = 1.0

    def hours(self, calls: int) -> float | None:
        """Return the hours that a number of calls takes, or None if the pace is unknown."""
        return None if self.seconds is None else calls * self.seconds / self.at_once / 3600


@dataclass(frozen=True)
class SeatEstimate:
    """The estimated cost of a seat.

    seat: name of the seat.
    calls: number of calls.
    prompt_tokens: tokens of all prompts together.
    completion_tokens: tokens of all replies together; the maximum possible, unless a length was measured or given.
    cost: the seat's prices.
    pace: how fast its calls are answered. Default: unknown.
    discount: the factor applied to the price. Default 1.
    counted: whether `prompt_tokens` is `exact` or `estimated`. Default `exact`.
    """

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
        """Return the price, or None if the seat's prices are unknown."""
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
    """Return the length of a text in a model's tokens, estimated from its bytes if there is no tokenizer."""
    encode = getattr(getattr(backend, "lm", None), "tok_encode", None)
    if backend.token_counts == "none" or encode is None:
        return ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN)
    return len(encode(text))


def counting(backend: Backend) -> str:
    """Return whether `count_tokens` is `exact` or `estimated` for a model."""
    has = callable(getattr(getattr(backend, "lm", None), "tok_encode", None))
    return "exact" if has and backend.token_counts == "exact" else "estimated"


def pairs_of(schedule: str, candidates: int, rounds: int = 0) -> int:
    """Return the number of preference pairs of a tournament in which the first candidate of every match wins.

    For single elimination with n = 2^L candidates this is (n/2) log2 n, whoever wins. Otherwise the number depends on
    the winners.

    schedule: `single_elimination`, `round_robin` or `swiss`.
    candidates: number of candidates.
    rounds: number of rounds; 0 is the schedule's default. Default 0.
    """
    import random

    play, played = SCHEDULES[schedule](candidates, random.Random(0), rounds), list[MatchOutcome]()
    matches = next(play, None)
    while matches:
        played += [MatchOutcome(a, b, a) for a, b in matches]
        try:
            matches = play.send([a for a, _ in matches])
        except StopIteration:
            break
    return len(preferred_pairs(candidates, played))


def tournaments_for(pairs: int, schedule: str, candidates: int, rounds: int = 0) -> int:
    """Return the number of tournaments needed for `pairs` preference pairs, for example 63 for 2,000.

    That example has 16 candidates per tournament. The other parameters are those of `pairs_of`.
    """
    return ceil(pairs / pairs_of(schedule, candidates, rounds))


def comparisons(schedule: str, candidates: int, rounds: int = 0, orders: int = 1) -> int:
    """Return the number of judge calls of a tournament: its matches, times `orders` (1 or 2) calls per match."""
    return orders * sum(round_sizes(schedule, candidates, rounds))


def batched_share(sizes: Sequence[int], batched: int, discount: float = 0.5) -> float:
    """Return the factor on the price if the first rounds are sent to a batch API that gives a discount.

    For single elimination with many candidates, j batched rounds cost 1 - (1 - 2^-j)/2 at half price: 3/4 for one
    round, 5/8 for two.

    sizes: number of matches per round.
    batched: number of rounds that are sent to the batch API.
    discount: the share that the batch API takes off the price. Default 0.5.
    """
    total = sum(sizes)
    return 1.0 if not total else 1.0 - discount * sum(sizes[:batched]) / total


def table(estimates: Sequence[SeatEstimate]) -> str:
    """Return estimates as lines of text."""
    lines = []
    for one in estimates:
        row = one.to_json()
        hours = "unknown (pass `--seconds_a_call` or `--probe`)" if row["hours"] is None else f"{row['hours']:.2f}"
        price = "unknown (set price_in and price_out)" if row["price"] is None else f"{row['price']:.2f}"
        lines.append(
            f"{one.seat}: {one.calls} calls, {one.prompt_tokens} prompt tokens ({one.counted}), "
            f"{one.completion_tokens} completion tokens, hours {hours}, price {price}"
        )
    return "\n".join(lines)

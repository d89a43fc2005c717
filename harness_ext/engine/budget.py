"""A cap on what a run may spend: calls, tokens or money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from harness_ext.backends.base import Backend, DecideRequest, GenerateRequest, Request, ScoreRequest
from harness_ext.backends.settings import effective_settings
from harness_ext.protocol import SeatSetup
from harness_ext.records import BATCHED, CallResult, SeatCost

BudgetUnit = Literal["calls", "tokens", "price"]

# Tokens that a chat template may add to a prompt. The text itself is bounded by its bytes: a token has at least one.
TEMPLATE_TOKENS = 64
LABEL_FRAME = 16  # tokens that a server may write around a forced label


@dataclass(frozen=True)
class Cap:
    """A limit on spending.

    unit: what is counted: `calls`, `tokens` (of prompts and completions) or `price`.
    limit: the largest number of units; a price is in the currency of the seats' prices.
    """

    unit: BudgetUnit
    limit: float

    @staticmethod
    def parse(text: str) -> Cap:
        """Parse `<unit>:<number>` (`calls:1000`, `tokens:2e6`, `price:5`). Raises ValueError with cause and remedy."""
        unit, _, number = text.partition(":")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if unit not in get_args(BudgetUnit) or not (limit >= 0 and math.isfinite(limit)):
            raise ValueError(f"`budget={text}`: expected `calls:`, `tokens:` or `price:` and a number, as in `price:5`")
        return Cap(unit, limit)  # type: ignore[arg-type]

    def share(self, parts: int) -> Cap:
        """Return one process's share of the cap among `parts` processes."""
        return Cap(self.unit, self.limit / parts)

    def __str__(self) -> str:
        return f"{self.unit}:{self.limit:g}"


@dataclass
class Budget:
    """Admits calls as long as the highest possible cost of all calls in flight fits under the cap.

    Before a call is sent, the most that it can cost is reserved, from the bytes of its prompt and its token limit. Once
    it is answered, its actual cost replaces the reservation, so the cap is never exceeded. Reused calls cost nothing.
    Neither images nor what a server charges for failed attempts is covered.

    cap: the limit.
    costs: what turns each backend's tokens into money.
    spent: the cost of all answered calls, in units of the cap.
    refused: the highest possible cost of the call that was refused for good; None as long as there is none.
    unknown: the name of a backend that did not report its tokens; None as long as there is none.
    questions: the number of finished questions that had at least one call to pay for.
    reserved: what is reserved for each call in flight, by the call's key.
    """

    cap: Cap
    costs: Mapping[Backend, SeatCost]
    spent: float = 0.0
    refused: float | None = None
    unknown: str | None = None
    questions: int = 0
    reserved: dict[str, float] = field(default_factory=dict)
    _held: float = 0.0

    def lets_open(self, now: int) -> bool:
        """Return whether another question may be opened while `now` questions are open.

        Only as many are opened as the rest of the budget can finish, judging by the mean cost so far. If all questions
        were opened at once, a budget for half of them would finish none.
        """
        if not now or self.reached:
            return True
        return self.questions > 0 and now * self.spent / self.questions < self.cap.limit - self.spent

    def take(self, key: str, backend: Backend, request: Request) -> bool:
        """Reserve the most that the call `key` can cost and return True; return False if that does not fit now."""
        bound = self._bound(backend, request)
        if self.reached:
            return False
        if self.unknown is not None or self.spent + self._held + bound > self.cap.limit * (1 + 1e-9):
            # As long as calls are in flight, some of their reservations may be released. Without any, the refusal is
            # final.
            if not self.reserved:
                self.refused = bound
            return False
        self.reserved[key] = bound
        self._held += bound
        return True

    def settle(self, key: str, backend: Backend, result: CallResult | None) -> None:
        """Replace a call's reservation by its actual cost; a failed call (None) counts as one without tokens."""
        self._held -= self.reserved.pop(key)
        if not self.reserved:
            self._held = 0.0  # drop accumulated rounding errors
        tokens = (0, 0) if result is None else (result.prompt_tokens, result.completion_tokens)
        cost = self._cost(backend, *tokens, batched=result is not None and BATCHED in result.notes)
        if cost is None:
            self.unknown = backend.name
        self.spent += cost or 0.0

    @property
    def state(self) -> tuple[float | None, bool]:
        """Return what was spent (None if a model did not report its tokens) and whether the cap was reached."""
        return None if self.unknown else self.spent, self.reached

    @property
    def reached(self) -> bool:
        """Return whether a call was refused for good."""
        return self.refused is not None

    def message(self) -> str:
        """Return why the run stopped and how to continue it."""
        if self.unknown is not None:
            return (
                f"{self.unknown} does not report how many tokens a reply took, so `budget={self.cap}` cannot be "
                "enforced. Finished calls are stored: set `budget=calls:<number>` and run the same command again to "
                "continue"
            )
        return (
            f"the budget is spent: {self.spent:g} of {self.cap}, and the next call may cost {self.refused:g}. Finished "
            "calls are stored: run the same command again to continue with a new budget of the same size, or set a "
            "larger `budget`"
        )

    def _bound(self, backend: Backend, request: Request) -> float:
        prompt = len(request.prompt.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS
        if isinstance(request, GenerateRequest):
            new = int(effective_settings(request.gen_kwargs, backend.default_max_gen_toks)["max_gen_toks"])
            prompt += len(request.reply or ())
        elif isinstance(request, ScoreRequest):
            prompt, new = prompt + len(request.continuation.encode("utf-8", "surrogatepass")), 1
        elif isinstance(request, DecideRequest):
            # An endpoint reads the state and the question instead of the prompt, which contains both. A forced reply
            # is a label, with quotes or in an object.
            prompt += len(request.state.encode("utf-8", "surrogatepass"))
            longest = max((len(label.encode("utf-8", "surrogatepass")) for label in request.labels), default=0)
            new = max(1, request.draws) * (longest + LABEL_FRAME)
            prompt *= max(1, request.draws)
        else:
            prompt, new = prompt + len(request.reply) + len(request.draft), 1
        return self._cost(backend, prompt, new) or 0.0

    def _cost(self, backend: Backend, prompt: int | None, new: int | None, batched: bool = False) -> float | None:
        if self.cap.unit == "calls":
            return 1.0
        if prompt is None or new is None:
            return None
        if self.cap.unit == "tokens":
            return float(prompt + new)
        return self.costs[backend].price(prompt, new, *((prompt, new) if batched else (0, 0)))


def open_budget(text: str | None, seats: Mapping[str, SeatSetup], processes: int = 1) -> Budget | None:
    """Return the budget of one process, or None if none is set.

    text: the option's value (`calls:1000`); None for no budget.
    seats: the run's seats, whose prices turn tokens into money.
    processes: the number of processes of the run, among which the cap is divided. Default 1.
    """
    if text is None:
        return None
    costs: dict[Backend, SeatCost] = {}
    # A call is charged to its backend, not to its seat. Where seats with different prices share a backend, the higher
    # price is the safe bound.
    for setup in seats.values():
        known = costs.setdefault(setup.backend, setup.cost)
        if (setup.price_out or 0) > (known.price_out or 0):
            costs[setup.backend] = setup.cost
    return Budget(Cap.parse(text).share(processes), costs)


def budget_problems(text: str | None, seats: Mapping[str, SeatSetup]) -> list[str]:
    """Return what prevents the seats' calls from being counted in the budget's unit."""
    unit = None if text is None else Cap.parse(text).unit
    problems = []
    for name, setup in seats.items() if unit in ("tokens", "price") else ():
        if setup.backend.token_counts == "none":
            problems.append(
                f"`budget={text}`: {setup.backend.name} on `{name}` reports no token counts: use "
                "`budget=calls:<number>` instead"
            )
        if unit == "price" and None in (setup.price_in, setup.price_out):
            problems.append(
                f"`budget={text}` needs `{name}.price_in` and `{name}.price_out` (per million tokens; 0 if free)"
            )
    return problems


def total_spending(parts: Sequence[tuple[float | None, bool]]) -> dict[str, Any]:
    """Return what all processes of a run spent, given the `Budget.state` of each, as JSON values."""
    spent = [part for part, _ in parts if part is not None]
    return {"spent": sum(spent) if len(spent) == len(parts) else None, "reached": any(reached for _, reached in parts)}

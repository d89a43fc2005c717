"""A cap on what a run may spend: calls, tokens or money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from harness_ext.backends.base import Backend, GenerateRequest, Request, ScoreRequest
from harness_ext.records import Completion, SeatCost
from harness_ext.seats import SeatSetup

Unit = Literal["calls", "tokens", "price"]

# What a chat template may add to a message, in tokens, beside the text; a token is never less than a byte of text.
TEMPLATE_TOKENS = 64


@dataclass(frozen=True)
class Cap:
    """At most `limit` calls, tokens (prompt and completion) or units of the currency that prices are given in."""

    unit: Unit
    limit: float

    @staticmethod
    def parse(text: str) -> Cap:
        """Read `<unit>:<number>` (`calls:1000`, `tokens:2e6`, `price:5`). Raises ValueError with the remedy."""
        unit, _, number = text.partition(":")
        try:
            limit = float(number)
        except ValueError:
            limit = math.nan
        if unit not in get_args(Unit) or not (limit >= 0 and math.isfinite(limit)):
            raise ValueError(f"`budget={text}`: expected `calls:`, `tokens:` or `price:` and a number, as in `price:5`")
        return Cap(unit, limit)  # type: ignore[arg-type]

    def share(self, parts: int) -> Cap:
        """Return the cap of one of several processes."""
        return Cap(self.unit, self.limit / parts)

    def __str__(self) -> str:
        return f"{self.unit}:{self.limit:g}"


@dataclass
class Budget:
    """Lets calls pass while the dearest that they and those on their way can become still fits under `cap`.

    `costs` turns a backend's tokens into money. A call is bounded by the bytes of its prompt and its token limit; once
    answered, it counts with what it really took, so that the cap is never passed. Calls had for free (the store) do not
    count; `questions` are those that are done and had to be paid for. Not bounded: what a server charges for attempts
    that failed, and images.
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
        """Return whether a question may be begun beside the `now` that are open: only as many as can be finished, by
        what questions took so far. Begun all at once, a budget for half of them would finish none."""
        if not now or self.reached:
            return True
        return self.questions > 0 and now * self.spent / self.questions < self.cap.limit - self.spent

    def take(self, key: str, backend: Backend, request: Request) -> bool:
        """Reserve what a call may cost and return True, or False if that does not fit now."""
        bound = self._bound(backend, request)
        if self.reached:
            return False
        if self.unknown is not None or self.spent + self._held + bound > self.cap.limit * (1 + 1e-9):
            if not self.reserved:
                self.refused = bound
            return False
        self.reserved[key] = bound
        self._held += bound
        return True

    def settle(self, key: str, backend: Backend, completion: Completion | None) -> None:
        """Replace what was reserved for a call by what it took; a failed one (None) counts as a call without tokens."""
        self._held -= self.reserved.pop(key)
        if not self.reserved:
            self._held = 0.0  # of rounding nothing stays
        tokens = (0, 0) if completion is None else (completion.prompt_tokens, completion.completion_tokens)
        cost = self._cost(backend, *tokens)
        if cost is None:
            self.unknown = backend.name
        self.spent += cost or 0.0

    @property
    def state(self) -> tuple[float | None, bool]:
        """Return what was spent, None if a model did not tell, and whether the cap was reached."""
        return None if self.unknown else self.spent, self.reached

    @property
    def reached(self) -> bool:
        """Whether a call was refused for good."""
        return self.refused is not None

    def message(self) -> str:
        """Return why the run stopped, and how to go on."""
        if self.unknown is not None:
            return (
                f"{self.unknown} does not say how many tokens a reply took, so `budget={self.cap}` cannot be kept. "
                "Finished calls are stored: give `budget=calls:<number>` and run the same command again to go on"
            )
        return (
            f"the budget is spent: {self.spent:g} of {self.cap}, and the next call may cost {self.refused:g}. Finished "
            "calls are stored: run the same command again to spend as much again from here, or give a larger `budget`"
        )

    def _bound(self, backend: Backend, request: Request) -> float:
        from lm_eval.models.utils import normalize_gen_kwargs

        prompt = len(request.prompt.encode("utf-8", "surrogatepass")) + TEMPLATE_TOKENS
        if isinstance(request, GenerateRequest):
            new = int(normalize_gen_kwargs(dict(request.gen_kwargs), backend.default_max_gen_toks)["max_gen_toks"])
            prompt += len(request.reply or ())
        elif isinstance(request, ScoreRequest):
            prompt, new = prompt + len(request.continuation.encode("utf-8", "surrogatepass")), 1
        else:
            prompt, new = prompt + len(request.reply) + len(request.draft), 1
        return self._cost(backend, prompt, new) or 0.0

    def _cost(self, backend: Backend, prompt: int | None, new: int | None) -> float | None:
        if self.cap.unit == "calls":
            return 1.0
        if prompt is None or new is None:
            return None
        return float(prompt + new) if self.cap.unit == "tokens" else self.costs[backend].price(prompt, new)


def open_budget(text: str | None, seats: Mapping[str, SeatSetup], processes: int = 1) -> Budget | None:
    """Return the budget of one of so many processes of a run (its share), or None where none is set."""
    if text is None:
        return None
    costs: dict[Backend, SeatCost] = {}
    for setup in seats.values():
        known = costs.setdefault(setup.backend, setup.cost)
        if (setup.price_out or 0) > (known.price_out or 0):
            costs[setup.backend] = setup.cost
    return Budget(Cap.parse(text).share(processes), costs)


def budget_problems(text: str | None, seats: Mapping[str, SeatSetup]) -> list[str]:
    """Return what the seats lack for the budget's unit to be known."""
    unit = None if text is None else Cap.parse(text).unit
    problems = []
    for name, setup in seats.items() if unit in ("tokens", "price") else ():
        if setup.backend.token_counts == "none":
            problems.append(f"`budget={text}`: {setup.backend.name} on `{name}` counts no tokens; cap `calls:` instead")
        if unit == "price" and None in (setup.price_in, setup.price_out):
            problems.append(
                f"`budget={text}` needs `{name}.price_in` and `{name}.price_out` (of a million tokens; 0 if free)"
            )
    return problems


def total_spending(parts: Sequence[tuple[float | None, bool]]) -> dict[str, Any]:
    """Return what all processes of a run spent (`Budget.state`), as JSON values."""
    spent = [part for part, _ in parts if part is not None]
    return {"spent": sum(spent) if len(spent) == len(parts) else None, "reached": any(reached for _, reached in parts)}

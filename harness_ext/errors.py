"""Errors that a user meets: each names the cause and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

FailureCode = Literal["backend", "no_reply", "overflow", "empty", "undecodable", "protocol"]


class HarnessExtError(Exception):
    """Base of all errors this package raises on purpose."""


class ConfigurationError(HarnessExtError):
    """The run cannot start. `problems` holds every problem found, each with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        head = "harness-ext: 1 problem" if len(self.problems) == 1 else f"harness-ext: {len(self.problems)} problems"
        super().__init__("\n".join([f"{head} with this run; nothing was run:", *(f"  - {p}" for p in self.problems)]))


class StoreError(HarnessExtError):
    """The call store or the run directory cannot be read or written."""


class LoadError(HarnessExtError):
    """A seat's model could not be loaded; every call to it would fail, so the run ends."""


class CallFailed(HarnessExtError):
    """One call of a seat failed. It ends its own question only, and is tried again on the next run.

    `code` is what a summary counts by: `backend` (the model raised), `no_reply` (it returned nothing), `overflow` (the
    prompt does not fit), `empty` (an empty reply or prompt that the run does not allow), `undecodable` (text that is
    no valid Unicode), `protocol` (the protocol itself raised). `can_cut` says of an overflow that the model can answer
    it with the prompt's beginning cut off; `faults` names what went wrong at each attempt.
    """

    def __init__(self, code: FailureCode, message: str, can_cut: bool = False, faults: tuple[str, ...] = ()) -> None:
        self.code: FailureCode = code
        self.can_cut = can_cut
        self.faults = faults
        super().__init__(message)


class RunAborted(HarnessExtError):
    """Raised inside a backend's call when the run has ended under it."""


class BudgetSpent(HarnessExtError):
    """The run's budget is spent; what was finished is stored, and the same command goes on from there."""


class RunFailed(HarnessExtError):
    """Some questions have no answer; everything else is finished and stored (`on_failure=stop`)."""

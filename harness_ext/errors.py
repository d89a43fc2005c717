"""The errors that users see, each with its cause and remedy, and the exit statuses of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness_ext.terminal import clean

# Exit statuses of the commands (docs/cli.md).
OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130
TERMINATED = 143

FailureCode = Literal["backend", "no_reply", "overflow", "empty", "undecodable", "protocol", "cannot_decide"]


class HarnessExtError(Exception):
    """Base of all errors this package raises on purpose.

    Their texts contain no credentials and no characters that could control a terminal, whatever they quote.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(clean(a) if isinstance(a, str) else a for a in arguments))


class ConfigurationError(HarnessExtError):
    """The run cannot start. `problems` lists every problem found, each with its remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(clean(problem) for problem in problems)
        head = "harness-ext: 1 problem" if len(self.problems) == 1 else f"harness-ext: {len(self.problems)} problems"
        super().__init__("\n".join([f"{head} with this run; nothing was run:", *(f"  - {p}" for p in self.problems)]))


class StoreError(HarnessExtError):
    """The call store or the run directory cannot be read or written."""


class LoadError(HarnessExtError):
    """A seat's model could not be loaded. Every call to it would fail, so the run ends."""


class CallFailed(HarnessExtError):
    """One call of a seat failed. Only its own question fails with it, and the next run tries it again.

    code: the kind of failure, by which summaries count: `backend` (the model raised), `no_reply` (it returned nothing),
        `overflow` (the prompt does not fit), `empty` (an empty reply or prompt that the run does not allow),
        `undecodable` (the text is not valid Unicode), `cannot_decide` (the model has no way to make the
        decision) or `protocol` (the protocol itself raised).
    message: the cause, for users.
    can_cut: of an overflow, whether the model can answer once the beginning of the prompt is cut off.
    faults: what went wrong in each attempt.
    """

    def __init__(self, code: FailureCode, message: str, can_cut: bool = False, faults: tuple[str, ...] = ()) -> None:
        self.code: FailureCode = code
        self.can_cut = can_cut
        self.faults = faults
        super().__init__(message)


class RunAborted(HarnessExtError):
    """Raised inside a backend call when the run has already ended."""


class BudgetSpent(HarnessExtError):
    """The run's budget is spent. Finished work is stored, and the same command continues from there."""


class RunFailed(HarnessExtError):
    """Some questions have no answer. Everything else is finished and stored (`on_failure=stop`)."""


class Interrupted(KeyboardInterrupt, SystemExit):
    """Ctrl-C ended a run. Uncaught, it ends the process with status 130 and without a traceback."""

    def __init__(self) -> None:
        super().__init__(INTERRUPTED)
        self.code = INTERRUPTED


class Terminated(SystemExit):
    """SIGTERM ended a run. Uncaught, it ends the process with status 143 and without a traceback."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)

"""The base class of protocols: options, seats, and one coroutine that answers one question."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from harness_ext.backends.base import Backend, Capability
from harness_ext.protocol.question import Question
from harness_ext.protocol.seats import Seats
from harness_ext.protocol.setup import SeatSetup
from harness_ext.records import Completion, Solution, Transcript


@dataclass(frozen=True)
class Role:
    """The role of a seat in a protocol.

    purpose: what the seat is for; shown in messages.
    needs: the capabilities that its model must have. Default: `generate`.
    optional: whether the protocol runs without the seat if no model is named for it. Default False.
    """

    purpose: str
    needs: frozenset[Capability] = frozenset({"generate"})
    optional: bool = False


class Protocol(abc.ABC):
    """Base of all protocols: a frozen dataclass whose fields are its options.

    A protocol has no model, does no I/O and keeps no state. Everything happens in `solve`, which awaits its seats; the
    engine batches, caches, counts and records. The class attributes describe the protocol:

    roles: the role of each seat, by name.
    team: the name and role of a team, which has any number of seats (`agent` stands for `agent1`, `agent2`, …). Default
        None: no team.
    answers: the seat that scores a task's choices once the protocol has reasoned. Default None: the first seat.
    readable: the file of the run directory to which each question's `write_up` is appended. Default None: no file.
    """

    roles: ClassVar[Mapping[str, Role]]
    team: ClassVar[tuple[str, Role] | None] = None
    answers: ClassVar[str | None] = None
    readable: ClassVar[str | None] = None

    @abc.abstractmethod
    async def solve(self, question: Question, seats: Seats) -> Solution | Completion:
        """Answer one question. The text of what it returns is what lm-eval's filters read."""

    def resolved(self, seats: Mapping[str, SeatSetup]) -> Protocol:
        """Return the protocol with all options resolved that depend on the seats' models or on files.

        Raises ValueError with cause and remedy.
        """
        return self

    @property
    def pilot(self) -> Protocol | None:
        """Return a protocol to run on the first questions before any is answered, or None."""
        return None

    def informed(self, details: Sequence[Mapping[str, Any]]) -> Protocol:
        """Return the protocol that answers the questions, given the `Solution.details` of its pilot.

        Raises ValueError with cause and remedy if they do not suffice.
        """
        return self

    @property
    def samples(self) -> bool:
        """Return whether the protocol samples replies even if the task's settings are greedy."""
        return False

    def write_up(self, transcript: Transcript) -> str:
        """Return a question's transcript in readable form, for the file `readable`."""
        return ""

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        """Return what each seat must be able to do under these options."""
        return {name: role.needs for name, role in self.roles.items()}

    @property
    def spare(self) -> frozenset[str]:
        """Return the seats that are never asked under these options, so that no model need be named for them."""
        return frozenset()

    @property
    def passes_through(self) -> bool:
        """Return whether each question is one call that lm-eval would make itself, and so has to be lm-eval's own."""
        return False

    def remarks(self, seats: Mapping[str, SeatSetup]) -> list[str]:
        """Return what a user should know about these options before the results are read."""
        return []

    def problems(self, seats: Mapping[str, Backend]) -> list[str]:
        """Return what is wrong with these models under these options, apart from missing capabilities."""
        return []

"""The seats of one question, which a protocol awaits."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from harness_ext.protocol.question import Question
from harness_ext.protocol.seat import Seat
from harness_ext.protocol.setup import SeatSetup
from harness_ext.protocol.turns import AnswerCall, AwaitRest, Turns, digest


class Seats(Turns):
    """The seats of one question, by name (`seats.student`), and the turns that they took.

    question: the question.
    setups: the setup of each seat, by name.
    answer: returns the result of a call, and whether it was reused.
    seed: the run's seed, which is part of the keys of sampled calls.
    rest: returns once no question of the run can continue by itself.
    """

    def __init__(
        self, question: Question, setups: Mapping[str, SeatSetup], answer: AnswerCall, seed: int, rest: AwaitRest
    ) -> None:
        super().__init__(question, answer, seed, rest)
        self._seats = {name: Seat(name, setup, self) for name, setup in setups.items()}

    def __getattr__(self, name: str) -> Seat:
        try:
            return self.__dict__["_seats"][name]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"this protocol has no seat {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._seats

    def __getitem__(self, name: str) -> Seat:
        return self._seats[name]

    def either(self, *names: str) -> Seat:
        """Return the first of several seats that has a model, for a role that another seat may take."""
        return self._seats[next(name for name in names if name in self._seats)]

    def team(self, name: str) -> list[Seat]:
        """Return the seats of a team (`agent1`, `agent2`, …), in the order of their numbers."""
        return [seat for n, seat in self._seats.items() if n.startswith(name) and n[len(name) :].isdecimal()]

    def random(self, purpose: str) -> Random:
        """Return a random number generator for this question and purpose, the same in all runs with the same seed."""
        return Random(digest(purpose, *map(str, self.question.identity(self.seed)), str(self.seed)))

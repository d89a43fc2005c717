"""The seats of one question, which a protocol awaits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from harness_ext.backends.base import Backend, GenerateRequest, Request
from harness_ext.errors import CallFailed, HarnessExtError
from harness_ext.protocol.inner import ProtocolBackend, all_seats, completion_of
from harness_ext.protocol.question import Question
from harness_ext.protocol.seat import Seat
from harness_ext.protocol.setup import SeatSetup
from harness_ext.protocol.turns import CANCELLED, AnswerCall, AwaitRest, Reply, Turns, digest
from harness_ext.records import Inner, Solution


class Seats(Turns):
    """The seats of one question, by name (`seats.student`), and the turns that they took.

    question: the question.
    setups: the setup of each seat, by name.
    answer: returns the result of a call, and whether it was reused.
    seed: the run's seed, which is part of the keys of sampled calls.
    rest: returns once no question of the run can continue by itself.
    scope, over: see `Turns`.

    The seats of a protocol that takes a seat have its name before theirs (`seats["student.teacher"]`).
    """

    def __init__(
        self,
        question: Question,
        setups: Mapping[str, SeatSetup],
        answer: AnswerCall,
        seed: int,
        rest: AwaitRest,
        scope: tuple[str, ...] = (),
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(question, answer, seed, rest, scope, over)
        self._seats = {name: Seat(name, setup, self) for name, setup in all_seats(setups).items()}
        self._replies: Counter[str] = Counter()

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
        return Random(digest(purpose, *map(str, self.question.identity(self.seed)), str(self.seed), *self.scope))

    async def _reply(self, name: str, backend: Backend, key: str, request: Request, over: Callable[[], bool]) -> Reply:
        """Return the reply to a call; where a protocol takes the seat, that of the protocol, with the calls behind it.

        The protocol's question is what the seat is asked, and its calls go to the same queues and the same store.
        """
        if not isinstance(backend, ProtocolBackend):
            return await super()._reply(name, backend, key, request, over)
        if not isinstance(request, GenerateRequest) or request.reply is not None:
            raise CallFailed("backend", f"`{name}` is taken by {backend.name}, which only writes texts")
        question = replace(
            self.question,
            context=request.prompt,
            gen_kwargs=request.gen_kwargs,
            images=request.images,
            continuations=(),
        )
        number, self._replies[name] = self._replies[name], self._replies[name] + 1
        scope = (*self.scope, name, str(number))
        seats = Seats(question, backend.seats, self._answer, self.seed, self._rest, scope, over)
        solution = Solution("", "failed")
        error: BaseException | None = None
        try:
            result = await backend.protocol.solve(question, seats)
            solution = result if isinstance(result, Solution) else Solution(result.text)
        except HarnessExtError as raised:
            error = raised
        except (Exception, asyncio.CancelledError) as raised:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # the run ends
            if isinstance(raised, asyncio.CancelledError) and over():
                solution, error = Solution("", CANCELLED), raised
            else:
                what = f"{type(backend.protocol).__name__} raised {type(raised).__name__}: {raised}"
                error = CallFailed("protocol", f"`{name}`: {what}")
        await seats.settled()
        inner = Inner(seats.turns, solution.stop, solution.details)
        reused = all(call.reused for turn in inner.turns for call in turn.calls)
        return Reply(completion_of(solution.text, inner), reused, inner, error)

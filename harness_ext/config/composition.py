"""Puts protocols into the seats of others, once the models of all seats are known, and checks that they fit."""

from __future__ import annotations

from collections.abc import Mapping

from harness_ext.config.levels import PROTOCOL, Level
from harness_ext.config.run_options import OF_PROTOCOLS, SeatOptions
from harness_ext.options import build
from harness_ext.protocol import Protocol, SeatSetup
from harness_ext.protocol.inner import ProtocolBackend


def seats_of(level: Level, models: Mapping[str, SeatSetup], problems: list[str]) -> dict[str, SeatSetup]:
    """Return the seats of a protocol, with the models and the protocols that take them.

    level: the protocol.
    models: the seats that models take, by their paths (`student.teacher`).
    problems: receives a message for each seat whose model or protocol cannot do what is needed of it.
    """
    seats: dict[str, SeatSetup] = {}
    for seat, args in level.seats.items():
        path = f"{level.where}{seat}"
        if seat not in level.inner:
            if path in models:
                seats[seat] = models[path]
            continue
        inner = level.inner[seat]
        below = seats_of(inner, models, problems)
        given = {name: args[name] for name in OF_PROTOCOLS if name in args}
        options = build(SeatOptions, given, problems, f"{path}.")
        if options is not None and inner.protocol is not None:
            name = str(args["model"]).removeprefix(PROTOCOL)
            seats[seat] = options.setup(ProtocolBackend(name, inner.protocol, below))
    if level.protocol is not None:
        problems += _capability_problems(level, level.protocol, seats)
    return seats


def resolve(level: Level, seats: Mapping[str, SeatSetup], problems: list[str]) -> Protocol | None:
    """Return a protocol with all options resolved, after those of the protocols in its seats; None if that fails.

    level: the protocol.
    seats: its seats.
    problems: receives a message for each protocol whose options cannot be resolved.
    """
    complete = True
    for seat, inner in level.inner.items():
        backend = seats[seat].backend
        assert isinstance(backend, ProtocolBackend)
        resolved = resolve(inner, backend.seats, problems)
        if resolved is None:
            complete = False
        else:
            backend.protocol = resolved
            backend.prepare()
    if not complete or level.protocol is None:
        return None
    try:
        return level.protocol.resolved(seats)
    except ValueError as error:
        problems.append(f"`{level.where.rstrip('.')}`: {error}" if level.where else str(error))
        return None


def _capability_problems(level: Level, protocol: Protocol, seats: Mapping[str, SeatSetup]) -> list[str]:
    problems = []
    needs = protocol.needs()
    for seat in seats:
        needed = needs.get(seat)
        if needed is None:
            needed = needs.get(protocol.team[0], frozenset()) if protocol.team is not None else frozenset()
        if missing := seats[seat].backend.lacks(needed):
            problems.append(
                f"`{level.where}{seat}`: this run needs a model that can {', '.join(sorted(missing))}, "
                f"but {seats[seat].backend.name} cannot{seats[seat].backend.remedy}"
            )
    found = protocol.problems({name: setup.backend for name, setup in seats.items()})
    return problems + [f"`{level.where.rstrip('.')}`: {problem}" if level.where else problem for problem in found]

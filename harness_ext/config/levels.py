"""The arguments of a run as a tree: its protocol, the models of its seats, and protocols that take seats themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.backends.registry import BackendSpec, backend_names, parse_spec, seat_models
from harness_ext.config.prompts import with_prompts
from harness_ext.config.run_options import OF_PROTOCOLS, RunOptions, SeatOptions
from harness_ext.config.teams import MOST_MEMBERS, expand_team, member_number
from harness_ext.errors import ConfigurationError
from harness_ext.options import build, known_names, suggest
from harness_ext.protocol import Protocol, Role
from harness_ext.terminal import outside

PROTOCOL = "protocol:"  # a seat with such a specification is taken by a protocol
DEEPEST = 3  # how many protocols may be inside each other, the run's own included
DEEPEST_ARGUMENTS = 50  # nested mappings that are deeper contain themselves


@dataclass
class Level:
    """A protocol with its seats: the run's own, or one that takes a seat.

    protocol_class: the protocol.
    where: what the names of its arguments begin with (`student.`). Default: nothing, for the run's own protocol.
    protocol: the protocol with its options; None if they are faulty.
    own: the arguments that are options of the protocol, or of the run.
    seats: the arguments of each seat, its model under `model`.
    inner: the protocols that take seats, by the names of these.
    """

    protocol_class: type[Protocol]
    where: str = ""
    protocol: Protocol | None = None
    own: dict[str, Any] = field(default_factory=dict)
    seats: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: dict[str, Level] = field(default_factory=dict)

    def each(self) -> Iterator[Level]:
        """Yield this level and all below it."""
        yield self
        for level in self.inner.values():
            yield from level.each()

    def drop(self, seat: str) -> dict[str, Any]:
        """Remove a seat and return its arguments."""
        self.inner.pop(seat, None)
        return self.seats.pop(seat, {})

    @property
    def names_models(self) -> bool:
        """Return whether the user has named a model for any seat."""
        given = (args for level in self.each() for args in level.seats.values())
        return any("model" in args and not is_protocol(args["model"]) for args in given)


def flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return arguments that may be nested (as in lm-eval's `--config`) under dotted names (`student.dtype`).

    Raises ConfigurationError if they contain themselves.
    """
    if prefix.count(".") > DEEPEST_ARGUMENTS:
        raise ConfigurationError([f"`{outside(prefix, 60)}` contains itself: no argument can be nested without end"])
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping) and name not in ("chat_template_args", "model_kwargs"):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def is_protocol(spec: Any) -> bool:
    """Return whether a seat's specification says that a protocol takes it."""
    return isinstance(spec, str) and spec.startswith(PROTOCOL)


def protocol_named(name: str) -> type[Protocol]:
    """Return the protocol that lm-eval knows by a name. Raises ValueError with cause and remedy if there is none."""
    from lm_eval.api.registry import get_model

    known = sorted(name for name in {*backend_names()} - {*seat_models()} if "." not in name)
    try:
        found = getattr(get_model(name), "protocol", None)
    except (ValueError, ImportError):
        found = None
    if not (isinstance(found, type) and issubclass(found, Protocol)):
        raise ValueError(
            f"there is no protocol `{outside(name)}`{suggest(name, known)}: this package's are {', '.join(known)}; "
            "another package's has the name of its entry point"
        )
    return found


def read_level(
    protocol_class: type[Protocol], given: Mapping[str, Any], problems: list[str], where: str = "", depth: int = 1
) -> Level:
    """Return the arguments of a protocol and of its seats, with the protocols that take some of these.

    protocol_class: the protocol.
    given: the flat arguments.
    problems: receives a message for each argument that does not fit.
    where: what the names of the arguments begin with. Default: nothing.
    depth: how many protocols are inside each other here, this one included. Default 1.
    """
    names, found = list(protocol_class.roles), list[str]()
    if protocol_class.team is not None:
        given, members = expand_team(given, protocol_class.team[0], found)
        names = [*members, *names]
    problems += [f"`{where.rstrip('.')}`: {problem}" if where else problem for problem in found]
    level = Level(protocol_class, where)
    level.own, level.seats = _split(given, names, level, problems)
    level.own = with_prompts(level.own, protocol_class, problems, where)
    level.protocol = build(protocol_class, level.own, problems, where)
    for seat, args in level.seats.items():
        spec: Any = args.get("model")
        if not is_protocol(spec):
            continue
        kept = {"model", *OF_PROTOCOLS}
        rest = {name: args.pop(name) for name in list(args) if name not in kept}
        path = f"{where}{seat}"
        if depth == DEEPEST:
            problems.append(
                f"`{path}={outside(spec)}`: at most {DEEPEST} protocols can be inside each other: name a model here"
            )
            continue
        try:
            inner = protocol_named(spec.removeprefix(PROTOCOL))
        except ValueError as error:
            problems.append(f"`{path}`: {error}")
            continue
        level.inner[seat] = read_level(inner, rest, problems, f"{path}.", depth + 1)
        if sum(len(each.seats) for each in level.each()) > MOST_MEMBERS:
            problems.append(f"`{path}`: all protocols together have more than {MOST_MEMBERS} seats: use smaller teams")
            break
    _drop_unneeded(level, problems)
    problems += [f"`{where}{seat}`: {problem}" for seat in level.inner for problem in _unfit(level.inner[seat])]
    return level


def protocols_in(given: Mapping[str, Any]) -> list[type[Protocol]]:
    """Return the protocols that take seats, as far as they can be found, of flat arguments."""
    found = []
    for value in given.values():
        listed = value if isinstance(value, list | tuple) else [value]
        for spec in listed:
            if is_protocol(spec):
                with suppress(ValueError):
                    found.append(protocol_named(spec.removeprefix(PROTOCOL)))
    return found


def _unfit(level: Level) -> list[str]:
    """Return why a protocol cannot take a seat."""
    if level.protocol is None:
        return []
    found = []
    if not any("generate" in needed for needed in level.protocol.needs().values()):
        found.append("this protocol writes no text: name another one, or a model")
    if level.protocol.pilot is not None:
        found.append("an option asks the first questions in advance (`auto`), which only the run's own protocol can do")
    return found


def _split(
    given: Mapping[str, Any], seats: Sequence[str], level: Level, problems: list[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the options of protocol and run, and the arguments of each seat (its model under `model`).

    given: the flat arguments.
    seats: the names of the seats.
    level: the protocol. Only the run's own has the options of a run next to its own ones.
    problems: receives a message for each unknown argument.
    """
    per_seat: dict[str, dict[str, Any]] = {seat: {} for seat in seats}
    own: dict[str, Any] = {}
    options = [*(["prompts"] if level.where else known_names(RunOptions)), *known_names(level.protocol_class)]
    for name, value in given.items():
        seat, dot, rest = name.partition(".")
        if seat in per_seat:
            if rest.startswith("gen."):
                per_seat[seat].setdefault("gen", {})[rest[4:]] = value
            else:
                per_seat[seat][rest if dot else "model"] = value
        elif name in options:
            own[name] = value
        elif "://" in name:
            problems.append(
                f"`{outside(name)}` is an address and no argument: join the addresses of several servers by `+`, since "
                "lm-eval divides arguments at commas"
            )
        else:
            known = [*options, *per_seat]
            problems.append(
                f"there is no argument `{level.where}{name}`{suggest(name, known)}: the arguments are "
                f"{', '.join(f'{level.where}{one}' for one in known)}, and `{level.where}<seat>.<argument>` for a "
                "seat's model"
            )
    return own, per_seat


def _role(seat: str, protocol_class: type[Protocol]) -> Role:
    if seat not in protocol_class.roles and protocol_class.team is not None:
        return protocol_class.team[1]
    return protocol_class.roles[seat]


def _drop_unneeded(level: Level, problems: list[str]) -> None:
    """Remove the seats that the options do not use, and report those that were given arguments all the same."""
    roles = level.protocol_class.roles
    for seat in [name for name, role in roles.items() if role.optional and not level.seats.get(name)]:
        level.drop(seat)
    if level.protocol is None:
        return
    needed = level.protocol.needs()
    unused = [seat for seat in level.seats if seat in roles and seat not in needed]
    given = [seat for seat in unused if level.drop(seat)]
    problems += [
        f"the seat `{level.where}{seat}` ({roles[seat].purpose}) is not used with these options: remove its arguments"
        for seat in given
    ]


def drop_unasked(level: Level, scores_only: bool) -> tuple[str, ...]:
    """Remove the seats that were given nothing and may never be asked. Return those that written answers would need.

    level: the protocol.
    scores_only: whether tasks that score choices are answered without reasoning, by one seat alone.
    """
    for inner in level.inner.values():
        drop_unasked(inner, False)
    spare = level.protocol.spare if level.protocol is not None else frozenset()
    scorer = level.protocol_class.answers or next(iter(level.seats))
    absent = [s for s, args in level.seats.items() if not args and s != scorer and (scores_only or s in spare)]
    for seat in absent:
        level.drop(seat)
    return tuple(seat for seat in absent if seat not in spare)


def model_specs(
    level: Level, demonstration: bool, problems: list[str]
) -> dict[str, tuple[BackendSpec | Backend, SeatOptions]]:
    """Return the model and the options of each seat that a model takes, at all levels, and report what is wrong.

    level: the run's own protocol.
    demonstration: whether the built-in pair takes all seats.
    problems: receives a message for each seat whose model or options do not fit.
    """
    from harness_ext.embedded import model_path

    specs: dict[str, tuple[BackendSpec | Backend, SeatOptions]] = {}
    for each in level.each():
        for seat, args in each.seats.items():
            if is_protocol(args.get("model")):
                continue
            path = f"{each.where}{seat}"
            model = args.pop("model", None)
            options = build(
                SeatOptions, {k: args.pop(k) for k in known_names(SeatOptions) if k in args}, problems, f"{path}."
            )
            if model is None:
                if not demonstration:
                    purpose = _role(seat, each.protocol_class).purpose
                    problems.append(
                        f"the seat `{path}` ({purpose}) has no model: give `{path}=<backend>:<model>` "
                        "(or name no model for any seat, to use the built-in pair)"
                    )
                    continue
                model = str(model_path(_demonstration_model(seat, each.protocol_class)))
            if options is None:
                continue
            if isinstance(model, Backend):
                specs[path] = (model, options)
            elif not isinstance(model, str | int | float):
                specs[path] = (_wrapped(model), options)
            else:
                try:
                    specs[path] = (parse_spec(str(model), args), options)
                except ValueError as error:
                    problems.append(f"`{path}`: {error}")
    return specs


def _demonstration_model(seat: str, protocol_class: type[Protocol]) -> str:
    """Return which model of the built-in pair takes a seat: the teacher is the judge and every second team member."""
    number = None if protocol_class.team is None else member_number(seat, protocol_class.team[0])
    is_teacher = seat in ("teacher", "judge") if number is None else number % 2 == 0
    return "teacher" if is_teacher else "student"


def _wrapped(model: Any) -> Backend:
    from lm_eval.api.model import LM

    from harness_ext.backends.registry import wrap_lm

    if isinstance(model, LM):
        return wrap_lm(model)
    raise ConfigurationError(
        [
            f"a seat takes a specification, a Backend or an lm_eval LM, not {type(model).__name__}: "
            "wrap a transformers model in lm_eval's HFLM"
        ]
    )

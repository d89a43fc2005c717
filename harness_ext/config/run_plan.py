"""Turns lm-eval's model arguments into a checked run. All problems are reported at once, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.backends.kept import kept_backends
from harness_ext.backends.openai_options import ServerOptions
from harness_ext.backends.registry import SERVED, STARTED, BackendSpec, make_backend, parse_spec
from harness_ext.config.placement import place_servers
from harness_ext.config.run_options import RUNS, RunOptions, SeatOptions
from harness_ext.config.secrets import secrets_in
from harness_ext.config.teams import expand_team, member_number
from harness_ext.engine.budget import Budget, budget_problems
from harness_ext.engine.engine import Engine
from harness_ext.engine.processes import place_of
from harness_ext.engine.queues import CallPolicy
from harness_ext.errors import CallFailed, ConfigurationError
from harness_ext.options import build, known_names, suggest
from harness_ext.protocol import Protocol, Role, SeatSetup
from harness_ext.records import Message
from harness_ext.records.call_store import CallStore
from harness_ext.terminal import outside


@dataclass
class RunPlan:
    """A checked run.

    protocol: the protocol with its options.
    options: the options of the run.
    seats: the seats by name, with their models.
    demonstration: whether no model was named, so that the built-in pair takes all seats. Default false.
    unnamed: the seats without a model that only written answers would need (`reason=off`). Default none.
    """

    protocol: Protocol
    options: RunOptions
    seats: dict[str, SeatSetup] = field(default_factory=dict)
    demonstration: bool = False
    unnamed: tuple[str, ...] = ()

    def engine(self, store: CallStore | None, budget: Budget | None, seed: int) -> Engine:
        """Return the engine for the run.

        store: the call store, or None.
        budget: what this process may spend, or None.
        seed: the seed of sampled calls.
        """
        options = self.options
        policy = CallPolicy(truncate=options.on_overflow == "truncate", keep_empty=options.on_empty == "keep")
        return Engine(store, options.window, policy, seed, budget)


def plan_run(
    protocol_class: type[Protocol],
    arguments: Mapping[str, Any],
    batch_size: int | str | None = None,
    max_batch_size: int | None = None,
    device: str | None = None,
) -> RunPlan:
    """Return the run that the arguments describe.

    protocol_class: the protocol to run.
    arguments: the user's model arguments, flat (`student.dtype`) or nested.
    batch_size: lm-eval's setting, for every seat that does not set its own.
    max_batch_size: likewise.
    device: likewise.

    Raises ConfigurationError with all problems at once.
    """
    given, names, problems = flatten(arguments), list(protocol_class.roles), list[str]()
    if protocol_class.team is not None:
        given, members = expand_team(given, protocol_class.team[0], problems)
        names = [*members, *names]
    secrets = secrets_in(given, _harmless_names(protocol_class))
    if secrets:
        reason = "looks like a secret, and lm-eval copies model arguments into its results"
        raise ConfigurationError([f"`{name}` {reason}: pass it in an environment variable" for name in secrets])
    own, per_seat = _split(given, names, protocol_class, problems)
    if isinstance(own.get("store"), bool):  # YAML reads `off` as false
        own["store"] = "off" if own["store"] is False else str(RUNS / "calls")
    options = build(RunOptions, own, problems)
    protocol = build(protocol_class, own, problems)
    demonstration = not any("model" in args for args in per_seat.values())
    _drop_unneeded(per_seat, protocol, protocol_class, problems)
    scores_only = options is not None and options.reason == "off"
    unnamed = () if demonstration else _drop_unasked(per_seat, protocol, protocol_class, scores_only)
    seats: dict[str, SeatSetup] = {}
    defaults = {"batch_size": batch_size, "max_batch_size": max_batch_size}
    if options is not None and options.trust_remote_code:
        defaults["trust_remote_code"] = True
    specs = _specs(per_seat, protocol_class, demonstration, problems)
    named = {seat: spec for seat, (spec, _) in specs.items() if isinstance(spec, BackendSpec)}
    devices = _devices(named, device)
    placed = place_servers(named, devices.values(), device)
    made = kept_backends()
    for seat, (spec, seat_options) in specs.items():
        where = {"device": devices.get(seat), **placed.get(seat, {})}
        backend = _backend(seat, spec, {**defaults, **where}, made, problems)
        if backend is not None:
            try:
                seats[seat] = seat_options.setup(backend)
            except ValueError as error:
                problems.append(f"`{seat}.calibration`: {error}")
    if protocol is not None:
        problems += _capability_problems(protocol, seats)
    if not problems:
        problems += [p for seat, setup in seats.items() for p in _rendering_problems(seat, setup)]
    if not problems and protocol is not None:
        try:
            protocol = protocol.resolved(seats)
        except ValueError as error:
            problems.append(str(error))
    if options is not None:
        problems += budget_problems(options.budget, seats)
    if problems or protocol is None or options is None:
        raise ConfigurationError(problems)
    return RunPlan(protocol, options, seats, demonstration, unnamed)


def _harmless_names(protocol_class: type[Protocol]) -> frozenset[str]:
    """Return the names of options that only sound like secrets (`chunk_tokens`)."""
    classes = (RunOptions, SeatOptions, ServerOptions, protocol_class)
    return frozenset(name for cls in classes for name in known_names(cls))


def flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return arguments that may be nested (as in lm-eval's `--config`) under dotted names (`student.dtype`)."""
    flat: dict[str, Any] = {}
    for name, value in arguments.items():
        if isinstance(value, Mapping) and name not in ("chat_template_args", "model_kwargs"):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _split(
    given: Mapping[str, Any], seats: Sequence[str], protocol_class: type[Protocol], problems: list[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the options of run and protocol, and the arguments of each seat (its model under `model`).

    given: the flat arguments.
    seats: the names of the seats.
    protocol_class: the protocol to run.
    problems: receives a message for each unknown argument.
    """
    per_seat: dict[str, dict[str, Any]] = {seat: {} for seat in seats}
    own: dict[str, Any] = {}
    options = [*known_names(RunOptions), *known_names(protocol_class)]
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
                f"there is no argument `{name}`{suggest(name, known)}: the arguments are {', '.join(known)}, "
                "and `<seat>.<argument>` for a seat's model"
            )
    return own, per_seat


def _role(seat: str, protocol_class: type[Protocol]) -> Role:
    if seat not in protocol_class.roles and protocol_class.team is not None:
        return protocol_class.team[1]
    return protocol_class.roles[seat]


def _drop_unneeded(
    per_seat: dict[str, dict[str, Any]],
    protocol: Protocol | None,
    protocol_class: type[Protocol],
    problems: list[str],
) -> None:
    """Remove the seats that the options do not use, and report those that were given arguments all the same."""
    roles = protocol_class.roles
    for seat in [name for name, role in roles.items() if role.optional and not per_seat.get(name)]:
        per_seat.pop(seat, None)
    if protocol is None:
        return
    needed = protocol.needs()
    unused = [seat for seat in per_seat if seat in roles and seat not in needed]
    given = [seat for seat in unused if per_seat.pop(seat)]
    problems += [
        f"the seat `{seat}` ({roles[seat].purpose}) is not used with these options: remove its arguments"
        for seat in given
    ]


def _drop_unasked(
    per_seat: dict[str, dict[str, Any]],
    protocol: Protocol | None,
    protocol_class: type[Protocol],
    scores_only: bool,
) -> tuple[str, ...]:
    """Remove the seats that were given nothing and may never be asked. Return those that written answers would need.

    per_seat: the arguments of each seat.
    protocol: the protocol with its options, or None if they are faulty.
    protocol_class: its class.
    scores_only: whether tasks that score choices are answered without reasoning, by one seat alone.
    """
    spare = protocol.spare if protocol is not None else frozenset()
    scorer = protocol_class.answers or next(iter(per_seat))
    absent = [seat for seat, args in per_seat.items() if not args and seat != scorer and (scores_only or seat in spare)]
    for seat in absent:
        del per_seat[seat]
    return tuple(seat for seat in absent if seat not in spare)


def _specs(
    per_seat: Mapping[str, dict[str, Any]], protocol_class: type[Protocol], demonstration: bool, problems: list[str]
) -> dict[str, tuple[BackendSpec | Backend, SeatOptions]]:
    """Return the model and the options of each seat, and report what is wrong with them."""
    from harness_ext.embedded import model_path

    specs: dict[str, tuple[BackendSpec | Backend, SeatOptions]] = {}
    for seat, args in per_seat.items():
        model = args.pop("model", None)
        options = build(
            SeatOptions, {k: args.pop(k) for k in known_names(SeatOptions) if k in args}, problems, f"{seat}."
        )
        if model is None:
            if not demonstration:
                purpose = _role(seat, protocol_class).purpose
                problems.append(
                    f"the seat `{seat}` ({purpose}) has no model: give `{seat}=<backend>:<model>` "
                    "(or name no model for any seat, to use the built-in pair)"
                )
                continue
            model = str(model_path(_demonstration_model(seat, protocol_class)))
        if options is None:
            continue
        if isinstance(model, Backend):
            specs[seat] = (model, options)
        elif not isinstance(model, str | int | float):
            specs[seat] = (_wrapped(model), options)
        else:
            try:
                specs[seat] = (parse_spec(str(model), args), options)
            except ValueError as error:
                problems.append(f"`{seat}`: {error}")
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


def _devices(specs: Mapping[str, BackendSpec], device: str | None) -> dict[str, str]:
    """Return each seat's device: the requested one, or else one GPU per distinct model while there are GPUs.

    Seats of served models have none.
    """
    specs = {seat: spec for seat, spec in specs.items() if spec.backend not in (SERVED, STARTED)}
    # lm-eval passes `cuda:0` also if the user named no device, so that value cannot mean that the user wants GPU 0.
    if device not in (None, "cuda:0", "cuda"):
        return {seat: str(device) for seat in specs}
    if not specs:
        return {}  # counting GPUs would import torch
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0:
        return dict.fromkeys(specs, "cpu")
    if place_of().world > 1:  # the launcher assigns each process its own GPU as `cuda`
        return dict.fromkeys(specs, "cuda")
    # Equal specifications share one loaded model, hence one GPU. Distinct models get different GPUs, because the engine
    # has one queue per device and models on different devices answer at the same time. When the GPUs run out, the
    # remaining models share the last one. A parallelized model spreads over all GPUs by itself and uses up no number.
    number: dict[Any, int] = {}
    result = {}
    for seat, spec in specs.items():
        if spec.args.get("parallelize"):
            result[seat] = "cuda"
            continue
        result[seat] = f"cuda:{min(number.setdefault(spec.identity, len(number)), gpus - 1)}"
    return result


def _backend(
    seat: str, spec: BackendSpec | Backend, defaults: Mapping[str, Any], made: dict[Any, Backend], problems: list[str]
) -> Backend | None:
    """Return the seat's backend; seats with equal specifications share one.

    seat: the seat's name, for messages.
    spec: the seat's model.
    defaults: lm-eval's settings, for arguments that the specification does not set.
    made: the backends created so far, by the identity of their specifications; extended here.
    problems: receives a message if the backend cannot be created.
    """
    if isinstance(spec, Backend):
        return spec
    args = {**{k: v for k, v in defaults.items() if v is not None}, **spec.args}
    full = BackendSpec(spec.backend, spec.name, args)
    try:
        if full.identity not in made:
            made[full.identity] = make_backend(full)
        return made[full.identity]
    except ValueError as error:
        problems.append(f"`{seat}`: {error}")
    except ImportError as error:
        problems.append(
            f"`{seat}`: {spec.backend} needs a package that is not installed ({error}): install lm_eval[{spec.backend}]"
        )
    return None


def _capability_problems(protocol: Protocol, seats: Mapping[str, SeatSetup]) -> list[str]:
    problems = []
    needs = protocol.needs()
    for seat in seats:
        needed = needs.get(seat)
        if needed is None:
            needed = needs.get(protocol.team[0], frozenset()) if protocol.team is not None else frozenset()
        if missing := needed - seats[seat].backend.capabilities:
            problems.append(
                f"`{seat}`: this run needs a model that can {', '.join(sorted(missing))}, "
                f"but {seats[seat].backend.name} cannot{seats[seat].backend.remedy}"
            )
    return problems + protocol.problems({name: setup.backend for name, setup in seats.items()})


def _rendering_problems(seat: str, setup: SeatSetup) -> list[str]:
    """Return what goes wrong when every shape of conversation that protocols use is rendered.

    This needs no weights, so that a problem with a template appears before a large model is loaded.
    """
    system, user, reply = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
    try:
        setup.backend.prepare()
        shapes = [[user], [system, user], [system, user, reply, user], [user, reply, user]]
        if "continue" in setup.backend.capabilities:
            shapes.append([user, reply])
        for shape in shapes:
            setup.backend.render(shape, setup.chat)
    except CallFailed as error:
        return [f"`{seat}`: {error}; or give `{seat}.chat=off` to use the plain form"]
    except Exception as error:  # the constructor of an lm-eval model class may raise anything
        return [f"`{seat}`: {setup.backend.name} cannot be created: {type(error).__name__}: {outside(error)}"]
    return []

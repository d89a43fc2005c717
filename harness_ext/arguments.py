"""From lm-eval's model arguments to a checked run: options, seats, models; every problem before anything loads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness_ext.backends import BackendSpec, make_backend, parse_spec
from harness_ext.backends.base import Backend, ChatMode
from harness_ext.budget import Cap, budget_problems
from harness_ext.choices import CLOSING, INVITATION, Reasoning
from harness_ext.errors import CallFailed, ConfigurationError
from harness_ext.options import PromptText, build, known_names, secrets_in, suggest
from harness_ext.protocol import Protocol, Role
from harness_ext.records import Message
from harness_ext.seats import SeatSetup
from harness_ext.teams import spread

RUNS = Path("harness_ext_runs")


@dataclass(frozen=True)
class RunOptions:
    """What a run is told beside protocol and seats.

    `model` is the run's label (it also names lm-eval's output folder), `run_dir` the folder of its records (default:
    a new one under `harness_ext_runs/`), `store` the folder of the call store or `off`, `window` the most questions
    open at once. `on_failure=stop` finishes and stores everything else, then raises; `score` answers "" and counts.
    `on_overflow=truncate` lets a model cut prompts that do not fit, as lm-eval does; `on_empty=fail` takes an empty
    reply for a failure. `budget` ends the run before it spends more (`calls:1000`, `tokens:2e6`, `price:5`).
    Where a task scores choices, the protocol first reasons about each question (`reason=on`), at most
    `reason_max_tokens` long, invited by `reason_user`; the choices follow `closing`. With `reason=off` they are scored
    as lm-eval does. `progress` is shown on a terminal as a bar, elsewhere as lines.
    """

    model: str | None = None
    run_dir: Path | None = None
    store: str = str(RUNS / "calls")
    window: int = 2048
    on_failure: Literal["stop", "score"] = "stop"
    on_overflow: Literal["fail", "truncate"] = "fail"
    on_empty: Literal["keep", "fail"] = "keep"
    budget: str | None = None
    reason: Literal["on", "off"] = "on"
    reason_max_tokens: int = 256
    reason_user: PromptText = field(default_factory=lambda: PromptText(INVITATION))
    closing: PromptText = field(default_factory=lambda: PromptText(CLOSING))
    progress: Literal["auto", "on", "off"] = "auto"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if self.window < 1 or self.reason_max_tokens < 1:
            raise ValueError("`window` and `reason_max_tokens` must be 1 or more")
        if self.budget is not None:
            Cap.parse(self.budget)

    @property
    def reasoning(self) -> Reasoning | None:
        """Return how choices are reasoned about, or None."""
        return Reasoning(self.reason_user, self.closing, self.reason_max_tokens) if self.reason == "on" else None


@dataclass(frozen=True)
class SeatOptions:
    """What a seat is told beside its model's own arguments: how conversations are rendered, its prices (per million
    tokens), a system text of its own (a file), generation settings that go before the task's (`gen.temperature=0.7`),
    and whether a task's images are sent to it.
    """

    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None
    system: PromptText | None = None
    gen: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["auto", "off"] = "auto"


@dataclass
class RunPlan:
    """A checked run. `demonstration` says that no seat was named and the built-in pair sits on all of them."""

    protocol: Protocol
    options: RunOptions
    seats: dict[str, SeatSetup] = field(default_factory=dict)
    demonstration: bool = False


def plan_run(
    protocol_class: type[Protocol],
    arguments: Mapping[str, Any],
    batch_size: int | str | None = None,
    max_batch_size: int | None = None,
    device: str | None = None,
) -> RunPlan:
    """Return the run that the arguments ask for. Raises ConfigurationError with all problems at once."""
    given, names, problems = flatten(arguments), list(protocol_class.roles), list[str]()
    if protocol_class.team is not None:
        given, members = spread(given, protocol_class.team[0], problems)
        names = [*members, *names]
    secrets = secrets_in(given, frozenset({*known_names(RunOptions), *known_names(protocol_class), "api_key_env"}))
    if secrets:
        reason = "looks like a secret, and lm-eval copies model arguments into its results"
        raise ConfigurationError([f"`{name}` {reason}: give it by an environment variable" for name in secrets])
    own, per_seat = _split(given, names, protocol_class, problems)
    if isinstance(own.get("store"), bool):  # YAML reads `off` as false
        own["store"] = "off" if own["store"] is False else str(RUNS / "calls")
    options = build(RunOptions, own, problems)
    protocol = build(protocol_class, own, problems)
    demonstration = not any("model" in args for args in per_seat.values())
    _drop_unneeded(per_seat, protocol, protocol_class, problems)
    seats: dict[str, SeatSetup] = {}
    defaults = {"batch_size": batch_size, "max_batch_size": max_batch_size}
    if options is not None and options.trust_remote_code:
        defaults["trust_remote_code"] = True
    specs = _specs(per_seat, protocol_class, demonstration, problems)
    devices = _devices({seat: spec for seat, (spec, _) in specs.items() if isinstance(spec, BackendSpec)}, device)
    made: dict[Any, Backend] = {}
    for seat, (spec, seat_options) in specs.items():
        backend = _backend(seat, spec, {**defaults, "device": devices.get(seat)}, made, problems)
        if backend is not None:
            o = seat_options
            seats[seat] = SeatSetup(backend, o.chat, o.price_in, o.price_out, o.system, o.gen, o.images)
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
    return RunPlan(protocol, options, seats, demonstration)


def flatten(arguments: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested arguments (lm-eval's `--config`) with dotted names (`student.dtype`)."""
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
    """Return the options of run and protocol, and what was said of each seat (its model under `model`)."""
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
        else:
            known = [*options, *per_seat]
            problems.append(
                f"there is no argument `{name}`{suggest(name, known)}; there are {', '.join(known)}, "
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
    """Leave out the seats that the options do not use; one that was given a model all the same is a problem."""
    if protocol is None:
        return
    roles, needed = protocol_class.roles, protocol.needs()
    unused = [seat for seat in per_seat if seat in roles and seat not in needed]
    given = [seat for seat in unused if per_seat.pop(seat)]
    problems += [f"the seat `{seat}` ({roles[seat].purpose}) is not used with these options" for seat in given]


def _specs(
    per_seat: Mapping[str, dict[str, Any]], protocol_class: type[Protocol], demonstration: bool, problems: list[str]
) -> dict[str, tuple[BackendSpec | Backend, SeatOptions]]:
    """Return each seat's model and options."""
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
                    "(or name no seat at all, for the built-in pair)"
                )
                continue
            model = str(model_path("teacher" if seat in ("teacher", "judge") or seat[-1] in "24680" else "student"))
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


def _wrapped(model: Any) -> Backend:
    from lm_eval.api.model import LM

    from harness_ext.backends.lm import wrap_lm

    if isinstance(model, LM):
        return wrap_lm(model)
    raise ConfigurationError(
        [
            f"a seat takes a specification, a Backend or an lm_eval LM, not {type(model).__name__}: "
            "wrap a transformers model in lm_eval's HFLM"
        ]
    )


def _devices(specs: Mapping[str, BackendSpec], device: str | None) -> dict[str, str]:
    """Return each seat's device: the one asked for; else one GPU for each different model, as far as there are GPUs.

    lm-eval passes `cuda:0` when nobody asked for anything, so that counts as not asked for.
    """
    if device not in (None, "cuda:0", "cuda"):
        return {seat: str(device) for seat in specs}
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0:
        return dict.fromkeys(specs, "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the launcher gives each process its device
        return dict.fromkeys(specs, "cuda")
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
    """Return the seat's backend; equal specs share one."""
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
            f"`{seat}`: {spec.backend} needs a package that is not here ({error}): install lm_eval[{spec.backend}]"
        )
    return None


def _capability_problems(protocol: Protocol, seats: Mapping[str, SeatSetup]) -> list[str]:
    problems = []
    needs = protocol.needs()
    for seat in seats:
        needed = needs.get(seat, needs.get(seat.rstrip("0123456789"), frozenset()))
        if missing := needed - seats[seat].backend.capabilities:
            problems.append(
                f"`{seat}`: this run needs a model that can {', '.join(sorted(missing))}, "
                f"and {seats[seat].backend.name} cannot{seats[seat].backend.remedy}"
            )
    return problems + protocol.problems({name: setup.backend for name, setup in seats.items()})


def _rendering_problems(seat: str, setup: SeatSetup) -> list[str]:
    """Render every shape of conversation that protocols use, before a big model loads."""
    system, user, reply = Message("system", "s"), Message("user", "u"), Message("assistant", "a")
    try:
        setup.backend.prepare()
        shapes = [[user], [system, user], [system, user, reply, user], [user, reply, user]]
        if "continue" in setup.backend.capabilities:
            shapes.append([user, reply])
        for shape in shapes:
            setup.backend.render(shape, setup.chat)
    except CallFailed as error:
        return [f"`{seat}`: {error}; or write `{seat}.chat=off` for the plain form"]
    except Exception as error:  # a model class of lm-eval's may raise anything when it is made
        return [f"`{seat}`: {setup.backend.name} cannot be made: {type(error).__name__}: {error}"]
    return []

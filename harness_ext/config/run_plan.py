"""Turns lm-eval's model arguments into a checked run. All problems are reported at once, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness_ext.backends.base import Backend, ChatMode
from harness_ext.backends.registry import BackendSpec, make_backend, parse_spec
from harness_ext.config.secrets import secrets_in
from harness_ext.config.teams import expand_team, member_number
from harness_ext.engine.budget import Cap, budget_problems
from harness_ext.errors import CallFailed, ConfigurationError
from harness_ext.options import PromptText, build, known_names, suggest
from harness_ext.protocol import Protocol, Role, SeatSetup
from harness_ext.protocol.seats import Thoughts
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers
from harness_ext.records import Message

RUNS = Path("harness_ext_runs")


@dataclass(frozen=True)
class RunOptions:
    """The options of a run, apart from those of its protocol and its seats.

    model: label of the run, which also names lm-eval's output folder. Default: the protocol's name.
    run_dir: folder of the run's records. Default: a new folder in `harness_ext_runs/`.
    store: folder of the call store, or `off`. Default `harness_ext_runs/calls`.
    window: maximum number of questions in progress at once. Default 2048.
    on_failure: what to do about questions without an answer. `stop` finishes and stores all others, then raises an
        error; `score` answers with an empty text and counts it. Default `stop`.
    on_overflow: what to do about prompts that do not fit. `fail` fails their question; `truncate` cuts their beginning,
        as lm-eval does. Default `fail`.
    on_empty: what to do about empty replies. `keep` accepts them, as lm-eval does; `fail` fails their question. Default
        `keep`.
    budget: the most that the run may spend, as `calls:1000`, `tokens:2e6` or `price:5`. The run ends before it exceeds
        that. Default: no limit.
    reason: how to answer tasks that score choices. `on` reasons about each question before scoring its choices; `off`
        scores them as lm-eval does. Default `on`.
    reason_max_tokens: maximum length of that rationale, in tokens. Default 256.
    reason_user: text that asks for the rationale. Default "Let's think step by step."
    closing: text between the rationale and a choice. Default "Therefore, the answer is".
    progress: whether to show progress, as a bar on a terminal and as lines elsewhere: `auto`, `on` or `off`. Default
        `auto`.
    trust_remote_code: whether all seats may run code that comes with their models. Default off.
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


@dataclass(frozen=True)
class SeatOptions:
    """The options of a seat, apart from its model's own arguments.

    chat: how conversations are rendered: `auto` uses the model's chat template if it has one, `on` requires one, `off`
        uses the plain form. Default `auto`.
    price_in: price per million prompt tokens. Default: unknown.
    price_out: price per million completion tokens. Default: unknown.
    system: the seat's own system message, which comes before the task's. Default none.
    gen: generation settings that override those of the task (`gen.temperature=0.7`). Default none.
    images: whether the seat receives a task's images: `auto` sends them, `off` leaves them out. Default `auto`.
    thoughts: what becomes of a reasoning model's thoughts: `hide` keeps them in the records, apart from the answer,
        `history` also gives them back to the seat itself in later turns, `off` takes them for a part of the answer.
        Default `hide`.
    thought_start, thought_end: the marks around a thought, if they are not among the usual ones (`<think>`, `[THINK]`,
        harmony's channels, …). Default none.
    thought_tokens: how many tokens a thought may take beyond the limit that the protocol sets for a review, a rating
        or the like. Default 0.
    """

    chat: ChatMode = "auto"
    price_in: float | None = None
    price_out: float | None = None
    system: PromptText | None = None
    gen: Mapping[str, Any] = field(default_factory=dict)
    images: Literal["auto", "off"] = "auto"
    thoughts: Thoughts = "hide"
    thought_start: str | None = None
    thought_end: str | None = None
    thought_tokens: int = 0

    def __post_init__(self) -> None:
        if (self.thought_start is None) != (self.thought_end is None) or "" in (self.thought_start, self.thought_end):
            raise ValueError("`thought_start` and `thought_end` go together, and neither may be empty")
        if self.thought_tokens < 0:
            raise ValueError("`thought_tokens` must be 0 or more")

    @property
    def thought_markers(self) -> Markers:
        """Return the marks around a thought, the seat's own ones first."""
        if self.thought_start is None or self.thought_end is None:
            return DEFAULT_MARKERS
        return ((self.thought_start, self.thought_end), *DEFAULT_MARKERS)


@dataclass
class RunPlan:
    """A checked run.

    protocol: the protocol with its options.
    options: the options of the run.
    seats: the seats by name, with their models.
    demonstration: whether no model was named, so that the built-in pair takes all seats. Default false.
    """

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
            seats[seat] = SeatSetup(
                backend,
                chat=seat_options.chat,
                price_in=seat_options.price_in,
                price_out=seat_options.price_out,
                system=seat_options.system,
                gen_kwargs=seat_options.gen,
                images=seat_options.images,
                thoughts=seat_options.thoughts,
                thought_markers=seat_options.thought_markers,
                thought_tokens=seat_options.thought_tokens,
            )
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


def _harmless_names(protocol_class: type[Protocol]) -> frozenset[str]:
    """Return the names of options that only sound like secrets (`chunk_tokens`)."""
    classes = (RunOptions, SeatOptions, protocol_class)
    return frozenset({"api_key_env", *(name for cls in classes for name in known_names(cls))})


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
    if protocol is None:
        return
    roles, needed = protocol_class.roles, protocol.needs()
    unused = [seat for seat in per_seat if seat in roles and seat not in needed]
    given = [seat for seat in unused if per_seat.pop(seat)]
    problems += [
        f"the seat `{seat}` ({roles[seat].purpose}) is not used with these options: remove its arguments"
        for seat in given
    ]


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
    """Return each seat's device: the requested one, or else one GPU per distinct model while there are GPUs."""
    # lm-eval passes `cuda:0` also if the user named no device, so that value cannot mean that the user wants GPU 0.
    if device not in (None, "cuda:0", "cuda"):
        return {seat: str(device) for seat in specs}
    import torch

    gpus = torch.cuda.device_count()
    if gpus == 0:
        return dict.fromkeys(specs, "cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # the launcher assigns each process its own GPU as `cuda`
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
        return [f"`{seat}`: {setup.backend.name} cannot be created: {type(error).__name__}: {error}"]
    return []


INVITATION = "Let's think step by step."
CLOSING = "Therefore, the answer is"

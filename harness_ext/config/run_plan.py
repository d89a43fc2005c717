"""Turns lm-eval's model arguments into a checked run. All problems are reported at once, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.backends.kept import kept_backends
from harness_ext.backends.openai_options import ServerOptions
from harness_ext.backends.registry import SERVED, STARTED, BackendSpec, make_backend
from harness_ext.config.composition import resolve, seats_of
from harness_ext.config.levels import drop_unasked, flatten, model_specs, protocols_in, read_level
from harness_ext.config.placement import place_servers
from harness_ext.config.prompts import prompts_hash
from harness_ext.config.run_options import RUNS, RunOptions, SeatOptions
from harness_ext.config.secrets import secrets_in
from harness_ext.engine.budget import Budget, budget_problems
from harness_ext.engine.engine import Engine
from harness_ext.engine.processes import place_of
from harness_ext.engine.queues import CallPolicy
from harness_ext.errors import CallFailed, ConfigurationError
from harness_ext.options import build, known_names
from harness_ext.protocol import Protocol, SeatSetup
from harness_ext.protocol.inner import ProtocolBackend, all_seats, models_of
from harness_ext.protocol.turns import digest
from harness_ext.records import Message
from harness_ext.records.call_store import CallStore
from harness_ext.terminal import outside


@dataclass
class RunPlan:
    """A checked run.

    protocol: the protocol with its options.
    options: the options of the run.
    seats: the seats of the protocol, by name.
    demonstration: whether no model was named, so that the built-in pair takes all seats. Default false.
    unnamed: the seats without a model that only written answers would need (`reason=off`). Default none.
    """

    protocol: Protocol
    options: RunOptions
    seats: dict[str, SeatSetup] = field(default_factory=dict)
    demonstration: bool = False
    unnamed: tuple[str, ...] = ()

    @property
    def models(self) -> dict[str, SeatSetup]:
        """Return the seats that models take, those of protocols in seats included (`student.teacher`)."""
        return models_of(self.seats)

    @property
    def prompts_hash(self) -> str:
        """Return a hash of all prompts: those of the protocol, of the run and of protocols in seats."""
        backends = (setup.backend for setup in all_seats(self.seats).values())
        inner = [backend.protocol for backend in backends if isinstance(backend, ProtocolBackend)]
        hashes = [prompts_hash(self.protocol, self.options), *map(prompts_hash, inner)]
        return digest(*hashes)[: len(hashes[0])] if inner else hashes[0]

    @property
    def remarks(self) -> list[str]:
        """Return what a user should know about the options of all protocols before the results are read."""
        found = self.protocol.remarks(self.seats)
        for path, setup in all_seats(self.seats).items():
            if isinstance(setup.backend, ProtocolBackend):
                found += [f"`{path}`: {remark}" for remark in setup.backend.protocol.remarks(setup.backend.seats)]
        return found

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
    given, problems = flatten(arguments), list[str]()
    _refuse_secrets(given, protocol_class)
    top = read_level(protocol_class, given, problems)
    if isinstance(top.own.get("store"), bool):  # YAML reads `off` as false
        top.own["store"] = "off" if top.own["store"] is False else str(RUNS / "calls")
    options = build(RunOptions, top.own, problems)
    demonstration = not top.names_models
    scores_only = options is not None and options.reason == "off"
    unnamed = () if demonstration else drop_unasked(top, scores_only)
    models: dict[str, SeatSetup] = {}
    defaults = {"batch_size": batch_size, "max_batch_size": max_batch_size}
    if options is not None and options.trust_remote_code:
        defaults["trust_remote_code"] = True
    specs = model_specs(top, demonstration, problems)
    named = {seat: spec for seat, (spec, _) in specs.items() if isinstance(spec, BackendSpec)}
    devices = _devices(named, device)
    placed = place_servers(named, devices.values(), device)
    made = kept_backends()
    for seat, (spec, seat_options) in specs.items():
        where = {"device": devices.get(seat), **placed.get(seat, {})}
        backend = _backend(seat, spec, {**defaults, **where}, made, problems)
        if backend is not None:
            try:
                models[seat] = seat_options.setup(backend)
            except ValueError as error:
                problems.append(f"`{seat}.calibration`: {error}")
    seats = seats_of(top, models, problems)
    if not problems:
        problems += [p for seat, setup in models.items() for p in _rendering_problems(seat, setup)]
    protocol = top.protocol if problems else resolve(top, seats, problems)
    if options is not None:
        problems += budget_problems(options.budget, models)
    if problems or protocol is None or options is None:
        raise ConfigurationError(problems)
    return RunPlan(protocol, options, seats, demonstration, unnamed)


def _refuse_secrets(given: Mapping[str, Any], protocol_class: type[Protocol]) -> None:
    """Raise ConfigurationError if arguments look like secrets."""
    secrets = secrets_in(given, _harmless_names([protocol_class, *protocols_in(given)]))
    if secrets:
        reason = "looks like a secret, and lm-eval copies model arguments into its results"
        raise ConfigurationError([f"`{name}` {reason}: pass it in an environment variable" for name in secrets])


def _harmless_names(protocols: Sequence[type[Protocol]]) -> frozenset[str]:
    """Return the names of options that only sound like secrets (`chunk_tokens`)."""
    classes = (RunOptions, SeatOptions, ServerOptions, *protocols)
    return frozenset(name for cls in classes for name in known_names(cls))


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

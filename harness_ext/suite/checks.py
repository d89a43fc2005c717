"""Checks the cells of a study against what is installed: models, their arguments, tasks. No weights of `hf` load.

This imports lm-eval and may create tokenizers, so that `run` does it in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from harness_ext.config.secrets import secrets_in
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.suite.cells import Cell
from harness_ext.suite.evaluating import task_manager
from harness_ext.terminal import outside


def check_cells(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """Return what identifies the models that each cell loads, by the cell's digest.

    Raises ConfigurationError with the problems of all cells at once.
    """
    from harness_ext.backends.kept import backends_kept
    from harness_ext.bridge import startup

    startup.enforce()
    problems = [f"{cell.title}: `model_args.{name}` looks like a secret: pass it in an environment variable"
                for cell in cells for name in secrets_in(cell.model_args, _harmless())]  # fmt: skip
    if problems:  # nothing may repeat them
        raise ConfigurationError(list(dict.fromkeys(problems)))
    found: dict[str, list[str]] = {}
    checked: dict[str, tuple[list[str], list[str]]] = {}
    for cell in cells:
        options = cell.options
        operational = (options.batch_size, options.max_batch_size, options.device)
        key = json.dumps([cell.model, cell.model_args, operational], sort_keys=True, default=str)
        if key not in checked:
            with backends_kept() as kept:  # not longer, since some models of lm-eval load their weights at once
                checked[key] = _check_model(cell, kept)
        models, wrong = checked[key]
        found[cell.digest] = models
        problems += [f"{cell.label}: {problem}" for problem in wrong]
    problems += _task_problems(cells)
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))
    return found


def _harmless() -> frozenset[str]:
    """Return the names of arguments that only sound like secrets: the options of runs, seats and protocols do."""
    from harness_ext.backends.openai_options import ServerOptions
    from harness_ext.config.run_options import RunOptions, SeatOptions
    from harness_ext.options import known_names

    names = {name for cls in (RunOptions, SeatOptions, ServerOptions) for name in known_names(cls)}
    # What a protocol calls its own options is checked with the protocol; stock models limit tokens under these names.
    return frozenset({*names, "max_tokens", "max_gen_toks", "tokenizer", "tokenized_requests", "tokenizer_backend"})


def _check_model(cell: Cell, kept: dict[Any, Any]) -> tuple[list[str], list[str]]:
    """Return what identifies the models of a cell, and what is wrong with it.

    cell: the cell.
    kept: the models that are created for it, by the identity of their specifications.
    """
    import lm_eval.models  # noqa: F401  (registers lm-eval's models)
    from lm_eval.api.registry import get_model, model_registry

    from harness_ext.backends.constructor import typed_arguments
    from harness_ext.bridge.protocol_lm import ProtocolLM
    from harness_ext.config.run_plan import plan_run

    names = sorted(model_registry)
    if cell.model not in names:
        return [], [
            f"there is no model `{outside(cell.model)}`{suggest(cell.model, names)}: `harness-ext doctor` lists them"
        ]
    try:
        cls = get_model(cell.model)
    except Exception as error:  # whatever a package raises that is missing or broken
        return [], [f"`{cell.model}` cannot be imported: {outside(error)}"]
    options = cell.options
    if not issubclass(cls, ProtocolLM):
        try:
            typed_arguments(cls.__init__, cell.model_args)
        except ValueError as error:
            return [], [str(error)]
        given = {
            "model": cell.model,
            "args": dict(cell.model_args),
            "batch_size": [options.batch_size, options.max_batch_size],
            "device": options.device,
        }
        return [_digest(given)], []
    arguments = dict(cell.model_args)
    if cell.control_of is not None:
        arguments = {**arguments, "k": "1"}  # the real one is known once the other cell is finished
        arguments.pop("draws_from", None)
    try:
        plan = plan_run(
            cls.protocol, {**arguments, "model": cell.setting}, options.batch_size or 1, options.max_batch_size,
            options.device or "cuda:0",
        )  # fmt: skip
    except ConfigurationError as error:
        return [], list(error.problems)
    identities = {id(backend): identity for identity, backend in kept.items()}
    backends = {id(setup.backend): setup.backend for setup in plan.seats.values()}
    return sorted(_digest([identities.get(key), backend.fingerprint]) for key, backend in backends.items()), []


def _task_problems(cells: Iterable[Cell]) -> list[str]:
    problems = []
    folders = {cell.options.include_path: None for cell in cells}
    for folder in folders:
        manager = task_manager(folder)
        problems += [
            f"there is no task `{outside(task)}`{suggest(task, manager.all_tasks)}: `harness-ext lm-eval ls tasks` "
            "lists them, and `include_path` names a folder of your own"
            for task in dict.fromkeys(cell.task for cell in cells if cell.options.include_path == folder)
            if not manager.match_tasks([task])
        ]
    return problems


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode(errors="replace")).hexdigest()[:16]

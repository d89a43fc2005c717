"""Checks the cells of a study against what is installed: models, their arguments, tasks. No weights of `hf` load.

This imports lm-eval and may create tokenizers, so that `run` does it in a process of its own.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.config.secrets import secrets_in
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.suite.cells import Cell, Evaluation, TrainingCell
from harness_ext.suite.evaluating import control_option, task_manager
from harness_ext.suite.train import training_problems, with_checkpoint
from harness_ext.suite.training import base_model
from harness_ext.terminal import outside


def check_cells(
    cells: Sequence[Cell], groups: Mapping[str, Sequence[str]] | None = None, only: Collection[str] = ()
) -> dict[str, list[str]]:
    """Return what identifies the models that each cell loads, by the cell's digest.

    cells: the cells of a study.
    groups: its groups of tasks by name. Default none.
    only: the digests of the cells to check. Default: all.

    Raises ConfigurationError with the problems of all cells at once.
    """
    from harness_ext.backends.kept import backends_kept
    from harness_ext.bridge import startup

    startup.enforce()
    tasks = {cell.task for cell in cells if isinstance(cell, Evaluation)}
    cells = [cell for cell in cells if not only or cell.digest in only]
    trainings = [cell for cell in cells if isinstance(cell, TrainingCell)]
    found: dict[str, list[str]] = {cell.digest: [] for cell in trainings}
    evaluations = [cell for cell in cells if isinstance(cell, Evaluation)]
    problems = [f"{cell.title}: `model_args.{name}` looks like a secret: pass it in an environment variable"
                for cell in evaluations for name in secrets_in(cell.model_args, _harmless())]  # fmt: skip
    if problems:  # nothing may repeat them
        raise ConfigurationError(list(dict.fromkeys(problems)))
    checked: dict[str, tuple[list[str], list[str]]] = {}
    for cell in evaluations:
        options = cell.options
        operational = (options.batch_size, options.max_batch_size, options.device)
        trained = cell.identity().get("trained")
        key = json.dumps([cell.model, cell.model_args, trained, operational], sort_keys=True, default=str)
        if key not in checked:
            with backends_kept() as kept:  # not longer, since some models of lm-eval load their weights at once
                checked[key] = _check_model(cell, kept)
        models, wrong = checked[key]
        found[cell.digest] = models
        problems += [f"{cell.label}: {problem}" for problem in wrong]
    problems += _task_problems(evaluations) or _group_problems(tasks, evaluations, groups or {})
    problems += [problem for cell in trainings for problem in training_problems(cell)]
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


def _check_model(cell: Evaluation, kept: dict[Any, Any]) -> tuple[list[str], list[str]]:
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
    arguments, made = dict(cell.model_args), []
    if (trained := cell.trained) is not None:
        if problem := _takes_checkpoints(cell, cls):
            return [], [problem]
        # The checkpoint does not exist yet, so the model that the training starts from stands for it.
        base = base_model(trained.by)
        arguments = with_checkpoint(cell, {} if base is None else {"pretrained": base})
        made = [_digest([trained.by.digest, trained.checkpoint])]
    if not issubclass(cls, ProtocolLM):
        try:
            typed_arguments(cls.__init__, arguments)
        except ValueError as error:
            return [], [str(error)]
        if trained is None and (problem := _missing(cls, arguments)):
            return [], [problem]
        given = {
            "model": cell.model,
            "args": arguments,
            "checkpoint": made,
            "batch_size": [options.batch_size, options.max_batch_size],
            "device": options.device,
        }
        return [_digest(given)], []
    if cell.control_of is not None:
        arguments = {**arguments, control_option(cell): "1"}  # known once the other cell is finished
        arguments.pop("draws_from", None)
    try:
        plan = plan_run(
            cls.protocol, {**arguments, "model": cell.setting}, options.batch_size or 1, options.max_batch_size,
            options.device or "cuda:0",
        )  # fmt: skip
    except ConfigurationError as error:
        return [], list(error.problems)
    identities = {id(backend): identity for identity, backend in kept.items()}
    seats = {name: setup for name, setup in plan.models.items() if trained is None or name != trained.seat}
    backends = {id(setup.backend): setup.backend for setup in seats.values()}
    existing = [_digest([identities.get(key), backend.fingerprint]) for key, backend in backends.items()]
    return sorted([*existing, *made]), []


def _missing(cls: Any, arguments: Mapping[str, Any]) -> str:
    """Return what one of lm-eval's own models lacks, or an empty text."""
    from lm_eval.models.huggingface import HFLM

    from harness_ext.backends.hf import looks_like_path

    for name, parameter in inspect.signature(cls).parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in arguments:
            return f"`model_args.{name}` is missing: give it"
    folder = str(arguments.get("pretrained"))
    if issubclass(cls, HFLM) and looks_like_path(folder) and not Path(folder).is_dir():
        return (
            f"there is no folder {outside(folder)}: `model_args.pretrained` takes a folder that contains a model, or "
            "the id of a model on the Hugging Face hub"
        )
    return ""


def _takes_checkpoints(cell: Evaluation, cls: Any) -> str:
    """Return why a model cannot be given the checkpoint of a training, or an empty text."""
    from lm_eval.models.huggingface import HFLM

    from harness_ext.bridge.protocol_lm import ProtocolLM

    assert cell.trained is not None
    name, seat = cell.trained.by.setting, cell.trained.seat
    if issubclass(cls, ProtocolLM) and seat is None:
        return f"say which seat of `{cell.model}` gets the checkpoint: `checkpoints_of: {{student: {name}}}`"
    if issubclass(cls, ProtocolLM):
        return ""
    if seat is not None:
        return f"`{cell.model}` has no seats: give `checkpoints_of: {name}`"
    if not issubclass(cls, HFLM):
        return f"`{cell.model}` cannot be given checkpoints: use `hf`, or a protocol with a seat for it"
    return ""


def _task_problems(cells: Iterable[Evaluation]) -> list[str]:
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


def _group_problems(
    tasks: set[str], cells: Iterable[Evaluation], groups: Mapping[str, Sequence[str]]
) -> list[str]:  # fmt: skip
    """Return which members of groups are no tasks of the study, as far as that is known before any task is loaded."""
    single = {task for cell in cells for task in task_manager(cell.options.include_path).all_subtasks}
    if not tasks <= single:  # one is a group or a tag of lm-eval
        return []
    return [
        f"`groups.{group}`: the study has no task `{outside(task)}`{suggest(task, sorted(tasks))}"
        for group, members in groups.items()
        for task in members
        if task not in tasks
    ]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode(errors="replace")).hexdigest()[:16]

"""The trainings of a study, and which of their checkpoints a setting evaluates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from harness_ext.options import suggest
from harness_ext.suite.cells import Trained, TrainingCell
from harness_ext.terminal import outside

TRAINING_KEYS = ("base", "config", "matrix", "slurm")
SET_BY_SUITE = {"output_dir": "each training has its own folder", "resume": "a suite always continues a training"}
KINDS = "whole numbers of epochs, `epochs` (all of them), `step-N`, `best`, `last` and `untouched`"


@dataclass(frozen=True)
class Training:
    """A training before it is combined with its axes.

    name: its name in the study.
    file: the content of its configuration file; empty if it has none.
    options: the settings of `harness-ext finetune` that the study gives, with everything that it inherits.
    axes: the axes of its matrix by name, each with the settings that each of its values changes, by label.
    slurm: how it runs on Slurm, where that differs from the rest of the study. Default: nowhere.
    """

    name: str
    file: Mapping[str, Any]
    options: Mapping[str, Any]
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)


def training_cells(training: Training) -> list[TrainingCell]:
    """Return the cells of a training, one for each combination of its axes."""
    cells = []
    for labels in product(*training.axes.values()):
        axes = dict(zip(training.axes, labels, strict=True))
        options = dict(training.options)
        for axis, label in axes.items():
            options |= training.axes[axis][label]
        given = {name: value for name, value in options.items() if value is not None}
        cells.append(TrainingCell(training.name, axes, training.file, given, slurm=training.slurm))
    return cells


def check_options(options: Mapping[str, Any], where: str, problems: list[str]) -> None:
    """Check the form of a training's settings; their names and values are checked by `harness-ext finetune` itself.

    options: the settings.
    where: where they are, for messages.
    problems: receives a message for each setting that cannot be given here.
    """
    for name, value in options.items():
        if name in TRAINING_KEYS:
            problems.append(f"{where}: `{name}` belongs to the training itself")
        elif name in SET_BY_SUITE:
            problems.append(f"{where}: `{name}` cannot be given, because {SET_BY_SUITE[name]}: remove it")
        elif isinstance(value, Mapping):
            problems.append(f"{where}: `{outside(name)}` takes one value, not names and values")


def stages_of(cell: TrainingCell) -> dict[str, dict[str, Any]]:
    """Return the settings of a training's stages by the name of their folders; without stages, that is empty."""
    stages = cell.settings.get("stages")
    if not isinstance(stages, list) or not stages:
        return {"": cell.settings}
    own = [stage if isinstance(stage, Mapping) else {} for stage in stages]  # the check says what is wrong
    return {
        str(stage.get("name", number)): {**cell.file, **stage, **cell.options}
        for number, stage in enumerate(own, start=1)
    }


def base_model(cell: TrainingCell) -> str | None:
    """Return the model from which a training starts; None if it does not say."""
    first = next(iter(stages_of(cell).values()))
    model = first.get("model", first.get("model_name_or_path"))
    return str(model) if model else None


def trained(
    fields: Mapping[str, Any], trainings: Mapping[str, Sequence[TrainingCell]], where: str, problems: list[str]
) -> list[Trained | None]:
    """Return the checkpoints that a setting evaluates: one cell for each of them.

    fields: the fields of the setting, with those of its axes.
    trainings: the cells of the study's trainings by the name of the training.
    where: where the fields are, for messages.
    problems: receives a message for each thing that is wrong.

    A setting without a training is one cell, whose models exist already: a list with None.
    """
    named, wanted = fields.get("checkpoints_of"), fields.get("checkpoints")
    if named is None:
        if wanted is not None:
            problems.append(f"{where}: `checkpoints` needs `checkpoints_of`, the name of a training")
        return [None]
    seat = None
    if isinstance(named, Mapping) and len(named) == 1:
        ((seat, named),) = named.items()
    if not isinstance(named, str) or not (seat is None or isinstance(seat, str)):
        problems.append(
            f"{where}: `checkpoints_of` takes the name of a training, or `{{<seat>: <training>}}`, not {outside(named)}"
        )
        return []
    if named not in trainings:
        problems.append(
            f"{where}: `checkpoints_of: {outside(named, 60)}` is no training{suggest(named, list(trainings))}: "
            "describe it in `trainings`"
        )
        return []
    given = fields.get("model_args")
    taken = ("pretrained", "peft", "tokenizer") if seat is None else (seat, f"{seat}.peft", f"{seat}.tokenizer")
    problems += [
        f"{where}: `model_args.{argument}` is set by `checkpoints_of`: remove one of them"
        for argument in taken
        if isinstance(given, Mapping) and argument in given
    ]
    values = "epochs" if wanted is None else wanted
    found: list[Trained | None] = []
    for cell in trainings[named]:
        labels = _labels(values if isinstance(values, list) else [values], cell, where, problems)
        found += [Trained(cell, label, seat) for label in labels]
    return found


def _labels(values: Sequence[Any], cell: TrainingCell, where: str, problems: list[str]) -> list[str]:
    """Return the names of the checkpoints that a list of values stands for."""
    stage = list(stages_of(cell).values())[-1]
    epochs = _whole_epochs(stage)
    found: list[str] = []
    for value in values:
        if value == "epochs":
            if not epochs:
                why = "has no whole epoch" if epochs is not None else "does not say how many epochs there are"
                problems.append(f"{where}: `checkpoints: epochs`, but {cell.title} {why}: name checkpoints, or `last`")
            found += [f"epoch-{epoch}" for epoch in range(1, (epochs or 0) + 1)]
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            if epochs is not None and value > epochs:
                problems.append(f"{where}: `checkpoints: {value}`, but {cell.title} has {epochs} whole epochs")
            found.append(f"epoch-{value}")
        elif isinstance(value, str) and (
            value in ("best", "last", "untouched") or re.fullmatch(r"step-[1-9]\d*", value)
        ):
            found.append(value)
        else:
            problems.append(f"{where}: `checkpoints` takes {KINDS}, not {outside(value, 60)}")
    if len(set(found)) < len(found):
        problems.append(f"{where}: `checkpoints` names one twice: remove it")
        found = list(dict.fromkeys(found))
    problems += [f"{where}: {problem}" for problem in _not_kept(found, stage, cell)]
    return found


def _not_kept(labels: Sequence[str], stage: Mapping[str, Any], cell: TrainingCell) -> Iterator[str]:
    """Yield why the training will not have these checkpoints at its end, as far as its settings say so."""
    saved = [label for label in labels if label not in ("last", "untouched")]
    if saved and str(stage.get("save_total_limit") or 0) != "0":
        yield f"{cell.title} keeps its newest checkpoints only: remove its `save_total_limit` to evaluate {saved[0]}"
    rows = stage.get("train_file")
    measured = any(stage.get(name) for name in ("eval_file", "eval_fraction"))
    if "best" in labels and not measured and isinstance(rows, str) and Path(rows).is_file():
        yield (
            f"`checkpoints: best` is the one with the lowest validation error, but {cell.title} has no rows to measure "
            "it: give it `eval_file` or `eval_fraction`"
        )


def _whole_epochs(stage: Mapping[str, Any]) -> int | None:
    """Return the number of whole epochs of a training; None if it is unknown."""
    try:
        if int(stage.get("max_steps") or 0) > 0:
            return None
        return int(float(stage.get("epochs", stage.get("num_train_epochs", 1))) + 1e-9)
    except (TypeError, ValueError, OverflowError):
        return None  # the check of the training says what is wrong

"""The cells of a study: settings × tasks × seeds × axes, less what is excluded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.suite.cells import Cell, Evaluation, Trained, TrainingCell
from harness_ext.suite.contents import read_anew
from harness_ext.suite.reading import deep_merge
from harness_ext.suite.settings import Setting, check_fields
from harness_ext.suite.slurm_options import check_slurm
from harness_ext.suite.study import Study
from harness_ext.suite.training import trained, training_cells
from harness_ext.terminal import outside


def cells_of(study: Study) -> tuple[Cell, ...]:
    """Return the cells of a study as `expand` does. Raises ConfigurationError with all problems at once."""
    cells, problems = expand(study)
    if problems:
        raise ConfigurationError(problems)
    return cells


def expand(study: Study) -> tuple[tuple[Cell, ...], list[str]]:
    """Return the cells of a study, and everything that is wrong with it.

    The cells are in the order of the file: first the trainings, then the evaluations. What is wrong is what the file's
    reader has found, exclusions that exclude nothing, cells that are equal, controls of cells that there are not,
    checkpoints that no training leaves, and a reference that is no run. What the reader did not understand is missing
    from the cells.
    """
    read_anew()
    problems = list(study.problems)
    trainings = {training.name: training_cells(training) for training in study.trainings}
    made: dict[str, list[Evaluation]] = {}
    for setting in study.settings:
        if setting.control is None:
            made[setting.name] = list(_plain(setting, trainings, problems))
    for setting in study.settings:
        if setting.control is not None:
            made[setting.name] = list(_controls(setting, made, trainings, problems))
    every = [cell for setting in study.settings for cell in made[setting.name]]
    kept = _without_excluded(study, every, problems)
    cells = [*(cell for one in trainings.values() for cell in one), *kept]
    if not study.problems:  # what was not understood may be what cells differ in
        _check_equal(cells, problems)
        for cell in cells:
            check_slurm(deep_merge(study.slurm, cell.slurm), f"{cell.label}: slurm", problems, whole=True)
    there = {id(cell) for cell in cells}
    problems += [
        f"{cell.title} needs {needed.title}, which is excluded: exclude both or none"
        for cell in kept
        for needed in cell.needs
        if id(needed) not in there
    ]
    labels = list(dict.fromkeys(cell.label for cell in kept))
    if labels and study.reference is not None and study.reference not in labels:
        problems.append(
            f"`reference: {outside(study.reference)}` is no run{suggest(study.reference, labels)}: the runs are "
            f"{', '.join(labels)}"
        )
    if not kept and not problems:
        problems.append("the study has no cells: everything is excluded")
    return tuple(cells), list(dict.fromkeys(problems))


Trainings = Mapping[str, Sequence[TrainingCell]]


def _plain(setting: Setting, trainings: Trainings, problems: list[str]) -> Iterator[Evaluation]:
    where = f"settings.{setting.name}"
    for task, changes in setting.tasks.items():
        fields = deep_merge(setting.fields, changes)
        for labels in product(*setting.axes.values()):
            axes = dict(zip(setting.axes, labels, strict=True))
            combined = fields
            for axis, label in axes.items():
                combined = deep_merge(combined, setting.axes[axis][label])
            for one in trained(combined, trainings, where, problems):
                places = axes
                if one is not None:
                    problems += [
                        f"{where}, axis {axis}: {one.by.title} has an axis of this name: rename one"
                        for axis in one.by.axes.keys() & axes.keys()
                    ]
                    places = {**one.by.axes, **axes, "checkpoint": one.checkpoint}
                for seed in setting.seeds:
                    yield _cell(setting, task, seed, places, combined, trained=one)


def _controls(
    setting: Setting, made: Mapping[str, Sequence[Evaluation]], trainings: Trainings, problems: list[str]
) -> Iterator[Evaluation]:
    """Yield a control for each cell of the setting that it controls."""
    control = setting.control
    assert control is not None
    for target in made.get(control.of, ()):
        draws = None
        if control.draws_from is not None:
            draws = next((c for c in made.get(control.draws_from, ()) if _same_place(c, target)), None)
            if draws is None:
                seed = "" if target.seed is None else f", seed {target.seed}"
                problems.append(
                    f"settings.{setting.name}: `{control.draws_from}` has no cell for {target.task}{seed}, whose "
                    "drafts would show what a draw costs"
                )
        fields = deep_merge(setting.fields, setting.tasks.get(target.task, {}))
        yield _cell(
            setting, target.task, target.seed, target.axes, fields, target, draws,
            _same_checkpoint(fields, target, trainings, f"settings.{setting.name}", problems),
        )  # fmt: skip


def _same_checkpoint(
    fields: Mapping[str, Any], target: Evaluation, trainings: Trainings, where: str, problems: list[str]
) -> Trained | None:
    """Return what a control evaluates: the checkpoint of the cell that it controls, if it names a training at all."""
    if fields.get("checkpoints_of") is None:
        return None
    if fields.get("checkpoints") is not None:
        problems.append(
            f"{where}: a control evaluates the checkpoints of the cells that it controls: remove `checkpoints`"
        )
    if target.trained is None:
        problems.append(f"{where}: {target.title} evaluates no checkpoint: remove `checkpoints_of`")
        return None
    one = target.trained
    found = trained({**fields, "checkpoints": "last"}, trainings, where, problems)
    if all(other is None or other.by.setting != one.by.setting for other in found):
        problems.append(f"{where}: {target.title} evaluates another training: name `{one.by.setting}`")
    return Trained(one.by, one.checkpoint, next((other.seat for other in found if other is not None), None))


def _same_place(source: Evaluation, target: Evaluation) -> bool:
    shared = source.axes.keys() & target.axes.keys()
    return (source.task, source.seed) == (target.task, target.seed) and all(
        source.axes[axis] == target.axes[axis] for axis in shared
    )


def _cell(
    setting: Setting, task: str, seed: int | None, axes: Mapping[str, str], fields: Mapping[str, Any],
    control_of: Evaluation | None = None, draws_from: Evaluation | None = None, trained: Trained | None = None,
) -> Evaluation:  # fmt: skip
    options = check_fields(fields, setting.name, [])  # the reader has named the problems
    arguments, slurm = fields.get("model_args"), fields.get("slurm")
    return Evaluation(
        setting.name, dict(axes), task, seed, str(fields.get("model")),
        dict(arguments) if isinstance(arguments, Mapping) else {}, options, control_of, draws_from, trained,
        slurm=slurm if isinstance(slurm, Mapping) else {},
    )  # fmt: skip


def _without_excluded(study: Study, cells: Sequence[Evaluation], problems: list[str]) -> list[Evaluation]:
    known = {name for cell in cells for name in cell.coordinates}
    excluded: set[int] = set()
    for condition in study.exclude if cells else ():
        text = ", ".join(f"{name}: {' or '.join(values)}" for name, values in condition.items())
        if unknown := [name for name in condition if name not in known]:
            problems.append(
                f"`exclude` ({outside(text)}): there is no `{outside(unknown[0])}`"
                f"{suggest(unknown[0], sorted(known))}: cells have {', '.join(sorted(known))}"
            )
            continue
        found = {id(c) for c in cells if all(c.coordinates.get(n) in values for n, values in condition.items())}
        if not found:
            problems.append(f"`exclude` ({outside(text)}) excludes nothing: correct it, or remove it")
        excluded |= found
    return [cell for cell in cells if id(cell) not in excluded]


def _check_equal(cells: Sequence[Cell], problems: list[str]) -> None:
    first: dict[str, Cell] = {}
    for cell in cells:
        other = first.setdefault(cell.digest, cell)
        if other is not cell:
            what = "training" if isinstance(cell, TrainingCell) else "evaluation"
            problems.append(f"{other.title} and {cell.title} are the same {what}: change a field of one, or remove it")
    for title, number in Counter(cell.title for cell in cells).items():
        if number > 1:
            problems.append(f"{number} cells have the name `{title}`: rename a value of an axis")

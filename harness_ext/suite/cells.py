"""The cells of a study: settings × tasks × seeds × axes, less what is excluded."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.suite.reading import deep_merge
from harness_ext.suite.study import LmEvalOptions, Setting, Study, check_fields
from harness_ext.terminal import outside

OPERATIONAL = ("batch_size", "max_batch_size", "device")
OPERATIONAL_ARGUMENTS = ("store", "window", "progress", "budget")
LONGEST = 120  # characters of a folder's readable part


@dataclass(frozen=True)
class Cell:
    """One evaluation of a study.

    setting: the name of its setting.
    task: its task.
    seed: its seed, or None for lm-eval's own.
    axes: the values of the axes of its setting's matrix, by name.
    model: the name of the lm-eval model.
    model_args: that model's arguments.
    options: lm-eval's options.
    control_of: the cell whose cost decides its number of draws. Default None: it is no such control.
    draws_from: the cell whose drafts show what a draw costs. Default None: `control_of`.
    """

    setting: str
    task: str
    seed: int | None
    axes: Mapping[str, str]
    model: str
    model_args: Mapping[str, Any]
    options: LmEvalOptions
    control_of: Cell | None = None
    draws_from: Cell | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps(self.identity(), sort_keys=True, ensure_ascii=False, default=str)
        object.__setattr__(self, "digest", hashlib.sha256(text.encode(errors="replace")).hexdigest()[:10])

    @property
    def label(self) -> str:
        """Return the name of its run in comparisons: that of the setting, and the values of the axes."""
        axes = (f"{axis}:{value}".replace("=", ":") for axis, value in self.axes.items())  # `compare` reads LABEL=PATH
        return " ".join([self.setting, *axes])

    @property
    def title(self) -> str:
        """Return its name in messages."""
        return f"{self.label}, {self.task}" + ("" if self.seed is None else f", seed {self.seed}")

    @property
    def name(self) -> str:
        """Return the name of its folder: readable, followed by the digest of what identifies it."""
        parts = [self.setting, *(f"{a}-{v}" for a, v in self.axes.items()), self.task]
        parts += [] if self.seed is None else [f"seed-{self.seed}"]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts))
        return f"{readable[:LONGEST]}-{self.digest}"

    @property
    def coordinates(self) -> dict[str, str]:
        """Return where the cell is in its study: setting, task, seed and axes."""
        seed = {} if self.seed is None else {"seed": str(self.seed)}
        return {"setting": self.setting, "task": self.task, **seed, **self.axes}

    @property
    def needs(self) -> tuple[Cell, ...]:
        """Return the cells that must be finished before this one starts."""
        return tuple(cell for cell in (self.control_of, self.draws_from) if cell is not None)

    def identity(self) -> dict[str, Any]:
        """Return what identifies the evaluation, as JSON values: everything that can change its results."""
        options = {k: v for k, v in self.options.given().items() if k not in OPERATIONAL}
        arguments = {k: v for k, v in self.model_args.items() if k not in OPERATIONAL_ARGUMENTS}
        found = {"model": self.model, "model_args": arguments, "task": self.task, "seed": self.seed, **options}
        if self.control_of is not None:
            found["control"] = {"of": self.control_of.digest}
            if self.draws_from is not None:
                found["control"]["draws_from"] = self.draws_from.digest
        result: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return result


def cells_of(study: Study) -> tuple[Cell, ...]:
    """Return the cells of a study: setting by setting in the order of the file, each by task, axes and seed.

    Raises ConfigurationError with all problems at once: exclusions that exclude nothing, cells that are equal, controls
    of cells that there are not, a reference that is no run.
    """
    problems: list[str] = []
    made: dict[str, list[Cell]] = {}
    for setting in study.settings:
        if setting.control is None:
            made[setting.name] = list(_plain(setting, problems))
    for setting in study.settings:
        if setting.control is not None:
            made[setting.name] = list(_controls(setting, made, problems))
    every = [cell for setting in study.settings for cell in made[setting.name]]
    kept = _without_excluded(study, every, problems)
    _check_equal(kept, problems)
    there = {id(cell) for cell in kept}
    problems += [
        f"{cell.title} needs {needed.title}, which is excluded: exclude both or none"
        for cell in kept
        for needed in cell.needs
        if id(needed) not in there
    ]
    labels = list(dict.fromkeys(cell.label for cell in kept))
    if study.reference is not None and study.reference not in labels:
        problems.append(
            f"`reference: {outside(study.reference)}` is no run{suggest(study.reference, labels)}: the runs are "
            f"{', '.join(labels)}"
        )
    if not kept and not problems:
        problems.append("the study has no cells: everything is excluded")
    if problems:
        raise ConfigurationError(problems)
    return tuple(kept)


def _plain(setting: Setting, problems: list[str]) -> Iterator[Cell]:
    for task, changes in setting.tasks.items():
        fields = deep_merge(setting.fields, changes)
        for labels in product(*setting.axes.values()):
            axes = dict(zip(setting.axes, labels, strict=True))
            combined = fields
            for axis, label in axes.items():
                combined = deep_merge(combined, setting.axes[axis][label])
            for seed in setting.seeds:
                yield _cell(setting, task, seed, axes, combined, problems)


def _controls(setting: Setting, made: Mapping[str, Sequence[Cell]], problems: list[str]) -> Iterator[Cell]:
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
        changes = setting.tasks.get(target.task, {})
        yield _cell(
            setting, target.task, target.seed, target.axes, deep_merge(setting.fields, changes), problems, target, draws
        )


def _same_place(source: Cell, target: Cell) -> bool:
    shared = source.axes.keys() & target.axes.keys()
    return (source.task, source.seed) == (target.task, target.seed) and all(
        source.axes[axis] == target.axes[axis] for axis in shared
    )


def _cell(
    setting: Setting, task: str, seed: int | None, axes: Mapping[str, str], fields: Mapping[str, Any],
    problems: list[str], control_of: Cell | None = None, draws_from: Cell | None = None,
) -> Cell:  # fmt: skip
    found: list[str] = []
    options = check_fields(fields, f"settings.{setting.name}, task {task}", found)
    problems += [problem for problem in found if problem not in problems]
    arguments = fields.get("model_args")
    return Cell(
        setting.name, task, seed, dict(axes), str(fields.get("model")),
        dict(arguments) if isinstance(arguments, Mapping) else {}, options, control_of, draws_from,
    )  # fmt: skip


def _without_excluded(study: Study, cells: Sequence[Cell], problems: list[str]) -> list[Cell]:
    known = {name for cell in cells for name in cell.coordinates}
    excluded: set[int] = set()
    for condition in study.exclude:
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
            problems.append(
                f"{other.title} and {cell.title} are the same evaluation: change a field of one, or remove it"
            )
    places = Counter((cell.label, cell.task, cell.seed) for cell in cells)
    for (label, task, _), number in places.items():
        if number > 1:
            problems.append(f"{number} cells have the name `{label}`, {task}: rename a value of an axis")

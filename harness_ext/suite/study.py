"""A study: what its file says, checked as far as that is possible without importing lm-eval."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness_ext.config.run_options import RUNS
from harness_ext.errors import ConfigurationError
from harness_ext.options import suggest
from harness_ext.suite.reading import deep_merge, load, read_files, set_path
from harness_ext.suite.settings import CONTROLS, OF_A_RUN, Control, Setting, check_fields
from harness_ext.suite.slurm_options import check_slurm
from harness_ext.suite.training import Training, check_options
from harness_ext.terminal import outside

KEYS = (
    "name", "folder", "include", "defaults", "presets", "settings", "tasks", "seeds", "matrix", "exclude", "reference",
    "groups", "metrics", "cluster", "trainings", "slurm",
)  # fmt: skip
SEEDS = 2**32  # NumPy takes no others


@dataclass(frozen=True)
class Study:
    """A study.

    path: its file.
    name: its name.
    folder: where its cells are.
    settings: the settings in the order of the file.
    trainings: the trainings, whose checkpoints settings may evaluate.
    exclude: which combinations to leave out: names of coordinates with the values that an excluded cell has.
    reference: the label of the run that the others are compared with. Default None: the first.
    groups: tasks to pool in comparisons, by name.
    metrics: the metrics to compare. Default none: all.
    cluster: the field of a document by which comparisons resample. Default None.
    slurm: how its cells run on Slurm, unless they say otherwise. Default: as the cluster likes.
    problems: what is wrong with the file. Default: nothing.
    """

    path: Path
    name: str
    folder: Path
    settings: tuple[Setting, ...]
    trainings: tuple[Training, ...] = ()
    exclude: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    reference: str | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    cluster: str | None = None
    slurm: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def read_study(path: Path) -> Study:
    """Return the study in a file, with what is wrong in it.

    `cells_of` raises its problems together with those of its cells. Raises ConfigurationError if the file cannot be
    read, or one that it includes.
    """
    problems: list[str] = []
    content = read_files(path, problems)
    if problems:
        raise ConfigurationError(problems)
    study = _Reader(content, problems).study(path)
    return replace(study, problems=tuple(problems))


Check = Callable[[Mapping[str, Any], str, list[str]], object]


class _Reader:
    """Turns the content of a study file into a study, and collects what is wrong with it."""

    def __init__(self, content: Mapping[str, Any], problems: list[str]) -> None:
        self.content, self.problems = content, problems
        self.presets = self._mapping("presets")
        self.raw = self._mapping("settings")
        self.raw_trainings = self._mapping("trainings")

    def study(self, path: Path) -> Study:
        for key in self.content:
            if key not in KEYS:
                self.problems.append(f"there is no key `{outside(key)}`{suggest(str(key), list(KEYS))}")
        if "include" in self.content:  # those of files have been resolved
            self.problems.append("`include` belongs to the top of a file")
        if not self.raw:
            self.problems.append("the study has no `settings`: name at least one")
        for name in self.presets.keys() & (self.raw.keys() | self.raw_trainings.keys()):
            what = "setting" if name in self.raw else "training"
            self.problems.append(f"`{name}` is a preset and a {what}: rename one of them")
        check_slurm(self.content.get("slurm"), "slurm", self.problems, whole=True)
        name = self._text("name") or path.stem
        settings = tuple(self._setting(key) for key in self.raw)
        return Study(
            path,
            name,
            Path(self._text("folder") or RUNS / "suites" / re.sub(r"[^A-Za-z0-9._-]+", "-", name)),
            tuple(self._with_control(setting, settings) for setting in settings),
            tuple(self._training(key) for key in self.raw_trainings),
            self._exclude(),
            self._text("reference"),
            {group: self._names(f"groups.{group}", tasks) for group, tasks in self._mapping("groups").items()},
            self._names("metrics", self.content.get("metrics") or []),
            self._text("cluster"),
            self._mapping("slurm"),
        )

    def _mapping(self, key: str) -> dict[str, Any]:
        found = self.content.get(key)
        if found is None:
            return {}
        if not isinstance(found, dict):
            self.problems.append(f"`{key}` takes names and values, not {outside(found, 60)}")
            return {}
        return {str(name): value for name, value in found.items()}

    def _text(self, key: str) -> str | None:
        found = self.content.get(key)
        if found is not None and not isinstance(found, str):
            self.problems.append(f"`{key}` takes one text, not {outside(found, 60)}")
            return None
        return found

    def _names(self, where: str, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            return (value,)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self.problems.append(f"`{where}` takes a list of names, not {outside(value, 60)}")
            return ()
        return tuple(value)

    # -- settings --------------------------------------------------------------------------------------------------

    def _check_name(self, name: str, where: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            self.problems.append(f"{where}: a name consists of letters, digits, `.`, `_` and `-`")

    def _setting(self, name: str) -> Setting:
        where = f"settings.{name}"
        self._check_name(name, where)
        top = {key: self.content[key] for key in ("tasks", "seeds", "matrix") if self.content.get(key) is not None}
        own = self._inherited("settings", self.raw, name, ())
        control = self._control(own.get("control"), where)
        fields = deep_merge(deep_merge(top, self._mapping("defaults")), own)
        for key in ("tasks", "seeds", "matrix"):
            if control is not None and own.get(key) is not None:
                self.problems.append(
                    f"{where}: a control has a cell for each cell of `{control.of}`: remove `{key}` (`{key}: null` if "
                    "it is inherited)"
                )
        arguments = fields.get("model_args")
        arguments = arguments if isinstance(arguments, Mapping) else {}
        taken = {"run_dir": "each cell has its own folder"}
        if control is not None:
            taken |= dict.fromkeys(CONTROLS.values(), "`control` chooses it")
        for argument, why in taken.items():
            if argument in arguments:
                self.problems.append(f"{where}: `model_args.{argument}` cannot be given, because {why}: remove it")
        if not isinstance(fields.get("model"), str):
            self.problems.append(f"{where}: no `model`: give the name of an lm-eval model, such as `feedback_pair`")
        plain = {key: value for key, value in fields.items() if key not in ("tasks", "seeds", "matrix", "control")}
        check_fields(plain, where, self.problems)
        tasks = self._tasks(fields.get("tasks"), where)
        if control is None and not tasks:
            self.problems.append(f"{where}: no tasks: name some in `tasks`")
        axes = self._axes(fields.get("matrix"), where)
        return Setting(name, plain, tasks, self._seeds(fields.get("seeds"), where), axes, control)

    def _inherited(self, key: str, entries: Mapping[str, Any], name: str, below: tuple[str, ...]) -> dict[str, Any]:
        """Return the fields of an entry of `settings` or `trainings`, or of a preset, over those of its bases."""
        if name in below:
            chain = " -> ".join((*below[below.index(name) :], name))
            self.problems.append(f"{key} are based on each other ({chain}): remove one `base`")
            return {}
        where = f"presets.{name}" if name in self.presets else f"{key}.{name}"
        own = self.presets.get(name, entries.get(name))
        if own is None:
            own = {}
        if not isinstance(own, dict):
            self.problems.append(f"{where} takes names and values, not {outside(own, 60)}")
            return {}
        own = dict(own)
        base = own.pop("base", None)
        if base is None:
            return own
        known = [*self.presets, *entries]
        if not isinstance(base, str) or base not in known:
            self.problems.append(
                f"{where}: `base: {outside(base, 60)}` is neither a preset nor a {key[:-1]}{suggest(str(base), known)}"
            )
            return own
        return deep_merge(self._inherited(key, entries, base, (*below, name)), own)

    def _tasks(self, value: Any, where: str) -> dict[str, Mapping[str, Any]]:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            repeated = {str(task) for task in value if value.count(task) > 1}
            for task in sorted(repeated):
                self.problems.append(f"{where}: the task `{task}` is named twice: remove one")
            value = dict.fromkeys(map(str, value), None)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{where}: `tasks` takes a list of names, or names with fields, not {outside(value)}")
            return {}
        found = {}
        for task, fields in value.items():
            if "," in str(task):
                self.problems.append(f"{where}: `{outside(task)}` names several tasks: make them separate entries")
            found[str(task)] = self._fields(fields, f"{where}, task {task}")
            for name in sorted(OF_A_RUN & found[str(task)].keys()):
                self.problems.append(
                    f"{where}, task {task}: `{name}` is the same for all tasks of a run: make a setting of its own for "
                    "this task"
                )
        return found

    def _fields(self, value: Any, where: str, check: Check = check_fields) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{where}: takes names and values, not {outside(value, 60)}")
            return {}
        check(value, where, self.problems)
        return value

    def _seeds(self, value: Any, where: str) -> tuple[int | None, ...]:
        if value is None:
            return (None,)
        values = value if isinstance(value, list) else [value]
        seeds: list[int] = []
        for seed in values:
            if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
                self.problems.append(
                    f"{where}: `seeds` takes whole numbers from 0 to {SEEDS - 1:,}, not {outside(seed, 60)}"
                )
            elif seed in seeds:
                self.problems.append(f"{where}: the seed {seed} is named twice: remove one")
            else:
                seeds.append(seed)
        if not values:
            self.problems.append(f"{where}: `seeds` is empty: name some, or leave it out for lm-eval's own")
        return tuple(seeds) or (None,)

    def _axes(
        self, value: Any, where: str, taken: Sequence[str] = ("setting", "task", "seed", "checkpoint"),
        check: Check = check_fields,
    ) -> dict[str, dict[str, Mapping[str, Any]]]:  # fmt: skip
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{where}: `matrix` takes axes with their values, not {outside(value, 60)}")
            return {}
        axes: dict[str, dict[str, Mapping[str, Any]]] = {}
        for axis, values in value.items():
            place, name = f"{where}, axis {axis}", str(axis).removeprefix("model_args.")
            if values is None:
                continue  # an inherited axis that the setting does not want
            if name in taken or name in axes:
                self.problems.append(f"{place}: the name is taken: choose another")
            if isinstance(values, list) and values:
                changes = [(str(item), set_path({}, str(axis), item)) for item in values]
                for _, change in changes:
                    check(change, place, self.problems)
            elif isinstance(values, dict) and values:
                changes = [
                    (str(label), dict(self._fields(item, f"{place}, {label}", check))) for label, item in values.items()
                ]
            else:
                self.problems.append(f"{place}: takes a list of values for one field, or named values with fields")
                continue
            if len({label for label, _ in changes}) < len(changes):
                self.problems.append(f"{place}: a value is given twice: remove one")
            axes[name] = dict(changes)
        return axes

    # -- trainings -------------------------------------------------------------------------------------------------

    def _training(self, name: str) -> Training:
        where = f"trainings.{name}"
        self._check_name(name, where)
        own = self._inherited("trainings", self.raw_trainings, name, ())
        config, matrix, slurm = own.pop("config", None), own.pop("matrix", None), own.pop("slurm", None)
        check_slurm(slurm, f"{where}.slurm", self.problems)
        file: dict[str, Any] = {}
        if isinstance(config, str):
            file = load(Path(config).expanduser(), self.problems)
        elif config is not None:
            self.problems.append(f"{where}: `config` takes the path of a file of `harness-ext finetune`")
        axes = self._axes(matrix, where, ("training", "setting", "task", "seed", "checkpoint"), check_options)
        check_options(own, where, self.problems)
        return Training(name, file, own, axes, slurm if isinstance(slurm, dict) else {})

    # -- what refers to settings -----------------------------------------------------------------------------------

    def _control(self, value: Any, where: str) -> Control | None:
        if value is None:
            return None
        if isinstance(value, str):
            return Control(value)
        if not isinstance(value, dict) or not isinstance(value.get("of"), str) or value.keys() - {"of", "draws_from"}:
            self.problems.append(
                f"{where}: `control` takes the name of a setting, or `{{of: <setting>, draws_from: <setting>}}`"
            )
            return None
        return Control(value["of"], None if value.get("draws_from") is None else str(value["draws_from"]))

    def _with_control(self, setting: Setting, settings: Sequence[Setting]) -> Setting:
        """Return a setting without its control if that is wrong."""
        if setting.control is None:
            return setting
        before = len(self.problems)
        where, others = f"settings.{setting.name}", {other.name: other for other in settings}
        protocol = str(setting.fields.get("model")).removeprefix("harness_ext.")
        if protocol not in CONTROLS:
            models = " or ".join(f"`model: {name}`" for name in CONTROLS)
            self.problems.append(f"{where}: a `control` spends what another run spent: give {models}")
        elif protocol != "self_consistency" and setting.control.draws_from is not None:
            self.problems.append(f"{where}: `control.draws_from` is for `model: self_consistency`: remove it")
        for key, name in (("of", setting.control.of), ("draws_from", setting.control.draws_from)):
            if name is None:
                continue
            if name not in others or name == setting.name:
                self.problems.append(
                    f"{where}: `control.{key}: {outside(name, 60)}` is no other setting{suggest(name, list(others))}"
                )
            elif others[name].control is not None:
                self.problems.append(f"{where}: `control.{key}: {name}` is a control itself: name another setting")
        return setting if len(self.problems) == before else replace(setting, control=None)

    def _exclude(self) -> tuple[Mapping[str, tuple[str, ...]], ...]:
        found = self.content.get("exclude")
        if found is None:
            return ()
        if not isinstance(found, list) or not all(isinstance(item, dict) and item for item in found):
            self.problems.append("`exclude` takes a list of conditions, such as `- {setting: pair, seed: 2}`")
            return ()
        return tuple(
            {str(k): tuple(map(str, v if isinstance(v, list) else [v])) for k, v in item.items()} for item in found
        )

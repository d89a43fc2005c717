"""A study: what its file says, checked as far as that is possible without importing lm-eval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.config.run_options import RUNS
from harness_ext.errors import ConfigurationError
from harness_ext.options import build, known_names, suggest
from harness_ext.suite.reading import deep_merge, read_files
from harness_ext.terminal import outside

KEYS = (
    "name", "folder", "include", "defaults", "presets", "settings", "tasks", "seeds", "matrix", "exclude", "reference",
    "groups", "metrics", "cluster",
)  # fmt: skip
SETTING_KEYS = ("base", "model", "model_args", "tasks", "seeds", "matrix", "control")
MAPPINGS = ("gen_kwargs", "metadata", "samples")
OF_A_RUN = frozenset(
    {"model", "model_args", "gen_kwargs", "system_instruction", "apply_chat_template", "fewshot_as_multiturn"}
)
SET_BY_SUITE = {"run_dir": "each cell has its own folder", "k": "`control` chooses it"}


@dataclass(frozen=True)
class LmEvalOptions:
    """The options of lm-eval that a setting may give, by lm-eval's own names and with its defaults.

    num_fewshot: the number of few-shot examples.
    limit: how many documents of each task to evaluate, or which share of them.
    samples: the numbers of the documents to evaluate, by task.
    gen_kwargs: generation settings that override those of the task.
    system_instruction: the system message.
    apply_chat_template: whether to apply the model's chat template, or the name of a template.
    fewshot_as_multiturn: whether few-shot examples are turns of the conversation.
    include_path: a folder of task files.
    metadata: what tasks need besides.
    trust_remote_code, confirm_run_unsafe_code: lm-eval's consents.
    batch_size, max_batch_size, device: where and how fast models run; these do not identify a cell.
    """

    num_fewshot: int | None = None
    limit: float | None = None
    samples: Any = None
    gen_kwargs: Any = None
    system_instruction: str | None = None
    apply_chat_template: bool | str | None = None
    fewshot_as_multiturn: bool | None = None
    include_path: str | None = None
    metadata: Any = None
    trust_remote_code: bool | None = None
    confirm_run_unsafe_code: bool | None = None
    batch_size: int | str | None = None
    max_batch_size: int | None = None
    device: str | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Control:
    """Self-consistency at equal cost.

    of: the setting whose cost per question decides how many draws a question gets.
    draws_from: the setting whose drafts show what a draw costs. Default None: `of`.
    """

    of: str
    draws_from: str | None = None


@dataclass(frozen=True)
class Setting:
    """A setting before it is combined with tasks, seeds and axes.

    name: its name in the study.
    fields: its model, its model's arguments and lm-eval's options, with everything that it inherits.
    tasks: the tasks with the fields that each one changes.
    seeds: the seeds; None stands for lm-eval's own.
    axes: the axes of its matrix by name, each with the fields that each of its values changes, by label.
    control: what it is an equal-cost control of, or None.
    """

    name: str
    fields: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int | None, ...]
    axes: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    control: Control | None = None


@dataclass(frozen=True)
class Study:
    """A study.

    path: its file.
    name: its name.
    folder: where its cells are.
    settings: the settings in the order of the file.
    exclude: which combinations to leave out: names of coordinates with the values that an excluded cell has.
    reference: the label of the run that the others are compared with. Default None: the first.
    groups: tasks to pool in comparisons, by name.
    metrics: the metrics to compare. Default none: all.
    cluster: the field of a document by which comparisons resample. Default None.
    """

    path: Path
    name: str
    folder: Path
    settings: tuple[Setting, ...]
    exclude: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    reference: str | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    cluster: str | None = None


def read_study(path: Path) -> Study:
    """Return the study in a file. Raises ConfigurationError with all problems of the file at once."""
    problems: list[str] = []
    content = read_files(path, problems)
    if problems:
        raise ConfigurationError(problems)
    study = _Reader(content, problems).study(path)
    if problems:
        raise ConfigurationError(problems)
    return study


def check_fields(fields: Mapping[str, Any], where: str, problems: list[str]) -> LmEvalOptions:
    """Return the lm-eval options among the fields of a setting.

    fields: the fields.
    where: where they are, for messages.
    problems: receives a message for each field that is unknown or has a wrong type.
    """
    known = known_names(LmEvalOptions)
    problems += [
        f"{where}: there is no field `{outside(name)}`{suggest(str(name), [*SETTING_KEYS, *known])}"
        for name in fields
        if name not in (*known, "model", "model_args")
    ]
    for name in ("model_args", *MAPPINGS):
        value = fields.get(name)
        if value is not None and not isinstance(value, Mapping):
            problems.append(f"{where}: `{name}` takes names and values (`{name}: {{name: value}}`)")
    found: list[str] = []
    options = build(LmEvalOptions, {name: fields[name] for name in known if name in fields}, found)
    problems += [f"{where}: {problem}" for problem in found]
    return options or LmEvalOptions()


class _Reader:
    """Turns the content of a study file into a study, and collects what is wrong with it."""

    def __init__(self, content: Mapping[str, Any], problems: list[str]) -> None:
        self.content, self.problems = content, problems
        self.presets = self._mapping("presets")
        self.raw = self._mapping("settings")

    def study(self, path: Path) -> Study:
        for key in self.content:
            if key not in KEYS:
                self.problems.append(f"there is no key `{outside(key)}`{suggest(str(key), list(KEYS))}")
        if "include" in self.content:  # those of files have been resolved
            self.problems.append("`include` belongs to the top of a file")
        if not self.raw:
            self.problems.append("the study has no `settings`: name at least one")
        for name in self.presets.keys() & self.raw.keys():
            self.problems.append(f"`{name}` is a preset and a setting: rename one of them")
        name = str(self.content.get("name") or path.stem)
        settings = tuple(self._setting(key) for key in self.raw)
        for setting in settings:
            self._check_control(setting, settings)
        return Study(
            path,
            name,
            Path(str(self.content.get("folder") or RUNS / "suites" / re.sub(r"[^A-Za-z0-9._-]+", "-", name))),
            settings,
            self._exclude(),
            self._text("reference"),
            {group: self._names(f"groups.{group}", tasks) for group, tasks in self._mapping("groups").items()},
            self._names("metrics", self.content.get("metrics") or []),
            self._text("cluster"),
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

    def _setting(self, name: str) -> Setting:
        where = f"settings.{name}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            self.problems.append(f"{where}: a name consists of letters, digits, `.`, `_` and `-`")
        top = {key: self.content[key] for key in ("tasks", "seeds", "matrix") if self.content.get(key) is not None}
        own = self._inherited(name, ())
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
        for argument, why in SET_BY_SUITE.items():
            if argument in arguments and (argument != "k" or control is not None):
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

    def _inherited(self, name: str, below: tuple[str, ...]) -> dict[str, Any]:
        """Return the fields of a setting or preset over those of its bases."""
        if name in below:
            chain = " -> ".join((*below[below.index(name) :], name))
            self.problems.append(f"settings are based on each other ({chain}): remove one `base`")
            return {}
        where = f"presets.{name}" if name in self.presets else f"settings.{name}"
        own = self.presets.get(name, self.raw.get(name))
        if own is None:
            own = {}
        if not isinstance(own, dict):
            self.problems.append(f"{where} takes names and values, not {outside(own, 60)}")
            return {}
        own = dict(own)
        base = own.pop("base", None)
        if base is None:
            return own
        known = [*self.presets, *self.raw]
        if not isinstance(base, str) or base not in known:
            self.problems.append(
                f"{where}: `base: {outside(base, 60)}` is neither a preset nor a setting{suggest(str(base), known)}"
            )
            return own
        return deep_merge(self._inherited(base, (*below, name)), own)

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

    def _fields(self, value: Any, where: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{where}: takes names and values, not {outside(value, 60)}")
            return {}
        check_fields(value, where, self.problems)
        return value

    def _seeds(self, value: Any, where: str) -> tuple[int | None, ...]:
        if value is None:
            return (None,)
        values = value if isinstance(value, list) else [value]
        for seed in values:
            if isinstance(seed, bool) or not isinstance(seed, int):
                self.problems.append(f"{where}: `seeds` takes whole numbers, not {outside(seed, 60)}")
            elif values.count(seed) > 1 and f"{where}: the seed {seed} is named twice: remove one" not in self.problems:
                self.problems.append(f"{where}: the seed {seed} is named twice: remove one")
        if not values:
            self.problems.append(f"{where}: `seeds` is empty: name some, or leave it out for lm-eval's own")
        return tuple(values)

    def _axes(self, value: Any, where: str) -> dict[str, dict[str, Mapping[str, Any]]]:
        from harness_ext.suite.reading import set_path

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
            if name in ("setting", "task", "seed") or name in axes:
                self.problems.append(f"{place}: the name is taken: choose another")
            if isinstance(values, list) and values:
                changes = [(str(item), set_path({}, str(axis), item)) for item in values]
                check_fields(changes[0][1], place, self.problems)
            elif isinstance(values, dict) and values:
                changes = [
                    (str(label), dict(self._fields(item, f"{place}, {label}"))) for label, item in values.items()
                ]
            else:
                self.problems.append(f"{place}: takes a list of values for one field, or named values with fields")
                continue
            if len({label for label, _ in changes}) < len(changes):
                self.problems.append(f"{place}: a value is given twice: remove one")
            axes[name] = dict(changes)
        return axes

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

    def _check_control(self, setting: Setting, settings: Sequence[Setting]) -> None:
        if setting.control is None:
            return
        where, others = f"settings.{setting.name}", {other.name: other for other in settings}
        if setting.fields.get("model") not in ("self_consistency", "harness_ext.self_consistency"):
            self.problems.append(f"{where}: a `control` is a run of self-consistency: give `model: self_consistency`")
        for key, name in (("of", setting.control.of), ("draws_from", setting.control.draws_from)):
            if name is None:
                continue
            if name not in others or name == setting.name:
                self.problems.append(
                    f"{where}: `control.{key}: {outside(name, 60)}` is no other setting{suggest(name, list(others))}"
                )
            elif others[name].control is not None:
                self.problems.append(f"{where}: `control.{key}: {name}` is a control itself: name another setting")

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

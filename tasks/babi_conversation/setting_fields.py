"""Reads the configuration files of github.com/racia/research-project, and says which study runs the same setting."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.errors import ConfigurationError
from harness_ext.suite.reading import deep_merge, load
from harness_ext.tasks.babi_conversation.raw import SPLITS, file_of
from harness_ext.terminal import outside

MODELS = {"baseline": "baseline", "skyline": "skyline", "feedback": "feedback_pair", "sd": "speculative_pair"}
ALONE = {"baseline": "student", "skyline": "teacher"}  # the seat that gets the section `model`
# Fields that say where and how the original wrote its results.
ELSEWHERE = ("results", "logging", "hydra", "repository")
# Prompts that belong to protocols here, which have their own.
PROMPTS = ("feedback_prompt", "refine_prompt", "eval_prompt", "resume_prompt")
_CALL = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z0-9_]*)(?:,([^}]*))?\}")


@dataclass(frozen=True)
class SettingFile:
    """What a configuration file asks for.

    name: the name of the file, without its suffix.
    model: the name of the protocol.
    model_args: its arguments.
    data: the folder of bAbI's files.
    split: the split.
    task_ids: the numbers of the tasks.
    first: the number of the first story, from 1.
    of_all: whether all tasks begin with that story. Otherwise only the first one does, and the others with story 1.
    last: the number of the last story of each task; None for that of the file.
    instruction: the system message; None for the task's own.
    notes: what is done otherwise than the file says.
    """

    name: str
    model: str
    model_args: Mapping[str, Any]
    data: Path
    split: str
    task_ids: tuple[int, ...]
    first: int = 1
    of_all: bool = False
    last: int | None = None
    instruction: str | None = None
    notes: tuple[str, ...] = ()


def read_setting(named: str) -> SettingFile:
    """Return what a configuration file asks for.

    named: the path of the file, whose suffix may be left out, or its folder and its name with a blank in between.

    Raises ConfigurationError with all problems at once.
    """
    problems: list[str] = []
    path = _file(named)
    content = _compose(path, (), problems)
    if problems:
        raise ConfigurationError(problems)
    found = _Fields(content, problems).setting(path.stem)
    if problems or found is None:
        raise ConfigurationError([f"{path}: {problem}" for problem in problems])
    return found


def _file(named: str) -> Path:
    folder, blank, name = named.strip().rpartition(" ")
    path = Path(folder.strip()) / name if blank and not Path(named).exists() else Path(named)
    return path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")


def _compose(path: Path, above: tuple[Path, ...], problems: list[str]) -> dict[str, Any]:
    """Return the content of a file over that of the files in its `defaults`."""
    if path in above:
        problems.append(f"{path} is among its own `defaults`: remove it there")
        return {}
    own = load(path, problems)
    defaults = own.pop("defaults", None)
    if defaults is None:
        return own
    if not isinstance(defaults, list) or not all(isinstance(one, str) for one in defaults) or "_self_" not in defaults:
        problems.append(f"{path}: `defaults` takes a list of names of files beside this one, and `_self_`")
        return own
    merged: dict[str, Any] = {}
    for name in defaults:
        part = own if name == "_self_" else _compose(_file(str(path.parent / name)), (*above, path), problems)
        merged = deep_merge(merged, part)
    return merged


@dataclass
class _Fields:
    """Takes the fields of a configuration one by one, so that none is left unread."""

    content: Mapping[str, Any]
    problems: list[str]
    notes: list[str] = field(default_factory=list)

    def setting(self, name: str) -> SettingFile | None:
        left = _flat({key: value for key, value in self.content.items() if key not in ELSEWHERE})
        self.left = left
        kind = str(self._take("setting.name", "")).lower()
        self._take("setting.interpretability", None)
        if kind not in MODELS:
            self.problems.append(f"`setting.name` is {outside(kind, 40)!r}: one of Baseline, Skyline, Feedback, SD")
            return None
        if "hydra.run.dir" in _flat(self.content):
            self.notes.append("`hydra.run.dir`: results are in the folder of the cell, which is never overwritten")
        arguments = self._seats(kind)
        data = Path(str(self._take("data.path", ""))).expanduser()
        splits = [split for split in SPLITS if self._take(f"data.splits.{split}", False) is True]
        if len(splits) != 1:
            self.problems.append(f"`data.splits`: exactly one of {', '.join(SPLITS)} must be True")
        tasks = self._tasks(data, splits)
        first, of_all, last = self._stories()
        if self._take("data.to_enumerate.context", True) is not True or self._take("data.to_enumerate.question", False):
            self.problems.append("`data.to_enumerate`: lines of the context are always numbered, and questions never")
        if self._take("data.baseline_results", ""):
            self.notes.append("`data.baseline_results`: drafts that a baseline has paid for come from the call store")
        instruction = self._instruction()
        for key in [key for key in left if key.startswith("data.wrapper") or ".wrapper" in key]:
            if left.pop(key):
                self.notes.append(f"`{key}`: the wording is that of the task and the protocol")
        for prompt in PROMPTS:
            keys = [key for key in left if key.startswith(f"{prompt}.")]
            if keys and MODELS[kind] in ("feedback_pair", "speculative_pair"):
                self.notes.append(f"`{prompt}`: `{MODELS[kind]}` has its own prompts")
            for key in keys:
                left.pop(key)
        self.problems += [f"there is no field `{outside(key)}`: remove it, or correct its name" for key in left]
        if self.problems:
            return None
        return SettingFile(
            name, MODELS[kind], arguments, data, splits[0], tasks, first, of_all, last, instruction, tuple(self.notes)
        )

    def _take(self, key: str, default: Any) -> Any:
        """Return a field and cross it off. Variables of the environment are replaced in it."""
        value = self.left.pop(key, default)
        if not isinstance(value, str):
            return value

        def variable(found: re.Match[str]) -> str:
            given = os.environ.get(found[1], found[2])
            if given is None:
                self.problems.append(f"`{key}`: the environment has no variable {found[1]}: set it")
            return given or ""

        value = _CALL.sub(variable, value)
        if "${" in value:
            self.problems.append(f"`{key}`: only `${{oc.env:NAME}}` is replaced, not {outside(value, 80)}")
        return value

    def _seats(self, kind: str) -> dict[str, Any]:
        sections = {ALONE[kind]: "model"} if kind in ALONE else {"student": "student", "teacher": "teacher"}
        arguments: dict[str, Any] = {}
        for seat, section in sections.items():
            name = self._take(f"{section}.name", "")
            if not name:
                self.problems.append(f"`{section}.name`: name a model")
            arguments[seat] = f"hf:{name}"
            longest = self._take(f"{section}.max_new_tokens", None)
            temperature = self._take(f"{section}.temperature", 0)
            if kind == "sd" and seat == "teacher":
                if longest is not None:
                    self.notes.append("`teacher.max_new_tokens`: the teacher only approves and replaces tokens")
            else:
                if longest is not None and kind == "feedback" and seat == "teacher":
                    arguments["review_max_tokens"] = longest
                elif longest is not None:
                    arguments[f"{seat}.gen.max_gen_toks"] = longest
                arguments[f"{seat}.gen.do_sample"] = bool(temperature)
                if temperature:
                    arguments[f"{seat}.gen.temperature"] = temperature
            if self._take(f"{section}.to_continue", False):
                self.problems.append(f"`{section}.to_continue`: protocols decide what is continued; set it to False")
            if self._take(f"{section}.mode", "eval") != "eval":
                self.problems.append(f"`{section}.mode`: only `eval`; `harness-ext finetune` trains")
            used = self._take(f"{section}.interpretability.use", self._take(f"{section}.interpretability", False))
            self._take(f"{section}.interpretability.aggregate", None)
            if used:
                self.notes.append(f"`{section}.interpretability`: the columns on attention stay empty")
        if kind == "feedback":
            arguments["verdict"] = "system0"
        if kind == "sd":
            k, p = self._take("teacher.k", None), self._take("teacher.p", None)
            arguments |= {"accept": "topp", "threshold": p} if p else {"accept": "topk", "threshold": k or 15}
        return arguments

    def _tasks(self, data: Path, splits: list[str]) -> tuple[int, ...]:
        found = self._take("data.task_ids", None)
        tasks = list(range(1, 21)) if found is None else found if isinstance(found, list) else [found]
        if not all(isinstance(task, int) and 1 <= task <= 20 for task in tasks):
            self.problems.append(f"`data.task_ids` is {outside(found, 60)}: numbers from 1 to 20, or ~ for all")
            return ()
        if not tasks or len(splits) != 1:
            return ()
        for task in tasks:
            try:
                file_of(data, splits[0], task)
            except ConfigurationError as error:
                self.problems.append(f"`data.path`: {error.problems[0]}")
                break
        return tuple(tasks)

    def _stories(self) -> tuple[int, bool, int | None]:
        """Return the number of the first story, whether all tasks begin with it, and the number of the last one."""
        first, last = self._take("data.start_from_sample", None), self._take("data.samples_per_task", None)
        of_all = self._take("data.for_all_tasks", False)
        problems = [
            f"`data.{what}` is {outside(value, 40)}: a whole number from {least}, or ~"
            for what, value, least in (("start_from_sample", first, 0), ("samples_per_task", last, 1))
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least)
        ]
        if not isinstance(of_all, bool):
            problems.append(f"`data.for_all_tasks` is {outside(of_all, 40)}: True or False")
        if not problems and first and last and last < first:
            problems.append(
                f"`data.samples_per_task` is {last}, the number of the last story: at least {first}, as "
                "`start_from_sample`"
            )
        self.problems += problems
        return first or 1, of_all, last

    def _instruction(self) -> str | None:
        """Return the text of the first prompt; None if none is named."""
        places = ("init_prompt", "prompt", "prompts")
        keys = [key for key in self.left if key.startswith(tuple(f"{place}.paths" for place in places))]
        paths = [path for key in keys if (path := self._take(key, None))]
        if len(paths) > 1:
            self.problems.append("`init_prompt.paths` names several prompts: write one configuration for each")
        if any(self.left.get(f"{place}.examples.{key}") for place in places for key in ("add", "to_add")):
            self.notes.append("`examples.add`: no worked example is added to the prompt")
        for key in [key for key in self.left if key.startswith(tuple(f"{place}." for place in places))]:
            if ".examples." in key or ".names" in key:
                self.left.pop(key)
        if not paths:
            return None
        try:
            return Path(str(paths[0])).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"`init_prompt.paths`: {outside(paths[0])} cannot be read: {outside(error)}")
            return None


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return all fields with their places joined by dots. A list of paths is one field per entry."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        elif key == "paths" and isinstance(value, list):
            found |= {f"{name}.{number}": one for number, one in enumerate(value)}
        else:
            found[name] = value
    return found

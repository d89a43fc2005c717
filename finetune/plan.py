"""Builds the stages of a run from a YAML file, options or the ten positional arguments."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from harness_ext.finetune.aliases import resolve, unknown
from harness_ext.finetune.args import LISTS, ConfigError, TrainArgs, default_rate, final_dir

# The positional arguments of TeacherLM's finetune.sh, in its order.
POSITIONALS = (
    "model_path",
    "dataset_path",
    "per_device_batch_size",
    "accumulation",
    "learning_rate",
    "num_train_epochs",
    "task_type",
    "wandb_run_name",
    "store_dir",
    "wandb_project_name",
)
HINTS = get_type_hints(TrainArgs)


@dataclass(frozen=True)
class Plan:
    """Stages that run one after another. Each starts from the previous stage's model unless it names a `model`."""

    stages: tuple[TrainArgs, ...] = ()

    @property
    def notes(self) -> list[str]:
        """Return what is set without an effect, and how it would get one, one sentence per setting."""
        found = (note for stage in self.stages if (note := _unused_by_tracker(stage)))
        return list(dict.fromkeys(found))


def _unused_by_tracker(stage: TrainArgs) -> str:
    named = [f"{name} {value!r}" for name in ("project", "run_name") if (value := getattr(stage, name))]
    if not named or stage.tracker in ("wandb", "trackio"):
        return ""
    why = "no tracker is set" if stage.tracker == "none" else "TensorBoard knows neither projects nor run names"
    return f"not used: {' and '.join(named)}, because {why}; --tracker wandb or trackio uses them"


def positional_settings(
    values: Sequence[str], options: Mapping[str, Any], one_cpu_process: bool = False
) -> dict[str, Any]:
    """Return the settings that the ten positional arguments imply; `options` take precedence over them.

    As in TeacherLM, the column `task_type` is the whole training text and its last 2048 tokens are kept, the learning
    rate is constant, activations are recomputed, DeepSpeed shards the model, and each epoch leaves a checkpoint in
    `{store_dir}/{wandb_run_name}`. Rows without text are dropped and counted in the data report.

    values: the positional arguments.
    options: the settings given by name.
    one_cpu_process: whether one process trains on a CPU, where there is nothing to shard. Default false.

    Raises ConfigError unless there are ten values.
    """
    options = resolve(options).values
    if len(values) != len(POSITIONALS):
        raise ConfigError(
            f"{len(values)} positional arguments instead of {len(POSITIONALS)}: {' '.join(POSITIONALS)}.\n"
            "Pass further settings by name after them, for example --adapter lora."
        )
    named = dict(zip(POSITIONALS, values, strict=True))
    settings: dict[str, Any] = {
        "model": named["model_path"],
        "train_file": named["dataset_path"],
        "batch_size": named["per_device_batch_size"],
        "gradient_accumulation": named["accumulation"],
        "learning_rate": named["learning_rate"],
        "epochs": named["num_train_epochs"],
        "column": named["task_type"],
        "output_dir": str(Path(named["store_dir"]) / named["wandb_run_name"]),
        "run_name": named["wandb_run_name"],
        "project": named["wandb_project_name"],
        "scheduler": "constant",
        "logging_steps": 8,
        "max_length": 2048,
        "too_long": "keep_end",
        "bad_rows": "drop",
    }
    if options.get("method", "sft") in ("dpo", "orpo"):
        # A preference row has three fixed columns, so the positional column does not apply.
        settings["column"] = ""
        settings["too_long"] = "drop"
    # The positionals must not imply a combination that preflight.py refuses.
    prefix = options.get("adapter") in ("prefix", "pkv")
    settings["gradient_checkpointing"] = not prefix
    settings["deepspeed"] = "zero3" if options.get("adapter", "full") == "full" else "zero2"
    if options.get("adapter") == "qlora" or one_cpu_process:
        settings["deepspeed"] = ""
    return {**settings, **options}


def load_settings(path: str | Path) -> dict[str, Any]:
    """Read a YAML file. Raises ConfigError if it is missing, invalid or not a mapping."""
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must contain `key: value` lines; it contains a {type(loaded).__name__}.")
    return loaded


def load_plan(path: str | Path, options: Mapping[str, Any] | None = None) -> Plan:
    """Read a YAML file into a plan; `options` override it in every stage.

    The file's keys are those of `TrainArgs`, or TRL's and transformers' names for them. An optional list `stages`
    contains, for each stage, a `name` and the keys that differ. With stages, `output_dir` is the parent folder, with
    one folder per stage. Raises ConfigError with every problem found.
    """
    return build_plan(load_settings(path), str(path), options)


def build_plan(
    settings: Mapping[str, Any], source: str = "the settings", options: Mapping[str, Any] | None = None
) -> Plan:
    """Turn settings, as read from YAML, into a plan. Raises ConfigError with every problem of every stage.

    settings: the settings, under this project's names or those of TRL and transformers.
    source: what they come from, for messages.
    options: settings that override them in every stage. Default none.
    """
    entries = settings.get("stages")
    if entries is None:
        entries = [{}]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{source}: `stages` must be a list of settings, one entry per stage.")
    shared = resolve({key: value for key, value in settings.items() if key != "stages"})
    override = resolve(options or {})
    problems = shared.problems + override.problems
    stages: list[TrainArgs] = []
    labels = [str(entry.get("name", index)) for index, entry in enumerate(entries, start=1)]
    if len(set(labels)) < len(labels):
        problems.append(f"stage names must be unique: {', '.join(labels)}.")
    previous = ""
    for label, entry in zip(labels, entries, strict=True):
        own = resolve({key: value for key, value in entry.items() if key != "name"})
        merged = {**shared.values, **own.values, **override.values}
        if "stages" in settings:
            parent = override.values.get("output_dir", shared.values.get("output_dir", ""))
            merged["output_dir"] = str(Path(str(parent)) / label)
            if previous and "model" not in {**own.values, **override.values}:
                merged["model"] = previous
        stage, wrong = _build(merged, {**shared.names, **own.names, **override.names})
        if stage is not None:
            stages.append(stage)
            previous = str(final_dir(stage.output_dir))
        prefix = f"stage {label}: " if "stages" in settings else ""
        problems += [prefix + one for one in own.problems + wrong]
    if problems:
        raise ConfigError(f"{source} cannot be run:\n" + "\n".join(f"  - {one}" for one in problems))
    return Plan(tuple(stages))


def _build(values: dict[str, Any], names: Mapping[str, str]) -> tuple[TrainArgs | None, list[str]]:
    problems = [unknown(key, HINTS) for key in sorted(set(values) - set(HINTS))]
    required = [one.name for one in dataclasses.fields(TrainArgs) if one.default is dataclasses.MISSING]
    problems += [f"`{key}` is missing." for key in required if key not in values]
    typed: dict[str, Any] = {}
    for key, value in values.items():
        if key in HINTS:
            typed[key] = _typed(key, value, HINTS[key], problems)
    stage = None
    if not problems:
        typed.setdefault("learning_rate", default_rate(typed.get("method", "sft"), typed.get("adapter", "full")))
        stage = TrainArgs(**typed)
        problems = stage.problems()
    return stage, [_as_given(one, names) for one in problems]


def _as_given(problem: str, names: Mapping[str, str]) -> str:
    """Add the name under which a setting was given to a problem, which begins with the setting's own name."""
    found = re.match(r"`(\w+)`", problem)
    name = names.get(found[1], found[1]) if found else ""
    return f"{found[0]} (given as `{name}`){problem[found.end() :]}" if found and name != found[1] else problem


def _typed(key: str, value: Any, kind: type, problems: list[str]) -> Any:
    if key in LISTS and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    if kind is bool:
        # The command line passes strings.
        words = {"true": True, "false": False}
        if isinstance(value, bool) or str(value).lower() in words:
            return words[str(value).lower()]
    elif isinstance(value, bool):
        pass
    elif kind is str and isinstance(value, (str, int)):
        return str(value)
    elif kind in (int, float):
        # YAML 1.1 reads `1e-3` as a string because it lacks a dot, so strings that Python parses as numbers count too.
        try:
            number = float(value)
            if kind is float or number == int(number):
                return kind(number)
        except (TypeError, ValueError, OverflowError):
            pass
    problems.append(f"`{key}` is {value!r}; it must be of type {kind.__name__}.")
    return value

"""A training run's settings: a YAML file, read into typed dataclasses, with every problem reported at once."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

DEEPSPEED_PRESETS = {"zero2": Path(__file__).with_name("deepspeed") / "zero2.json"}
DTYPES = ("float32", "bfloat16")
DEVICES = ("auto", "cpu")
SCHEDULERS = ("constant", "constant_with_warmup", "linear", "cosine")


class ConfigError(ValueError):
    """A configuration that cannot be run; the message lists every problem found."""


@dataclass(frozen=True)
class TrainArgs:
    """One training stage.

    `model` is a model folder or a hub name, `train_file` a JSON-lines file of prompt+completion rows (see `data`),
    `output_dir` the stage's own folder. Lengths are in tokens, rates per optimizer step, `batch_size` rows a process
    and step. `epochs` counts passes over the rows; `max_steps` > 0 overrides it. `deepspeed` is `zero2` or a JSON file.
    """

    model: str
    train_file: str
    output_dir: str
    eval_file: str = ""
    max_length: int = 2048
    epochs: float = 1.0
    max_steps: int = -1
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 2e-5
    scheduler: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0
    logging_steps: int = 10
    save_total_limit: int = 2
    group_by_length: bool = False
    dtype: str = "float32"
    device: str = "auto"
    threads: int = 0
    deepspeed: str = ""
    resume: bool = True

    def problems(self) -> list[str]:
        """Return what is wrong with these settings, one sentence each."""
        needed = ("model", "train_file", "output_dir")
        counts = ("max_length", "batch_size", "gradient_accumulation", "logging_steps", "save_total_limit")
        rates = ("epochs", "learning_rate", "max_grad_norm")
        choices = {"dtype": DTYPES, "device": DEVICES, "scheduler": SCHEDULERS}
        values = dataclasses.asdict(self)
        found = [f"`{name}` is empty." for name in needed if not values[name]]
        files = [(name, values[name]) for name in ("train_file", "eval_file") if values[name]]
        found += [f"`{name}`: there is no file {path}." for name, path in files if not Path(path).is_file()]
        found += [f"`{name}` is {values[name]}; it must be at least 1." for name in counts if values[name] < 1]
        found += [f"`{name}` is {values[name]}; it must be positive." for name in rates if values[name] <= 0]
        found += [
            f"`{name}` is {values[name]!r}; choose one of {', '.join(known)}."
            for name, known in choices.items()
            if values[name] not in known
        ]
        if not 0 < self.adam_beta2 < 1:
            found.append(f"`adam_beta2` is {self.adam_beta2}; it must lie between 0 and 1.")
        if self.warmup_steps < 0 or self.weight_decay < 0 or self.threads < 0:
            found.append("`warmup_steps`, `weight_decay` and `threads` must not be negative.")
        if self.deepspeed and self.deepspeed not in DEEPSPEED_PRESETS and not Path(self.deepspeed).is_file():
            found.append(f"`deepspeed`: {self.deepspeed!r} is neither a preset (zero2) nor a file.")
        return found

    @property
    def deepspeed_file(self) -> str | None:
        """Return the path of the DeepSpeed configuration, None without DeepSpeed."""
        if not self.deepspeed:
            return None
        return str(DEEPSPEED_PRESETS.get(self.deepspeed, Path(self.deepspeed)))


@dataclass(frozen=True)
class Plan:
    """Stages that run one after another; each starts from the one before unless it names a `model`."""

    stages: tuple[TrainArgs, ...] = field(default=())


def load_plan(path: str | Path) -> Plan:
    """Read a YAML file into a plan.

    The file's keys are those of `TrainArgs`; an optional list `stages` holds, for each stage, a `name` and the keys
    that differ. With stages, `output_dir` is the parent of one folder a stage. Raises ConfigError naming every problem.
    """
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold `key: value` lines; it holds {type(loaded).__name__}.")
    return build_plan(loaded, str(path))


def build_plan(settings: dict[str, Any], source: str = "the settings") -> Plan:
    """Turn settings, as read from YAML, into a plan. Raises ConfigError naming every problem of every stage."""
    shared = {key: value for key, value in settings.items() if key != "stages"}
    entries = settings.get("stages")
    if entries is None:
        entries = [{}]
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{source}: `stages` must be a list of settings, one entry a stage.")
    problems: list[str] = []
    stages: list[TrainArgs] = []
    names = [str(entry.get("name", index)) for index, entry in enumerate(entries, start=1)]
    if len(set(names)) < len(names):
        problems.append(f"two stages share a name: {', '.join(names)}.")
    previous = ""
    for name, entry in zip(names, entries, strict=True):
        merged = {**shared, **{key: value for key, value in entry.items() if key != "name"}}
        if "stages" in settings:
            merged["output_dir"] = str(Path(str(shared.get("output_dir", ""))) / name)
            if previous and "model" not in entry:
                merged["model"] = previous
        label = f"stage {name}: " if "stages" in settings else ""
        stage, wrong = _build(merged)
        if stage is not None:
            wrong += stage.problems()
            stages.append(stage)
            previous = str(final_dir(stage.output_dir))
        problems += [label + one for one in wrong]
    if problems:
        raise ConfigError(f"{source} cannot be run:\n" + "\n".join(f"  - {one}" for one in problems))
    return Plan(tuple(stages))


def final_dir(output_dir: str | Path) -> Path:
    """Return the folder of a stage's finished model."""
    return Path(output_dir) / "final"


def _build(values: dict[str, Any]) -> tuple[TrainArgs | None, list[str]]:
    hints = get_type_hints(TrainArgs)
    problems = [
        f"`{key}` is no setting; known are {', '.join(sorted(hints))}." for key in sorted(set(values) - set(hints))
    ]
    required = [one.name for one in dataclasses.fields(TrainArgs) if one.default is dataclasses.MISSING]
    problems += [f"`{key}` is missing." for key in required if key not in values]
    typed: dict[str, Any] = {}
    for key, value in values.items():
        if key in hints:
            typed[key] = _typed(key, value, hints[key], problems)
    return (None if problems else TrainArgs(**typed)), problems


def _typed(key: str, value: Any, kind: type, problems: list[str]) -> Any:
    if kind is bool or isinstance(value, bool):
        if kind is bool and isinstance(value, bool):
            return value
    elif kind is str and isinstance(value, (str, int)):
        return str(value)
    elif kind in (int, float):
        # YAML 1.1 reads `1e-3` as a string: it wants a dot. What Python takes as a number is meant as one.
        try:
            number = float(value)
            if kind is float or number == int(number):
                return kind(number)
        except (TypeError, ValueError, OverflowError):
            pass
    problems.append(f"`{key}` is {value!r}; it must be a {kind.__name__}.")
    return value

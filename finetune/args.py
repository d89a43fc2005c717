"""A training run's settings: typed, with every problem that the settings alone can show."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

DEEPSPEED_PRESETS = {
    name: Path(__file__).with_name("deepspeed") / f"{name}.json" for name in ("zero2", "zero3", "zero3_offload")
}
METHODS = ("sft", "dpo", "orpo", "kd")
PREFERENCE_METHODS = ("dpo", "orpo")
ADAPTERS = ("full", "lora", "qlora", "prefix", "pkv")
PREFIX_ADAPTERS = ("prefix", "pkv")
CHOICES = {
    "method": METHODS,
    "adapter": ADAPTERS,
    "targets": ("golden", "teacher"),
    "too_long": ("stop", "drop", "keep_end", "keep_start"),
    "bad_rows": ("stop", "drop"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "device": ("auto", "cpu"),
    "scheduler": ("constant", "constant_with_warmup", "linear", "cosine"),
    "tracker": ("none", "wandb", "tensorboard", "trackio"),
}
# Rates that train in a few epochs. Prefixes start at nothing and need a large one: with a rate as for weights they
# hardly move, which looks like a broken method. Preference losses push harder than likelihood: a tenth.
RATES = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4, "prefix": 5e-3, "pkv": 1e-3}
PREFERENCE_SHARE = 0.1


class ConfigError(ValueError):
    """A configuration that cannot be run; the message lists every problem found."""


@dataclass(frozen=True)
class TrainArgs:
    """One training stage; docs/finetune.md says what each setting means.

    `model` is a model folder or a hub name, `train_file` a JSON-lines file or a folder of `datasets.save_to_disk`,
    `output_dir` the stage's own folder. Lengths are in tokens, rates per optimizer step, `batch_size` rows a process
    and step. `epochs` counts passes over the rows; `max_steps` > 0 overrides it. `deepspeed` is the name of a preset
    or a JSON file.
    """

    model: str
    train_file: str
    output_dir: str
    eval_file: str = ""
    eval_fraction: float = 0.0
    method: str = "sft"
    adapter: str = "full"
    column: str = ""
    prompt_column: str = ""
    targets: str = "golden"
    golden_column: str = "solution"
    teacher_column: str = "explanation"
    teacher_file: str = ""
    teacher_model: str = ""
    kd_beta: float = 0.0
    kd_temperature: float = 1.0
    beta: float = 0.1
    max_length: int = 2048
    too_long: str = "stop"
    bad_rows: str = "stop"
    drop_duplicates: bool = False
    epochs: float = 1.0
    max_steps: int = -1
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = RATES["full"]
    scheduler: str = "cosine"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    max_grad_norm: float = 1.0
    seed: int = 0
    logging_steps: int = 10
    save_total_limit: int = 0
    group_by_length: bool = False
    packing: bool = False
    gradient_checkpointing: bool = False
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: str = "all-linear"
    prefix_tokens: int = 0
    dtype: str = "auto"
    device: str = "auto"
    threads: int = 0
    deepspeed: str = ""
    resume: bool = True
    tracker: str = "none"
    project: str = ""
    run_name: str = ""
    push_to_hub: str = ""
    trust_remote_code: bool = False

    def problems(self) -> list[str]:
        """Return what is wrong with these settings, one sentence each."""
        needed = ("model", "train_file", "output_dir")
        counts = ("max_length", "batch_size", "gradient_accumulation", "logging_steps", "lora_r", "lora_alpha")
        rates = ("epochs", "learning_rate", "max_grad_norm", "beta", "kd_temperature")
        whole = ("warmup_steps", "weight_decay", "threads", "save_total_limit", "prefix_tokens")
        values = dataclasses.asdict(self)
        found = [f"`{name}` is empty." for name in needed if not values[name]]
        files = [(name, values[name]) for name in ("train_file", "eval_file", "teacher_file") if values[name]]
        found += [
            f"`{name}`: there is no file and no folder {path}." for name, path in files if not Path(path).exists()
        ]
        found += [f"`{name}` is {values[name]}; it must be at least 1." for name in counts if values[name] < 1]
        found += [f"`{name}` is {values[name]}; it must be positive." for name in rates if not values[name] > 0]
        found += [f"`{name}` is {values[name]}; it must not be negative." for name in whole if values[name] < 0]
        found += [
            f"`{name}` is {values[name]!r}; choose one of {', '.join(known)}."
            for name, known in CHOICES.items()
            if values[name] not in known
        ]
        if not 0 < self.adam_beta2 < 1:
            found.append(f"`adam_beta2` is {self.adam_beta2}; it must lie between 0 and 1.")
        for name in ("kd_beta", "lora_dropout", "eval_fraction"):
            if not 0 <= values[name] <= 1:
                found.append(f"`{name}` is {values[name]}; it must lie between 0 and 1.")
        if self.deepspeed and self.deepspeed not in DEEPSPEED_PRESETS and not Path(self.deepspeed).is_file():
            presets = ", ".join(DEEPSPEED_PRESETS)
            found.append(f"`deepspeed`: {self.deepspeed!r} is neither a preset ({presets}) nor a file.")
        return found

    @property
    def deepspeed_file(self) -> str | None:
        """Return the path of the DeepSpeed configuration, None without DeepSpeed."""
        if not self.deepspeed:
            return None
        return str(DEEPSPEED_PRESETS.get(self.deepspeed, Path(self.deepspeed)))

    @property
    def zero_stage(self) -> int:
        """Return DeepSpeed's ZeRO stage, 0 without DeepSpeed."""
        import json

        if self.deepspeed_file is None:
            return 0
        try:
            loaded = json.loads(Path(self.deepspeed_file).read_text(encoding="utf-8"))
            return int(loaded.get("zero_optimization", {}).get("stage", 0))
        except (OSError, ValueError, AttributeError) as error:
            raise ConfigError(f"`deepspeed`: {self.deepspeed} cannot be read: {error}") from None

    @property
    def virtual_tokens(self) -> int:
        """Return how many prefix positions the adapter has: `prefix_tokens`, or else 50 and 30."""
        default = {"prefix": 50, "pkv": 30}.get(self.adapter, 0)
        return self.prefix_tokens or default if default else 0


def default_rate(method: str, adapter: str) -> float:
    """Return the learning rate that a run takes when none is given."""
    rate = RATES.get(adapter, RATES["full"])
    return rate * PREFERENCE_SHARE if method in PREFERENCE_METHODS else rate


def final_dir(output_dir: str | Path) -> Path:
    """Return the folder of a stage's finished model."""
    return Path(output_dir) / "final"

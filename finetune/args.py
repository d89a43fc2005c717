"""The settings of a training run, and every problem that can be found from the settings alone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from harness_ext.enhance.contamination.settings import NGRAM, SIMILARITY, SearchSettings
from harness_ext.files import why_not_writable
from harness_ext.finetune.data_names import is_hub_name
from harness_ext.terminal import clean

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
    "contamination": ("stop", "warn"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "device": ("auto", "cpu"),
    "scheduler": ("constant", "constant_with_warmup", "linear", "cosine"),
    "optim": ("adamw_torch_fused", "adamw_torch", "adafactor", "sgd"),
    "attn_implementation": ("auto", "eager", "sdpa", "flash_attention_2"),
    "tracker": ("none", "wandb", "tensorboard", "trackio"),
}
# Settings that take several names; in a YAML file, these may also be a list.
LISTS = ("contamination_tasks", "lora_targets")
# Learning rates that work within a few epochs. Prefixes start at zero and need a large one: at a rate that suits
# weights they hardly move, and the method looks broken. Preference losses have larger gradients than the likelihood,
# so they get a tenth.
RATES = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4, "prefix": 5e-3, "pkv": 1e-3}
PREFERENCE_SHARE = 0.1


class ConfigError(ValueError):
    """The configuration cannot be run. The message lists every problem found."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


@dataclass(frozen=True)
class TrainArgs:
    """The settings of one training stage. An empty string means "not given".

    Model and data:
    model: the model to start from, a folder or a Hub name. Required.
    train_file: the training rows, a file, a folder or the name of a data set on the hub (`owner/name`). Required.
    output_dir: the stage's own folder. Required.
    eval_file: rows for the validation error, in the same formats. Default none.
    dataset_config: the configuration of a data set on the hub or of a folder. Default none.
    train_split: the split to learn, of a source that has several. Default `train`.
    eval_split: the split to measure the validation error on, of a source that has several. Default `validation`.
    eval_fraction: share of the training rows to hold out if there are no other validation rows, 0 to 1. Default 0.

    What is learned:
    method: `sft`, `dpo`, `orpo` or `kd`. Default `sft`.
    adapter: `full`, `lora`, `qlora`, `prefix` or `pkv`. Default `full`.
    column: the column to learn. Default none: the names of the columns determine the kind of row.
    prompt_column: the column that `column` replies to. Default none: `column` is learned as a whole text.
    targets: which column `kd` learns, `golden` or `teacher`. Default `golden`.
    golden_column: the column with the golden targets of `kd`. Default `solution`.
    teacher_column: the column with the teacher's targets of `kd`. Default `explanation`.
    teacher_file: a file to join the teacher's targets from, by `index`. Default none.
    teacher_model: a teacher whose token distributions `kd` learns, a folder or a Hub name. Default none.
    kd_beta: interpolation of the distillation loss, from 0 (forward KL) to 1 (reverse KL). Default 0.
    kd_temperature: temperature of both distributions in the distillation loss. Default 1.
    beta: the `beta` of DPO, or the weight of ORPO's odds-ratio loss. Default 0.1.

    Rows:
    max_length: length of the longest row, in tokens. Default 2048.
    too_long: what to do with longer rows, `stop`, `drop`, `keep_end` or `keep_start`. Default `stop`.
    bad_rows: what to do with malformed or empty rows, `stop` or `drop`. Default `stop`.
    drop_duplicates: whether to drop rows that repeat an earlier one. Default false.
    group_by_length: whether to batch rows of similar length, which saves padding. Default false.
    packing: whether to pack several rows into one sequence of `max_length`. Default false.

    Evaluation documents in the training rows:
    contamination_tasks: lm-eval tasks whose documents to look for before training, separated by commas. Default none.
    contamination: what to do if rows contain documents: `stop`, or `warn` and train. Default `stop`.
    contamination_ngram: the number of consecutive words that count as a document's. Default 13.
    contamination_similarity: the least Jaccard similarity of near-duplicates, 0.1 to 1. Default 0.8.
    contamination_include_path: a folder with your own tasks. Default none.

    Optimization:
    epochs: passes over the rows. Default 1.
    max_steps: optimizer steps; a positive number overrides `epochs`. Default -1.
    batch_size: rows per process and forward pass. Default 8.
    eval_batch_size: validation rows per process and forward pass; 0 is as many as `batch_size`. Default 0.
    gradient_accumulation: forward passes per optimizer step. Default 1.
    learning_rate: the peak learning rate. Default: 2e-5 for `full`, 2e-4 for `lora` and `qlora`, 5e-3 for `prefix`,
        1e-3 for `pkv`; a tenth of it for `dpo` and `orpo`.
    scheduler: `constant`, `constant_with_warmup`, `linear` or `cosine`. Default `cosine`.
    warmup_steps: optimizer steps until the peak rate is reached; below 1, a share of all steps. Default 0.
    optim: the optimizer, `adamw_torch_fused`, `adamw_torch`, `adafactor` or `sgd`. Default `adamw_torch_fused`.
    weight_decay: weight decay of the optimizer. Default 0.
    adam_beta1: first-moment decay of AdamW. Default 0.9.
    adam_beta2: second-moment decay of AdamW. Default 0.999.
    adam_epsilon: what AdamW adds to a denominator that could be 0. Default 1e-8.
    max_grad_norm: the norm to which gradients are clipped. Default 1.
    seed: seed of the row order and of everything else that is random. Default 0.
    gradient_checkpointing: whether to recompute activations, which saves memory and costs time. Default false.

    Adapter:
    lora_r: rank of LoRA. Default 8.
    lora_alpha: scale of LoRA. Default 16.
    lora_dropout: dropout of LoRA, 0 to 1. Default 0.05.
    lora_targets: names of the modules that get LoRA, separated by commas. Default `all-linear`.
    prefix_tokens: prefix positions; 0 is 50 for `prefix` and 30 for `pkv`. Default 0.

    Machine:
    dtype: type to compute in, `auto` (bfloat16 or float16 on a GPU, float32 on a CPU), `float32`, `bfloat16` or
        `float16`. Default `auto`.
    attn_implementation: `auto` (transformers' choice), `eager`, `sdpa` or `flash_attention_2`. Default `auto`.
    device: `auto` (a GPU if there is one) or `cpu`. Default `auto`.
    threads: CPU threads of PyTorch; 0 keeps PyTorch's own choice. Default 0.
    deepspeed: a preset (`zero2`, `zero3`, `zero3_offload`) or the path of a JSON file. Default none.

    Results:
    logging_steps: optimizer steps between two log entries. Default 10.
    save_steps: optimizer steps between two checkpoints within an epoch; 0 saves only after each epoch. Default 0.
    eval_steps: optimizer steps between two evaluations within an epoch; 0 evaluates only after each. Default 0.
    save_total_limit: number of checkpoints to keep, the newest ones; 0 keeps all. Default 0.
    save_only_model: whether only the last checkpoint keeps what resuming needs (optimizer and random states), and
        none once the training has ended. Default false.
    resume: whether to continue from the last complete checkpoint. Default true.
    tracker: `none`, `wandb`, `tensorboard` or `trackio`. Default `none`.
    project: the tracker's project. Default `harness-ext`.
    run_name: the run's name in the tracker. Default none: W&B invents one, and Trackio gets the folder's name.
    push_to_hub: Hub repository to upload the finished model to; a new one is private. Default none.
    trust_remote_code: whether to run code that comes with a model. Default false.
    """

    model: str
    train_file: str
    output_dir: str
    eval_file: str = ""
    dataset_config: str = ""
    train_split: str = "train"
    eval_split: str = "validation"
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
    contamination_tasks: str = ""
    contamination: str = "stop"
    contamination_ngram: int = NGRAM
    contamination_similarity: float = SIMILARITY
    contamination_include_path: str = ""
    epochs: float = 1.0
    max_steps: int = -1
    batch_size: int = 8
    eval_batch_size: int = 0
    gradient_accumulation: int = 1
    learning_rate: float = RATES["full"]
    scheduler: str = "cosine"
    warmup_steps: float = 0.0
    optim: str = "adamw_torch_fused"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    seed: int = 0
    logging_steps: int = 10
    save_steps: int = 0
    eval_steps: int = 0
    save_total_limit: int = 0
    save_only_model: bool = False
    group_by_length: bool = False
    packing: bool = False
    gradient_checkpointing: bool = False
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_targets: str = "all-linear"
    prefix_tokens: int = 0
    dtype: str = "auto"
    attn_implementation: str = "auto"
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
        """Return what is wrong with these settings, one sentence per problem."""
        needed = ("model", "train_file", "output_dir")
        counts = ("max_length", "batch_size", "gradient_accumulation", "logging_steps", "lora_r", "lora_alpha")
        rates = ("epochs", "learning_rate", "max_grad_norm", "adam_epsilon", "beta", "kd_temperature")
        whole = (
            "warmup_steps", "eval_batch_size", "weight_decay", "threads", "save_steps", "eval_steps",
            "save_total_limit", "prefix_tokens",
        )  # fmt: skip
        values = dataclasses.asdict(self)
        found = [f"`{name}` is empty." for name in needed if not values[name]]
        sources = [(name, values[name]) for name in ("train_file", "eval_file") if values[name]]
        found += [
            f"`{name}`: {path} is neither a file nor a folder, nor the name of a data set on the hub (`owner/name`)."
            for name, path in sources
            if not Path(path).exists() and not is_hub_name(path)
        ]
        if self.teacher_file and not Path(self.teacher_file).is_file():
            found.append(f"`teacher_file`: {self.teacher_file} is not a file.")
        if self.output_dir and (reason := why_not_writable(Path(self.output_dir))):
            found.append(f"`output_dir`: {self.output_dir} cannot be written: {reason}. Choose another one.")
        found += [f"`{name}` is {values[name]}; it must be at least 1." for name in counts if values[name] < 1]
        found += [f"`{name}` is {values[name]}; it must be positive." for name in rates if not values[name] > 0]
        found += [f"`{name}` is {values[name]}; it must not be negative." for name in whole if values[name] < 0]
        found += [
            f"`{name}` is {values[name]!r}; choose one of {', '.join(known)}."
            for name, known in CHOICES.items()
            if values[name] not in known
        ]
        search = SearchSettings(self.contamination_ngram, self.contamination_similarity)
        found += search.problems("contamination_")
        if not 0 < self.adam_beta2 < 1:
            found.append(f"`adam_beta2` is {self.adam_beta2}; it must be between 0 and 1.")
        if not 0 <= self.adam_beta1 < 1:
            found.append(f"`adam_beta1` is {self.adam_beta1}; it must be from 0 to below 1.")
        if self.warmup_steps > 1 and not float(self.warmup_steps).is_integer():
            found.append(f"`warmup_steps` is {self.warmup_steps}; it must be a whole number, or below 1 for a share.")
        for name in ("kd_beta", "lora_dropout", "eval_fraction"):
            if not 0 <= values[name] <= 1:
                found.append(f"`{name}` is {values[name]}; it must be between 0 and 1.")
        if self.deepspeed and self.deepspeed not in DEEPSPEED_PRESETS and not Path(self.deepspeed).is_file():
            presets = ", ".join(DEEPSPEED_PRESETS)
            found.append(f"`deepspeed`: {self.deepspeed!r} is neither a preset ({presets}) nor a file.")
        return found

    @property
    def deepspeed_file(self) -> str | None:
        """Return the path of the DeepSpeed configuration, or None without DeepSpeed."""
        if not self.deepspeed:
            return None
        return str(DEEPSPEED_PRESETS.get(self.deepspeed, Path(self.deepspeed)))

    @property
    def zero_stage(self) -> int:
        """Return DeepSpeed's ZeRO stage, or 0 without DeepSpeed. Raises ConfigError if the file cannot be read."""
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
        """Return the number of prefix positions: `prefix_tokens`, by default 50 for `prefix` and 30 for `pkv`."""
        default = {"prefix": 50, "pkv": 30}.get(self.adapter, 0)
        return self.prefix_tokens or default if default else 0


def default_rate(method: str, adapter: str) -> float:
    """Return the learning rate of a run that names none."""
    rate = RATES.get(adapter, RATES["full"])
    return rate * PREFERENCE_SHARE if method in PREFERENCE_METHODS else rate


def final_dir(output_dir: str | Path) -> Path:
    """Return the folder of a stage's final model."""
    return Path(output_dir) / "final"

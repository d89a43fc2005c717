"""Preflight: refuses every combination that would crash or train wrongly, before a model is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness_ext.data.hub import without_waiting_for
from harness_ext.finetune.args import PREFERENCE_METHODS, PREFIX_ADAPTERS, ConfigError, TrainArgs

DATASET_SETTINGS = ("dataset_config", "train_split", "eval_split")
OPTIONAL = ("trl", "peft", "deepspeed", "bitsandbytes", "flash_attn", "wandb", "tensorboard", "trackio")


@dataclass(frozen=True)
class Machine:
    """What a run can use.

    processes: number of processes on all nodes together.
    launched: whether a launcher started this process (`RANK` is set).
    gpus: number of CUDA devices that this process sees.
    bf16: whether they compute bfloat16 natively.
    libraries: which of `OPTIONAL` are installed.
    offline: whether `HF_HUB_OFFLINE` is set.
    has_token: whether there is a Hub token.
    """

    processes: int
    launched: bool
    gpus: int
    bf16: bool
    libraries: frozenset[str]
    offline: bool
    has_token: bool

    @classmethod
    def here(cls) -> Machine:
        """Inspect this process and its machine. Libraries are looked up, not imported."""
        import torch

        gpus = torch.cuda.device_count()
        return cls(
            processes=int(os.environ.get("WORLD_SIZE", "1")),
            launched="RANK" in os.environ,
            gpus=gpus,
            bf16=bool(gpus) and torch.cuda.is_bf16_supported(including_emulation=False),
            libraries=frozenset(name for name in OPTIONAL if importlib.util.find_spec(name)),
            offline=os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "True"),
            has_token=_has_token(),
        )


@dataclass(frozen=True)
class ModelFacts:
    """Facts from a model's configuration and tokenizer.

    vocabulary: number of embeddings.
    tokens: number of entries of the tokenizer.
    positions: maximum sequence length, in tokens; 0 means unlimited.
    encoder_decoder: whether it is an encoder-decoder model.
    has_stop: whether the tokenizer has an end-of-sequence token.
    digest: hash of the tokenizer's entries and their ids.
    adapter_base: if the folder contains an adapter, the base model it names; otherwise empty.
    """

    vocabulary: int
    tokens: int
    positions: int
    encoder_decoder: bool
    has_stop: bool
    digest: str = ""
    adapter_base: str = ""


@dataclass(frozen=True)
class PreflightCase:
    """Everything a rule may depend on. A model that an earlier stage has yet to produce is None."""

    args: TrainArgs
    machine: Machine
    model: ModelFacts | None = None
    teacher: ModelFacts | None = None

    @property
    def prefix(self) -> bool:
        """Return whether the adapter is a prefix."""
        return self.args.adapter in PREFIX_ADAPTERS

    @property
    def has_splits(self) -> bool:
        """Return whether rows come from a folder or the hub, where a source can have several splits."""
        return not all(Path(name).is_file() for name in (self.args.train_file, self.args.eval_file) if name)

    @property
    def gpu(self) -> bool:
        """Return whether the run uses CUDA."""
        return self.args.device == "auto" and self.machine.gpus > 0


@dataclass(frozen=True)
class Rule:
    """A combination that is refused.

    name: a short name.
    applies: returns a true value for a case that the rule refuses.
    why: the reason. It may refer to `args`, `machine`, `model` and `teacher` in braces.
    remedy: what to do instead, with the same placeholders.
    """

    name: str
    applies: Callable[[PreflightCase], object]
    why: str
    remedy: str


def _needs(library: str, wanted: Callable[[PreflightCase], object], package: str = "") -> Rule:
    return Rule(
        f"no {library}",
        lambda case: wanted(case) and library not in case.machine.libraries,
        f"{library} is not installed",
        f"pip install {package or library}",
    )


RULES = (
    _needs("trl", lambda case: True, "'harness-ext[finetune]'"),
    _needs("peft", lambda case: case.args.adapter != "full"),
    _needs("deepspeed", lambda case: case.args.deepspeed),
    _needs("bitsandbytes", lambda case: case.args.adapter == "qlora"),
    _needs("flash_attn", lambda case: case.args.attn_implementation == "flash_attention_2", "flash-attn"),
    _needs("wandb", lambda case: case.args.tracker == "wandb", "'harness-ext[track]'"),
    _needs("tensorboard", lambda case: case.args.tracker == "tensorboard", "'harness-ext[track]'"),
    _needs("trackio", lambda case: case.args.tracker == "trackio", "'harness-ext[track]'"),
    Rule(
        "prefix + gradient checkpointing",
        lambda case: case.prefix and case.args.gradient_checkpointing,
        "recomputed layers see the prefix a second time, and the step crashes with mismatched tensor sizes",
        "set gradient_checkpointing: false; a prefix stores few activations anyway",
    ),
    Rule(
        "prefix + packing",
        lambda case: case.prefix and case.args.packing,
        "packed rows share one prefix and attend to each other, so training would silently be wrong",
        "set packing: false",
    ),
    Rule(
        "prefix + ZeRO-3",
        lambda case: case.prefix and case.args.zero_stage == 3,
        "saving a checkpoint runs the prefix encoder in one process only, and the next step crashes",
        "set deepspeed: zero2",
    ),
    Rule(
        "4-bit + DeepSpeed",
        lambda case: case.args.adapter == "qlora" and case.args.deepspeed,
        "DeepSpeed would move, cast and shard weights that bitsandbytes stores packed",
        "leave out `deepspeed` (each process then has the whole 4-bit base model), or set adapter: lora",
    ),
    Rule(
        "packing + preferences",
        lambda case: case.args.packing and case.args.method in PREFERENCE_METHODS,
        "preference pairs cannot be packed",
        "set packing: false",
    ),
    Rule(
        "packing + distillation",
        lambda case: case.args.packing and case.args.teacher_model,
        "the distillation loss does not pass position ids on, so packed rows would attend to each other",
        "set packing: false",
    ),
    Rule(
        "packing + grouping",
        lambda case: case.args.packing and case.args.group_by_length,
        "all packed sequences have the same length, so grouping has no effect",
        "set only one of packing and group_by_length",
    ),
    Rule(
        "truncated preferences",
        lambda case: case.args.method in PREFERENCE_METHODS and case.args.too_long.startswith("keep"),
        "the preference does not apply to a truncated prompt or reply",
        "set too_long: drop or stop",
    ),
    Rule(
        "a column + preferences",
        lambda case: case.args.method in PREFERENCE_METHODS and (case.args.column or case.args.prompt_column),
        "preferences are read from `prompt`, `chosen` and `rejected`; `column` and `prompt_column` have no effect",
        "leave out `column` and `prompt_column`",
    ),
    Rule(
        "a teacher model without kd",
        lambda case: case.args.teacher_model and case.args.method != "kd",
        "`teacher_model` has no effect",
        "set method: kd",
    ),
    Rule(
        "targets without kd",
        lambda case: case.args.method != "kd" and (case.args.targets != "golden" or case.args.teacher_file),
        "`targets` and `teacher_file` have no effect",
        "set method: kd, or name the column to learn with `column`",
    ),
    Rule(
        "a column + targets",
        lambda case: case.args.method == "kd" and case.args.column and case.args.targets == "teacher",
        "`column` already names what is learned, so `targets` has no effect",
        "leave out `column` (as a positional argument: ''), or set it to the teacher's column",
    ),
    Rule(
        "a teacher file for golden targets",
        lambda case: case.args.method == "kd" and case.args.teacher_file and case.args.targets == "golden",
        "`teacher_file` has no effect",
        "set targets: teacher",
    ),
    Rule(
        "teacher with another vocabulary",
        lambda case: case.model and case.teacher and case.model.vocabulary != case.teacher.vocabulary,
        "distributions are compared entry by entry, but the model has {model.vocabulary} entries and the teacher "
        "{teacher.vocabulary}",
        "use a teacher with the same vocabulary, or learn its texts: targets: teacher without `teacher_model`",
    ),
    Rule(
        "teacher with another tokenizer",
        lambda case: case.model and case.teacher and case.model.digest != case.teacher.digest,
        "the teacher's tokenizer assigns other ids, so the teacher would read and predict different words",
        "use a teacher with the same tokenizer, or learn its texts: targets: teacher without `teacher_model`",
    ),
    Rule(
        "adapter settings without the adapter",
        lambda case: _changed(case.args, "lora_") and case.args.adapter not in ("lora", "qlora"),
        "the `lora_…` settings have no effect",
        "set adapter: lora or qlora",
    ),
    Rule(
        "prefix settings without the prefix",
        lambda case: case.args.prefix_tokens and not case.prefix,
        "`prefix_tokens` has no effect",
        "set adapter: prefix or pkv",
    ),
    Rule(
        "contamination settings without tasks",
        lambda case: _changed(case.args, "contamination") and not case.args.contamination_tasks.strip(", "),
        "the `contamination…` settings have no effect",
        "name the tasks whose documents to look for with `contamination_tasks`",
    ),
    Rule(
        "several GPUs, one process",
        lambda case: case.gpu and case.machine.gpus > 1 and not case.machine.launched,
        "one process sees {machine.gpus} GPUs, which TRL does not support",
        "run bash finetune/finetune.sh …, or torchrun --nproc_per_node {machine.gpus} -m harness_ext.finetune …, or "
        "set CUDA_VISIBLE_DEVICES=0",
    ),
    Rule(
        "flash attention in float32",
        lambda case: "flash" in case.args.attn_implementation and (not case.gpu or case.args.dtype == "float32"),
        "flash attention computes in half precision on a GPU",
        "set attn_implementation: sdpa",
    ),
    Rule(
        "another optimizer + DeepSpeed",
        lambda case: case.args.deepspeed and not case.args.optim.startswith("adamw"),
        "DeepSpeed's sharding is made for Adam",
        "set optim: adamw_torch, or leave out `deepspeed`",
    ),
    Rule(
        "float16 on a CPU",
        lambda case: not case.gpu and case.args.dtype == "float16",
        "half precision needs a GPU",
        "set dtype: auto",
    ),
    Rule(
        "bfloat16 on an old GPU",
        lambda case: case.gpu and case.args.dtype == "bfloat16" and not case.machine.bf16,
        "this GPU does not support bfloat16",
        "set dtype: auto (float16 on this machine)",
    ),
    Rule(
        "a push without the Hub",
        lambda case: case.args.push_to_hub and (case.machine.offline or not case.machine.has_token),
        "HF_HUB_OFFLINE is set, or there is no Hub token",
        "unset HF_HUB_OFFLINE and log in with `hf auth login`, or leave out `push_to_hub`",
    ),
    Rule(
        "splits of a file",
        lambda case: any(_changed(case.args, name) for name in DATASET_SETTINGS) and not case.has_splits,
        "a file has neither configurations nor splits, so `dataset_config`, `train_split` and `eval_split` have no "
        "effect",
        "leave them out, or name a folder or a data set on the hub",
    ),
    Rule(
        "two sources of validation rows",
        lambda case: case.args.eval_file and case.args.eval_fraction,
        "`eval_fraction` has no effect together with `eval_file`",
        "set only one of them",
    ),
    Rule(
        "a model that is an adapter",
        lambda case: case.model and case.model.adapter_base,
        "{args.model} contains an adapter for {model.adapter_base}, not a model",
        "merge it first with harness-ext export {args.model} OUT",
    ),
    Rule(
        "an encoder-decoder model",
        lambda case: case.model and case.model.encoder_decoder,
        "only causal language models can be trained",
        "use a causal language model",
    ),
    Rule(
        "no stop token",
        lambda case: case.model and not case.model.has_stop,
        "the tokenizer has no end-of-sequence token, so the model would never learn to stop",
        "set `eos_token` in the tokenizer's configuration",
    ),
    Rule(
        "tokens without embeddings",
        lambda case: case.model and case.model.tokens > case.model.vocabulary,
        "the tokenizer has {model.tokens} tokens, but the model has only {model.vocabulary} embeddings",
        "resize the model's embeddings, or use the model's own tokenizer",
    ),
    Rule(
        "rows longer than the model's positions",
        lambda case: (
            case.model
            and case.model.positions
            and case.args.max_length + case.args.virtual_tokens > case.model.positions
        ),
        "max_length {args.max_length} plus {args.virtual_tokens} prefix positions exceeds the model's "
        "{model.positions} positions",
        "set a smaller max_length",
    ),
)


def refusals(case: PreflightCase) -> list[tuple[Rule, str]]:
    """Return every rule that applies, each with its message."""
    found = []
    for rule in RULES:
        if rule.applies(case):
            names = {"args": case.args, "machine": case.machine, "model": case.model, "teacher": case.teacher}
            found.append((rule, f"{rule.name}: {rule.why}. Remedy: {rule.remedy}.".format(**names)))
    return found


def check(stages: tuple[TrainArgs, ...], machine: Machine) -> None:
    """Check all stages and the models they name. Raises ConfigError with every problem found."""
    problems: list[str] = []
    for number, args in enumerate(stages, start=1):
        label = f"stage {number}: " if len(stages) > 1 else ""
        # An earlier stage may have yet to write this model; `run_stage` checks it again when its turn comes.
        waits = number > 1 and not Path(args.model).exists()
        wrong: list[str] = []
        model = None if waits else _facts(args.model, args, wrong)
        teacher = _facts(args.teacher_model, args, wrong) if args.teacher_model else None
        wrong += [text for _, text in refusals(PreflightCase(args, machine, model, teacher))]
        problems += [label + one for one in wrong]
    if problems:
        raise ConfigError("this run cannot work:\n" + "\n".join(f"  - {one}" for one in problems))


def model_facts(path: str, trust_remote_code: bool = False) -> ModelFacts:
    """Read a model's configuration and tokenizer. Raises OSError or ValueError if they cannot be read."""
    from transformers import AutoConfig, AutoTokenizer

    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path", "?")
        return ModelFacts(0, 0, 0, False, True, adapter_base=str(base))
    with without_waiting_for(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    return ModelFacts(
        vocabulary=text.vocab_size,
        tokens=len(tokenizer),
        positions=getattr(text, "max_position_embeddings", None) or 0,
        encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        has_stop=tokenizer.eos_token_id is not None,
        digest=hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest(),
    )


def _facts(path: str, args: TrainArgs, problems: list[str]) -> ModelFacts | None:
    try:
        return model_facts(path, args.trust_remote_code)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        problems.append(f"{path} cannot be read as a model: {reason} Remedy: name a folder or a model on the Hub.")
        return None


def _changed(args: TrainArgs, start: str) -> bool:
    return any(getattr(args, name) != getattr(TrainArgs, name) for name in vars(args) if name.startswith(start))


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None

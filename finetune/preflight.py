"""What cannot work, or would be wrong without a word: every such combination, named before a model is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness_ext.finetune.args import PREFERENCE_METHODS, PREFIX_ADAPTERS, ConfigError, TrainArgs

OPTIONAL = ("trl", "peft", "deepspeed", "bitsandbytes", "wandb", "tensorboard", "trackio")


@dataclass(frozen=True)
class Machine:
    """What the run has: processes (all nodes), CUDA devices this process sees, their precision, libraries."""

    processes: int
    launched: bool
    gpus: int
    bf16: bool
    libraries: frozenset[str]
    offline: bool
    has_token: bool

    @classmethod
    def here(cls) -> Machine:
        """Look at this process and its machine. Libraries are looked for, not imported."""
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
    """What a model's configuration and tokenizer say.

    `vocabulary` counts embeddings, `tokens` the tokenizer's entries, which `digest` names; `positions` is 0 where
    there is no limit.
    """

    vocabulary: int
    tokens: int
    positions: int
    encoder_decoder: bool
    has_stop: bool
    digest: str = ""
    adapter_base: str = ""


@dataclass(frozen=True)
class Case:
    """All that a rule looks at; models that are not there yet (an earlier stage makes them) are None."""

    args: TrainArgs
    machine: Machine
    model: ModelFacts | None = None
    teacher: ModelFacts | None = None

    @property
    def prefix(self) -> bool:
        """Return whether the adapter is a prefix."""
        return self.args.adapter in PREFIX_ADAPTERS

    @property
    def gpu(self) -> bool:
        """Return whether the run uses CUDA."""
        return self.args.device == "auto" and self.machine.gpus > 0


@dataclass(frozen=True)
class Rule:
    """A combination that is refused: its name, when it applies, why, and what to do instead."""

    name: str
    applies: Callable[[Case], object]
    why: str
    remedy: str


def _needs(library: str, wanted: Callable[[Case], object], package: str = "") -> Rule:
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
    _needs("wandb", lambda case: case.args.tracker == "wandb", "'harness-ext[track]'"),
    _needs("tensorboard", lambda case: case.args.tracker == "tensorboard", "'harness-ext[track]'"),
    _needs("trackio", lambda case: case.args.tracker == "trackio", "'harness-ext[track]'"),
    Rule(
        "prefix + gradient checkpointing",
        lambda case: case.prefix and case.args.gradient_checkpointing,
        "recomputed layers see the prefix a second time, and the step crashes on tensor sizes",
        "gradient_checkpointing: false; a prefix keeps few activations anyway",
    ),
    Rule(
        "prefix + packing",
        lambda case: case.prefix and case.args.packing,
        "the rows of a pack see one prefix and each other: training is wrong without a word",
        "packing: false",
    ),
    Rule(
        "prefix + ZeRO-3",
        lambda case: case.prefix and case.args.zero_stage == 3,
        "while a checkpoint is saved one process alone runs the prefix's encoder: the next step dies",
        "deepspeed: zero2",
    ),
    Rule(
        "4-bit + DeepSpeed",
        lambda case: case.args.adapter == "qlora" and case.args.deepspeed,
        "DeepSpeed would move, cast and shard weights that bitsandbytes keeps packed",
        "leave `deepspeed` out, one whole 4-bit base a process; or adapter: lora with deepspeed",
    ),
    Rule(
        "packing + preferences",
        lambda case: case.args.packing and case.args.method in PREFERENCE_METHODS,
        "pairs cannot be packed",
        "packing: false",
    ),
    Rule(
        "packing + distillation",
        lambda case: case.args.packing and case.args.teacher_model,
        "the distillation loss passes no positions on, so the rows of a pack would see each other",
        "packing: false",
    ),
    Rule(
        "packing + grouping",
        lambda case: case.args.packing and case.args.group_by_length,
        "packs have one length",
        "keep one of packing and group_by_length",
    ),
    Rule(
        "cut preferences",
        lambda case: case.args.method in PREFERENCE_METHODS and case.args.too_long.startswith("keep"),
        "a reply or a prompt that is cut is no longer what was preferred",
        "too_long: drop or stop",
    ),
    Rule(
        "a column + preferences",
        lambda case: case.args.method in PREFERENCE_METHODS and (case.args.column or case.args.prompt_column),
        "preferences are read from `prompt`, `chosen` and `rejected`; the column would have no effect",
        "leave `column` and `prompt_column` out",
    ),
    Rule(
        "a teacher model without kd",
        lambda case: case.args.teacher_model and case.args.method != "kd",
        "`teacher_model` has no effect",
        "method: kd",
    ),
    Rule(
        "targets without kd",
        lambda case: case.args.method != "kd" and (case.args.targets != "golden" or case.args.teacher_file),
        "`targets` and `teacher_file` have no effect",
        "method: kd, or name the column to learn with `column`",
    ),
    Rule(
        "a column + targets",
        lambda case: case.args.method == "kd" and case.args.column and case.args.targets == "teacher",
        "`column` names what is learned, so `targets` has no effect",
        "leave `column` out (as a positional: ''), or name the teacher's column with it",
    ),
    Rule(
        "a teacher file for golden targets",
        lambda case: case.args.method == "kd" and case.args.teacher_file and case.args.targets == "golden",
        "`teacher_file` has no effect",
        "targets: teacher",
    ),
    Rule(
        "teacher of another vocabulary",
        lambda case: case.model and case.teacher and case.model.vocabulary != case.teacher.vocabulary,
        "distributions are compared entry by entry: {model.vocabulary} of them against the teacher's "
        "{teacher.vocabulary}",
        "a teacher with the same vocabulary, or targets: teacher (its texts) without `teacher_model`",
    ),
    Rule(
        "teacher of other tokens",
        lambda case: case.model and case.teacher and case.model.digest != case.teacher.digest,
        "the teacher's tokenizer numbers its tokens differently, so it would read other words and teach others",
        "a teacher with the same tokenizer, or targets: teacher (its texts) without `teacher_model`",
    ),
    Rule(
        "adapter settings without the adapter",
        lambda case: _changed(case.args, "lora_") and case.args.adapter not in ("lora", "qlora"),
        "the `lora_…` settings have no effect",
        "adapter: lora or qlora",
    ),
    Rule(
        "prefix settings without the prefix",
        lambda case: case.args.prefix_tokens and not case.prefix,
        "`prefix_tokens` has no effect",
        "adapter: prefix or pkv",
    ),
    Rule(
        "several GPUs, one process",
        lambda case: case.gpu and case.machine.gpus > 1 and not case.machine.launched,
        "{machine.gpus} GPUs are visible to one process, which TRL refuses",
        "bash finetune/finetune.sh …, torchrun --nproc_per_node {machine.gpus} -m harness_ext.finetune …, or "
        "CUDA_VISIBLE_DEVICES=0",
    ),
    Rule(
        "float16 on a CPU",
        lambda case: not case.gpu and case.args.dtype == "float16",
        "half precision needs a GPU",
        "dtype: auto",
    ),
    Rule(
        "bfloat16 on an old GPU",
        lambda case: case.gpu and case.args.dtype == "bfloat16" and not case.machine.bf16,
        "this GPU computes no bfloat16",
        "dtype: auto (float16 here)",
    ),
    Rule(
        "a push without the hub",
        lambda case: case.args.push_to_hub and (case.machine.offline or not case.machine.has_token),
        "the hub cannot be reached: HF_HUB_OFFLINE is set, or there is no token",
        "unset HF_HUB_OFFLINE and log in with `hf auth login`, or leave `push_to_hub` out",
    ),
    Rule(
        "two sources of validation rows",
        lambda case: case.args.eval_file and case.args.eval_fraction,
        "`eval_fraction` has no effect beside `eval_file`",
        "keep one of them",
    ),
    Rule(
        "a model that is an adapter",
        lambda case: case.model and case.model.adapter_base,
        "{args.model} holds an adapter of {model.adapter_base}, not a model",
        "merge it first: harness-ext export {args.model} OUT",
    ),
    Rule(
        "an encoder-decoder model",
        lambda case: case.model and case.model.encoder_decoder,
        "only models that continue a text are trained here",
        "a causal language model",
    ),
    Rule(
        "no stop token",
        lambda case: case.model and not case.model.has_stop,
        "the tokenizer has no end-of-sequence token: the model would never learn to stop",
        "set `eos_token` in the tokenizer's configuration",
    ),
    Rule(
        "tokens without embeddings",
        lambda case: case.model and case.model.tokens > case.model.vocabulary,
        "the tokenizer has {model.tokens} tokens, the model {model.vocabulary} embeddings",
        "resize the model's embeddings, or use its own tokenizer",
    ),
    Rule(
        "rows beyond the positions",
        lambda case: (
            case.model
            and case.model.positions
            and case.args.max_length + case.args.virtual_tokens > case.model.positions
        ),
        "max_length {args.max_length} and {args.virtual_tokens} prefix positions are more than the model's "
        "{model.positions} positions",
        "a smaller max_length",
    ),
)


def refusals(case: Case) -> list[tuple[Rule, str]]:
    """Return every rule that applies, with its sentence: cause and remedy."""
    found = []
    for rule in RULES:
        if rule.applies(case):
            names = {"args": case.args, "machine": case.machine, "model": case.model, "teacher": case.teacher}
            found.append((rule, f"{rule.name}: {rule.why}. Remedy: {rule.remedy}.".format(**names)))
    return found


def check(stages: tuple[TrainArgs, ...], machine: Machine) -> None:
    """Raise ConfigError with everything that is wrong with any stage, models' configurations included."""
    problems: list[str] = []
    for number, args in enumerate(stages, start=1):
        label = f"stage {number}: " if len(stages) > 1 else ""
        # A later stage's model may not be there yet; it is looked at when its turn comes.
        waits = number > 1 and not Path(args.model).exists()
        wrong: list[str] = []
        model = None if waits else _facts(args.model, args, wrong)
        teacher = _facts(args.teacher_model, args, wrong) if args.teacher_model else None
        wrong += [text for _, text in refusals(Case(args, machine, model, teacher))]
        problems += [label + one for one in wrong]
    if problems:
        raise ConfigError("this run cannot work:\n" + "\n".join(f"  - {one}" for one in problems))


def model_facts(path: str, trust_remote_code: bool = False) -> ModelFacts:
    """Read a model's configuration and tokenizer. Raises OSError or ValueError when they cannot be read."""
    from transformers import AutoConfig, AutoTokenizer

    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path", "?")
        return ModelFacts(0, 0, 0, False, True, adapter_base=str(base))
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
        problems.append(f"{path} cannot be read as a model: {reason} Remedy: a model's folder, or its name on the hub.")
        return None


def _changed(args: TrainArgs, start: str) -> bool:
    return any(getattr(args, name) != getattr(TrainArgs, name) for name in vars(args) if name.startswith(start))


def _has_token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None

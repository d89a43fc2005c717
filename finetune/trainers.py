"""TRL's trainers, one function per method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.encoding import IGNORED
from harness_ext.finetune.hardened import hardened

Builder: TypeAlias = "Callable[[dict[str, Any]], Any]"


def training(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    """Return the method's training arguments, and a function that builds its trainer.

    The function takes the model, data sets, tokenizer, `peft_config` and callbacks. It is separate because the model
    must be loaded after the training arguments exist: ZeRO-3 partitions it while it loads. Raises ConfigError if the
    installed TRL lacks the method.

    args: the run's settings.
    common: the training arguments that all methods share.
    """
    return METHODS[args.method](args, common)


def _sft(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    from trl import SFTConfig, SFTTrainer, pack_dataset

    config = SFTConfig(
        **common,
        max_length=args.max_length,
        packing=args.packing,
        eval_packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )

    def build(parts: dict[str, Any]) -> Any:
        if args.packing:
            parts = {**parts, "train_dataset": pack_dataset(parts["train_dataset"], args.max_length, "bfd")}
        return hardened(SFTTrainer, args)(args=config, **parts)

    return config, build


def _kd(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    if not args.teacher_model:
        # Without a teacher model, `kd` learns the target texts (golden or the teacher's) by likelihood.
        return _sft(args, common)
    import functools

    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq

    GKDConfig, GKDTrainer = _experimental("gkd", "GKDConfig", "GKDTrainer")  # noqa: N806
    config = GKDConfig(
        **common,
        max_length=args.max_length,
        lmbda=0.0,  # only texts of the data set, no generations of the student
        beta=args.kd_beta,
        temperature=args.kd_temperature,
    )

    def build(parts: dict[str, Any]) -> Any:
        teacher = AutoModelForCausalLM.from_pretrained(
            args.teacher_model, dtype=parts["model"].dtype, trust_remote_code=args.trust_remote_code
        )
        # TRL's own collator expects chat messages and truncates; these rows are already tokenised and masked.
        collator = DataCollatorForSeq2Seq(parts["processing_class"], label_pad_token_id=IGNORED)
        trainer = hardened(GKDTrainer, args)(args=config, teacher_model=teacher, data_collator=collator, **parts)
        # TRL 1.16 uses the temperature only for sampling and ignores it in the loss.
        trainer.generalized_jsd_loss = functools.partial(
            GKDTrainer.generalized_jsd_loss, temperature=args.kd_temperature
        )
        return trainer

    return config, build


def _dpo(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):  # type: ignore[misc]
        """A trainer for rows that are already tokenised."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    config = DPOConfig(**common, beta=args.beta, max_length=None)
    return config, lambda parts: hardened(Tokenised, args)(args=config, **parts)


def _orpo(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    ORPOConfig, ORPOTrainer = _experimental("orpo", "ORPOConfig", "ORPOTrainer")  # noqa: N806

    class Tokenised(ORPOTrainer):  # type: ignore[misc, valid-type]
        """A trainer for rows that are already tokenised."""

        def tokenize_row(self, feature: dict[str, Any], model: Any = None) -> dict[str, Any]:
            return _orpo_row(feature)

    config = ORPOConfig(**common, beta=args.beta, max_length=args.max_length, remove_unused_columns=False)
    return config, lambda parts: hardened(Tokenised, args)(args=config, **parts)


def _orpo_row(row: dict[str, Any]) -> dict[str, Any]:
    prompt = row["prompt_ids"]
    out = {"prompt_input_ids": prompt, "prompt_attention_mask": [1] * len(prompt)}
    for name in ("chosen", "rejected"):
        reply = row[f"{name}_ids"]
        out[f"{name}_input_ids"] = prompt + reply
        out[f"{name}_attention_mask"] = [1] * len(out[f"{name}_input_ids"])
        out[f"{name}_labels"] = [IGNORED] * len(prompt) + reply
    return out


METHODS: dict[str, Callable[[TrainArgs, dict[str, Any]], tuple[Any, Builder]]] = {
    "sft": _sft,
    "kd": _kd,
    "dpo": _dpo,
    "orpo": _orpo,
}


def _experimental(module: str, *names: str) -> list[Any]:
    """Import names from TRL's experimental package, which may change with any release."""
    import importlib
    import os

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        found = importlib.import_module(f"trl.experimental.{module}")
        return [getattr(found, name) for name in names]
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The installed TRL has no trl.experimental.{module} ({error}). Remedy: pip install 'trl==1.16.0'"
        ) from None

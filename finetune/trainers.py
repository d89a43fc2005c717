"""TRL's trainers, one function a method, and what every one of them gets on top: checkpoints that can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness_ext.finetune.adapters import load_encoder, save_encoder
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.checkpoints import MARKER, mark_complete, prune, write_json
from harness_ext.finetune.data import IGNORED
from harness_ext.finetune.epochs import epoch_errors
from harness_ext.finetune.sampler import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset

ERRORS_FILE = "errors.json"


Builder: TypeAlias = "Callable[[dict[str, Any]], Any]"


def training(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    """Return the method's training arguments, and the function that makes its trainer of the trainer's parts.

    `common` are the arguments that all methods share; the parts are model, data sets, tokenizer, `peft_config` and
    callbacks. They are two because a model must be loaded after the arguments exist: ZeRO-3 splits it on the way.
    Raises ConfigError when TRL lacks the method.
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
        # The teacher's texts are the targets (or the golden ones): plain likelihood.
        return _sft(args, common)
    import functools

    from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq

    GKDConfig, GKDTrainer = _experimental("gkd", "GKDConfig", "GKDTrainer")  # noqa: N806
    config = GKDConfig(
        **common,
        max_length=args.max_length,
        lmbda=0.0,  # the texts of the data set, none of the student's own
        beta=args.kd_beta,
        temperature=args.kd_temperature,
    )

    def build(parts: dict[str, Any]) -> Any:
        teacher = AutoModelForCausalLM.from_pretrained(
            args.teacher_model, dtype=parts["model"].dtype, trust_remote_code=args.trust_remote_code
        )
        # TRL's own collator wants chat messages and cuts; these rows are tokenised and masked already.
        collator = DataCollatorForSeq2Seq(parts["processing_class"], label_pad_token_id=IGNORED)
        trainer = hardened(GKDTrainer, args)(args=config, teacher_model=teacher, data_collator=collator, **parts)
        # TRL 1.16 takes the temperature for sampling only and leaves it out of the loss.
        trainer.generalized_jsd_loss = functools.partial(
            GKDTrainer.generalized_jsd_loss, temperature=args.kd_temperature
        )
        return trainer

    return config, build


def _dpo(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    from trl import DPOConfig, DPOTrainer

    class Tokenised(DPOTrainer):  # type: ignore[misc]
        """Takes rows that are tokenised already."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    config = DPOConfig(**common, beta=args.beta, max_length=None)
    return config, lambda parts: hardened(Tokenised, args)(args=config, **parts)


def _orpo(args: TrainArgs, common: dict[str, Any]) -> tuple[Any, Builder]:
    ORPOConfig, ORPOTrainer = _experimental("orpo", "ORPOConfig", "ORPOTrainer")  # noqa: N806

    class Tokenised(ORPOTrainer):  # type: ignore[misc, valid-type]
        """Takes rows that are tokenised already."""

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
    """Import from TRL's experimental part, which may change with any release."""
    import importlib
    import os

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    try:
        found = importlib.import_module(f"trl.experimental.{module}")
        return [getattr(found, name) for name in names]
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"This release of TRL has no trl.experimental.{module} ({error}). Remedy: pip install 'trl==1.16.0'"
        ) from None


def hardened(base: type, args: TrainArgs) -> type:
    """Return a trainer class like `base` whose checkpoints are marked when they are whole.

    It also resumes projected prefixes and can draw batches of rows of similar length.
    """

    class Hardened(base):  # type: ignore[misc]
        def __init__(self, *, model: Any, **parts: Any) -> None:
            # Training turns the cache off and would save that: the model would generate many times slower ever after.
            use_cache = getattr(model.config, "use_cache", None)
            super().__init__(model=model, **parts)
            self._use_cache = use_cache

        def save_model(self, *arguments: Any, **options: Any) -> None:
            config = self.accelerator.unwrap_model(self.model).config
            in_training = getattr(config, "use_cache", None)
            try:
                config.use_cache = self._use_cache
                super().save_model(*arguments, **options)
            finally:
                config.use_cache = in_training

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self.is_world_process_zero():
                # An old marker must not vouch for files that are being written.
                (folder / MARKER).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
            if args.adapter == "pkv" and self.is_world_process_zero():
                save_encoder(self.accelerator.unwrap_model(self.model), folder)
            # Other processes write their part of the state.
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                write_errors(self.state.log_history, folder.parent)
                mark_complete(
                    folder,
                    step=self.state.global_step,
                    epoch=self.state.epoch,
                    processes=self.args.world_size,
                )
                prune(folder.parent, args.save_total_limit)
            # None may end before the marker is written: a scheduler kills what is left soon after the first.
            self.accelerator.wait_for_everyone()

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if args.adapter == "pkv":
                load_encoder(self.accelerator.unwrap_model(model or self.model), resume_from_checkpoint)
                return
            trained = model or self.model
            types = {name: value.dtype for name, value in trained.named_parameters() if value.requires_grad}
            super()._load_from_checkpoint(resume_from_checkpoint, model=model)
            # PEFT turns adapters it loads to float32; a run begun in bfloat16 would go on as another one.
            for name, value in trained.named_parameters():
                if name in types:
                    value.data = value.data.to(types[name])

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if not args.group_by_length:
                return super()._get_train_sampler(train_dataset)
            rows = self.train_dataset if train_dataset is None else train_dataset
            return LengthGroupedSampler(_lengths(rows), args.batch_size, args.seed)

    Hardened.__name__ = base.__name__
    return Hardened


def write_errors(log: list[dict[str, Any]], folder: Path) -> None:
    """Write the record of training and validation error an epoch beside the checkpoints."""
    write_json(folder / ERRORS_FILE, epoch_errors(log))


def _lengths(rows: Dataset) -> list[int]:
    if "input_ids" in rows.column_names:
        return [len(ids) for ids in rows["input_ids"]]
    pairs = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
    return [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs]

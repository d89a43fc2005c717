"""TRL's trainers, one function per method, extended with checkpoints that can be verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from harness_ext.finetune.adapters import load_encoder, save_encoder
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.checkpoints import MARKER, mark_complete, prune, write_json
from harness_ext.finetune.encoding import IGNORED
from harness_ext.finetune.epochs import epoch_errors
from harness_ext.finetune.sampler import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset

ERRORS_FILE = "errors.json"


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


def hardened(base: type, args: TrainArgs) -> type:
    """Return a subclass of the trainer `base` that marks each checkpoint as complete once everything is saved.

    It also saves and resumes projected prefixes, and can batch rows of similar length.
    """

    class Hardened(base):  # type: ignore[misc]
        def __init__(self, *, model: Any, **parts: Any) -> None:
            # Training disables the KV cache in the configuration. If that were saved, the model would always generate
            # without a cache, many times slower; `save_model` therefore restores the original value.
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
                # A marker left from an earlier save must not vouch for files that are being overwritten.
                (folder / MARKER).unlink(missing_ok=True)
            super()._save_checkpoint(model, trial)
            if args.adapter == "pkv" and self.is_world_process_zero():
                save_encoder(self.accelerator.unwrap_model(self.model), folder)
            # Every process writes its own part of the state; the marker may list the files only once all are written.
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
            # No process may exit before the marker is written: schedulers kill the others soon after the first exit.
            self.accelerator.wait_for_everyone()

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            if args.adapter == "pkv":
                load_encoder(self.accelerator.unwrap_model(model or self.model), resume_from_checkpoint)
                return
            trained = model or self.model
            types = {name: value.dtype for name, value in trained.named_parameters() if value.requires_grad}
            super()._load_from_checkpoint(resume_from_checkpoint, model=model)
            # PEFT converts the adapters it loads to float32; a run started in bfloat16 would continue differently.
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
    """Write the training and validation error per epoch to `errors.json` next to the checkpoints."""
    write_json(folder / ERRORS_FILE, epoch_errors(log))


def _lengths(rows: Dataset) -> list[int]:
    if "input_ids" in rows.column_names:
        return [len(ids) for ids in rows["input_ids"]]
    pairs = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
    return [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs]

"""Makes a trainer of TRL safe to kill, exact to resume, and unable to go on with losses that are not finite."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.adapters import load_encoder, save_encoder
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.checkpoints import MARKER, drop_states, mark_complete, numbered, prune, why_incomplete
from harness_ext.finetune.divergence import FiniteCheck
from harness_ext.finetune.environment import precision
from harness_ext.finetune.epochs import write_errors
from harness_ext.finetune.model_card import write_card
from harness_ext.finetune.sampler import LengthGroupedSampler

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback


def hardened(base: type, args: TrainArgs) -> type:
    """Return a subclass of the trainer `base` for a run with these settings. Compared with `base`, it

    - marks each checkpoint as complete once everything is saved, and writes a model card into it;
    - raises Diverged when a loss or a gradient norm is not finite, before anything of that step is saved;
    - evaluates without touching the random states, so that evaluations do not change what is trained;
    - counts tokens on after a resume;
    - saves and resumes projected prefixes, and can batch rows of similar length;
    - does not report tied weights as missing when it resumes.
    """

    class Hardened(base):  # type: ignore[misc]
        def __init__(self, *, model: Any, **parts: Any) -> None:
            # Training disables the KV cache in the configuration. If that were saved, the model would always generate
            # without a cache, many times slower; `save_model` therefore restores the original value.
            use_cache = getattr(model.config, "use_cache", None)
            super().__init__(model=model, **parts)
            self._use_cache = use_cache
            self._finite = FiniteCheck(args, precision(args))

        def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
            if resume_from_checkpoint and hasattr(self, "_total_train_tokens"):
                self._total_train_tokens = _tokens_so_far(Path(resume_from_checkpoint))
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **options)

        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            self._finite.add(loss)
            return loss

        def _get_grad_norm(self, *arguments: Any, **options: Any) -> Any:
            # Called once per optimizer step, in most cases before the weights are changed.
            norm = super()._get_grad_norm(*arguments, **options)
            self._finite.end_step(self.state.global_step + 1, norm, self.args.device)
            return norm

        def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
            with _same_random_states():
                metrics: dict[str, float] = super().evaluate(*arguments, **options)
            self._finite.end_evaluation(self.state.global_step, metrics.get("eval_loss"))
            return metrics

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """Do nothing: `model_card` writes the card, and into the folder of the model that it describes."""

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
                write_card(folder.parent, folder, self.state.global_step, self.state.epoch)
                mark_complete(
                    folder,
                    step=self.state.global_step,
                    epoch=self.state.epoch,
                    processes=self.args.world_size,
                )
                prune(folder.parent, args.save_total_limit)
                if args.save_only_model:
                    forget_states(folder.parent, but=folder)
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

        def _issue_warnings_after_load(self, load_result: Any) -> None:
            # A weight that is tied to another is saved and loaded under one of their names only.
            state = self.model.state_dict()
            loaded = {value.data_ptr() for name, value in state.items() if name not in load_result.missing_keys}
            missing = [n for n in load_result.missing_keys if n not in state or state[n].data_ptr() not in loaded]
            super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            if not args.group_by_length:
                return super()._get_train_sampler(train_dataset)
            rows = self.train_dataset if train_dataset is None else train_dataset
            sampler = LengthGroupedSampler(_lengths(rows), args.batch_size, args.seed)
            self.add_callback(_epoch_setter(sampler))
            return sampler

    Hardened.__name__ = base.__name__
    return Hardened


def forget_states(output_dir: Path, but: Path | None = None) -> None:
    """Delete from the complete checkpoints of a run what only resuming needs.

    output_dir: the folder of the run.
    but: the checkpoint that keeps it. Default none.
    """
    for path in numbered(output_dir):
        if path != but and not why_incomplete(path):
            drop_states(path)


def _epoch_setter(sampler: LengthGroupedSampler) -> TrainerCallback:
    """Return the callback that gives a sampler its epoch.

    The trainer does so too, but with several processes not in an epoch that is resumed in its middle: then the sampler
    is wrapped once more than accelerate looks.
    """
    from transformers import TrainerCallback

    class EpochSetter(TrainerCallback):  # type: ignore[misc]
        def on_epoch_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            sampler.set_epoch(int(state.epoch or 0))

    return EpochSetter()


@contextmanager
def _same_random_states() -> Iterator[None]:
    """Restore all random states after the block."""
    import numpy as np
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def _tokens_so_far(checkpoint: Path) -> int:
    """Return the number of tokens trained on until a checkpoint, which TRL logs but does not save."""
    from transformers import TrainerState

    log = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")).log_history
    return int(next((entry["num_tokens"] for entry in reversed(log) if "num_tokens" in entry), 0))


def _lengths(rows: Dataset) -> list[int]:
    if "input_ids" in rows.column_names:
        return [len(ids) for ids in rows["input_ids"]]
    pairs = zip(rows["prompt_ids"], rows["chosen_ids"], rows["rejected_ids"], strict=True)
    return [len(prompt) + max(len(chosen), len(rejected)) for prompt, chosen, rejected in pairs]

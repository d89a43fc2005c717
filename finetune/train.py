"""Supervised fine-tuning of one stage: load, build, train, save."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.finetune.args import ConfigError, Plan, TrainArgs, final_dir
from harness_ext.finetune.checkpoints import last_complete, mark_complete, why_incomplete
from harness_ext.finetune.data import IGNORED, LengthGroupedSampler, build_dataset, read_rows

if TYPE_CHECKING:
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

RUN_FILE = "run.json"
# What a resumed run may change without becoming another run.
FREE = {"resume", "threads", "device", "logging_steps", "save_total_limit", "deepspeed"}


def say(text: str) -> None:
    """Print a line of progress (rank 0 only), apart from results."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(text, file=sys.stderr, flush=True)


def run_plan(plan: Plan) -> Path:
    """Run the stages in order and return the last one's model folder. Finished stages are not run again."""
    done = Path()
    for number, stage in enumerate(plan.stages, start=1):
        say(f"stage {number} of {len(plan.stages)}: {stage.model} -> {stage.output_dir}")
        done = run_stage(stage)
    return done


def run_stage(args: TrainArgs) -> Path:
    """Train one stage and return the folder of the finished model.

    Resumes from the last complete checkpoint; torn ones are passed over with a message. Raises ConfigError when the
    folder holds a run with other settings, DataError for rows that cannot be trained on.
    """
    out = Path(args.output_dir)
    final = final_dir(out)
    _claim(args, out)
    if args.resume and not why_incomplete(final):
        say(f"{final} is complete: nothing to do.")
        return final
    found = last_complete(out) if args.resume else None
    for reason in found.skipped if found else ():
        say(f"passed over: {reason}")
    checkpoint = found.checkpoint if found else None
    if checkpoint is not None:
        say(f"resuming from {checkpoint}")
    _train(args, out, final, checkpoint)
    return final


def _claim(args: TrainArgs, out: Path) -> None:
    settings = {key: value for key, value in dataclasses.asdict(args).items() if key not in FREE}
    record = out / RUN_FILE
    if record.is_file():
        before = json.loads(record.read_text(encoding="utf-8"))
        changed = [
            f"{key}: {before.get(key)!r} -> {settings.get(key)!r}"
            for key in sorted(set(before) | set(settings))
            if before.get(key) != settings.get(key)
        ]
        if changed:
            raise ConfigError(
                f"{out} holds a run with other settings ({'; '.join(changed)}). Choose another `output_dir`."
            )
        if not args.resume and any(out.glob("checkpoint-*")):
            raise ConfigError(f"{out} holds checkpoints and `resume` is off. Choose another `output_dir`.")
        return
    out.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def _train(args: TrainArgs, out: Path, final: Path, checkpoint: Path | None) -> None:
    # TRL pings its maker once a trainer unless this is set before it is imported.
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

    if args.threads:
        torch.set_num_threads(args.threads)
    config = _sft_config(args, out)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train = build_dataset(read_rows(args.train_file), tokenizer, args.max_length, args.train_file)
    held_out = (
        build_dataset(read_rows(args.eval_file), tokenizer, args.max_length, args.eval_file) if args.eval_file else None
    )
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))
    trainer = _trainer_class(args)(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        callbacks=[_marker()],
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(final))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(str(final))
        (out / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
        mark_complete(final, step=trainer.state.global_step, epoch=trainer.state.epoch)


def _sft_config(args: TrainArgs, out: Path) -> SFTConfig:
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(out),
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type=args.scheduler,
        warmup_steps=args.warmup_steps,
        weight_decay=args.weight_decay,
        adam_beta2=args.adam_beta2,
        max_grad_norm=args.max_grad_norm,
        max_length=args.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="epoch",
        save_total_limit=args.save_total_limit,
        eval_strategy="epoch" if args.eval_file else "no",
        logging_steps=args.logging_steps,
        seed=args.seed,
        data_seed=args.seed,
        bf16=args.dtype == "bfloat16",
        use_cpu=args.device == "cpu",
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        deepspeed=args.deepspeed_file,
        report_to="none",
        disable_tqdm=True,
    )


def _trainer_class(args: TrainArgs) -> type[SFTTrainer]:
    from trl import SFTTrainer

    if not args.group_by_length:
        return SFTTrainer  # type: ignore[no-any-return]

    class Grouped(SFTTrainer):  # type: ignore[misc]
        """Draws batches of rows of similar length."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            rows = self.train_dataset if train_dataset is None else train_dataset
            lengths = [len(ids) for ids in rows["input_ids"]]
            return LengthGroupedSampler(lengths, args.batch_size, args.seed)

    return Grouped


def _marker() -> TrainerCallback:
    from transformers import TrainerCallback

    class Marker(TrainerCallback):  # type: ignore[misc]
        """Marks each checkpoint as complete once everything in it is written."""

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                mark_complete(folder, step=state.global_step, epoch=state.epoch)

    return Marker()

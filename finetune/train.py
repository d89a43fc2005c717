"""Running a training stage: check, load, train and save, or resume a run that was killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.data.progress_bars import quiet
from harness_ext.finetune import adapters
from harness_ext.finetune.args import ConfigError, TrainArgs, final_dir
from harness_ext.finetune.callbacks import Interrupted, Stop, evaluation_missing, keeper, sync_hint, trackers
from harness_ext.finetune.checkpoints import (
    MARKER,
    last_complete,
    mark_complete,
    marker_facts,
    why_incomplete,
    write_json,
)
from harness_ext.finetune.decision_teacher import fit_whole, refuse_prefix, write_teacher
from harness_ext.finetune.decision_temperature import Fit
from harness_ext.finetune.environment import common_arguments, precision, prepare_environment, weights_dtype
from harness_ext.finetune.epochs import write_errors
from harness_ext.finetune.hardened import forget_states
from harness_ext.finetune.library_messages import transformers_bars
from harness_ext.finetune.model_card import write_card
from harness_ext.finetune.plan import Plan
from harness_ext.finetune.preflight import Machine, check
from harness_ext.finetune.progress import TrainingProgress, progress_callback
from harness_ext.finetune.run_record import absolute, check_settings, step_to_resume, write_record
from harness_ext.finetune.summary import summarise
from harness_ext.finetune.trainers import training
from harness_ext.records.run_lock import lock_training
from harness_ext.terminal import clean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main_process() -> bool:
    """Return whether this is the main process, the only one that prints and writes shared files."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str) -> None:
    """Print a progress message to standard error, in the main process only."""
    if main_process():
        print(text, file=sys.stderr, flush=True)


def run_plan(plan: Plan) -> Path:
    """Run the stages in order and return the model folder of the last one. Finished stages are skipped."""
    check(plan.stages, Machine.here())
    for note in plan.notes:
        say(note)
    done = Path()
    for number, stage in enumerate(plan.stages, start=1):
        place = f"stage {number} of {len(plan.stages)}"
        say(f"{place}: {stage.model} -> {stage.output_dir}")
        done = run_stage(stage, place if len(plan.stages) > 1 else "")
    return done


def run_stage(args: TrainArgs, stage: str = "") -> Path:
    """Train one stage and return the folder of the final model.

    args: the settings of the stage.
    stage: which of several stages it is, for the progress display. Default: it is the only one.

    Resumes from the last complete checkpoint; incomplete ones are skipped with a message. Raises ConfigError if the
    run cannot work or the folder contains a different run, StoreError if another process trains into the folder,
    DataError if rows cannot be trained on, Diverged if a loss or gradient norm is not finite, and Interrupted if a
    signal ended the training.
    """
    check((args,), Machine.here())
    out = Path(args.output_dir)
    with _only_writer(out), transformers_bars(shown=main_process() and sys.stderr.isatty()):
        return _run_stage(args, out, final_dir(out), stage)


def _run_stage(args: TrainArgs, out: Path, final: Path, stage: str) -> Path:
    if main_process():
        check_settings(args, out)
    finished = args.resume and not why_incomplete(final)
    if finished and marker_facts(final).get("until", _until(args)) == _until(args):
        if args.save_only_model and main_process():
            forget_states(out)
        say(f"{final} is complete: nothing to do.")
        return final
    found = last_complete(out, resumable=True) if args.resume else None
    for reason in found.skipped if found else ():
        say(f"skipped: {reason}")
    checkpoint = found.checkpoint if found else None
    if finished and checkpoint is None:
        raise ConfigError(
            f"{out} contains a finished run whose checkpoints cannot be resumed from. Remedy: train on from its result "
            f"in another `output_dir`, with model: {final}."
        )
    if checkpoint is not None:
        say(f"resuming from {checkpoint}")
    _train(args, out, final, checkpoint, stage)
    return final


def report_data(args: TrainArgs, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, Any, dict[str, Any]]:
    """Read, check and tokenise the rows, and print the data report.

    Returns the training data set, the validation data set (None without validation rows) and the report as JSON values.
    The main process also looks for evaluation documents in the training rows, if `contamination_tasks` names tasks.
    Raises DataError if rows cannot be trained on, or contain such documents and must not, and ConfigError if
    `eval_steps` is set without validation rows.
    """
    from harness_ext.finetune.contamination import find_contamination, refuse
    from harness_ext.finetune.report import build_dataset
    from harness_ext.finetune.sources import load

    rows, held_out = load(args)
    train, report = build_dataset(rows, tokenizer, args, args.train_file)
    say(report.text())
    if report.decisions:
        refuse_prefix(args)
    facts = {"train": report.facts()}
    if main_process() and (found := find_contamination(args, rows)) is not None:
        say(clean("\n".join(found.lines())))
        refuse(args, found)
        facts["contamination"] = found.to_json()
    validation = None
    if held_out:
        source = args.eval_file or f"{args.train_file} (validation)"
        validation, report = build_dataset(held_out, tokenizer, args, source, golden=True)
        say(report.text())
        facts["validation"] = report.facts()
    elif args.eval_steps:
        raise ConfigError("`eval_steps` has no effect without validation rows. Remedy: set `eval_file`.")
    return train, validation, facts


def _until(args: TrainArgs) -> list[float]:
    """Return where the training ends. A finished run with a constant rate continues if it is given a later end."""
    return [args.epochs, args.max_steps]


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Hold the lock of an output folder; the main process holds it for all processes of its launch.

    Raises StoreError if another process holds it, and ConfigError if the folder cannot be written.
    """
    if not main_process():
        yield
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_training(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error}. Choose another `output_dir`.") from error
    try:
        yield
    finally:
        lock.release()


def _train(args: TrainArgs, out: Path, final: Path, checkpoint: Path | None, stage: str) -> None:
    prepare_environment(args)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

    compute = precision(args)
    tokenizer = AutoTokenizer.from_pretrained(args.model, trust_remote_code=args.trust_remote_code)
    train, held_out, facts = report_data(args, tokenizer)
    step = step_to_resume(checkpoint, out, facts)
    if main_process():
        write_record(args, out, facts)
    report_to, callbacks = trackers(args, step)
    evaluates = held_out is not None
    evaluate_first = evaluates and checkpoint is not None and evaluation_missing(checkpoint, args.eval_steps)
    _, build = training(args, common_arguments(args, compute, evaluates, report_to, evaluate_first))
    # An adapter's configuration stores this name of its base model, so the path must be absolute.
    model = AutoModelForCausalLM.from_pretrained(
        absolute(args.model),
        dtype=weights_dtype(args, compute),
        attn_implementation=None if args.attn_implementation == "auto" else args.attn_implementation,
        quantization_config=adapters.quantization(args, getattr(torch, compute)),
        trust_remote_code=args.trust_remote_code,
    )
    adapters.keep_gradients(model)
    progress = TrainingProgress(stage, None if args.max_steps > 0 else args.epochs, shown=main_process())
    with Stop() as stop:
        parts = {
            "model": model,
            "train_dataset": train,
            "eval_dataset": held_out,
            "processing_class": tokenizer,
            "peft_config": adapters.peft_config(args, model.config.get_text_config().hidden_size),
            "callbacks": [keeper(stop, args.save_steps, args.eval_steps), progress_callback(progress), *callbacks],
        }
        with quiet():
            trainer = build(parts)
        _really_deepspeed(args, trainer)
        trainer.remove_callback(PrinterCallback)  # it prints each log entry as a dictionary
        with transformers_bars(shown=False), progress:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if stop.agreed(trainer.args.device):
            raise Interrupted(stop.number, trainer.state.global_step)
    decides = bool(facts["train"]["decisions"])
    fits = fit_whole(args, trainer, tokenizer) if decides else None
    _finish(args, trainer, tokenizer, out, final, fits)
    if main_process():
        log, row_tokens = trainer.state.log_history, facts["train"]["tokens"]
        say(clean(summarise(args, log, row_tokens, progress.seconds, step, stage, decides).text()))


def _really_deepspeed(args: TrainArgs, trainer: Any) -> None:
    found = trainer.accelerator.distributed_type.value
    if args.deepspeed and found != "DEEPSPEED":
        raise ConfigError(
            f"accelerate set this run up as {found}, without DeepSpeed. Remedy: start it in a process of its own with "
            "finetune.sh or torchrun, and unset all ACCELERATE_ variables."
        )


def _finish(
    args: TrainArgs,
    trainer: Any,
    tokenizer: PreTrainedTokenizerBase,
    out: Path,
    final: Path,
    fits: Sequence[Fit] | None = None,
) -> None:
    """Save the trained model and what belongs to it; `fits` are the temperatures of a decision teacher."""
    if trainer.is_world_process_zero():
        (final / MARKER).unlink(missing_ok=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(final))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(str(final))
        if args.adapter == "pkv":
            adapters.save_encoder(trainer.accelerator.unwrap_model(trainer.model), final)
        write_json(out / "log.json", trainer.state.log_history)
        write_errors(trainer.state.log_history, out)
        write_card(out, final, trainer.state.global_step, trainer.state.epoch)
        if fits is not None:
            say(clean("\n".join(write_teacher(args, tokenizer, out, final, fits, trainer.args.device))))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        mark_complete(final, step=trainer.state.global_step, epoch=trainer.state.epoch, until=_until(args))
        if args.save_only_model:
            forget_states(out)
        if hint := sync_hint(args):
            say(hint)
        if args.push_to_hub:
            _push(args.push_to_hub, final)
    trainer.accelerator.wait_for_everyone()


def _push(repository: str, folder: Path) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=True, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=folder, ignore_patterns=["training_args.bin"])
    say(f"pushed {folder} to {repository}")

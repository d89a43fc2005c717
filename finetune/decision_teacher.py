"""What turns a trained model into a decision teacher: `decision.json` beside it, with temperatures."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness_ext.finetune.args import PREFIX_ADAPTERS, ConfigError, TrainArgs
from harness_ext.finetune.checkpoints import write_json
from harness_ext.finetune.decision_rows import DecisionRow, DecisionTokens, decision_settings, decision_tokens
from harness_ext.finetune.decision_temperature import Fit, fit_temperatures, label_scores
from harness_ext.finetune.encoding import parse
from harness_ext.finetune.export_model import export
from harness_ext.finetune.sources import load

MERGED = "merged"
FITS = "decisions.json"


def refuse_prefix(args: TrainArgs) -> None:
    """Raise ConfigError if what is trained could not be used for decisions by other programs."""
    if args.adapter in PREFIX_ADAPTERS:
        raise ConfigError(
            f"`adapter: {args.adapter}` cannot be merged into a model, and the decision pipeline of transformers loads "
            "no prefix. Remedy: train decisions with `adapter: lora` or `full`."
        )


def fit_whole(args: TrainArgs, trainer: Any, tokenizer: Any) -> list[Fit]:
    """Return the temperatures of a whole model that has just been trained. All processes of a run must call this.

    Every process reads all validation rows, since the parts of a model that is shared out only work together. Rows that
    are no decisions, or too long, do not count. Without validation rows, nothing is fitted, and nothing for an adapter,
    which is merged first.

    args: the settings of the run.
    trainer: the trainer.
    tokenizer: the model's tokenizer.
    """
    if args.adapter != "full":
        return []
    # Without the mixed precision of the training, since the weights are saved, and used, as they are.
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return _fit(args, model, tokenizer)


def write_teacher(
    args: TrainArgs, tokenizer: Any, out: Path, final: Path, fits: Sequence[Fit], device: Any = "cpu"
) -> list[str]:
    """Write the decision settings beside a trained model, and return what was done as lines of text.

    The decision pipeline of transformers takes the settings from the folder of the model, and not from that of an
    adapter. So an adapter is also merged into a copy of its base model, and the temperatures are those of the copy: its
    weights are rounded in another way than those of the base in training.

    args: the settings of the run.
    tokenizer: the model's tokenizer.
    out: the folder of the run.
    final: the folder of the trained model or adapter.
    fits: the fitted temperatures of a whole model; none without validation rows.
    device: where a merged model is loaded. Default `cpu`.
    """
    folder = final
    if args.adapter != "full":
        folder = out / MERGED
        shutil.rmtree(folder, ignore_errors=True)
        export(final, folder, trust_remote_code=args.trust_remote_code)
        fits = _fit_folder(args, folder, tokenizer, device)
    settings = decision_settings(tokenizer)
    settings.temperature = {**settings.temperature, **{fit.type: fit.temperature for fit in fits}}
    for place in {final, folder}:
        settings.save_pretrained(place)
    write_json(out / FITS, [fit.to_json() for fit in fits])
    lines = [line for fit in fits for line in fit.lines()]
    if not fits:
        lines = [
            "WARNING: without validation rows, no temperature was fitted. Remedy: set `eval_file`, or `eval_fraction`"
        ]
    return [
        f"decisions of {folder}:",
        *(f"  {line}" for line in lines),
        f"  as a seat: teacher={folder}",
        f"  with transformers: pipeline('decision', model='{folder}'), or transformers serve",
    ]


def _fit_folder(args: TrainArgs, folder: Path, tokenizer: Any, device: Any) -> list[Fit]:
    """Return the temperatures of the model in a folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=args.trust_remote_code)
    try:
        return _fit(args, model.to(device), tokenizer)
    except torch.OutOfMemoryError:  # the model that was trained is still there
        return _fit(args, model.to("cpu"), tokenizer)


def _fit(args: TrainArgs, model: Any, tokenizer: Any) -> list[Fit]:
    rows = list(_validation_rows(args, tokenizer))
    if not rows:
        return []
    model.eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return fit_temperatures(rows, label_scores(model, rows, pad, args.batch_size))


def _validation_rows(args: TrainArgs, tokenizer: Any) -> Iterator[DecisionTokens]:
    for _, value in load(args)[1] or ():
        try:
            row = parse(value, args, golden=True)
            if (
                isinstance(row, DecisionRow)
                and len((found := decision_tokens(row, tokenizer)).prompt) < args.max_length
            ):
                yield found
        except ValueError:  # the data report has counted it
            continue

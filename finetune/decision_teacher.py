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


def fit_decisions(args: TrainArgs, trainer: Any, tokenizer: Any) -> list[Fit]:
    """Return the temperatures of a model that has just been trained. All processes of a run must call this.

    Every process reads all validation rows, since the parts of a model that is shared out only work together. Rows that
    are no decisions, or too long, do not count. Without validation rows, nothing is fitted.

    args: the settings of the run.
    trainer: the trainer.
    tokenizer: the model's tokenizer.
    """
    rows = list(_validation_rows(args, tokenizer))
    if not rows:
        return []
    model = trainer.model
    training = model.training
    model.eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    try:
        with trainer.compute_loss_context_manager():
            scores = label_scores(model, rows, pad, args.batch_size)
    finally:
        model.train(training)
    return fit_temperatures(rows, scores)


def write_teacher(args: TrainArgs, tokenizer: Any, out: Path, final: Path, fits: Sequence[Fit]) -> list[str]:
    """Write the decision settings beside a trained model, and return what was done as lines of text.

    The decision pipeline of transformers takes the settings from the folder of the model, and not from that of an
    adapter. So an adapter is also merged into a copy of its base model.

    args: the settings of the run.
    tokenizer: the model's tokenizer.
    out: the folder of the run.
    final: the folder of the trained model or adapter.
    fits: the fitted temperatures; none without validation rows.
    """
    settings = decision_settings(tokenizer)
    settings.temperature = {**settings.temperature, **{fit.type: fit.temperature for fit in fits}}
    settings.save_pretrained(final)
    write_json(out / FITS, [fit.to_json() for fit in fits])
    folder = final
    if args.adapter != "full":
        folder = out / MERGED
        shutil.rmtree(folder, ignore_errors=True)
        export(final, folder, trust_remote_code=args.trust_remote_code)
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

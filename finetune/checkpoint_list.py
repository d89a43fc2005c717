"""`harness-ext checkpoints RUN --list`: which models a training has left, and how each of them is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness_ext.finetune.args import ConfigError, final_dir
from harness_ext.finetune.checkpoint_scores import Subject, finished, hf_arguments, subjects, trained_in
from harness_ext.finetune.curve import lowest_error, whole_epoch
from harness_ext.finetune.decision_teacher import MERGED
from harness_ext.finetune.epochs import ERRORS_FILE


def checkpoint_list(run: Path) -> list[dict[str, Any]]:
    """Return the models of a training as JSON values: the untouched one, its complete checkpoints, the final one.

    run: the folder of the training.

    `names` are `untouched`, `epoch-N` for what was saved after an epoch, `step-N`, `best` for the lowest validation
    error, and `last` for the final model. `arguments` are those of lm-eval's `hf` model. Raises ConfigError if the
    folder is not that of a training.
    """
    known, _ = subjects(run)
    best = lowest_error(known, epoch_errors_of(run))
    found = [{"names": _names(one, one is best), **_facts(one.arguments, run)} for one in known]
    if finished(run):
        # The temperatures of a decision teacher are those of the merged model.
        folder = run / MERGED if (run / MERGED).is_dir() else final_dir(run)
        found.append({"names": ["last"], **_facts(hf_arguments(folder), run)})
    return found


def epoch_errors_of(run: Path) -> dict[str, list[list[float]]]:
    """Return a training's errors per epoch; none if it has measured none so far. Raises ConfigError if unreadable."""
    try:
        loaded: dict[str, list[list[float]]] = json.loads((run / ERRORS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"{run / ERRORS_FILE} cannot be read: {error}") from None
    return loaded


def _names(subject: Subject, best: bool) -> list[str]:
    if subject.role == "baseline":
        return ["untouched"]
    epoch = whole_epoch(subject)
    return [f"step-{subject.step}"] + ([] if epoch is None else [f"epoch-{epoch}"]) + (["best"] if best else [])


def _facts(arguments: dict[str, Any], run: Path) -> dict[str, Any]:
    plain = {**arguments, "dtype": trained_in(run)}
    if plain.get("tokenizer") == plain["pretrained"]:
        del plain["tokenizer"]  # what the model comes with
    return {"arguments": plain}

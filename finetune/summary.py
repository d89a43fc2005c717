"""The closing summary of a training, with the commands that evaluate what was trained."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.engine.progress import as_clock
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.checkpoint_scores import hf_arguments
from harness_ext.finetune.checkpoints import marker_facts, numbered, why_incomplete
from harness_ext.finetune.decision_teacher import MERGED
from harness_ext.finetune.environment import precision
from harness_ext.finetune.epochs import epoch_errors

# Tasks for the commands of a run that names none: the first ships with the project, the second has choices, which the
# model `decision` needs.
WRITTEN_TASK, CHOICE_TASK = "babi_stories", "arc_easy"
# A value that `key=value,key=value` passes on as it is: a text without lm-eval's own signs.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+~ -]*[A-Za-z_/][A-Za-z0-9_./:@+~-]*")
_WORDS = {"true", "false", "none", "nan", "inf", "infinity"}


@dataclass(frozen=True)
class BestEpoch:
    """The epoch with the lowest validation loss.

    epoch, epochs: its number, and that of the last one.
    loss: the validation loss after it.
    checkpoint: the name of its checkpoint; empty if that was deleted.
    """

    epoch: int
    epochs: int
    loss: float
    checkpoint: str


@dataclass(frozen=True)
class StageSummary:
    """What a finished stage did.

    stage: which of several stages it is; empty if it is the only one.
    steps: the number of its last step.
    tokens: number of tokens trained on in all steps, without padding.
    seconds: how long this start has trained, without loading and saving the final model.
    first: the step after which this start continued; 0 from the beginning.
    tokens_here: number of tokens trained on since then.
    best: the best epoch; None without validation rows.
    final: the folder of the final model or adapter.
    commands: commands that evaluate it, each with what it does.
    """

    stage: str
    steps: int
    tokens: int
    seconds: float
    first: int
    tokens_here: int
    best: BestEpoch | None
    final: Path
    commands: Sequence[tuple[str, str]]

    def text(self) -> str:
        """Return the summary as lines of text; each command is a line of its own."""
        done = f"{self.steps} steps, {self.tokens:,} tokens"
        if self.first:
            done += f"; since step {self.first}: {self.steps - self.first} steps, {self.tokens_here:,} tokens"
        timed = self.tokens_here > 0 and self.seconds > 0
        rate = f" ({self.tokens_here / self.seconds:,.0f} tokens/s)" if timed else ""
        name = self.stage or "training"
        lines = [f"[harness-ext] {name} finished: {done} in {as_clock(self.seconds)}{rate}"]
        if self.best is not None:
            where = f", {self.best.checkpoint}" if self.best.checkpoint else ""
            lines.append(
                f"  best epoch: {self.best.epoch} of {self.best.epochs}, validation loss {self.best.loss:.4g}{where}"
            )
        lines.append(f"  final checkpoint: {self.final}")
        for what, command in self.commands:
            lines += [f"  {what}:", f"    {command}"]
        return "\n".join(lines)


def summarise(
    args: TrainArgs,
    log: Sequence[Mapping[str, Any]],
    row_tokens: int,
    seconds: float,
    first: int,
    stage: str = "",
    decides: bool = False,
) -> StageSummary:
    """Return the summary of a stage that is finished and saved.

    args: the settings of the stage.
    log: the trainer's log history.
    row_tokens: number of tokens in all training rows, from the data report.
    seconds: how long this start has trained.
    first: the step after which it continued; 0 from the beginning.
    stage: which of several stages it is. Default: it is the only one.
    decides: whether a decision teacher was trained. Default false.
    """
    out = Path(args.output_dir).resolve()
    final = out / "final"
    tokens = trained_tokens(log, row_tokens)
    before = trained_tokens([entry for entry in log if entry.get("step", 0) <= first], row_tokens)
    return StageSummary(
        stage=stage,
        steps=int(marker_facts(final)["step"]),
        tokens=tokens,
        seconds=seconds,
        first=first,
        tokens_here=tokens - before,
        best=best_epoch(log, out),
        final=final,
        commands=evaluation_commands(args, out, final, decides),
    )


def trained_tokens(log: Sequence[Mapping[str, Any]], row_tokens: int) -> int:
    """Return the number of tokens trained on up to the last entry of a log, without padding.

    TRL's trainers log it, except those of its experimental part; there, it is the epochs' share of the rows' tokens,
    which is exact after whole epochs.

    log: the trainer's log history, or its beginning.
    row_tokens: number of tokens in all training rows, from the data report.
    """
    for entry in reversed(log):
        if "num_tokens" in entry:
            return int(entry["num_tokens"])
    return round(row_tokens * max((entry.get("epoch") or 0.0 for entry in log), default=0.0))


def best_epoch(log: Sequence[Mapping[str, Any]], out: Path) -> BestEpoch | None:
    """Return the epoch with the lowest validation loss, the first of several; None if none was measured.

    log: the trainer's log history.
    out: the folder of the run.
    """
    errors = epoch_errors([dict(entry) for entry in log])
    if not errors["validation"]:
        return None
    epoch, loss = min(errors["validation"], key=lambda one: (one[1], one[0]))
    last = max(one[0] for one in [*errors["train"], *errors["validation"]])
    return BestEpoch(int(epoch), int(last), loss, _checkpoint_of(out, int(epoch)))


def evaluation_commands(args: TrainArgs, out: Path, final: Path, decides: bool) -> list[tuple[str, str]]:
    """Return the commands that evaluate a finished run, each with what it does, quoted for a shell.

    They work from any folder. The tasks are those that the rows were searched for, if the settings name some.

    args: the settings of the run.
    out: the folder of the run.
    final: the folder of its final model or adapter.
    decides: whether a decision teacher was trained.
    """
    given = ",".join(name for name in re.split(r"[,\s]+", args.contamination_tasks) if name)
    place = Path(args.contamination_include_path).resolve() if args.contamination_include_path else None
    own = ["--include_path", str(place)] if given and place else []
    if decides:
        # Temperatures are in the folder of a whole model only, and the model `decision` uses them.
        whole = final if args.adapter == "full" else out / MERGED
        tasks = given or CHOICE_TASK
        command = _lm_eval("decision", {"pretrained": str(whole)}, tasks, own)
        return [(_what("to evaluate its decisions", "" if given else tasks), command)]
    tasks = given or WRITTEN_TASK
    arguments = {**hf_arguments(final), "dtype": precision(args)}
    if arguments["tokenizer"] == arguments["pretrained"]:
        del arguments["tokenizer"]
    if args.trust_remote_code:
        arguments["trust_remote_code"] = True
    every = shlex.join(["harness-ext", "checkpoints", str(out), "--tasks", tasks, *own])
    return [
        (_what("to evaluate it", "" if given else tasks), _lm_eval("hf", arguments, tasks, own)),
        ("to compare the checkpoint of every epoch with the untouched model", every),
    ]


def model_arguments(arguments: Mapping[str, Any]) -> str:
    """Return model arguments as lm-eval's `--model_args` reads them: `key=value,key=value`, or JSON.

    JSON is for values that lm-eval would otherwise take apart, or read as something else than the text they are.
    """
    if all(isinstance(value, bool) or _is_plain(value) for value in arguments.values()):
        return ",".join(f"{key}={value}" for key, value in arguments.items())
    return json.dumps(arguments, ensure_ascii=False)


def _is_plain(value: str) -> bool:
    if not _PLAIN.fullmatch(value) or value != value.strip() or value.lower() in _WORDS:
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def _lm_eval(model: str, arguments: Mapping[str, Any], tasks: str, more: Sequence[str]) -> str:
    words = ["lm_eval", "run", "--model", model, "--model_args", model_arguments(arguments), "--tasks", tasks]
    return shlex.join([*words, *more])


def _what(does: str, example: str) -> str:
    return f"{does}, with any task in place of {example}" if example else does


def _checkpoint_of(out: Path, epoch: int) -> str:
    for path in numbered(out):
        if not why_incomplete(path) and math.isclose(marker_facts(path).get("epoch") or 0.0, epoch, abs_tol=1e-6):
            return path.name
    return ""

"""`--to wandb`: runs in Weights & Biases, recorded on this machine unless `--upload` is given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import ExportedRun, ExportError
from harness_ext.analysis.exports.tracking import environment, tracked, transcript_tables
from harness_ext.terminal import outside, shell_word


def write(runs: Sequence[ExportedRun], output: Path, options: ExportOptions) -> list[str]:
    """Record each run as a new one in W&B. Returns what to tell the user, and how to upload what was recorded offline.

    Raises ExportError if W&B does.
    """
    # What the library reports about itself stays here in any case, and the option alone says whether the run does. It
    # reads these variables when it is imported.
    with environment(WANDB_ERROR_REPORTING="false", WANDB_MODE=None):
        places = [_recorded(run, output, options) for run in runs]
    lines = [f"{run.path}: {place}" for run, place in zip(runs, places, strict=True)]
    if options.upload:
        return lines
    return [*lines, f"nothing was sent. To upload: wandb sync {' '.join(map(shell_word, places))}"]


def _recorded(run: ExportedRun, output: Path, options: ExportOptions) -> str:
    """Record a run, and return its address, or the folder of an offline run."""
    import wandb

    about = tracked(run)
    try:
        there = wandb.init(
            project=options.project,
            name=about.name,
            dir=str(output),
            config=dict(about.settings),
            mode="online" if options.upload else "offline",
            reinit="finish_previous",
            # The machine and the folder of this command say nothing about the run.
            settings=wandb.Settings(
                console="off", silent=True, disable_git=True, x_disable_meta=True, x_disable_stats=True,
                x_disable_machine_info=True, save_code=False,
            ),
        )  # fmt: skip
        there.define_metric("round")
        for name in {name for figures in about.curves for name in figures}:
            there.define_metric(name, step_metric="round")
        for number, figures in enumerate(about.curves):
            there.log({"round": number, **figures})
        for name, rows in transcript_tables(run):
            there.log({name: wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])})
        there.summary.update(dict(about.figures))
        there.finish()
    except Exception as error:  # the library has errors of its own, of its transfer process, and of the network
        raise ExportError(
            f"W&B did not record {run.path} ({outside(error)}): with --upload, log in with `wandb login` or set "
            "WANDB_API_KEY; without, make sure that the folder is writable"
        ) from error
    return str(there.url) if options.upload else str(Path(there.dir).parent)

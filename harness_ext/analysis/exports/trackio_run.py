"""`--to trackio`: runs in Trackio's database in the output folder, or with `--upload` on the server that it is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import ExportedRun, ExportError
from harness_ext.analysis.exports.tracking import environment, tracked, transcript_tables
from harness_ext.terminal import outside

SERVERS = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
OUTSIDE = (*SERVERS, "TRACKIO_WEBHOOK_URL")


def write(runs: Sequence[ExportedRun], output: Path, options: ExportOptions) -> list[str]:
    """Record each run as a new one in Trackio. Returns what to tell the user.

    Raises ExportError if Trackio does, or if there is no server to upload to.
    """
    if options.upload and not any(map(os.environ.get, SERVERS)):
        raise ExportError(f"--upload needs the server in {' or '.join(SERVERS)}: set one, or leave --upload out")
    # Trackio reads its folder when it is imported.
    here = {"TRACKIO_DIR": str(output.resolve())} | ({} if options.upload else dict.fromkeys(OUTSIDE))
    with environment(**here), redirect_stdout(sys.stderr):
        lines = [_recorded(run, options) for run in runs]
    if not options.upload:
        show = f"TRACKIO_DIR={output.resolve()} trackio show --project {options.project}"
        lines.append(f"nothing was sent. To look at them: {show}")
    return lines


def _recorded(run: ExportedRun, options: ExportOptions) -> str:
    import pandas as pd
    import trackio

    about = tracked(run)
    try:
        there = trackio.init(
            project=options.project, name=about.name, config=dict(about.settings), embed=False,
            auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip
        last = max(0, len(about.curves) - 1)
        for number, figures in enumerate(about.curves[:-1]):
            trackio.log(dict(figures), step=number)
        # Trackio has no summary apart from the curves, so the figures are those of the last round.
        trackio.log({**(about.curves[-1] if about.curves else {}), **about.figures}, step=last)
        for name, rows in transcript_tables(run):
            trackio.log({name: trackio.Table(dataframe=pd.DataFrame(rows))}, step=last)
        trackio.finish()
    except Exception as error:  # the library has errors of its own, and those of its database and of the network
        raise ExportError(
            f"Trackio did not record {run.path} ({outside(error)}): check the folder, and with --upload the server "
            "that TRACKIO_SPACE_ID or TRACKIO_SERVER_URL names"
        ) from error
    return f"{run.path}: recorded as {there.name}"

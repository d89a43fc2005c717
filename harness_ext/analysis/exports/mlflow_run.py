"""`--to mlflow`: runs in an MLflow database in the output folder, or with `--upload` on the server that it is told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import ExportedRun, ExportError, settings
from harness_ext.analysis.exports.tracking import environment, tracked, transcript_tables
from harness_ext.terminal import outside, shell_word

SERVER = "MLFLOW_TRACKING_URI"
LONGEST = 500  # characters of a parameter; longer settings, such as prompts, are in `config.json`
BATCH = 100  # parameters and metrics that MLflow takes at once


def write(runs: Sequence[ExportedRun], output: Path, options: ExportOptions) -> list[str]:
    """Record each run as a new one in MLflow, in the experiment `options.project`. Returns what to tell the user.

    Raises ExportError if MLflow does, or if there is no server to upload to.
    """
    if options.upload and not os.environ.get(SERVER):
        raise ExportError(f"--upload needs the server in {SERVER}: set it, or leave --upload out")
    # MLflow reports its use to its makers, unless it is told not to before it is imported.
    with environment(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true"):
        try:
            import mlflow

            place = os.environ[SERVER] if options.upload else database_url(output.resolve() / "mlflow.db")
            client = mlflow.MlflowClient(tracking_uri=place)
            experiment = _experiment(client, options, output)
            lines = [_recorded(run, client, experiment) for run in runs]
        except ExportError:
            raise
        except Exception as error:  # the library has errors of its own, and those of its database and of the network
            raise ExportError(
                f"MLflow did not record the runs ({outside(error)}): without --upload it needs sqlalchemy and alembic "
                f"(pip install 'harness-ext[track]'), with --upload the server that {SERVER} names"
            ) from error
    if not options.upload:
        lines.append(f"nothing was sent. To look at them: mlflow ui --backend-store-uri {shell_word(place)}")
    return lines


def database_url(path: Path) -> str:
    """Return the address of a SQLite database. Raises ExportError if none leads to it.

    Only some versions of SQLAlchemy decode a path. MLflow creates the folder of one after `sqlite:///` without decoding
    it, so the driver is named where the path has to be encoded.
    """
    from sqlalchemy import make_url

    for url in (f"sqlite:///{path}", f"sqlite+pysqlite:///{quote(str(path))}"):
        if make_url(url).database == str(path):
            return url
    raise ExportError(
        f"the address of a database cannot contain {outside(path.parent)}: name a folder without `?` (`--output`), or "
        "upgrade sqlalchemy (pip install -U sqlalchemy)"
    )


def _experiment(client: Any, options: ExportOptions, output: Path) -> str:
    known = client.get_experiment_by_name(options.project)
    if known is not None:
        return str(known.experiment_id)
    files = None if options.upload else (output.resolve() / "artifacts").as_uri()
    return str(client.create_experiment(options.project, artifact_location=files))


def _recorded(run: ExportedRun, client: Any, experiment: str) -> str:
    from mlflow.entities import Metric, Param

    about = tracked(run)
    started = int(1000 * run.started.timestamp())
    there = client.create_run(experiment, run_name=about.name, start_time=started).info.run_id
    params = [Param(name, str(value)) for name, value in about.settings.items() if len(str(value)) <= LONGEST]
    metrics = [Metric(name, value, started, 0) for name, value in about.figures.items()]
    for number, figures in enumerate(about.curves):
        metrics += [Metric(name, value, started, number) for name, value in figures.items()]
    for i in range(0, len(params), BATCH):
        client.log_batch(there, params=params[i : i + BATCH])
    for i in range(0, len(metrics), BATCH):
        client.log_batch(there, metrics=metrics[i : i + BATCH])
    client.log_dict(there, settings(run.config), "config.json")
    for name, rows in transcript_tables(run):
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        client.log_table(there, columns, f"{name}.json")
    client.set_terminated(there)
    return f"{run.path}: recorded as {about.name} ({there})"

"""`harness-ext export --to wandb`, `trackio` and `mlflow`: each tracker reads what was recorded on this machine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from export_support import LABELS, assert_nothing_hidden, export, runs_in
from scored_runs import ROWS
from test_finetune_trackers import wandb_records

from harness_ext.analysis.exports.command import FORMATS
from harness_ext.analysis.exports.mlflow_run import database_url
from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import ExportedRun, ExportError, open_run
from harness_ext.analysis.exports.tracking import environment, name_of, tracked, transcript_rows, transcript_tables
from harness_ext.analysis.scoring.score import read_figures

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("export")
    export(made, "csv")
    return made


def recorded(folder: Path, kind: str, output: Path, *more: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Export in a process of its own, since trackers read their environment when they are imported."""
    return subprocess.run(
        [sys.executable, "-m", "harness_ext", "export", *runs_in(folder), "--to", kind, "-o", str(output), *more],
        env={**os.environ, **variables}, cwd=folder, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def opened(folder: Path, name: str) -> ExportedRun:
    path = folder / "runs" / name
    return open_run(path, name, read_figures(path))


def test_trackers_are_told_figures_curves_and_transcripts(folder: Path) -> None:
    about = tracked(opened(folder, "pair"))
    assert about.name == "pair"
    assert about.settings["seats.teacher.price_out"] == 2.0
    assert about.figures["sums/exact_match"] == 0.5
    assert about.figures["sums/exact_match oracle"] == 0.625
    assert about.figures["usage/student completion_tokens"] == 90
    assert about.curves == ({"sums/exact_match by round": 0.5}, {"sums/exact_match by round": 0.5})
    rows = {row["document"]: row for row in transcript_rows(opened(folder, "pair"))}
    assert rows["4"]["transcript"].startswith("student draft\nit is 1\n\nteacher verdict ✗ rejected")
    assert (rows["4"]["scores"], rows["4"]["target"]) == ("exact_match: 0 → 1", ROWS[4]["a"])
    assert rows["7"]["failure"] == "out of memory"


def test_hostile_texts_hide_nothing_and_secrets_stay_here(folder: Path) -> None:
    run = opened(folder, "hostile")
    about = tracked(ExportedRun(run.path, run.name, {**run.config, "run": {"url": "https://a:secret12@b"}}, {}, {}))
    assert "secret12" not in str(about.settings)
    assert_nothing_hidden([dict(tracked(run).settings), tracked(run).name, *transcript_rows(run)])
    assert name_of("a,b\n<c>\u202e") == "a_b__c__U_202E_"
    assert [name_of(text) for text in ("../x//y./", "/a b", "")] == ["_/x/_/y/_", "_/a b", "_"]


def test_tables_have_a_bounded_number_of_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness_ext.analysis.exports.tracking.ROWS", 3)
    parts = list(transcript_tables(opened(folder, "base")))
    assert [(name, len(rows)) for name, rows in parts] == [
        ("transcripts", 3),
        ("transcripts_2", 3),
        ("transcripts_3", 2),
    ]


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_VARIABLE", "1")
    monkeypatch.delenv("ANOTHER", raising=False)
    with environment(A_VARIABLE=None, ANOTHER="2"):
        assert (os.environ.get("A_VARIABLE"), os.environ["ANOTHER"]) == (None, "2")
    assert (os.environ["A_VARIABLE"], os.environ.get("ANOTHER")) == ("1", None)


def test_wandb_records_runs_offline(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    # A mode in the environment is no consent to send this run.
    output = tmp_path / "my runs"
    done = recorded(folder, "wandb", output, WANDB_MODE="online", WANDB_BASE_URL=NOWHERE, WANDB_API_KEY="a" * 40)
    assert done.returncode == 0, done.stderr
    folders = set((output / "wandb").glob("offline-run-*"))
    _, listed = done.stdout.split("nothing was sent. To upload: wandb sync ")
    assert {Path(one) for one in shlex.split(listed)} == folders
    names = set()
    for one in folders:
        records = wandb_records(next(one.glob("*.wandb")))
        names |= {(r.run.project, r.run.display_name) for r in records if r.HasField("run")}
        summary: dict[str, Any] = {}
        for record in records:
            if record.HasField("summary"):
                summary |= {i.key: json.loads(i.value_json) for i in record.summary.update if i.key}
        assert "sums/exact_match" in summary
        (table,) = one.rglob("transcripts*.table.json")
        assert len(json.loads(table.read_text())["data"]) == 8
        assert_nothing_hidden(json.loads(table.read_text()))
    assert names == {("harness-ext", label) for label in LABELS}


def test_trackio_has_runs_in_its_database(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    done = recorded(folder, "trackio", tmp_path, "--project", "mine", TRACKIO_SERVER_URL=f"{NOWHERE}?write_token=a")
    assert done.returncode == 0, done.stderr
    assert "nothing was sent" in done.stdout
    read = (
        "import json, trackio; runs = {r.name: r for r in trackio.Api().runs('mine')}; "
        "from trackio.sqlite_storage import SQLiteStorage as S; "
        "print(json.dumps({n: S.get_logs('mine', n) for n in runs}))"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path)}
    shown = subprocess.run(
        [sys.executable, "-c", read], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    logs = json.loads(shown.stdout.splitlines()[-1])
    assert set(logs) == set(LABELS)
    values = {key: value for entry in logs["pair"] for key, value in entry.items()}
    assert (values["sums/exact_match"], values["sums/exact_match by round"]) == (0.5, 0.5)
    assert len(values["transcripts"]["_value"]) == 8
    assert_nothing_hidden(logs)


@pytest.mark.parametrize("name", ["plain", "two words", "100%41", "a?b=c#d", "ä;'&+"])
def test_a_database_has_an_address_in_any_folder(tmp_path: Path, name: str) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy")
    path = tmp_path / name / "a.db"
    path.parent.mkdir()
    decodes = sqlalchemy.make_url("sqlite:///%41").database == "A"  # as versions before 2.1 do not
    if "?" in name and not decodes:
        with pytest.raises(ExportError, match="without"):
            database_url(path)
        return
    with sqlalchemy.create_engine(database_url(path)).begin() as connection:
        connection.execute(sqlalchemy.text("create table t (a)"))
    assert [file.name for file in path.parent.iterdir()] == ["a.db"]


def test_mlflow_has_runs_in_its_database(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    output = tmp_path / "all 100%41 #1"
    done = recorded(folder, "mlflow", output, MLFLOW_TRACKING_URI=NOWHERE)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    assert {path.name for path in output.iterdir()} == {"artifacts", "mlflow.db"}
    import mlflow

    mlflow.set_tracking_uri(database_url(output / "mlflow.db"))  # `load_table` asks there, whatever the client's is
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("harness-ext")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == set(LABELS)
    pair = runs["pair"]
    assert (pair.data.metrics["sums/exact_match"], pair.data.params["label"]) == (0.5, "pair")
    history = client.get_metric_history(pair.info.run_id, "sums/exact_match by round")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.5)]
    table = client.load_table(experiment.experiment_id, "transcripts.json", run_ids=[pair.info.run_id])
    assert (len(table), list(table.columns)[:3]) == (8, ["task", "document", "repeat"])


def test_an_upload_that_is_asked_for_is_no_record_on_this_machine(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    # Not even if the environment says so: then it would look as if the run had been sent.
    settings = {
        "WANDB_MODE": "offline",
        "WANDB_BASE_URL": NOWHERE,
        "WANDB_API_KEY": "a" * 40,
        "WANDB_INIT_TIMEOUT": "5",
    }
    done = recorded(folder, "wandb", tmp_path, "--upload", **settings)
    assert (done.returncode, "W&B did not record" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("kind", "servers"),
    [("mlflow", ["MLFLOW_TRACKING_URI"]), ("trackio", ["TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"])],
)
def test_uploads_go_only_where_they_are_told(
    kind: str, servers: list[str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in servers:
        monkeypatch.delenv(name, raising=False)
    write = FORMATS[kind].load()
    with pytest.raises(ExportError, match=f"--upload needs the server in {' or '.join(servers)}"):
        write([opened(folder, "pair")], tmp_path, ExportOptions(upload=True))
    assert list(tmp_path.iterdir()) == []

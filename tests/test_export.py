"""`harness-ext export RUN --to …`: tables, shared results and data sets, each opened by what is meant to read it."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from export_support import LABELS, assert_nothing_hidden, export, json_lines, runs_in
from hypothesis import given
from hypothesis import strategies as st
from scored_runs import ROWS, said, transcript, write_run

from harness_ext import cli
from harness_ext.analysis.exports import tables
from harness_ext.analysis.exports.command import FORMATS, main
from harness_ext.analysis.exports.runs import described, file_name, open_run, plain, plain_values, unique_names
from harness_ext.analysis.exports.shared_results import _component
from harness_ext.analysis.scoring.score import SCORES, read_figures
from harness_ext.analysis.tables import QUESTIONS, TYPES
from harness_ext.files import read_csv_cell


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Tables


def test_csv_has_every_question_turn_and_score(folder: Path) -> None:
    output = export(folder, "csv")
    questions, turns, scores = (read_csv(output / f"{name}.csv") for name in ("questions", "turns", "scores"))
    assert list(questions[0]) == ["run", "label", *QUESTIONS]
    assert [row["label"] for row in questions[::8]] == LABELS
    assert len(questions) == 24
    assert len(turns) == sum(int(row["turns"]) for row in questions)
    failed = next(row for row in questions if row["run"] == "pair" and row["doc_id"] == "7")
    assert (failed["failure"], failed["turns"], failed["accepted"]) == ("out of memory", "0", "")
    last = [row for row in scores if row["run"] == "pair" and row["last"] == "True"]
    assert sum(float(row["value"]) for row in last) / len(last) == 0.5
    assert (output / "turns.csv").stat().st_mode & 0o777 == 0o600


def test_no_cell_is_a_formula_or_hides_anything(folder: Path, tmp_path: Path) -> None:
    texts = ["=HYPERLINK(1)", "+1+1", "\u202eevil\x1b[2J", "a\tb\r\nc", "\ud800", "-1"]
    run = write_run(tmp_path / "run", *(transcript(i, said("s", "draft", text)) for i, text in enumerate(texts)))
    assert main([str(run), "--to", "csv", "-o", str(tmp_path / "out"), "--without_scores"]) == 0
    cells = [row["text"] for row in read_csv(tmp_path / "out" / "turns.csv")]
    assert [cell[0] for cell in cells[:2]] == ["'", "'"]
    assert [read_csv_cell(cell) for cell in cells] == [
        "=HYPERLINK(1)", "+1+1", "<U+202E>evil<U+001B>[2J", "a\tb\nc", "?", "-1"
    ]  # fmt: skip
    assert not (tmp_path / "out" / "scores.csv").exists()
    for name in ("questions", "turns", "scores"):
        assert_nothing_hidden(read_csv(export(folder, "csv", "--overwrite") / f"{name}.csv"))


def test_parquet_has_the_same_rows_with_their_types(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(tables, "BATCH", 7)  # several batches
    output = export(folder, "parquet")
    for name in ("questions", "turns", "scores"):
        rows = parquet.read_table(output / f"{name}.parquet").to_pylist()
        text = read_csv(export(folder, "csv", "--overwrite") / f"{name}.csv")
        assert [["" if v is None else v for v in row.values()] for row in rows] == [
            [_typed(column, cell) for column, cell in row.items()] for row in text
        ]


def _typed(column: str, cell: str) -> Any:
    kind = TYPES.get(column, str)
    if cell == "":
        return ""
    return cell == "True" if kind is bool else read_csv_cell(cell) if kind is str else kind(cell)


@given(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_plain_texts_hide_nothing_and_stay_as_they_are(text: str, value: Any) -> None:
    assert_nothing_hidden([plain(text), plain_values(value), described(text)])
    assert plain(plain(text)) == plain(text)
    assert all(c.isascii() and (c.isalnum() or c in ".-_") for c in file_name(text))
    part = _component(text)
    assert part not in ("", ".", "..", "data")
    assert len(part) <= 101


# Which runs, and where to


def test_names_of_equal_folders_differ(tmp_path: Path) -> None:
    assert unique_names([tmp_path / "a/run", tmp_path / "b/run", tmp_path / "b/run-2"]) == ["run", "run-2", "run-2-2"]


def test_wrong_usage_is_2_and_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(folder, "csv", "--overwrite")
    run = runs_in(folder)[0]
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "note").write_text("mine")
    file.write_text("mine")
    for more, message in (
        (["--to", "csv", "-o", str(full)], "is not empty: give another folder, or --overwrite"),
        (["--to", "csv", "-o", str(file)], "is a file, and exports are folders"),
        (["--to", "csv", "--repo", "a/b", "--upload"], "--upload is not an option of --to csv, but of trackio"),
        (["--to", "hf", "-o", str(tmp_path / "new"), "--public"], "--public says nothing without --repo"),
    ):
        assert main([run, *more]) == 2
        assert message in capsys.readouterr().err
    for more, message in (
        (["--to", "hf", "--repo", "nobody"], "write `owner/name`"),
        (["--to", "every-eval-ever", "--model_id", "a/b/c"], "is not `developer/model`"),
        (["--to", "every-eval-ever", "--without_scores"], "and these runs have none"),
    ):
        assert main([run, *more, "-o", str(tmp_path / "new")]) == 1
        assert message in capsys.readouterr().err
    assert main([str(tmp_path / "nothing"), "--to", "csv", "-o", str(tmp_path / "new")]) == 1
    assert "no run is called" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "new", "note"]


def test_a_run_without_transcripts_and_damaged_scores_are_errors(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, "csv", "--overwrite")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "transcripts.jsonl").write_text('{"task": "torn')
    for more, message in (([], "contains no transcripts."), (["--without_scores"], "contains no transcripts yet")):
        assert main([str(empty), "--to", "csv", "-o", str(tmp_path / "out"), *more]) == 1
        assert message in capsys.readouterr().err
    run = shutil.copytree(runs_in(folder)[0], tmp_path / "run")
    lines = (run / SCORES).read_text().splitlines()
    (run / SCORES).write_text("\n".join([*lines[:-1], lines[-1][:40]]))
    assert main([str(run), "--to", "every-eval-ever", "-o", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "is damaged (JSONDecodeError" in message
    assert f"run `harness-ext score {run}` again" in message


def test_what_a_killed_export_left_is_no_obstacle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".questions.csv.0123abcd.part").write_text("run,label")
    export(folder, "csv", output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["questions.csv", "scores.csv", "turns.csv"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"run": [1], "seats": {"a": 3}}', "no objects: config.json: run, config.json: seats.a"),
        ("summary.json", '{"usage": {"student": 4}}', "no objects: summary.json: usage.student"),
        ("summary.json", "[]", "summary.json is damaged"),
        ("config.json", "{{{", "config.json is damaged"),
        ("scores.jsonl", '{"task": "sums", "doc_hash": "1", "doc_id": 0, "target": [], "draws": [], "filters": {}}',
         "no line for sums, document 0"),
    ],
)  # fmt: skip
def test_damaged_files_are_errors(
    name: str, content: str, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, "csv", "--overwrite")
    run = shutil.copytree(runs_in(folder)[1], tmp_path / "run")
    (run / name).write_text(content)
    assert main([str(run), "--to", "every-eval-ever", "-o", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_export_of_a_run_asks_for_the_format(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(folder, "csv", "--overwrite")
    with pytest.raises(SystemExit):
        cli.main(["export", runs_in(folder)[0]])
    assert "the following arguments are required: --to" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in FORMATS)
    assert "samples_….jsonl" in shown
    assert "Write a model folder" in shown


def test_a_missing_library_is_named_with_its_remedy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, "csv", "--overwrite")
    monkeypatch.setattr("harness_ext.analysis.exports.command.find_spec", lambda name: None)
    assert main([runs_in(folder)[0], "--to", "inspect", "-o", str(tmp_path / "out")]) == 1
    assert "needs inspect_ai, which is not installed: pip install 'harness-ext[inspect]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_equal_documents_are_told_apart_and_repeats_have_their_own_scores(tmp_path: Path) -> None:
    twins = [dict(ROWS[0]), dict(ROWS[0])]
    run = write_run(
        tmp_path / "run",
        *(transcript(i, said("s", "draft", f"{i}{r}"), repeat=r, rows=twins) for r in range(2) for i in range(2)),
    )
    digest = transcript(0, rows=twins).doc_hash
    lines = [
        {
            "task": "sums", "doc_id": i, "doc_hash": digest, "target": [f"gold {i}"],
            "draws": [{"repeat": 0}, {"repeat": 1}],
            "filters": {
                "none": {"answers": [[{"m": 10 * i + r}] for r in range(2)]},
                "vote": {"answers": [[{"m": 100 + i}]]},
            },
        }
        for i in range(2)
    ]  # fmt: skip
    (run / SCORES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = list(open_run(run, "run", {"tasks": {}}).questions())
    assert [(q.targets, q.scores) for q in found] == [
        ((f"gold {i}",), {"m,none": (10 * i + r,), "m,vote": (100 + i,)}) for r in range(2) for i in range(2)
    ]


# Shared results

EVERY_EVAL_EVER = "every-eval-ever==0.3.0"  # needs a newer Python, but its validator does not


@pytest.fixture(scope="session")
def validator() -> str:
    """Return what to put on the module path for the validator of Every Eval Ever; skip the test if it cannot be had."""
    import models

    folder = models.models_folder() / "every-eval-ever"
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--ignore-requires-python", "--dest", str(folder), EVERY_EVAL_EVER],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no validator: pip download {EVERY_EVAL_EVER}: {done.stderr[-300:]}")
    (wheel,) = folder.glob("*.whl")
    return str(wheel)


@pytest.mark.real
def test_shared_results_pass_the_projects_own_validator(folder: Path, validator: str) -> None:
    output = export(folder, "every-eval-ever", "--overwrite", "--organization", "Some Lab")
    files = [str(path) for path in output.rglob("*.json*")]
    done = subprocess.run(
        [sys.executable, "-m", "every_eval_ever.validator.validate", "--format", "json", *files],
        env={**os.environ, "PYTHONPATH": validator}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(done.stdout)
    found = reports if isinstance(reports, list) else reports["reports"]
    assert [(r["valid"], r["errors"], r["warnings"]) for r in found] == [(True, [], [])] * 6


def test_shared_results_have_the_figures_and_every_question(folder: Path, tmp_path: Path) -> None:
    output = export(folder, "every-eval-ever", "--model_id", "some/pair", output=tmp_path)
    results = [json.loads(path.read_text()) for path in sorted(output.rglob("*.json"))]
    assert [r["model_info"]["id"] for r in results] == ["some/pair"] * 3
    pair = next(r for r in results if r["model_info"]["name"] == "pair")
    (result,) = pair["evaluation_results"]
    assert result["score_details"]["score"] == 0.5
    assert result["score_details"]["details"]["rounds"] == "[0.5, 0.5]"
    assert result["score_details"]["uncertainty"]["standard_error"]["value"] == pytest.approx(0.18898, abs=1e-5)
    assert result["metric_config"]["max_score"] == 1
    samples = output / pair["detailed_evaluation_results"]["file_path"]
    assert hashlib.sha256(samples.read_bytes()).hexdigest() == pair["detailed_evaluation_results"]["checksum"]
    lines = {line["sample_id"]: line for line in json_lines(samples)}
    assert len(lines) == pair["detailed_evaluation_results"]["total_rows"] == 8
    turned = lines["4"]
    assert [m["role"] for m in turned["messages"]] == ["user", "student", "teacher", "student"]
    (answer,) = turned["answer_attribution"]
    assert (answer["turn_idx"], answer["extracted_value"]) == (3, ROWS[4]["a"])
    assert turned["evaluation"] == {"score": 1.0, "is_correct": True, "num_turns": 3}
    assert (lines["7"]["error"], lines["7"]["output"]) == ("out of memory", {"raw": [""]})
    for path in output.rglob("*_samples.jsonl"):
        assert_nothing_hidden(json_lines(path))
    assert_nothing_hidden(results)


def test_a_repeated_export_replaces_the_files_of_the_first(folder: Path) -> None:
    before = {p.name for p in export(folder, "every-eval-ever", "--overwrite").rglob("*.json*")}
    assert {p.name for p in export(folder, "every-eval-ever", "--overwrite").rglob("*.json*")} == before


# Data sets


def test_datasets_loads_what_was_written(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    output = export(folder, "hf")
    for name, rows in (("questions", 24), ("turns", 40), ("scores", 34)):
        loaded = datasets.load_dataset(str(output), name, split="train")
        assert (loaded.num_rows, loaded.column_names[:2]) == (rows, ["run", "label"])
    card = (output / "README.md").read_text()
    assert "\\<b onclick='window.hacked = 7'\\>hostile" in card
    assert_nothing_hidden(card)


@dataclass
class Hub:
    """A server that takes a data set as the hub does.

    private: whether its one repository is private; None if it does not exist yet.
    refuses: whether it refuses everything.
    """

    private: bool | None = None
    refuses: bool = False
    url: str = ""
    asked: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        if self.refuses:
            return 401, {"error": "Invalid credentials \x1b[2J hf_abcdefghijklmnopqrstuvwxyz"}
        if path == "/api/repos/create":
            if self.private is not None:
                return 409, {"error": "You already created this dataset repo", "url": f"{self.url}/datasets/me/runs"}
            asked = json.loads(body)  # by the name of newer releases of the client, or of older ones
            self.private = asked.get("visibility") == "private" or asked.get("private") is True
            return 200, {"url": f"{self.url}/datasets/me/runs", "name": "me/runs"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/api/datasets/me/runs/preupload"):
            files = json.loads(body)["files"]
            return 200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        if path.startswith("/api/datasets/me/runs/commit"):
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return 200, {"commitUrl": f"{self.url}/datasets/me/runs/commit/1", "commitOid": "1" * 40, "success": True}
        if path.startswith("/api/datasets/me/runs"):
            return 200, {
                "_id": "1",
                "id": "me/runs",
                "private": self.private,
                "tags": [],
                "siblings": [],
                "sha": "0" * 40,
            }
        return 404, {"error": "Not found"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = made.answer(self.command, self.path, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _do  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    # The library reads these when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", made.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield made
    server.shutdown()
    server.server_close()


def test_a_data_set_is_pushed_only_when_asked_and_is_private(
    folder: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, "hf", output=tmp_path / "local")
    assert hub.asked == []
    sent = export(folder, "hf", "--repo", "me/runs", output=tmp_path / "sent")
    assert f"sent to {hub.url}/datasets/me/runs/commit/1" in capsys.readouterr().out
    assert hub.private is True
    assert hub.files == {path.name: path.read_bytes() for path in sent.iterdir()}
    assert set(hub.files) == {"README.md", "questions.parquet", "turns.parquet", "scores.parquet"}


def test_a_public_data_set_gets_no_private_run(
    folder: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, "csv", "--overwrite")
    hub.private = False
    arguments = [*runs_in(folder), "--to", "hf", "-o", str(tmp_path / "out"), "--repo", "me/runs"]
    assert main(arguments) == 1
    assert "exists and is public, so nothing was sent" in capsys.readouterr().err
    assert hub.files == {}
    assert main([*arguments, "--overwrite", "--public"]) == 0
    assert len(hub.files) == 4


def test_a_hub_that_refuses_is_an_error_without_credentials(
    folder: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    export(folder, "csv", "--overwrite")
    hub.refuses = True
    arguments = [*runs_in(folder), "--to", "hf", "-o", str(tmp_path / "out"), "--repo", "me/runs"]
    assert main(arguments) == 1
    shown = capsys.readouterr().err
    assert "the hub refused or cannot be reached" in shown
    assert f"The data set is complete in {tmp_path / 'out'}" in shown
    assert "hf_a" not in shown
    assert "\x1b" not in shown


def test_scores_are_those_of_the_figures(folder: Path) -> None:
    """What the export reads question by question adds up to what `score` says about the run."""
    export(folder, "csv", "--overwrite")
    for path in map(Path, runs_in(folder)):
        run = open_run(path, path.name, read_figures(path))
        finals = [question.scores["exact_match,none"][-1] for question in run.questions() if question.scores]
        assert sum(finals) / len(finals) == run.figures["tasks"]["sums"]["metrics"]["exact_match,none"]["lm_eval"]

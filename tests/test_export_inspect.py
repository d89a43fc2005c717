"""`harness-ext export --to inspect`: Inspect's own reader and its viewer's server open the logs."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from export_support import LABELS, assert_nothing_hidden, export
from scored_runs import ROWS, said, transcript, write_run
from servers import free_port

from harness_ext.analysis.exports.command import main
from harness_ext.records import Completion, Inner, Turn

log = pytest.importorskip("inspect_ai.log", reason="needs the extra `inspect`")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def output(folder: Path) -> Path:
    return export(folder, "inspect")


def read(path: Path) -> Any:
    return log.read_eval_log(str(path), resolve_attachments=True)


def test_samples_have_input_target_turns_and_scores(output: Path) -> None:
    found = read(output / "pair_sums.eval")
    assert (found.status, found.eval.task, found.eval.model, found.eval.solver) == (
        "success", "sums", "harness_ext/pair", "pair"
    )  # fmt: skip
    (score,) = found.results.scores
    assert (score.name, score.metrics["lm_eval"].value, score.metrics["oracle"].value) == ("exact_match", 0.5, 0.625)
    samples = {sample.id: sample for sample in found.samples}
    assert len(samples) == 8
    turned = samples["4"]
    assert (turned.input[0].text, turned.target) == (f"Q: {ROWS[4]['q']}\nA:", [ROWS[4]["a"]])
    assert [(event.event, event.role, event.metadata["kind"]) for event in turned.events] == [
        ("model", "student", "draft"), ("model", "teacher", "verdict"), ("model", "student", "refine")
    ]  # fmt: skip
    assert [bool(event.input) for event in turned.events] == [True, False, False]
    assert turned.events[2].output.completion == turned.output.completion == ROWS[4]["a"]
    assert turned.events[2].output.usage.total_tokens == 20
    assert turned.events[1].metadata["decision"] == {"true": 0.2, "false": 0.8}
    assert turned.scores["exact_match"].value == 1.0
    assert turned.scores["exact_match"].metadata == {"by_round": [0.0, 1.0]}
    assert turned.role_usage["student"].output_tokens == 20
    assert (samples["7"].error.message, samples["7"].events) == ("out of memory", [])


def test_hostile_texts_hide_nothing(output: Path) -> None:
    found = read(output / "hostile_sums.eval")
    assert found.eval.model == f"harness_ext/{LABELS[2]}"
    assert_nothing_hidden(json.loads(found.model_dump_json()))


def test_headers_and_summaries_can_be_read_alone(output: Path) -> None:
    headers = [log.read_eval_log(info, header_only=True) for info in log.list_eval_logs(str(output))]
    assert {header.eval.model for header in headers} == {f"harness_ext/{label}" for label in LABELS}
    assert all(header.stats.started_at <= header.stats.completed_at for header in headers)
    summaries = log.read_eval_log_sample_summaries(str(output / "base_sums.eval"))
    assert [summary.scores["exact_match"].value for summary in summaries] == [1.0] * 4 + [0.0] * 4


def test_the_library_writes_the_same_log_again(output: Path, tmp_path: Path) -> None:
    """The log survives Inspect's own writer, as when somebody edits scores in the viewer."""
    found = read(output / "pair_sums.eval")
    log.write_eval_log(found, str(tmp_path / "again.eval"))
    again = read(tmp_path / "again.eval")
    assert again.model_dump(exclude={"location"}) == found.model_dump(exclude={"location"})


def test_the_viewer_serves_the_logs(output: Path) -> None:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "inspect_ai", "view", "start", "--log-dir", str(output), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert server.stdout is not None
        shown: list[str] = []
        while not any(address in line for line in shown):
            line = server.stdout.readline()
            assert line, "".join(shown)
            shown.append(line)
        listed = json.load(urllib.request.urlopen(f"{address}/api/logs", timeout=60))
        assert len(listed["files"]) == 3
    finally:
        server.terminate()
        server.wait(60)
        server.stdout.close()  # type: ignore[union-attr]


def test_thoughts_repeats_and_runs_without_scores(tmp_path: Path) -> None:
    thinks = Turn("s", "draft", "k", Completion("4", "length", thought="2 and 2", completion_tokens=None))
    run = write_run(tmp_path / "run", transcript(0, thinks), transcript(0, said("s", "draft", "4"), repeat=1))
    assert main([str(run), "--to", "inspect", "-o", str(tmp_path / "out"), "--without_scores"]) == 0
    found = read(tmp_path / "out" / "run_sums.eval")
    assert (found.status, found.eval.config.epochs) == ("cancelled", 2)  # the run has no summary
    assert [(sample.id, sample.epoch, sample.scores) for sample in found.samples] == [("0", 1, None), ("0", 2, None)]
    output = found.samples[0].events[0].output
    assert [part.type for part in output.message.content] == ["reasoning", "text"]
    assert (output.stop_reason, output.usage) == ("max_tokens", None)


def test_calls_of_a_protocol_that_takes_a_seat_are_events(tmp_path: Path) -> None:
    inner = Inner(
        (said("s", "draft", "3"), said("t", "review", "no", accepted=False), said("s", "refine", "4")), "done"
    )
    whole = Turn("student", "draft", "k", Completion("4", "stop", prompt_tokens=30, completion_tokens=30), inner=inner)
    run = write_run(tmp_path / "run", transcript(0, whole))
    assert main([str(run), "--to", "inspect", "-o", str(tmp_path / "out"), "--without_scores"]) == 0
    (sample,) = read(tmp_path / "out" / "run_sums.eval").samples
    assert [(event.event, getattr(event, "role", event.span_id)) for event in sample.events] == [
        ("model", "student.s"), ("model", "student.t"), ("model", "student.s"), ("info", None)
    ]  # fmt: skip
    assert (sample.events[3].source, sample.events[3].data["text"]) == ("student", "4")
    assert {seat: usage.total_tokens for seat, usage in sample.role_usage.items()} == {"student.s": 40, "student.t": 20}


def test_files_with_equal_names_do_not_replace_each_other(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name, transcript(0, said("s", "draft", "4"), task=task), label=name)
        for name, task in (("a", "b_c"), ("a_b", "c"), ("a_b_c", "x/y"), ("a_b c", "x_y"))
    ]
    arguments = [*map(str, runs), "--to", "inspect", "-o", str(tmp_path / "out"), "--without_scores"]
    assert main(arguments) == 0
    found = {path.name: read(path).eval.model for path in (tmp_path / "out").iterdir()}
    assert found == {
        "a_b_c.eval": "harness_ext/a", "a_b_c-2.eval": "harness_ext/a_b",
        "a_b_c_x_y.eval": "harness_ext/a_b_c", "a_b_c_x_y-2.eval": "harness_ext/a_b c",
    }  # fmt: skip


def test_two_answers_to_one_question_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", *(transcript(0, said("s", "draft", "4"), question=q) for q in ("a", "b")))
    assert main([str(run), "--to", "inspect", "-o", str(tmp_path / "out"), "--without_scores"]) == 1
    assert "contains two answers to sums, document 0" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []

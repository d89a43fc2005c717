"""What `enhance` refuses before it does any work: outputs that cannot be written, and fields without text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from enhance_support import CREAK_ROWS, run, write

from harness_ext.enhance.command import main
from harness_ext.enhance.postprocess import finish
from harness_ext.enhance.row_files import check_field
from harness_ext.errors import ConfigurationError, StoreError

STAGES = (
    "prepare IN OUT",
    "annotate embedded IN OUT cot_text",
    "annotate embedded IN OUT cot_text --estimate",
    "preferences IN OUT --student embedded --judge embedded --field cot_text",
    "rank JUDGED OUT",
    "check IN --tasks babi_stories --output OUT",
    "finish IN OUT --tasks babi_stories",
)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of annotated rows, with which no further work may begin."""
    run(tmp_path, CREAK_ROWS, lambda p: " x.")
    for work in ("running.plan_seats", "contamination.documents.task_documents"):
        monkeypatch.setattr(f"harness_ext.enhance.{work}", lambda *_, **__: pytest.fail("the work has begun"))
    return tmp_path / "out.jsonl"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("file/x.jsonl", "cannot be written: {}/file is not a folder. Name another output"),
        ("broken/x.jsonl", "cannot be written: {}/broken is a link to something that does not exist. Name another"),
        ("x" * 300 + ".jsonl", "cannot be written: File name too long. Name another output"),
        ("folder.jsonl", "cannot be written: {}/folder.jsonl is a folder. Name another output"),
    ],
    ids=["below a file", "below a broken link", "a long name", "a folder"],
)
def test_an_output_that_cannot_be_written_is_named_before_the_work(
    stage: str, output: str, problem: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = rows.parent
    (folder / "file").touch()
    (folder / "folder.jsonl").mkdir()
    (folder / "broken").symlink_to("missing")
    judged = {"identity": {"stage": "judgements"}, "protocol": {"fallbacks": "key"}, "judge": "gold"}
    (folder / "judged.manifest.json").write_text(json.dumps(judged))
    write(folder / "judged.jsonl", [])
    if stage.startswith("finish") and output == "folder.jsonl":
        problem = "already exists: name another folder"
    paths = {"IN": rows, "OUT": folder / output, "JUDGED": folder / "judged.jsonl"}
    assert main([str(paths.get(word, word)) for word in stage.split()]) == 2
    assert f"{folder / output} {problem.format(folder)}" in capsys.readouterr().err


def test_a_file_that_no_run_wrote_is_named_before_the_work(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = write(rows.parent / "mine.jsonl", ["{}"])
    assert main(["annotate", "embedded", str(rows), str(mine), "cot_text"]) == 2
    assert "mine.jsonl exists, and no run wrote it: name another output" in capsys.readouterr().err


def test_a_data_set_is_saved_without_a_progress_bar_in_a_pipe(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finish", str(rows), str(rows.parent / "set")]) == 0
    assert "Saving the dataset" not in capsys.readouterr().err


def test_a_data_set_that_cannot_be_saved_after_all_names_the_remedy(rows: Path) -> None:
    folder = rows.parent / ("x" * 250)  # the name while it is being written is longer
    with pytest.raises(StoreError, match=r"cannot write .*x: .*Free some disk space, or name a writable folder"):
        finish(rows, folder)
    assert not folder.exists()


@pytest.mark.parametrize("stage", STAGES[1:4])
def test_a_field_that_no_row_has_is_named_before_the_work(
    stage: str, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = stage.replace("cot_text", "cot_txt").split()
    paths = {"IN": rows.parent / "in.jsonl", "OUT": rows.parent / "new.jsonl"}
    assert main([str(paths.get(word, word)) for word in words]) == 2
    said = capsys.readouterr().err
    assert "in.jsonl has text in the field `cot_txt` (did you mean `cot_text`?); name one of its fields" in said
    assert not (rows.parent / "new.jsonl").exists()


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([], "can be read: it contains none"),
        (["{", "[1]"], "can be read: line 1: "),
        ([{"p": 1}, {"p": " "}, {"p": None}, {"q": "a"}], "has text in the field `p`; .* instead: p, q"),
        ([{"prompt": "a"}, "{"], "has text in the field `p`; .* instead: prompt"),
    ],
)
def test_one_row_with_text_is_enough(lines: list[Any], found: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"no row of .*rows.jsonl {found}"):
        check_field(write(tmp_path / "rows.jsonl", lines), "p")
    check_field(write(tmp_path / "rows.jsonl", [*lines, {"p": "text"}]), "p")

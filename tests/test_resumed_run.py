"""A run that was interrupted and resumed ends with the figures of an undisturbed one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import instances, number_of, scripted_pair

from harness_ext.errors import RunFailed, StoreError
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records import Transcript
from harness_ext.records.run_directory import RunDirectory

ASKED = [f"question {i}" for i in range(12)]
RUN_ALONE = {"seconds", "reused"}  # what depends on the run but not on its questions


def student(prompt: str) -> str:
    return f"an answer to {number_of(prompt)}"


def teacher(prompt: str) -> str:
    return ("Correct.", "Incorrect. Hint: look again.", "Who knows?")[number_of(prompt) % 3]


def run(folder: Path, **options: Any) -> list[str]:
    pair = scripted_pair(student, teacher)
    lm = FeedbackPairLM(student=pair[0], teacher=pair[1], run_dir=folder / "run", progress="auto", **options)
    return lm.generate_until(instances(ASKED, {"until": [], "max_gen_toks": 12}))


def figures(folder: Path) -> Any:
    def kept(data: Any) -> Any:
        if isinstance(data, dict):
            return {name: kept(value) for name, value in data.items() if name not in RUN_ALONE}
        return data

    return kept(json.loads((folder / "run" / "summary.json").read_text()))


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of the progress display, without times and speeds."""
    lines = re.findall(r"\] (\d+/\d+ questions) in [^ ]+: (.*)", capsys.readouterr().err)
    return re.sub(r", \w+ \d+ tokens/s", "", " ".join(lines[-1]))


@contextmanager
def ended_after(questions: int) -> Iterator[None]:
    """End the run in this block once as many questions are finished."""
    add, count = RunDirectory.add, 0

    def limited(self: RunDirectory, transcript: Transcript) -> None:
        nonlocal count
        if count == questions:
            raise StoreError("ended here")
        count += 1
        add(self, transcript)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "add", limited)
        with pytest.raises(StoreError, match="ended here"):
            yield


@pytest.mark.parametrize("window", [1, 4, 100])
@pytest.mark.parametrize("ends", [[0], [1], [5], [11], [3, 2, 4]])
def test_a_resumed_run_ends_like_an_undisturbed_one(
    tmp_path: Path, window: int, ends: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"store": "off", "window": window, "on_failure": "score"}
    texts = run(tmp_path / "undisturbed", **options)
    line = last_line(capsys)
    assert "accepted" in line
    assert line.startswith("12/12 questions")
    for questions in ends:
        with ended_after(questions):
            run(tmp_path / "resumed", **options)
    capsys.readouterr()
    assert run(tmp_path / "resumed", **options) == texts
    assert figures(tmp_path / "resumed") == figures(tmp_path / "undisturbed")
    assert last_line(capsys) == line


def test_a_single_process_merges_what_several_have_left(tmp_path: Path) -> None:
    """Two processes were killed before the first merged their files, and then one process alone goes on."""
    texts = run(tmp_path, store="off")
    merged = tmp_path / "run" / "transcripts.jsonl"
    lines = merged.read_text().splitlines(keepends=True)
    merged.unlink()
    for rank in (0, 1):
        (tmp_path / "run" / f"transcripts.{rank}.jsonl").write_text("".join(lines[rank:9:2]))
    assert run(tmp_path, store="off") == texts
    found = [json.loads(line) for line in merged.read_text().splitlines()]
    assert sorted(row["doc_id"] for row in found) == list(range(len(ASKED)))


def test_failures_end_a_resumed_run_as_they_end_an_undisturbed_one(tmp_path: Path) -> None:
    def failing(prompt: str) -> str:
        if "question 3" in prompt or "question 9" in prompt:
            raise ValueError("cannot")
        return student(prompt)

    def failing_run(folder: Path, on_failure: str) -> list[str]:
        pair = scripted_pair(failing, teacher)
        lm = FeedbackPairLM(
            student=pair[0],
            teacher=pair[1],
            run_dir=folder / "run",
            store="off",
            progress="off",
            window=1,
            on_failure=on_failure,
        )
        return lm.generate_until(instances(ASKED, {"until": [], "max_gen_toks": 12}))

    with pytest.raises(RunFailed) as undisturbed:
        failing_run(tmp_path / "undisturbed", "stop")
    with ended_after(6):
        failing_run(tmp_path / "resumed", "stop")
    with pytest.raises(RunFailed) as resumed:
        failing_run(tmp_path / "resumed", "stop")
    assert str(resumed.value).replace("/resumed/", "/undisturbed/") == str(undisturbed.value)
    assert figures(tmp_path / "resumed") == figures(tmp_path / "undisturbed")
    texts = failing_run(tmp_path / "resumed", "score")
    assert [text == "" for text in texts] == [i in (3, 9) for i in range(12)]
    assert figures(tmp_path / "resumed") == figures(tmp_path / "undisturbed")

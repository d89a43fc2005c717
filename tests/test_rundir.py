"""Tests of the run directory: incomplete lines, several ranks, resuming, and refusing another evaluation."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_records import transcripts

from harness_ext.errors import StoreError
from harness_ext.records import Completion, Failure, Transcript, Turn, run_directory
from harness_ext.records.run_directory import RunDirectory, new_run_path, read_transcripts, write_json

CONFIG = {"identity": {"protocol": "P", "options": {"max_rounds": 3, "at": Path("x")}}, "started": "now"}


def transcript(doc: int, text: str = "answer", failure: str | None = None) -> Transcript:
    turn = Turn("student", "draft", "aa", Completion("said\u2028\x85\r\n\x1c\x00é"))
    return Transcript(
        "t", doc, "h", 0, 0, "q", "c\ud800", (turn,), text, "done", Failure("backend", failure) if failure else None
    )


def written(path: Path, *lines: Transcript, rank: int = 0, world: int = 1) -> RunDirectory:
    run = RunDirectory(path, CONFIG, rank, world)
    for line in lines:
        run.add(line)
    run.close()
    return run


def read(path: Path) -> list[tuple[int, str, bool]]:
    return [(t.doc_id, t.text, t.failure is None) for t in read_transcripts(path)]


@settings(deadline=None, max_examples=40)
@given(st.lists(transcripts, max_size=5, unique_by=lambda t: t.identity))
def test_transcripts_come_back_in_order(lines: list[Transcript]) -> None:
    with TemporaryDirectory() as folder:
        run = written(Path(folder), *lines)
        assert list(read_transcripts(run.path)) == lines


def test_unusual_line_separators_do_not_end_a_record(tmp_path: Path) -> None:
    written(tmp_path, transcript(0), transcript(1))
    back = list(read_transcripts(tmp_path))
    assert [t.turns for t in back] == [transcript(0).turns] * 2
    assert back[0].context == "c?"


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_an_incomplete_line_loses_only_itself(data: st.DataObject) -> None:
    """If the file is cut anywhere, as by a kill, every complete line and everything added later is still read."""
    with TemporaryDirectory() as folder:
        written(Path(folder), *(transcript(i) for i in range(3)))
        file = Path(folder) / "transcripts.jsonl"
        content = file.read_bytes()
        kept = data.draw(st.integers(0, len(content)))
        file.write_bytes(content[:kept])
        written(Path(folder), transcript(7), transcript(8))
        whole = [i for i in range(3) if sum(map(len, content.splitlines(keepends=True)[: i + 1])) - 1 <= kept]
        assert [doc for doc, _, _ in read(Path(folder))] == [*whole, 7, 8]


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", "3", "null", '"text"', "{not json", '{"turns": 3}', '{"turns": [[]]}', "\0" * 50]
)
def test_foreign_lines_are_skipped(tmp_path: Path, line: str) -> None:
    written(tmp_path, transcript(0))
    with (tmp_path / "transcripts.jsonl").open("a") as file:
        file.write(line + "\n")
    written(tmp_path, transcript(1))
    assert [doc for doc, _, _ in read(tmp_path)] == [0, 1]


def test_an_answer_replaces_failures_and_older_answers(tmp_path: Path) -> None:
    written(tmp_path, transcript(0, "", "first"), transcript(1, "one"), transcript(0, "", "second"))
    assert [(t.doc_id, t.failure and t.failure.message) for t in read_transcripts(tmp_path)] == [
        (1, None),
        (0, "second"),
    ]
    written(tmp_path, transcript(0, "zero"), transcript(0, "", "third"), transcript(1, "uno"))
    assert read(tmp_path) == [(0, "zero", True), (1, "uno", True)]


LINE = st.tuples(st.integers(0, 3), st.sampled_from(["", "zero", "one"]), st.booleans(), st.integers(0, 4))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(LINE, max_size=8), min_size=1, max_size=3))
def test_the_newest_answer_of_each_question_is_read(
    files: list[list[tuple[int, str, bool, int]]],
) -> None:
    """Lines may be incomplete, foreign or in another form. Answers win over failures, and later ones over earlier."""
    newest: dict[int, tuple[bool, int, str]] = {}
    with TemporaryDirectory() as folder:
        for number, rows in enumerate(files):
            lines = []
            for doc, text, answered, form in rows:
                data = transcript(doc, text, None if answered else "broken").to_json()
                line = json.dumps(data, ensure_ascii=form == 1)
                line = json.dumps(dict(reversed(data.items()))) if form == 2 else line[:-9] if form == 3 else line
                lines.append("{}\n" if form == 4 else line.encode(errors="replace").decode() + "\n")
                if form < 3:
                    newest[doc] = max((answered, number * 100 + len(lines), text), newest.get(doc, (False, -1, "")))
            name = f"transcripts.{number}.jsonl" if number else "transcripts.jsonl"
            (Path(folder) / name).write_text("".join(lines), encoding="utf-8")
        expected = [(doc, text, ok) for doc, (ok, _, text) in sorted(newest.items(), key=lambda one: one[1][1])]
        assert read(Path(folder)) == expected


def test_a_line_is_parsed_once_unless_its_question_has_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, *(transcript(i) for i in range(20)), transcript(3, "again"))
    parsed: list[int] = []
    parse = Transcript.from_json
    monkeypatch.setattr(Transcript, "from_json", lambda data: (parsed.append(data["doc_id"]), parse(data))[1])
    assert len(read(tmp_path)) == 20
    assert sorted(parsed) == sorted([*range(20), 3, 3])


def test_the_same_evaluation_continues_and_another_is_refused(tmp_path: Path) -> None:
    written(tmp_path, transcript(0))
    before = (tmp_path / "config.json").read_text()
    again = RunDirectory(tmp_path, {**CONFIG, "started": "later"})
    assert read(again.path) == [(0, "answer", True)]
    assert (tmp_path / "config.json").read_text() == before
    other = {"identity": {"protocol": "P", "options": {"max_rounds": 4, "at": Path("x")}, "seats": {}}}
    with pytest.raises(StoreError, match=r"another evaluation \(different: options, seats\).*run_dir=<folder>"):
        RunDirectory(tmp_path, other)
    assert [t.doc_id for t in read_transcripts(tmp_path)] == [0]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": []}', "\xff", "[" * 100_000])
def test_a_damaged_config_gives_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(StoreError, match="run_dir=<folder>"):
        RunDirectory(tmp_path, CONFIG)


def test_ranks_write_their_own_files_and_rank_0_merges_them(tmp_path: Path) -> None:
    written(tmp_path, transcript(0, "", "down"), transcript(2, "two"), rank=0, world=2)
    written(tmp_path, transcript(1, "one"), transcript(3, "three"), rank=1, world=2)
    written(tmp_path, transcript(0, "zero"), rank=0, world=2).merge()
    assert (tmp_path / "transcripts.jsonl").read_text().count("\n") == 4
    assert sorted(read(tmp_path)) == [(0, "zero", True), (1, "one", True), (2, "two", True), (3, "three", True)]
    lines = (tmp_path / "transcripts.jsonl").read_text().splitlines()
    again = RunDirectory(tmp_path, CONFIG, 0, 2)
    again.merge()
    assert (tmp_path / "transcripts.jsonl").read_text().splitlines() == lines, "a repeated merge adds nothing"


def test_a_killed_merge_can_be_repeated(tmp_path: Path) -> None:
    run = written(tmp_path, transcript(0), transcript(1), world=2)
    run.merge()
    merged = tmp_path / "transcripts.jsonl"
    merged.write_bytes(merged.read_bytes()[:-20])
    run.merge()
    for part in tmp_path.glob("transcripts.*.jsonl"):
        part.unlink()
    assert [doc for doc, _, _ in read(tmp_path)] == [0, 1]


def test_merged_failures_are_not_answers(tmp_path: Path) -> None:
    run = written(tmp_path, transcript(0, "", "down"), world=2)
    run.merge()
    written(tmp_path, transcript(0, "up"), world=2).merge()
    (tmp_path / "transcripts.0.jsonl").unlink()
    assert read(tmp_path) == [(0, "up", True)]


def test_the_error_about_an_unwritable_folder_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="run_dir=<folder>"):
        RunDirectory(tmp_path / "file" / "run", CONFIG)


def full_disk() -> IO[str]:
    """Return a file on a full disk, whose buffer can be written to, but not flushed."""
    return open("/dev/full", "a", encoding="utf-8", errors="replace")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What closes the run directory afterwards does not fail again and hide the remedy."""
    run = RunDirectory(tmp_path, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "open_to_append", lambda path: full_disk())
        with pytest.raises(StoreError, match=r"No space left.*make room.*same command again"):
            run.add(transcript(0))
        run.close()
    run.add(transcript(1))
    run.close()
    assert [doc for doc, _, _ in read(tmp_path)] == [1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_turns_out_to_be_full_at_the_end_is_reported(tmp_path: Path) -> None:
    """Network file systems may say so only when a file is closed."""
    run = RunDirectory(tmp_path, CONFIG)
    run._file = full_disk()
    run._file.write("not written yet")
    with pytest.raises(StoreError, match="make room"):
        run.close()
    run.close()


def test_json_files_are_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "a.json", {"text": "é\ud800", "path": Path("p")})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"text": "é?", "path": "p"}
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("killed here")))
    with pytest.raises(OSError, match="killed here"):
        write_json(tmp_path / "a.json", {"text": "new"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["text"] == "é?"


WRITER = """
import sys
from pathlib import Path
from harness_ext.files import atomic_write

with atomic_write(Path(sys.argv[1])) as file:
    file.write("half a line")
    file.flush()
    print("begun", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_of_a_file_is_removed(tmp_path: Path) -> None:
    """What a living one is writing is not."""
    path = tmp_path / "a[1].json"
    path.write_text("old")
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
    assert len(list(tmp_path.glob(".*.part"))) == 2
    writers[0].kill()
    writers[0].wait()
    (tmp_path / ".a[1].json.4711.part").write_text("of an earlier version")
    (tmp_path / ".b.json.4711.part").write_text("of another file")
    write_json(path, "new")
    assert len(list(tmp_path.glob(".a*.part"))) == 1
    assert path.read_text() == '"new"\n'
    writers[1].communicate("")
    assert path.read_text() == "half a line"
    assert [p.name for p in tmp_path.glob(".*")] == [".b.json.4711.part"]


def test_runs_in_the_same_second_get_different_folders(tmp_path: Path) -> None:
    paths = [new_run_path(tmp_path, "my / label:1") for _ in range(3)]
    assert len(set(paths)) == 3
    assert all(p.parent == tmp_path and p.is_dir() and p.name.startswith("my_label_1-") for p in paths)


def test_identity_distinguishes_repeats_and_settings(tmp_path: Path) -> None:
    first = transcript(0, "a")
    others = [
        replace(first, repeat=1),
        replace(first, question="q2"),
        replace(first, doc_hash="h2"),
        replace(first, task="u"),
    ]
    written(tmp_path, first, *others)
    assert len(read(tmp_path)) == 5

"""Files of runs and stores: who can read them, that no link redirects them, and tables that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import instances, scripted_pair

from harness_ext.bridge.exports import Table, Tables
from harness_ext.enhance.row_files import Output
from harness_ext.errors import StoreError
from harness_ext.files import (
    atomic_write,
    csv_cell,
    make_private_folder,
    open_to_append,
    read_csv_cell,
    why_no_file,
    why_not_writable,
)
from harness_ext.models.baseline import BaselineLM
from harness_ext.records.call_store import CallStore
from harness_ext.records.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- permissions -------------------------------------------------------------------------------------------------------


def run_once(run_dir: Path, store: str = "off") -> None:
    lm = BaselineLM(student=scripted_pair(str, str)[0], run_dir=run_dir, store=store, progress="off")
    lm.generate_until(instances(["a"], {"until": [], "max_gen_toks": 8}))


def test_records_and_store_are_for_their_owner_alone(tmp_path: Path) -> None:
    run_once(tmp_path / "runs" / "r", str(tmp_path / "runs" / "s"))
    made = [tmp_path / "runs" / name for name in "rs"]
    files = [path for folder in made for path in folder.rglob("*")]
    assert {path.name for path in files} >= {"config.json", "transcripts.jsonl", "summary.json"}
    assert any(path.suffix == ".sqlite" for path in files)
    for path in [*made, *files]:
        assert mode(path) & 0o077 == 0, path


def test_a_folder_that_was_made_for_a_group_is_shared_with_it_as_far_as_the_umask_allows(tmp_path: Path) -> None:
    for umask, wanted in ((0o002, 0o660), (0o027, 0o640), (0o077, 0o600)):
        folder = tmp_path / f"{umask:o}"
        folder.mkdir()
        folder.chmod(0o770)
        os.umask(umask)
        RunDirectory(folder, {"identity": {}})
        CallStore(folder / "s").close()
        assert mode(folder) == 0o770
        assert mode(folder / "config.json") == wanted
        assert mode(folder / "s") == 0o700


def test_a_folder_of_everybody_does_not_make_records_public(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    RunDirectory(tmp_path, {"identity": {}})
    assert mode(tmp_path / "config.json") == 0o600


def test_permissions_that_were_changed_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_write(path, private=True) as file:
        file.write("1")
    assert mode(path) == 0o600
    path.chmod(0o640)
    with atomic_write(path, private=True) as file:
        file.write("2")
    assert (mode(path), path.read_text()) == (0o640, "2")


def test_other_outputs_have_the_usual_permissions(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write("1")
    assert mode(tmp_path / "a") == 0o644


def test_only_the_last_folder_is_private(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o755, 0o700)


# -- links -------------------------------------------------------------------------------------------------------------


def test_a_link_in_the_place_of_a_part_file_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if its name is guessed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    monkeypatch.setattr("secrets.token_hex", lambda length: "guessed")
    (tmp_path / ".a.guessed.part").symlink_to(victim)
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "a") as file:
        file.write("new")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a").exists()


def test_a_link_in_the_place_of_an_output_in_progress_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out.jsonl.partial").symlink_to(victim)
    with pytest.raises(StoreError, match="cannot write the output"), Output(tmp_path / "out.jsonl", {}):
        pass
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["transcripts.jsonl", ".writer.lock"])
def test_a_link_in_a_run_directory_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).symlink_to(victim)
    with pytest.raises(StoreError):
        run_once(tmp_path / "r")
    assert victim.read_text() == "mine"


def test_a_link_in_the_place_of_a_store_file_or_its_lock_is_not_followed(tmp_path: Path) -> None:
    with_names = tmp_path / "names"
    CallStore(with_names).close()
    for name in [path.name for path in with_names.iterdir()]:
        folder, victim = tmp_path / f"s-{name}", tmp_path / f"victim-{name}"
        folder.mkdir()
        victim.write_text("mine")
        (folder / name).symlink_to(victim)
        with pytest.raises(StoreError):
            CallStore(folder)
        assert victim.read_text() == "mine"


def test_a_link_is_not_appended_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        open_to_append(tmp_path / "link")
    assert not (tmp_path / "victim").exists()


# -- tables ------------------------------------------------------------------------------------------------------------

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-1+cmd", "@SUM(A1)", "  =1", "\t=1", "\n=1", "'=1", "＝1", "-", "- a list"]


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_are_text(text: str) -> None:
    assert csv_cell(text) == f"'{text}"
    assert read_csv_cell(csv_cell(text)) == text


@pytest.mark.parametrize("text", ["-5", "+3.5", "-1e-5", "a=b", "x", "", "12 %", "-5 %", "'quoted'", "1-2"])
def test_numbers_and_words_stay_as_they_are(text: str) -> None:
    assert (csv_cell(text) == text) is (text != "-5 %")
    assert read_csv_cell(csv_cell(text)) == text


@given(
    st.text(st.sampled_from("=+-@'15.e \n\ta") | st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]))
)
def test_any_text_is_read_back_and_begins_no_formula(text: str) -> None:
    cell = csv_cell(text)
    assert read_csv_cell(cell) == text
    assert cell == csv_cell(read_csv_cell(cell))
    if cell.strip()[:1] in tuple("=+-@＝＋－＠"):
        float(cell.strip().replace("＋", "+"))  # only a number may begin like a formula


def test_control_characters_are_left_out() -> None:
    assert csv_cell("a\x1b[31m\x00b\r\n\tc\x9b") == "a[31mb\n\tc"
    assert csv_cell("\x00=1") == "'=1", "what is left out does not hide a formula"


def test_a_table_of_replies_that_are_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has no formula; rows of a resumed run are recognised, and figures are computed from what was said."""
    seen: list[str] = []

    def closing(rows: object) -> list[dict[str, str]]:
        seen.extend(row["reply"] for row in rows)  # type: ignore[attr-defined]
        return [{"figure": "=1"}]

    table = Table(
        ("id", "reply"), ("id", "reply"), lambda doc, label: "t_results.csv",
        lambda doc_id, doc, reply: [{"id": doc_id, "reply": reply}], closing,
    )  # fmt: skip
    monkeypatch.setattr("harness_ext.bridge.exports.table_of", lambda task: table)
    for _ in range(2):
        tables = Tables(tmp_path, "label", private=True)
        for number, text in enumerate(FORMULAS):
            tables.add("task", number, {}, text)
        tables.merge(1)
    rows = list(csv.reader(io.StringIO((tmp_path / "t_results.csv").read_text(), newline=""), delimiter="\t"))
    assert [row[1] for row in rows[1:]] == [f"'{text}" for text in FORMULAS]
    assert seen == FORMULAS * 2
    assert (tmp_path / "t_metrics.csv").read_text().splitlines()[1] == '"\'=1"'
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}


# -- what can be written -----------------------------------------------------------------------------------------------

parts = st.sampled_from(["folder", "file", "broken", "loop", "to folder", "new", "x" * 300, "..", "nul\0"])


@given(st.lists(parts, min_size=1, max_size=4), st.booleans())
def test_the_prediction_is_what_happens(names: list[str], is_file: bool) -> None:
    # A link to a folder could be replaced by a file, but is refused.
    assume(not is_file or (".." not in names and names[-1] != "to folder"))
    with tempfile.TemporaryDirectory() as root:
        place = Path(root) / "top"
        (place / "folder" / "folder").mkdir(parents=True)
        (place / "file").touch()
        (place / "broken").symlink_to("missing/too")
        (place / "loop").symlink_to("loop")
        (place / "to folder").symlink_to("folder")
        path = place.joinpath(*names)
        reason = why_no_file(path) if is_file else why_not_writable(path)
        try:
            folder = path.parent if is_file else path
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "probe").touch()
            if is_file:
                (folder / "probe").replace(path)
        except (OSError, ValueError):
            assert reason
        else:
            assert reason == ""

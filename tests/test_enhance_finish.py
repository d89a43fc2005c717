"""Files of rows, and the data set made of them: order, gaps, dropped rows, replies that were cut off."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from enhance_support import CREAK_ROWS, lines, run
from hypothesis import given
from hypothesis import strategies as st
from servers import wait_until

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.enhance.checks import report
from harness_ext.enhance.command import main
from harness_ext.enhance.contamination.search import search_file
from harness_ext.enhance.contamination.settings import SearchSettings
from harness_ext.enhance.postprocess import finish
from harness_ext.enhance.row_files import FileRow, Output
from harness_ext.errors import ConfigurationError, StoreError
from harness_ext.records import Completion


def test_the_data_set_has_cot_tail_and_no_dropped_rows(tmp_path: Path) -> None:
    from datasets import load_from_disk

    replies = {"Water": " wet.  The answer is (A). ", "Fish": " The answer is (A).", "Oslo": ""}
    run(tmp_path, CREAK_ROWS, lambda p: next(v for k, v in replies.items() if k in p))
    manifest = finish(tmp_path / "out.jsonl", tmp_path / "set", ["contradicts_gold", "empty"])
    rows = load_from_disk(str(tmp_path / "set"))
    assert len(rows) == 1
    assert rows[0]["cot_tail"] == rows[0]["all"].replace("  ", " ").strip()
    assert list(rows[0])[-4:] == ["cot", "all", "cot_tail", "finished"]
    assert rows[0]["cot"] == replies["Water"], "the raw text is unchanged"
    assert manifest["counts"] == {
        "read": 3, "written": 1, "dropped": 2, "by_flag": {"contradicts_gold": 1, "empty": 1}
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match="already exists"):
        finish(tmp_path / "out.jsonl", tmp_path / "set")
    with pytest.raises(ConfigurationError, match="is not a flag"):
        finish(tmp_path / "out.jsonl", tmp_path / "other", ["bad"])


def test_columns_of_mixed_types_are_reported_before_anything_is_saved(tmp_path: Path) -> None:
    rows = [{**CREAK_ROWS[0], "extra": "text"}, {**CREAK_ROWS[1], "extra": 5}]
    run(tmp_path, rows, lambda p: " x.")
    with pytest.raises(ConfigurationError, match="'extra' cannot be saved in one column"):
        finish(tmp_path / "out.jsonl", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_rows_with_evaluation_documents_are_flagged_and_can_be_dropped(tmp_path: Path) -> None:
    rows = [{"sentence": f"{word} is made of wood and iron in most old towns.", "label": "true"} for word in "abc"]
    run(tmp_path, rows, lambda p: " yes.")
    documents = {
        "t": [{"q": "a is made of wood and iron in most old towns"}, {"q": "Of something else altogether, I say"}]
    }
    found = search_file(tmp_path / "out.jsonl", documents, SearchSettings(ngram=8))
    flags = report(tmp_path / "out.jsonl", found)["flags"]
    assert (flags["overlap"]["lines"], flags["near_duplicate"]["lines"]) == ([1, 2, 3], [1])
    assert report(tmp_path / "out.jsonl")["flags"].keys() & {"overlap", "near_duplicate"} == set()
    manifest = finish(tmp_path / "out.jsonl", tmp_path / "set", ["near_duplicate"], found)
    assert manifest["counts"] == {"read": 3, "written": 2, "dropped": 1, "by_flag": {"near_duplicate": 1}}


def test_rows_are_written_as_they_finish_and_put_in_order_in_the_end(tmp_path: Path) -> None:
    """A row that does not finish holds up no other, and a run that a budget ends has no gaps to wait for."""
    target, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    with Output(target, {}) as output:
        for number in (5, 0, 3, 4, 8):
            output.add(number, [{"n": number}])
            assert lines(partial)[-1] == {"n": number}
        with pytest.raises(StoreError, match="row 1"):
            output.finish({})
        output.end_early()
    assert [row["n"] for row in lines(partial)] == [0, 3, 4, 5, 8]


class OneNeverStops(ScriptedBackend):
    """Answers the first prompt of a batch only when `others_are_written` returns true."""

    def __init__(self, others_are_written: Callable[[], bool]) -> None:
        super().__init__(lambda prompt: " so.", name="teacher")
        self.others_are_written = others_are_written

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        for index in reversed(range(1, len(requests))):
            deliver(index, Completion(" so.", "stop", completion_tokens=1))
        wait_until(self.others_are_written)
        deliver(0, Completion(" on and on", "length", completion_tokens=3))


def test_a_row_that_never_stops_delays_no_other_record(tmp_path: Path) -> None:
    rows = [{"sentence": f"Thing {i} is red.", "label": "true"} for i in range(8)]
    records = tmp_path / "out.records.jsonl.partial"
    teacher = OneNeverStops(lambda: len(lines(records)) == len(rows) - 1)
    _, found, _ = run(tmp_path, rows, str, backend=teacher)
    assert [row["cot"] for row in found] == [" on and on", *[" so."] * (len(rows) - 1)]


@given(
    rows=st.lists(st.lists(st.text(max_size=5), max_size=3), min_size=1, max_size=8),
    bad=st.sets(st.integers(0, 7)),
    random=st.randoms(use_true_random=False),
)
def test_files_are_in_the_order_of_the_input(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], bad: set[int], random: random.Random
) -> None:
    target = tmp_path_factory.mktemp("rows") / "out.jsonl"
    with Output(target, {}) as output:
        for number in random.sample(range(len(rows)), len(rows)):
            if number in bad:
                output.reject(number, FileRow(f"line {number}", {}), "code", "reason")
            else:
                output.add(number, [{"text": text} for text in rows[number]], {"n": number})
        output.finish({})
    good = [number for number in range(len(rows)) if number not in bad]
    assert [row["text"] for row in lines(target)] == [text for number in good for text in rows[number]]
    names = {"records": [{"n": number} for number in good], "bad": sorted(bad & set(range(len(rows))))}
    for name, wanted in names.items():
        file = target.with_name(f"out.{name}.jsonl")
        found = lines(file) if file.exists() else []
        assert wanted == (found if name == "records" else [int(row["place"].split()[1]) for row in found])
    assert not list(target.parent.glob("*.partial"))


def cut_rows(folder: Path) -> Path:
    """Annotate three rows, of which the first is cut off, the second finished, and the third does not say."""
    replies: dict[str, str | Completion] = {
        "Water": Completion(" Water is", "length", completion_tokens=2), "Fish": " They cannot.",
        "Oslo": Completion(" It is.", None, completion_tokens=2),
    }  # fmt: skip
    run(folder, CREAK_ROWS, lambda p: next(v for k, v in replies.items() if k in p))
    return folder / "out.jsonl"


@pytest.mark.parametrize(
    ("how", "column", "said"),
    [
        ("unfinished", [False, True, None], "not to stop there (`finished` is false)"),
        ("finished", None, "to stop where they were cut"),
    ],
)
def test_cut_replies_are_not_taught_as_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, column: list[bool | None] | None, said: str
) -> None:
    from datasets import load_from_disk

    source = cut_rows(tmp_path)
    capsys.readouterr()
    arguments = [] if how == "unfinished" else ["--cut_replies", how]
    assert main(["finish", str(source), str(tmp_path / "set"), *arguments]) == 0
    rows = load_from_disk(str(tmp_path / "set"))
    assert [row.get("finished", "no such column") for row in rows] == (column or ["no such column"] * 3)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["cut_replies"] == {"how": how, "rows": 1, "unknown": 1}
    errors = capsys.readouterr().err
    assert "1 of 3 replies were cut off by the token limit: training learns them as" in errors
    assert said in errors
    assert "1 of 3 rows do not tell how their reply ended" in errors


def test_cut_replies_can_be_dropped(tmp_path: Path) -> None:
    rows = [{"sentence": f"Thing {i} is.", "label": "true"} for i in range(4)]
    run(tmp_path, rows, lambda p: Completion(" It", "length" if "Thing 1" in p or "Thing 2" in p else "stop"))
    manifest = finish(tmp_path / "out.jsonl", tmp_path / "set", cut_replies="drop")
    assert manifest["counts"] == {"read": 4, "written": 2, "dropped": 2, "by_flag": {"cut_off": 2}}
    assert manifest["cut_replies"] == {"how": "drop", "rows": 2, "unknown": 0}


def test_a_file_of_cut_replies_alone_names_the_remedy(tmp_path: Path) -> None:
    run(tmp_path, CREAK_ROWS, lambda p: Completion(" It", "length", completion_tokens=1))
    with pytest.raises(ConfigurationError, match=r"no row of .* is left.*max_gen_toks"):
        finish(tmp_path / "out.jsonl", tmp_path / "set", cut_replies="drop")


def test_a_field_of_the_users_own_is_not_taken_for_the_mark(tmp_path: Path) -> None:
    from datasets import load_from_disk

    run(tmp_path, [{**row, "finished": "yes"} for row in CREAK_ROWS], lambda p: " x.")
    with pytest.raises(ConfigurationError, match="already have a field 'finished'"):
        finish(tmp_path / "out.jsonl", tmp_path / "set")
    finish(tmp_path / "out.jsonl", tmp_path / "set", cut_replies="finished")
    assert load_from_disk(str(tmp_path / "set"))["finished"][:] == ["yes"] * 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_remedy(tmp_path: Path) -> None:
    """Closing the files, which fails as well, does not hide it."""
    output = Output(tmp_path / "out.jsonl", {})

    def fill() -> None:
        with output:
            output._files[""] = Path("/dev/full").open("w")  # noqa: SIM115
            output.add(0, [{"n": 0}])

    with pytest.raises(StoreError, match=r"No space left.*free some disk space.*same command again"):
        fill()

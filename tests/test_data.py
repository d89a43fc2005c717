"""Rows from a folder and from the hub, and the messages if they cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness_ext.data import DataError, DataSource, load_rows
from harness_ext.data import sources as data

SOURCE = DataSource(
    folder="toys", hub_id="nobody/toys", config="main", splits=("train", "test"), fields={"name": str, "size": int}
)
GOOD = [{"name": "ball", "size": 3}, {"name": "kite", "size": 7}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a data folder with one valid data set, named by HARNESS_EXT_DATA."""
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    (tmp_path / "toys").mkdir()
    for split in SOURCE.splits:
        write(tmp_path, split, *map(json.dumps, GOOD))
    return tmp_path


def write(folder: Path, split: str, *lines: str) -> None:
    (folder / "toys" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def message(source: DataSource = SOURCE, where: tuple[str, str | int] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_rows(source, where)
    return str(caught.value)


def test_rows_come_from_the_folder_in_order(folder: Path) -> None:
    rows = load_rows(SOURCE)
    assert list(rows) == ["train", "test"]
    assert rows["test"].to_list() == GOOD


def test_where_keeps_the_rows_of_one_value(folder: Path) -> None:
    assert load_rows(SOURCE, where=("size", 7))["test"].to_list() == [GOOD[1]]
    assert load_rows(SOURCE, where=("name", "ball"))["train"].to_list() == [GOOD[0]]


def test_fields_the_task_does_not_read_are_dropped(folder: Path) -> None:
    write(folder, "test", '{"name": "ball", "size": 3, "colour": ["red", 1]}', '{"size": 7, "name": "kite"}')
    assert load_rows(SOURCE)["test"].to_list() == GOOD


def test_line_endings_blank_lines_and_a_byte_order_mark_do_not_matter(folder: Path) -> None:
    text = "\r\n".join(["", json.dumps(GOOD[0]), "  ", json.dumps(GOOD[1])])
    (folder / "toys" / "test.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_rows(SOURCE)["test"].to_list() == GOOD


def test_unicode_line_separators_inside_a_row_do_not_split_it(folder: Path) -> None:
    row = {"name": "a\u2028b\x85c\nd", "size": 1}
    write(folder, "test", json.dumps(row, ensure_ascii=False))
    assert load_rows(SOURCE)["test"].to_list() == [row]


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50, deadline=None
)
@given(st.lists(st.fixed_dictionaries({"name": st.text(), "size": st.integers(-(2**63), 2**63 - 1)}), min_size=1))
def test_every_row_survives(folder: Path, rows: list[dict[str, Any]]) -> None:
    write(folder, "test", *(json.dumps(row) for row in rows))
    assert load_rows(SOURCE)["test"].to_list() == rows


WRONG_LINES = {
    '{"name": "ball"': "not JSON (",
    "": None,
    '["ball", 3]': "expected a JSON object, found ['ball', 3]",
    "NaN": "expected a JSON object, found nan",
    '{"name": "ball"}': "field 'size' is missing",
    '{"nom": "ball", "size": 3}': "field 'name' is missing",
    '{"name": 3, "size": 3}': "field 'name' must be text, found 3",
    '{"name": "ball", "size": "3"}': "field 'size' must be a whole number, found '3'",
    '{"name": "ball", "size": true}': "field 'size' must be a whole number, found True",
    '{"name": "ball", "size": 3.0}': "field 'size' must be a whole number, found 3.0",
    '{"name": "ball", "size": 9223372036854775808}': "field 'size' must be a whole number, found 9223372036854775808",
    '{"name": null, "size": null}': "field 'name' must be text, found None; field 'size' must be a whole number",
    '{"name": "\\ud800", "size": 3}': "field 'name' must be text, found '\\ud800'",
    "[" * 100_000: "JSON nested too deeply",
}


@pytest.mark.parametrize(("line", "cause"), WRONG_LINES.items(), ids=range(len(WRONG_LINES)))
def test_a_wrong_line_is_named(folder: Path, line: str, cause: str | None) -> None:
    write(folder, "test", json.dumps(GOOD[0]), line)
    if cause is None:
        assert len(load_rows(SOURCE)["test"]) == 1
        return
    said = message()
    assert f"{folder / 'toys' / 'test.jsonl'} line 2: {cause}" in said
    assert "name (text), size (a whole number)" in said


def test_bytes_that_are_not_text_are_named(folder: Path) -> None:
    (folder / "toys" / "test.jsonl").write_bytes(b'{"name": "b\xe4ll", "size": 3}\n')
    assert "test.jsonl line 1: not UTF-8 text (byte 12" in message()


def test_all_problems_of_all_files_are_reported_at_once(folder: Path) -> None:
    write(folder, "train", *(["{}"] * 9))
    (folder / "toys" / "test.jsonl").unlink()
    said = message()
    assert [f"train.jsonl line {n}:" in said for n in range(1, 10)] == [True] * 5 + [False] * 4
    assert "and 4 more in train.jsonl" in said
    assert f"{folder / 'toys' / 'test.jsonl'} is missing" in said
    assert "toys/train.jsonl, toys/test.jsonl" in said
    assert "unset HARNESS_EXT_DATA to load nobody/toys from the hub" in said


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_named(folder: Path, content: str) -> None:
    (folder / "toys" / "test.jsonl").write_text(content)
    assert f"{folder / 'toys' / 'test.jsonl'} contains no rows" in message()


def test_a_value_that_no_row_has_is_named(folder: Path) -> None:
    said = message(where=("size", 8))
    assert "split 'train' contains no rows with size = 8" in said
    assert "split 'test' contains no rows with size = 8" in said


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "toys" / "test.jsonl").unlink()
    (folder / "toys" / "test.jsonl").mkdir()
    assert "test.jsonl cannot be read: Is a directory" in message()


def test_a_wrong_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_EXT_DATA", str(folder / "nowhere"))
    assert f"{folder / 'nowhere'} is not a folder" in message()
    monkeypatch.setenv("HARNESS_EXT_DATA", str(folder / "toys"))
    assert "toys is the folder of a single data set: name its parent folder" in message()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (float, [1, 0.5], [True, "1", None]),
        (bool, [True, False], [0, "true"]),
        (list[str], [[], ["a", "b"]], ["a", ["a", 1], None]),
        (str | None, ["a", None], [1, ["a"]]),
        (str | list[str], ["a", ["a"]], [1, None]),
    ],
)
def test_a_field_accepts_only_its_type(folder: Path, kind: Any, good: list[Any], bad: list[Any]) -> None:
    source = DataSource("toys", "nobody/toys", ("test",), {"value": kind})
    for value in good:
        write(folder, "test", json.dumps({"value": value}))
        assert load_rows(source)["test"].to_list() == [{"value": value}]
    for value in bad:
        write(folder, "test", json.dumps({"value": value}))
        assert "line 1: field 'value' must be" in message(source)


def test_a_field_of_several_types_is_named(folder: Path) -> None:
    write(folder, "test", '{"value": "a"}', '{"value": ["a"]}')
    said = message(DataSource("toys", "nobody/toys", ("test",), {"value": str | list[str]}))
    assert "test.jsonl contains a field with different types in different rows" in said


def test_an_optional_field_may_be_missing(folder: Path) -> None:
    source = DataSource("toys", "nobody/toys", ("test",), {"name": str, "note": str | None})
    write(folder, "test", '{"name": "ball"}', '{"name": "kite", "note": "red"}')
    assert load_rows(source)["test"].to_list() == [{"name": "ball", "note": None}, {"name": "kite", "note": "red"}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[Any, ...]]]:
    """Return a function that replaces the hub by a fixed answer and returns the list of calls to it."""
    data._hub_splits.cache_clear()
    calls: list[tuple[Any, ...]] = []

    def answer_with(answer: Any) -> list[tuple[Any, ...]]:
        def load_dataset(*args: Any) -> Any:
            calls.append(args)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return calls

    return answer_with


@pytest.mark.parametrize("named", [None, "", " "])
def test_without_a_folder_rows_are_loaded_from_the_hub_once(
    hub: Any, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    if named is not None:
        monkeypatch.setenv("HARNESS_EXT_DATA", named)
    rows = datasets.Dataset.from_list([{**row, "colour": "red"} for row in GOOD])
    calls = hub(datasets.DatasetDict(train=rows, test=rows, valid=rows))
    loaded = load_rows(SOURCE, where=("size", 7))
    assert set(loaded) == {"train", "test"}
    assert loaded["test"].to_list() == [GOOD[1]]
    assert load_rows(SOURCE)["test"].to_list() == GOOD
    assert calls == [("nobody/toys", "main")]


def test_a_hub_that_does_not_answer_is_reported_with_a_remedy(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    calls = hub(ConnectionError("no route"))
    said = message()
    assert "the hub (nobody/toys)" in said
    assert "ConnectionError: no route" in said
    assert "set HARNESS_EXT_DATA to a folder that contains toys/train.jsonl, toys/test.jsonl" in said
    message()
    assert len(calls) == 2, "a failure is not remembered"


def test_splits_and_fields_missing_on_the_hub_are_named(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    rows = datasets.Dataset.from_list([{"name": "ball", "weight": 3}])
    hub(datasets.DatasetDict(train=rows, validation=rows))
    said = message()
    assert "split 'train' has no field 'size'; its fields are: 'name', 'weight'" in said
    assert "split 'test' is missing; the splits are: 'train', 'validation'" in said


def test_an_optional_field_missing_on_the_hub_is_null(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_EXT_DATA", raising=False)
    hub(datasets.DatasetDict(test=datasets.Dataset.from_list([{"name": "ball"}])))
    source = DataSource("toys", "nobody/toys", ("test",), {"name": str, "note": str | None})
    assert load_rows(source)["test"].to_list() == [{"name": "ball", "note": None}]

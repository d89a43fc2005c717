"""Rows in every format: the rows are the same, and problems are reported with file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness_ext.data import DataError, DataSource, load_files, load_rows

FIELDS: dict[str, Any] = {"name": str, "size": int, "flat": bool, "tags": list[str], "note": str | None}
ROWS: list[dict[str, Any]] = [
    {"name": "ball", "size": 3, "flat": False, "tags": ["round", "red"], "note": None},
    {"name": 'a, "quoted"\nname', "size": -7, "flat": True, "tags": [], "note": "Ünïcode"},
]


def cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerows([list(rows[0]), *([cell(row[name]) for name in rows[0]] for row in rows)])
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    Dataset.from_list(rows).to_parquet(path)
    return path


def write_saved(path: Path, rows: list[dict[str, Any]]) -> Path:
    Dataset.from_list(rows).save_to_disk(path)
    return path


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "test.jsonl": write_jsonl,
    "test.csv": write_csv,
    "test.tsv": write_csv,
    "test.parquet": write_parquet,
    "test": write_saved,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toys").mkdir()
    path = WRITERS[name](tmp_path / "toys" / name, ROWS)
    assert load_files({"test": path}, FIELDS)["test"].to_list() == ROWS
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    assert load_rows(DataSource("toys", "nobody/toys", ("test",), FIELDS))["test"].to_list() == ROWS


def test_a_saved_dataset_dict_is_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DatasetDict(test=Dataset.from_list(ROWS), train=Dataset.from_list(ROWS[:1])).save_to_disk(tmp_path / "toys")
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    rows = load_rows(DataSource("toys", "nobody/toys", ("train", "test"), FIELDS))
    assert [len(rows[s]) for s in ("train", "test")] == [1, 2]
    with pytest.raises(DataError, match=r"toys has no split 'dev'; its splits are: 'test', 'train'"):
        load_rows(DataSource("toys", "nobody/toys", ("dev",), FIELDS))


def message(path: Path, fields: dict[str, Any] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        load_files({"test": path}, fields or {"name": str, "size": int})
    return str(caught.value)


WRONG_CSV = {
    "name,size\nball,3\nkite,big\n": "line 3: field 'size' must be a whole number, found 'big'",
    "name,size\nball,3\nkite,7,8\n": "line 3: 3 cells, but the header has 2: quote cells that contain ','",
    'name,size\n"a\nb",x\n': "line 2: field 'size' must be a whole number, found 'x'",
    "name,siz\nball,3\n": "line 2: field 'size' is missing (did you mean `siz`?)",
    "name,name\nball,3\n": "line 1: the header has an empty or repeated name: 'name', 'name'",
    'name,size\nball,3\n"kite,7\n': "line 3: not valid CSV (unexpected end of data)",
    "name,size\n": "contains no rows",
    "": "contains no rows",
}


@pytest.mark.parametrize(("text", "cause"), WRONG_CSV.items(), ids=range(len(WRONG_CSV)))
def test_wrong_csv_is_named(tmp_path: Path, text: str, cause: str) -> None:
    path = tmp_path / "test.csv"
    path.write_text(text)
    said = message(path)
    assert f"{path} {cause}" in said
    assert "name (text), size (a whole number)" in said


def test_csv_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_bytes("name,size\nball,3\nkäse,4\n".encode("latin-1"))
    assert "test.csv line 3: not UTF-8 text (" in message(tmp_path / "test.csv")


@pytest.mark.parametrize("name", ["test.parquet", "test"])
def test_wrong_values_in_binary_files_are_named_by_row(tmp_path: Path, name: str) -> None:
    path = WRITERS[name](tmp_path / name, [{"name": "a", "size": 1}, {"name": None, "size": 2}])
    assert f"{path} row 2: field 'name' must be text, found None" in message(path)
    assert "row 1: field 'weight' is missing" in message(path, {"weight": int})


def test_files_whose_content_does_not_match_their_suffix(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.xlsx"):
        (tmp_path / name).write_text("no")
    (tmp_path / "c").mkdir()
    assert "a.parquet is not a Parquet file (" in message(tmp_path / "a.parquet")
    assert "b.xlsx has an unknown format: use .jsonl, .csv" in message(tmp_path / "b.xlsx")
    assert "c is not a folder written by save_to_disk (" in message(tmp_path / "c")
    assert "d.csv is missing" in message(tmp_path / "d.csv")


def test_two_files_of_one_split_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toys").mkdir()
    write_jsonl(tmp_path / "toys" / "test.jsonl", ROWS)
    write_csv(tmp_path / "toys" / "test.csv", ROWS)
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"contains split 'test' more than once \(test.jsonl, test.csv\): keep one"):
        load_rows(DataSource("toys", "nobody/toys", ("test",), FIELDS))


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=40, deadline=None
)
@given(st.lists(st.fixed_dictionaries({"name": _TEXT, "size": st.integers(-(2**63), 2**63 - 1)}), min_size=1))
def test_every_row_survives_csv(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = write_csv(tmp_path / "test.csv", rows)
    assert load_files({"test": path}, {"name": str, "size": int})["test"].to_list() == rows

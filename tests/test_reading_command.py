"""`harness-ext read`: rows in, rows out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from harness_ext.reading import RowError, read_row
from harness_ext.reading.command import main

ROWS: list[tuple[dict[str, Any], Any]] = [
    ({"reply": "Answer: $1,234.56", "kind": "number"}, "30864/25"),
    ({"reply": "Answer: 8/3", "kind": "number"}, "8/3"),
    ({"reply": "I cannot say.", "kind": "number"}, None),
    ({"reply": "The answer is B because.", "kind": "choice", "choices": ["oven", "cellar"]}, "B"),
    ({"reply": "the cellar", "kind": "choice", "choices": ["oven", "cellar"]}, "B"),
    ({"reply": "The answer is B because.", "kind": "choice"}, "B"),
    ({"reply": "The answer is 7.", "kind": "choice"}, None),
    ({"reply": "**No**, it is not.", "kind": "yes_no"}, False),
    ({"reply": "Answer: Most likely yes.", "kind": "yes_no"}, True),
    ({"reply": "maybe", "kind": "yes_no"}, None),
    ({"reply": "That's correct!", "kind": "verdict"}, True),
    ({"reply": "Correct reasoning, wrong answer", "kind": "verdict"}, False),
    ({"reply": "Correct. Incorrect.", "kind": "verdict"}, None),
    ({"reply": "Step 2 is wrong: 0", "kind": "rating"}, 0),
    ({"reply": "no", "kind": "rating"}, None),
    ({"reply": ["Answer: 5 dozen", "60"], "kind": "same"}, True),
    ({"reply": ["Answer: 5 dozen", "5"], "kind": "same"}, False),
    ({"reply": ["(B) cellar", "the cellar"], "kind": "same", "choices": ["oven", "cellar"]}, True),
    ({"reply": '{"answer": "cellar"}', "kind": "json_choice", "choices": ["oven", "cellar"]}, "B"),
    ({"reply": "nothing", "kind": "json_choice", "choices": ["oven", "cellar"]}, None),
]


@pytest.mark.parametrize(("row", "wanted"), ROWS)
def test_rows(row: dict[str, Any], wanted: Any) -> None:
    found = read_row(row)
    assert found["read"] == wanted
    assert type(found["read"]) is type(wanted)
    if row["kind"] not in ("verdict", "same"):
        assert (found["rule"] is None) == (wanted is None)


BAD = [
    ({"reply": "x"}, "`kind` is None: write one of number, choice"),
    ({"reply": "x", "kind": "colour"}, "`kind` is 'colour': write one of"),
    ({"kind": "number"}, "`reply` is None: write a text"),
    ({"reply": ["a", "b"], "kind": "number"}, "`reply` is ['a', 'b']: write a text"),
    ({"reply": "a", "kind": "same"}, "`reply` is 'a': write a list of two texts"),
    ({"reply": ["a"], "kind": "same"}, "write a list of two texts"),
    ({"reply": "a", "kind": "json_choice"}, "`choices` is None: write a list of 1 to 26 texts"),
    ({"reply": "a", "kind": "choice", "choices": "ab"}, "`choices` is 'ab': write a list"),
    ({"reply": "a", "kind": "choice", "choices": []}, "`choices` is []: write a list"),
    ({"reply": "a", "kind": "choice", "choices": ["x"] * 27}, "write a list of 1 to 26 texts"),
    ({"reply": "a", "kind": "choice", "choices": [1, 2]}, "write a list of 1 to 26 texts"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_rows_that_cannot_be_read_say_what_to_write(row: dict[str, Any], message: str) -> None:
    with pytest.raises(RowError) as raised:
        read_row(row)
    assert message in str(raised.value)


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_command_prints_the_rows_with_what_was_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "é", **row} for row, _ in ROWS]
    assert main([written(tmp_path / "rows.jsonl", rows)]) == 0
    out, err = capsys.readouterr()
    printed = [json.loads(line) for line in out.splitlines()]
    assert [row["read"] for row in printed] == [wanted for _, wanted in ROWS]
    assert [{k: v for k, v in row.items() if k not in ("read", "rule")} for row in printed] == rows
    assert "é" in out
    assert err == ""


def test_no_rows_and_blank_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "blank.jsonl").write_text("\n  \n")
    assert main([str(tmp_path / "none.jsonl")]) == main([str(tmp_path / "blank.jsonl")]) == 0
    assert capsys.readouterr() == ("", "")


def test_many_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = json.dumps({"reply": "Answer: 5", "kind": "number"})
    (tmp_path / "many.jsonl").write_text(f"{line}\n" * 100_000)
    assert main([str(tmp_path / "many.jsonl")]) == 0
    assert capsys.readouterr().out.count('"read": "5"') == 100_000


def test_rows_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"reply": "7", "kind": "number"}\n'))
    assert main(["-"]) == 0
    assert json.loads(capsys.readouterr().out)["read"] == "7"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"reply": "5", "kind": "number"}\n{oops\n', "line 2 is not JSON"),
        (b"[1]\n", "line 1 is a JSON list: write one object a line"),
        (b'{"reply": 5, "kind": "number"}\n', "line 1: `reply` is 5: write a text"),
        (b"\xff\xfe\n", "is not UTF-8 (byte 0): save it as UTF-8"),
    ],
)
def test_bad_input_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    assert main([str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_and_missing_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.jsonl")]) == 2
    assert "cannot be opened (No such file or directory): give a file of JSON lines" in capsys.readouterr().err
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "`kind` (number, choice, yes_no" in capsys.readouterr().out


def test_a_reply_with_a_lone_surrogate_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text('{"reply": "Answer: 5 \\ud800", "kind": "number"}\n')
    assert main([str(tmp_path / "rows.jsonl")]) == 0
    assert json.loads(capsys.readouterr().out)["read"] == "5"

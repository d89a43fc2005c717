"""Training rows through `datasets`: formats, splits, the hub, and one error for what is wrong with a whole source."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from row_support import rows_of, settings

from harness_ext.finetune.args import ConfigError
from harness_ext.finetune.columns import check_columns
from harness_ext.finetune.data_names import is_hub_name
from harness_ext.finetune.encoding import DataError
from harness_ext.finetune.plan import build_plan
from harness_ext.finetune.readers import open_source, open_table
from harness_ext.finetune.sources import join_targets, load, read_targets

# Values that readers of tables like to turn into something else.
TEXTS = ["007", "NA", "null", "true", "2024-01-01", "1e5", ' a, "b"\nc ', "ä\u2028ö"]
ROWS = [{"prompt": f"p{at}", "completion": text} for at, text in enumerate(TEXTS)]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the file's suffix."""
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list(rows).to_parquet(str(path))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows_from_memory_mapped_files(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"rows [1]*{suffix}", ROWS)  # these characters are a pattern to `datasets`
    (tmp_path / f"rows 1x{suffix}").write_bytes(b"another file that the pattern would match")
    train, held_out = load(settings(train_file=str(path)))
    assert [row for _, row in train] == ROWS
    assert len(held_out) == 0
    first = "line 1" if suffix == ".jsonl" else "row 0"
    assert train.label(0) == first
    assert train.table().cache_files


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path) -> None:
    for name in ("rows.jsonl", "rows.json", "rows.csv"):
        path = write(tmp_path / name, ROWS)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert [row for _, row in open_source(str(path))[""]] == ROWS


def test_a_json_file_may_also_have_one_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    write(tmp_path / "rows.jsonl", ROWS).rename(path)
    assert [row for _, row in open_source(str(path))[""]] == ROWS


def test_rows_of_json_keep_their_own_columns_and_types(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"text": "a"},
        {"text": 3, "other": [1, "b"]},
        {"text": ["c"]},
        {"text": None},
        "d",
        {"n": 2**70},
    ]
    path = write(tmp_path / "rows.jsonl", rows)
    assert [row for _, row in open_source(str(path))[""]] == rows


def test_lines_are_numbered_as_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('\n{"text": "a"}\n \t\n\n{"text": "b"}', encoding="utf-8")
    rows, _ = load(settings(train_file=str(path)))
    assert list(rows) == [("line 2", {"text": "a"}), ("line 5", {"text": "b"})]


def test_a_file_that_changes_is_read_again_even_if_its_time_stays(tmp_path: Path) -> None:
    import os

    path = write(tmp_path / "rows.jsonl", [{"text": "a"}])
    before = path.stat()
    assert [row for _, row in open_source(str(path))[""]] == [{"text": "a"}]
    write(path, [{"text": "b"}])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [row for _, row in open_source(str(path))[""]] == [{"text": "b"}]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("rows.jsonl", b'{"text": "\xff"}\n', "cannot be read as JSON lines: .*can't decode byte 0xff"),
        ("rows.json", b'[{"text": "a"}', "cannot be read as JSON"),
        (
            "rows.csv",
            b"a,b\n1,2\n1,2,3\n",
            "cannot be read as a table with 2 columns: .*Expected 2 fields in line 3, saw 3",
        ),
        ("rows.csv", b"a,b\n1,2,3\n1,2,3\n", "cannot be read as a table with 2 columns"),
        ("rows.csv", b"a,a\n1,2\n", "two with the same name: 'a', 'a'"),
        ("rows.tsv", b"", "without a name, or two with the same name: none"),
        ("rows.csv", b"text,finished\na,perhaps\n", "cannot be read as a table"),
        ("rows.parquet", b"PAR1", "cannot be read as Parquet"),
        ("rows.json", b"[]", "rows.json contains no rows"),
        ("rows.csv", b"text\n", "rows.csv contains no rows"),
    ],
)
def test_a_broken_file_is_one_error_with_file_and_remedy(
    name: str, content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        load(settings(train_file=str(path)))
    assert str(path) in str(caught.value)
    assert "Remedy: " in str(caught.value)


def test_a_folder_of_files_is_read_as_load_dataset_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "train-0.parquet", ROWS[:3])
    write(folder / "train-1.parquet", ROWS[3:])
    write(folder / "test.parquet", ROWS[:2])
    train, held_out = load(settings(train_file=str(folder), eval_split="test"))
    assert [row for _, row in train] == ROWS
    assert [row for _, row in held_out] == ROWS[:2]
    other, held_out = load(settings(train_file=str(folder), train_split="test"))
    assert ([row for _, row in other], len(held_out)) == (ROWS[:2], 0)
    with pytest.raises(DataError, match=r"no split `dev`; its splits are train, test\. Remedy: .*`eval_split`"):
        load(settings(train_file=str(folder), eval_split="dev"))
    with pytest.raises(DataError, match=r"no split `dev`.*`train_split`"):
        load(settings(train_file=str(folder), train_split="dev"))


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_an_empty_split_is_an_error(empty: str, tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    splits = {"train": Dataset.from_list(ROWS), "validation": Dataset.from_list(ROWS)}
    splits[empty] = splits[empty].select([])
    DatasetDict(splits).save_to_disk(str(tmp_path / "rows"))
    with pytest.raises(DataError, match=rf"rows \(split `{empty}`\) contains no rows\. Remedy: "):
        load(settings(train_file=str(tmp_path / "rows")))


def test_nothing_is_written_into_a_saved_folder(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer

    from harness_ext.embedded import model_path
    from harness_ext.finetune.report import build_dataset

    Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "rows"))
    before = sorted(path.name for path in (tmp_path / "rows").iterdir())
    args = settings(train_file=str(tmp_path / "rows"))
    data, _ = build_dataset(load(args)[0], AutoTokenizer.from_pretrained(model_path("student")), args, "rows")
    assert len(data) == len(ROWS)
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == before


@pytest.mark.parametrize("cache", ["file/c", "broken", "/proc/none"])
def test_a_cache_that_cannot_be_created_is_not_blamed_on_the_rows(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to("missing/too")
    path = write(tmp_path / "rows.jsonl", ROWS)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / cache)
    with pytest.raises(DataError, match=rf"rows cannot be cached in .*{cache}/harness_ext: .*HF_DATASETS_CACHE\.") as e:
        load(settings(train_file=str(path)))
    assert "repair" not in str(e.value)


def test_a_data_set_of_the_hub_without_a_connection_names_cause_and_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError) as caught:
        load(settings(train_file="nobody/rows"))
    said = str(caught.value)
    assert said.startswith("nobody/rows is neither a file nor a folder here, and cannot be loaded as a data set of the")
    assert "The hub cannot be reached: HF_HUB_OFFLINE is set." in said
    assert "Remedy: check the name, `dataset_config` and the connection" in said


def test_a_data_set_of_the_hub_has_splits_and_labelled_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    splits = {"train": ROWS, "test": ROWS[:2]}
    hub = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()})
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: calls.append(args) or hub)
    train, held_out = load(settings(train_file="nobody/rows", dataset_config="main", eval_split="test"))
    assert list(train) == [(f"row {at}", row) for at, row in enumerate(ROWS)]
    assert list(held_out) == [(f"row {at}", row) for at, row in enumerate(ROWS[:2])]
    assert [rows.source for rows in (train, held_out)] == [f"nobody/rows (split `{name}`)" for name in splits]
    other, held_out = load(settings(train_file="nobody/rows", train_split="test"))
    assert ([row for _, row in other], len(held_out)) == (ROWS[:2], 0)
    assert other.key() != train.key()
    assert calls == [("nobody/rows", "main"), ("nobody/rows", None)]
    with pytest.raises(DataError, match=r"nobody/rows has no split `dev`; its splits are train, test\. Remedy: "):
        load(settings(train_file="nobody/rows", train_split="dev"))


def test_names_of_the_hub_are_told_from_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("trl-lib/Capybara")
    for name in ("rows", "data/rows.jsonl", "/data/rows", "a/b/c", "./rows", "a/b.parquet", ""):
        assert not is_hub_name(name)
    (tmp_path / "data" / "rows").mkdir(parents=True)
    assert not is_hub_name("data/rows")
    base = {"model": "m", "output_dir": "o"}
    assert build_plan({**base, "train_file": "owner/name"}).stages[0].train_file == "owner/name"
    with pytest.raises(ConfigError, match=r"`train_file`: data/missing.jsonl is neither a file nor a folder, nor the"):
        build_plan({**base, "train_file": "data/missing.jsonl"})
    with pytest.raises(ConfigError, match="`teacher_file`: data is not a file"):
        build_plan({**base, "train_file": "owner/name", "teacher_file": "data"})


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("given", "row", "problem", "remedy"),
    [
        ({}, {"prompt": "a", "completions": "b"}, "a column `completion`; the columns are prompt, completions",
         "Did you mean `completions` instead of `completion`?"),
        ({}, {"prompt": "a", "messages": []}, "a column `completion`;", "set column: messages"),
        ({}, {"massages": []}, "the columns of a kind of row that can be learned (`prompt` and `completion`; ",
         "Did you mean `massages` instead of `messages`?"),
        ({}, {"prompt": "a", "completion": None}, "a value in the column `completion`", "name the column to learn"),
        ({}, {"text": None}, "a value in the column `text`", "name the column to learn with `column`"),
        ({}, PAIR, "a column `completion`", "set method: dpo or orpo"),
        ({}, {"instruction": "a", "output": "b"}, "kind of row", "`column` and the one that it answers with"),
        ({"column": "cot"}, {"cot_tail": "a"}, "a column `cot`;", "Did you mean `cot_tail` instead of `cot`? Remedy: "
         "name an existing column with `column`"),
        ({"column": "b", "prompt_column": "a"}, {"x": "1"}, "a column `a` or `b`", "with `column` and `prompt_column`"),
        ({"method": "dpo"}, {"prompt": "p", "chosen": "a"}, "a column `rejected`", "name the columns `prompt`"),
        ({"method": "orpo"}, {"chosen": "a", "rejected": "b"}, "a column `prompt`", "method: sft"),
        ({"method": "dpo"}, {"prompt": "p", "completion": "a"}, "a column `chosen` or `rejected`", "method: sft"),
        ({"method": "kd"}, {"prompt": "p", "answer": "s"}, "a column `solution`", "with `golden_column`"),
        ({"method": "kd", "targets": "teacher"}, {"prompt": "p"}, "a column `explanation`", "with `teacher_column`"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bad_rows", ["stop", "drop"])
def test_a_column_that_no_row_has_is_one_error(
    given: dict[str, Any], row: dict[str, Any], problem: str, remedy: str, bad_rows: str
) -> None:
    with pytest.raises(DataError) as caught:
        check_columns(rows_of(*[row] * 5), settings(bad_rows=bad_rows, **given))
    said = str(caught.value)
    assert said.startswith("no row of rows.jsonl has ")
    assert problem in said
    assert remedy in said
    assert said.count("\n") == 0


@pytest.mark.parametrize(
    ("given", "row"),
    [
        ({}, {"prompt": "a", "completion": "b"}),
        ({}, {"messages": [], "x": 1}),
        ({}, {"state": "s", "question": "q", "answer": "a"}),
        ({"column": "cot"}, {"cot": "a"}),
        ({"method": "dpo"}, PAIR),
        ({"method": "dpo"}, {"chosen": [{}, {}], "rejected": [{}, {}]}),
        ({"method": "kd"}, {"prompt": "p", "solution": "s"}),
        ({"method": "kd", "teacher_model": "m"}, {"text": "t"}),
    ],
)
def test_one_row_with_the_columns_is_enough(given: dict[str, Any], row: dict[str, Any]) -> None:
    check_columns(rows_of({"other": 1}, "no row", row), settings(**given))


def test_a_column_of_the_wrong_type_is_one_error(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{at}", "completion": at} for at in range(5)]
    train, _ = load(settings(train_file=str(write(tmp_path / "rows.parquet", rows))))
    with pytest.raises(
        DataError, match=r"rows.parquet has a column of the wrong type: `completion` is int64\..*Remedy"
    ):
        check_columns(train, settings(bad_rows="drop"))
    messages = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "n": 1}]
    train, _ = load(settings(train_file=str(write(tmp_path / "chat.parquet", messages))))
    check_columns(train, settings())
    assert [row for _, row in train] == [{"messages": messages[0]["messages"]}]


def test_targets_are_joined_by_position_in_the_file_before_rows_are_held_out(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [{"prompt": str(at)} for at in range(10)])
    teacher = write(tmp_path / "teacher.jsonl", [{"index": at, "explanation": f"e{at}"} for at in range(10)])
    args = settings(train_file=str(rows), teacher_file=str(teacher), eval_fraction=0.5, method="kd", targets="teacher")
    train, held_out = load(args)
    for _, row in [*train, *held_out]:
        assert row["explanation"] == f"e{row['prompt']}"
    with pytest.raises(
        DataError, match=r"no row of rows.jsonl has a target in .*: the indices there are 0, 1, .*Remedy"
    ):
        join_targets(rows_of({"index": "a"}), read_targets(str(teacher), "explanation"))


def test_a_table_of_targets_may_be_separated_by_commas_or_tabs(tmp_path: Path) -> None:
    for separator in ",\t":
        path = tmp_path / "targets.txt"
        path.write_text(f"index{separator}explanation\n007{separator}NA\n", encoding="utf-8")
        assert [row for _, row in open_table(str(path))] == [{"index": "007", "explanation": "NA"}]

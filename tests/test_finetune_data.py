"""Training rows: which parts are learned, which rows are refused, and the order of batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from row_support import rows_of, settings

from harness_ext.embedded import model_path
from harness_ext.finetune.encoding import (
    BadRow,
    DataError,
    Dialogue,
    Preference,
    PromptCompletion,
    Text,
    parse,
    parse_row,
)
from harness_ext.finetune.report import Dropped, build_dataset
from harness_ext.finetune.sampler import LengthGroupedSampler
from harness_ext.finetune.sources import join_targets, load, read_targets
from harness_ext.finetune.tokenising import encode, encode_pair


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("student"))


def test_only_the_completion_and_its_end_are_learned(tokenizer) -> None:  # type: ignore[no-untyped-def]
    one = encode(PromptCompletion("1 Mary went to the office.\n", "Answer: office"), tokenizer)
    learned = [token for token, label in zip(one.input_ids, one.labels, strict=True) if label != -100]
    assert tokenizer.decode(learned) == "Answer: office</s>"
    prompt = one.input_ids[: -len(learned)]
    assert prompt == tokenizer("1 Mary went to the office.\n")["input_ids"]
    assert prompt[0] == tokenizer.bos_token_id
    assert one.labels[: len(prompt)] == [-100] * len(prompt)


def test_messages_are_rendered_as_at_inference(tokenizer) -> None:  # type: ignore[no-untyped-def]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Where is Mary?"}]
    one = encode(PromptCompletion(messages, "office"), tokenizer)
    assert tokenizer.decode(one.input_ids) == "<s><|system|>S</s><|user|>Where is Mary?</s><|assistant|>office</s>"
    begun = [*messages, {"role": "assistant", "content": "Reasoning: 1 Mary"}]
    text = tokenizer.decode(encode(PromptCompletion(begun, " office."), tokenizer).input_ids)
    assert text.endswith("<|assistant|>Reasoning: 1 Mary office.</s>")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a"}, "no completion"),
        ({"prompt": "a", "completion": None}, "no completion"),
        ({"prompt": "", "completion": ""}, "no prompt and no completion"),
        ({"instruction": "a", "output": "b"}, "no prompt and no completion"),
        ({"prompt": 3, "completion": "b"}, "neither text nor messages"),
        ({"prompt": [{"role": "user"}], "completion": "b"}, "needs `role` and `content`"),
        ({"prompt": "a", "completion": [{"role": "user", "content": "b"}]}, "one assistant message"),
        (["a"], "a row is an object"),
    ],
)
def test_bad_rows_are_refused_with_the_reason(row: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_row(row)


def test_a_completion_may_be_a_message() -> None:
    row = parse_row({"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]})
    assert row == PromptCompletion("a", "b")


def test_every_bad_line_is_reported_and_nothing_is_truncated(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a"}, {"prompt": "x " * 40, "completion": "b"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    args = settings(max_length=20, train_file=str(path))
    with pytest.raises(DataError) as caught:
        build_dataset(load(args)[0], tokenizer, args, "rows.jsonl")
    text = str(caught.value)
    assert "2 rows" in text
    assert "line 3: no completion" in text
    assert "line 5: " in text
    assert "more than max_length 20" in text


def test_empty_files_and_invalid_json_are_errors(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "rows.jsonl"
    args = settings(train_file=str(path))
    for blank in ("", "\n"):
        path.write_text(blank, encoding="utf-8")
        with pytest.raises(DataError, match=r"rows.jsonl contains no rows\. Remedy: "):
            load(args)
    path.write_text('{"text": "a"}\n\n{"text": "a"\n', encoding="utf-8")
    rows, _ = load(args)
    with pytest.raises(DataError, match="line 3 is not JSON"):
        build_dataset(rows, tokenizer, settings(bad_rows="drop"), "rows.jsonl")
    with pytest.raises(DataError, match=r"no row of rows.jsonl can be trained on \(1 empty\):\n  - line 1: no text"):
        build_dataset(rows_of({"text": " "}), tokenizer, settings(bad_rows="drop"), "rows.jsonl")


def test_the_report_counts_dropped_truncated_and_duplicate_rows(tokenizer) -> None:  # type: ignore[no-untyped-def]
    rows = rows_of(
        {"text": "Mary went to the office."},
        {"text": "Mary went to the office."},
        {"text": None},
        {"text": "   "},
        {"other": 1},
        "no object",
        {"text": "office " * 40},
    )
    args = settings(bad_rows="drop", too_long="keep_end", max_length=12)
    data, report = build_dataset(rows, tokenizer, args, "rows.jsonl")
    assert (report.rows, report.used, report.truncated, report.duplicates) == (7, 3, 1, 1)
    assert report.dropped == {"empty": Dropped(2, ["line 3", "line 4"]), "malformed": Dropped(2, ["line 5", "line 6"])}
    assert report.stops == 3
    assert data[2]["input_ids"][-1] == tokenizer.eos_token_id
    assert len(data[2]["input_ids"]) == 12
    assert report.tokens == sum(map(len, data["input_ids"]))
    assert report.learned == sum(label != -100 for row in data["labels"] for label in row)
    assert "empty: 2 (line 3, line 4)" in report.text()
    once, report = build_dataset(rows.select([0, 1]), tokenizer, settings(drop_duplicates=True), "rows.jsonl")
    assert (len(once), report.dropped) == (1, {"duplicate": Dropped(1, ["line 2"])})


def test_the_report_warns_if_truncation_removes_the_stop_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    rows = rows_of({"prompt": "a", "completion": "office " * 40}, {"prompt": "office " * 40, "completion": "b"})
    args = settings(too_long="keep_start", bad_rows="drop", max_length=12)
    data, report = build_dataset(rows.select([0]), tokenizer, args, "rows.jsonl")
    assert (report.truncated, report.stops, len(data[0]["input_ids"])) == (1, 0, 12)
    assert "WARNING" in report.text()
    # Only the prompt would be left, and it is not learned.
    with pytest.raises(DataError, match="1 nothing learned"):
        build_dataset(rows.select([1]), tokenizer, args, "rows.jsonl")


def test_the_report_shows_a_row_with_its_mask(tokenizer) -> None:  # type: ignore[no-untyped-def]
    _, report = build_dataset(rows_of({"prompt": "Where?\n", "completion": "Answer: x"}), tokenizer, settings(), "r")
    assert report.example == "<s>Where?\n⟦Answer: x</s>⟧"


def test_every_assistant_turn_of_a_dialogue_is_learned(tokenizer) -> None:  # type: ignore[no-untyped-def]
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "2"},
    ]
    row = parse({"messages": messages}, settings())
    assert isinstance(row, Dialogue)
    one = encode(row, tokenizer)
    _, report = build_dataset(rows_of({"messages": messages}), tokenizer, settings(), "r")
    assert report.example == (
        "<s><|system|>S</s><|user|>one</s><|assistant|>⟦1</s>⟧<|user|>two</s><|assistant|>⟦2</s>⟧"
    )
    assert len(one.input_ids) == len(one.labels)
    with pytest.raises(BadRow, match="no assistant turn"):
        parse({"messages": messages[:2]}, settings())


def test_a_template_that_rewrites_history_is_refused(tokenizer) -> None:  # type: ignore[no-untyped-def]
    import copy

    changing = copy.deepcopy(tokenizer)
    changing.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(BadRow, match="renders the beginning of a dialogue differently"):
        encode(Dialogue(messages), changing)
    changing.chat_template = "{{ raise_exception('no system please') }}"
    with pytest.raises(BadRow, match="no system please"):
        encode(Dialogue(messages), changing)


def test_a_column_is_the_whole_text_or_the_reply_to_another_column() -> None:
    value = {"cot_tail": "Q: x A: y", "question": "x", "messages": []}
    assert parse(value, settings(column="cot_tail")) == Text("Q: x A: y")
    assert parse(value, settings(column="cot_tail", prompt_column="question")) == PromptCompletion("x", "Q: x A: y")
    with pytest.raises(BadRow, match="no column error; the columns are cot_tail, question"):
        parse(value, settings(column="error"))


def test_targets_are_golden_or_the_teachers_but_always_golden_in_validation() -> None:
    value = {"prompt": "p", "solution": "gold", "explanation": "told"}
    assert parse(value, settings(method="kd")) == PromptCompletion("p", "gold")
    teacher = settings(method="kd", targets="teacher")
    assert parse(value, teacher) == PromptCompletion("p", "told")
    assert parse(value, teacher, golden=True) == PromptCompletion("p", "gold")
    told = settings(method="kd", column="explanation", prompt_column="prompt")
    assert parse(value, told) == PromptCompletion("p", "told")
    assert parse({"text": "t"}, settings(method="kd", teacher_model="m")) == Text("t")
    with pytest.raises(BadRow, match="no explanation"):
        parse({"prompt": "p", "solution": "gold"}, teacher)


def test_targets_of_a_teacher_are_joined_by_index(tmp_path: Path) -> None:
    table = tmp_path / "teacher.csv"
    table.write_text('"index"\t"explanation"\n"1"\t"one\nline"\n"0"\t"zero"\n', encoding="utf-8")
    targets = read_targets(table, "explanation")
    rows = rows_of({"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"})
    joined = [row["explanation"] for _, row in join_targets(rows, targets)]
    assert joined == ["zero", "one\nline", None]
    named = [row["explanation"] for _, row in join_targets(rows_of({"index": 1}), targets)]
    assert named == ["one\nline"]
    table.write_text("index\texplanation\n1\ta\n1\tb\n", encoding="utf-8")
    with pytest.raises(DataError, match="index 1 occurs twice"):
        read_targets(table, "explanation")
    with pytest.raises(DataError, match="needs the columns"):
        read_targets(table, "other")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "the same"),
        ({"prompt": "p", "chosen": "a"}, "no rejected"),
        ({"chosen": "a", "rejected": "b"}, "no prompt"),
        ({"prompt": "p", "chosen": "", "rejected": None}, "no chosen and no rejected"),
        (
            {
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            "no common prompt",
        ),
    ],
)
def test_bad_preferences_are_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        parse(value, settings(method="dpo"))


def test_preferences_may_be_dialogues_with_a_common_beginning(tokenizer) -> None:  # type: ignore[no-untyped-def]
    begin = [{"role": "user", "content": "p"}]
    row = {name: [*begin, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    pair = parse(row, settings(method="orpo"))
    assert pair == Preference(begin, "chosen", "rejected")
    one = encode_pair(pair, tokenizer)
    assert tokenizer.decode(one.prompt_ids + one.chosen_ids) == "<s><|user|>p</s><|assistant|>chosen</s>"
    rows = rows_of(row, {"prompt": "p", "chosen": "a", "rejected": "a"})
    _, report = build_dataset(rows, tokenizer, settings(method="dpo", bad_rows="drop"), "r")
    assert report.dropped == {"identical pair": Dropped(1, ["line 2"])}


def test_folders_have_a_train_split_and_may_have_a_validation_split(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    train, other = Dataset.from_list([{"text": "a"}, {"text": "b"}]), Dataset.from_list([{"text": "c"}])
    DatasetDict(train=train, validation=other).save_to_disk(str(tmp_path / "both"))
    rows, held_out = load(settings(train_file=str(tmp_path / "both")))
    assert [row["text"] for _, row in rows] == ["a", "b"]
    assert list(held_out) == [("row 0", {"text": "c"})]
    train.save_to_disk(str(tmp_path / "plain"))
    assert list(map(list, load(settings(train_file=str(tmp_path / "plain"))))) == [list(rows), []]
    DatasetDict(test=train).save_to_disk(str(tmp_path / "test"))
    with pytest.raises(DataError, match="no split `train`; its splits are test"):
        load(settings(train_file=str(tmp_path / "test")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="save_to_disk"):
        load(settings(train_file=str(tmp_path / "empty")))


def test_a_share_of_the_rows_can_be_held_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": str(at)}) + "\n" for at in range(20)), encoding="utf-8")
    train, held_out = load(settings(train_file=str(path), eval_fraction=0.25))
    assert (len(train), len(held_out)) == (15, 5)
    assert sorted(int(row["text"]) for _, row in [*train, *held_out]) == list(range(20))
    again = load(settings(train_file=str(path), eval_fraction=0.25))
    assert list(map(list, again)) == [list(train), list(held_out)]
    # A resumed run needs the rows that earlier versions held out.
    assert [label for label, _ in held_out] == ["line 3", "line 6", "line 9", "line 18", "line 19"]
    for share in (0.01, 1.0):
        with pytest.raises(DataError, match="leaves none for training or for validation"):
            load(settings(train_file=str(path), eval_fraction=share))


@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5))
def test_grouped_batches_contain_every_row_once(lengths: list[int], batch_size: int, seed: int) -> None:
    sampler = LengthGroupedSampler(lengths, batch_size, seed)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths)))
    assert order == list(LengthGroupedSampler(lengths, batch_size, seed))


def test_grouping_saves_padding_and_changes_with_the_epoch() -> None:
    lengths = [1 + (index * 37) % 100 for index in range(1000)]

    def padded(order: list[int]) -> int:
        return sum(10 * max(lengths[row] for row in order[at : at + 10]) for at in range(0, len(order), 10))

    sampler = LengthGroupedSampler(lengths, 10, 1)
    first = list(sampler)
    assert padded(first) < 0.6 * padded(list(range(1000)))
    sampler.set_epoch(1)
    assert list(sampler) != first

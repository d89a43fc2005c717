"""Training rows: what is learned, what is refused, and the order of batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.embedded import model_path
from harness_ext.finetune.data import DataError, LengthGroupedSampler, Row, build_dataset, encode, parse_row, read_rows


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("student"))


def test_only_the_completion_and_its_end_are_learned(tokenizer) -> None:  # type: ignore[no-untyped-def]
    one = encode(Row("1 Mary went to the office.\n", "Answer: office"), tokenizer)
    learned = [token for token, label in zip(one["input_ids"], one["labels"], strict=True) if label != -100]
    assert tokenizer.decode(learned) == "Answer: office</s>"
    prompt = one["input_ids"][: -len(learned)]
    assert prompt == tokenizer("1 Mary went to the office.\n")["input_ids"]
    assert prompt[0] == tokenizer.bos_token_id
    assert one["labels"][: len(prompt)] == [-100] * len(prompt)


def test_messages_are_rendered_as_at_use(tokenizer) -> None:  # type: ignore[no-untyped-def]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Where is Mary?"}]
    one = encode(Row(messages, "office"), tokenizer)
    assert tokenizer.decode(one["input_ids"]) == "<s><|system|>S</s><|user|>Where is Mary?</s><|assistant|>office</s>"
    begun = [*messages, {"role": "assistant", "content": "Reasoning: 1 Mary"}]
    text = tokenizer.decode(encode(Row(begun, " office."), tokenizer)["input_ids"])
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
    assert row == Row("a", "b")


def test_every_bad_line_is_named_and_nothing_is_cut(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a"}, {"prompt": "x " * 40, "completion": "b"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError) as caught:
        build_dataset(read_rows(path), tokenizer, 20, "rows.jsonl")
    text = str(caught.value)
    assert "2 rows" in text
    assert "line 3: no completion" in text
    assert "line 5: " in text
    assert "more than max_length 20" in text


def test_no_rows_and_no_json_are_errors(tokenizer, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="no rows"):
        build_dataset(read_rows(path), tokenizer, 20, "rows.jsonl")
    path.write_text('{"prompt": "a"\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1 is no JSON"):
        list(read_rows(path))


@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 9), st.integers(0, 5))
def test_grouped_batches_hold_every_row_once(lengths: list[int], batch_size: int, seed: int) -> None:
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

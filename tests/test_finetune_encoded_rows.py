"""Tokenised rows: the same in batches as row by row, cached for later starts, and done by one process of several."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from row_support import rows_of, settings

from harness_ext.embedded import model_path
from harness_ext.finetune import tokenising
from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.finetune.encoded_rows import fit, tokenizer_key, trained_columns
from harness_ext.finetune.encoding import BadRow, DataError, Preference, parse
from harness_ext.finetune.report import build_dataset
from harness_ext.finetune.sources import load
from harness_ext.finetune.tokenising import encode, encode_pair


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("student"))


TEXT = st.one_of(
    st.text(max_size=12), st.sampled_from(["Mary went to the office.", "ä🙂", "</s>", "x " * 30, "\ud800"])
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}), max_size=4
)
CELL = st.one_of(TEXT, MESSAGES, st.none(), st.integers(0, 3))
ROW = st.one_of(
    st.fixed_dictionaries({"prompt": CELL, "completion": CELL}, optional={"finished": st.booleans()}),
    st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT, "completion": TEXT}),
    st.fixed_dictionaries({"messages": MESSAGES}),
    st.fixed_dictionaries({"text": TEXT}),
    st.integers(),
)


def one_by_one(rows: list[Any], tokenizer: Any, args: TrainArgs) -> tuple[list[dict[str, list[int]]], list[str], str]:
    """Return the tokens of the good rows, the reasons of the bad ones, and the digest, with a loop over the rows."""
    good, bad, digest = [], [], hashlib.sha256()
    columns = trained_columns(args)
    for value in rows:
        try:
            row = parse(value, args)
            tokens = encode_pair(row, tokenizer) if isinstance(row, Preference) else encode(row, tokenizer)
            one, _ = fit(tokens, args)
        except BadRow as error:
            bad.append(error.kind)
            continue
        good.append({name: getattr(one, name) for name in columns})
        parts = [array("i", getattr(one, name)).tobytes() for name in columns]
        digest.update(hashlib.sha256(b"|".join(parts)).digest())
    return good, bad, digest.hexdigest()


@hypothesis_settings(max_examples=60)
@given(st.lists(ROW, min_size=1, max_size=12), st.sampled_from(["sft", "dpo"]), st.sampled_from(["drop", "keep_end"]))
def test_batches_give_the_tokens_that_single_rows_give(
    tokenizer: Any, rows: list[Any], method: str, too_long: str
) -> None:
    if method in PREFERENCE_METHODS:
        too_long = "drop"
    args = settings(method=method, bad_rows="drop", too_long=too_long, max_length=24)
    complete = {"prompt": "p", "completion": "c", "chosen": "a", "rejected": "b"}
    rows = [*rows, complete]  # so that some row can be trained on
    good, bad, digest = one_by_one(rows, tokenizer, args)
    data, report = build_dataset(rows_of(*rows), tokenizer, args, "rows")
    assert list(data) == good
    assert sum(one.rows for one in report.dropped.values()) == len(bad)
    assert {kind: one.rows for kind, one in report.dropped.items()} == {kind: bad.count(kind) for kind in bad}
    assert report.digest == digest
    assert report.duplicates == len(good) - len({json.dumps(one) for one in good})


@given(st.lists(st.tuples(TEXT.filter(str.isprintable), TEXT.filter(str.isprintable)), min_size=1, max_size=6))
def test_tokens_are_those_of_separate_calls_of_the_tokenizer(tokenizer: Any, pairs: list[tuple[str, str]]) -> None:
    pairs = [(prompt, reply) for prompt, reply in pairs if prompt.strip() and reply.strip()] or [("a", "b")]
    rows = [{"prompt": prompt, "completion": reply} for prompt, reply in pairs]
    data, _ = build_dataset(rows_of(*rows), tokenizer, settings(), "rows")
    for (prompt, reply), row in zip(pairs, data, strict=True):
        begin = tokenizer(prompt)["input_ids"]
        begin = begin[:-1] if begin[-1] == tokenizer.eos_token_id and len(begin) > 1 else begin
        answer = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        assert row == {"input_ids": begin + answer, "labels": [-100] * len(begin) + answer}


def test_half_a_surrogate_pair_is_a_bad_row(tokenizer: Any) -> None:
    rows = rows_of({"text": "a"}, {"text": "\ud800"}, {"\udc00": 1})
    _, report = build_dataset(rows, tokenizer, settings(bad_rows="drop"), "rows")
    assert report.dropped["malformed"].first == ["line 2", "line 3"]
    with pytest.raises(DataError, match="line 2: a text contains half of a surrogate pair"):
        build_dataset(rows, tokenizer, settings(), "rows")


LONG = "office " * 9


@pytest.mark.parametrize("how", ["stop", "drop"])
@pytest.mark.parametrize(
    ("given", "row", "problem", "remedy"),
    [
        ({}, {"prompt": "a", "completion": 3}, "the completion is not text but int",
         "correct the rows, or learn other columns: name them with `column` and `prompt_column`"),
        ({"method": "kd"}, {"prompt": "a", "solution": " "}, "no solution",
         "correct the rows, or learn other columns: name them with `golden_column` and `prompt_column`"),
        ({"max_length": 4}, {"text": LONG}, "12 tokens, more than max_length 4",
         "set a larger `max_length`, or `too_long: keep_end`"),
        ({"max_length": 1, "too_long": "keep_start"}, {"prompt": "a", "completion": "b"},
         "after truncation, nothing is left to learn", "set a larger `max_length`, or `too_long: keep_end`"),
        ({"max_length": 1, "too_long": "keep_end"}, {"prompt": "a", "completion": "b"},
         "after truncation, nothing is left to learn", "set a larger `max_length`"),
        ({"method": "dpo", "max_length": 4}, {"prompt": "a", "chosen": LONG, "rejected": "b"},
         "13 tokens, more than max_length 4", "set a larger `max_length`"),
        ({"method": "dpo"}, {"prompt": "a", "chosen": "b", "rejected": "b"}, "chosen and rejected are the same",
         "correct `prompt`, `chosen` and `rejected`, or set method: sft to learn replies"),
    ],
)  # fmt: skip
def test_a_problem_of_every_row_is_said_once(
    tokenizer: Any, given: dict[str, Any], row: dict[str, Any], problem: str, remedy: str, how: str
) -> None:
    args = settings(**{"bad_rows": how, "too_long": how, **given})
    with pytest.raises(DataError) as caught:
        build_dataset(rows_of(*[row] * 50), tokenizer, args, "rows")
    assert str(caught.value) == (
        f"no row of rows can be trained on. All 50 have the same problem: {problem}.\nRemedy: {remedy}."
    )


@pytest.mark.parametrize("how", ["stop", "drop"])
def test_problems_of_every_row_are_listed_with_a_remedy_for_each(tokenizer: Any, how: str) -> None:
    bad = [{"prompt": "a", "completion": 3}, {"prompt": "a", "completion": ""}, {"text": LONG}]
    args = settings(max_length=4, bad_rows=how, too_long=how)
    with pytest.raises(DataError) as caught:
        build_dataset(rows_of(*bad), tokenizer, args, "rows")
    said = str(caught.value).splitlines()
    assert said[0] == "no row of rows can be trained on (1 malformed, 1 empty, 1 too long):"
    assert said[1:4] == [
        "  - line 1: the completion is not text but int",
        "  - line 2: no completion",
        "  - line 3: 12 tokens, more than max_length 4",
    ]
    assert said[4] == (
        "Remedy: correct the rows, or learn other columns: name them with `column` and `prompt_column`; set a larger "
        "`max_length`, or `too_long: keep_end`."
    )
    with_a_good_one = rows_of(*bad, {"text": "a"})
    if how == "drop":
        assert len(build_dataset(with_a_good_one, tokenizer, args, "rows")[0]) == 1
    else:
        with pytest.raises(DataError, match=r"3 rows of rows cannot be trained on(?s:.*)set `bad_rows: drop`"):
            build_dataset(with_a_good_one, tokenizer, args, "rows")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of texts at each call of the tokenizer."""
    counted: list[int] = []
    real = tokenising._tokenise

    def tokenise(texts: list[str], special: bool, tokenizer: Any) -> list[list[int]]:
        counted.append(len(texts))
        return real(texts, special, tokenizer)

    monkeypatch.setattr(tokenising, "_tokenise", tokenise)
    return counted


def file_of(path: Path, rows: list[Any]) -> TrainArgs:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return settings(train_file=str(path), bad_rows="drop")


def test_a_second_start_reads_the_tokens_of_the_first(tokenizer: Any, tmp_path: Path, calls: list[int]) -> None:
    from transformers import AutoTokenizer

    args = file_of(tmp_path / "rows.jsonl", [{"prompt": f"p {at}", "completion": f"c {at}"} for at in range(2500)])
    first, report = build_dataset(load(args)[0], tokenizer, args, "rows")
    assert sum(calls) == 5000
    assert len([count for count in calls if count]) == 6  # prompts and replies of three batches
    calls.clear()
    tokenizer("another text", padding="max_length", max_length=4, truncation=True)  # its state is no part of the key
    for again in (tokenizer, AutoTokenizer.from_pretrained(model_path("student"))):
        second, same = build_dataset(load(args)[0], again, args, "rows")
        assert calls == []
        assert same == report
        assert second[:] == first[:]
        assert second.cache_files


@pytest.mark.parametrize(
    "changed",
    [
        {"column": "completion"},
        {"max_length": 3, "too_long": "keep_end"},
        {"method": "kd", "golden_column": "completion"},
    ],
)
def test_other_settings_tokenise_again(
    changed: dict[str, Any], tokenizer: Any, tmp_path: Path, calls: list[int]
) -> None:
    import dataclasses

    args = file_of(tmp_path / "rows.jsonl", [{"prompt": "p", "completion": f"c {at}"} for at in range(3)])
    build_dataset(load(args)[0], tokenizer, args, "rows")
    calls.clear()
    args = dataclasses.replace(args, **changed)
    data, _ = build_dataset(load(args)[0], tokenizer, args, "rows")
    assert sum(calls) > 0
    assert list(data) == one_by_one([row for _, row in load(args)[0]], tokenizer, args)[0]


def test_another_tokenizer_or_template_or_decision_file_is_another_key(tokenizer: Any, tmp_path: Path) -> None:
    import copy

    key = tokenizer_key(tokenizer)
    changed = copy.deepcopy(tokenizer)
    assert tokenizer_key(changed) == key
    changed.chat_template = "{{ messages }}"
    assert tokenizer_key(changed) != key
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(["office building"])
    assert tokenizer_key(changed) != key
    changed = copy.deepcopy(tokenizer)
    changed.name_or_path = str(tmp_path)
    before = tokenizer_key(changed)
    (tmp_path / "decision.json").write_text("{}")
    assert tokenizer_key(changed) != before


def test_a_cache_that_cannot_be_written_is_named(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    args = file_of(tmp_path / "rows.jsonl", [{"text": "a"}])
    rows, _ = load(args)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "map", full)
    with pytest.raises(
        DataError, match=r"cannot be cached in .*: No space left on device. Remedy: .*HF_DATASETS_CACHE"
    ):
        build_dataset(rows, tokenizer, args, "rows")


def test_a_damaged_cache_is_named(tokenizer: Any, tmp_path: Path) -> None:
    args = file_of(tmp_path / "rows.jsonl", [{"text": "a"}])
    data, _ = build_dataset(load(args)[0], tokenizer, args, "rows")
    file = Path(data.cache_files[0]["filename"])
    file.write_bytes(b"no table")
    with pytest.raises(DataError, match=r"arrow, which caches tokens, is damaged: .*Remedy: delete it"):
        build_dataset(load(args)[0], tokenizer, args, "rows")
    file.unlink()
    assert len(build_dataset(load(args)[0], tokenizer, args, "rows")[0]) == 1


PROCESS = """
import sys
from transformers import AutoTokenizer
from harness_ext.finetune import tokenising
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.report import build_dataset
from harness_ext.finetune.sources import load

count, real = 0, tokenising._tokenise
def tokenise(texts, special, tokenizer):
    global count
    count += len(texts)
    return real(texts, special, tokenizer)
tokenising._tokenise = tokenise
args = TrainArgs(model="m", train_file=sys.argv[1], output_dir="o")
_, report = build_dataset(load(args)[0], AutoTokenizer.from_pretrained(sys.argv[2]), args, "rows")
print(count, report.digest)
"""


def test_one_of_two_processes_tokenises_and_both_have_the_same_rows(tmp_path: Path) -> None:
    file_of(tmp_path / "rows.jsonl", [{"text": f"Mary went to office {at}."} for at in range(3000)])
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "rows.jsonl"), str(model_path("student"))]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    started = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate()[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sorted(int(count) for count, _ in results) == [0, 3000]
    assert results[0][1] == results[1][1]

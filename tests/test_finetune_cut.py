"""Replies that were cut off: training learns them as far as they go, and not to stop there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from enhance_support import CREAK_ROWS, run
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import tiny_chat_model

from harness_ext.embedded import model_path
from harness_ext.enhance.postprocess import FINISHED as WRITTEN
from harness_ext.enhance.postprocess import CutMode, finish
from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.encoding import FINISHED as READ
from harness_ext.finetune.encoding import IGNORED, Preference, parse
from harness_ext.finetune.report import build_dataset
from harness_ext.finetune.sources import load
from harness_ext.finetune.tokenising import encode, encode_pair
from harness_ext.records import Completion

ARGS = TrainArgs(model="m", train_file="t", output_dir="o")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("student"))


@pytest.fixture(scope="module")
def chat_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_chat_model(tmp_path_factory.mktemp("tiny")))


def tokens(value: dict[str, Any], tokenizer: Any, **settings: Any) -> tuple[list[int], list[int]]:
    """Return the tokens of a row, and those of them that are learned."""
    row = parse(value, dataclasses.replace(ARGS, **settings))
    assert not isinstance(row, Preference)
    one = encode(row, tokenizer)
    return one.input_ids, [label for label in one.labels if label != IGNORED]


def test_the_module_that_reads_the_mark_and_the_one_that_writes_it_agree() -> None:
    assert READ == WRITTEN


@given(text=st.text(alphabet="abc .,\n", min_size=1).filter(str.strip), finished=st.sampled_from([False, None, True]))
@pytest.mark.parametrize("form", ["text", "completion", "column"])
def test_the_mark_takes_the_stop_token_and_nothing_else(
    tokenizer: Any, form: str, text: str, finished: bool | None
) -> None:
    value: dict[str, Any] = {"text": text} if form == "text" else {"prompt": "a b", "completion": text}
    settings = {"column": "all"} if form == "column" else {}
    value = {"all": text} if form == "column" else value
    whole = tokens(value, tokenizer, **settings)
    marked = tokens({**value, "finished": finished}, tokenizer, **settings)
    assert whole[1][-1] == tokenizer.eos_token_id
    assert marked == ((whole[0][:-1], whole[1][:-1]) if finished is False else whole)


def test_the_end_of_a_cut_turn_is_not_learned(chat_tokenizer: Any) -> None:
    turns = [("user", "Why?"), ("assistant", "So."), ("user", "And?"), ("assistant", "It is")]
    messages = [{"role": role, "content": text} for role, text in turns]
    ids, learned = tokens({"messages": messages, "finished": False}, chat_tokenizer)
    assert chat_tokenizer.decode(learned) == "So.<|end|>It is"
    assert chat_tokenizer.decode(ids).endswith("<|assistant|>It is")
    whole = tokens({"messages": messages}, chat_tokenizer)
    assert (ids, learned) == (whole[0][:-1], whole[1][:-1])


def test_a_dialogue_that_a_user_ends_has_no_cut_turn(chat_tokenizer: Any) -> None:
    messages = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    assert tokens({"messages": messages, "finished": False}, chat_tokenizer) == tokens(
        {"messages": messages}, chat_tokenizer
    )


def test_only_the_teachers_target_can_be_cut(tokenizer: Any) -> None:
    """The golden target of the same row was not written by the teacher."""
    value = {"prompt": "a", "solution": "gold", "explanation": "told", "finished": False}
    _, golden = tokens(value, tokenizer, method="kd")
    _, told = tokens(value, tokenizer, method="kd", targets="teacher")
    assert golden[-1] == tokenizer.eos_token_id
    assert told == tokenizer("told", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("cut", ["chosen", "rejected"])
def test_each_reply_of_a_preference_has_its_own_mark(tokenizer: Any, cut: str) -> None:
    value = {"prompt": "a", "chosen": "good", "rejected": "bad"}
    args = dataclasses.replace(ARGS, method="dpo")
    row, marked = parse(value, args), parse({**value, f"{cut}_finished": False}, args)
    assert isinstance(row, Preference)
    assert isinstance(marked, Preference)
    whole, one = encode_pair(row, tokenizer), encode_pair(marked, tokenizer)
    other = {"chosen": "rejected", "rejected": "chosen"}[cut]
    assert getattr(one, f"{cut}_ids") == getattr(whole, f"{cut}_ids")[:-1]
    assert getattr(one, f"{other}_ids") == getattr(whole, f"{other}_ids")


@pytest.mark.parametrize(("how", "stops"), [("unfinished", 2), ("drop", 2), ("finished", 3)])
def test_from_the_teachers_reply_to_the_trained_rows(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, how: CutMode, stops: int
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    run(tmp_path, CREAK_ROWS, lambda p: Completion(" It is", "length" if "Fish" in p else "stop", completion_tokens=2))
    finish(tmp_path / "out.jsonl", tmp_path / "set", cut_replies=how)
    args = dataclasses.replace(ARGS, train_file=str(tmp_path / "set"), column="cot_tail")
    train, _ = load(args)
    data, report = build_dataset(train, tokenizer, args, "set")
    assert (report.used, report.stops) == (2 if how == "drop" else 3, stops)
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["cut_replies"]["rows"] == 1
    ends = [row[-1] == tokenizer.eos_token_id for row in data["input_ids"]]
    assert ends == {"unfinished": [True, False, True], "drop": [True, True], "finished": [True] * 3}[how]

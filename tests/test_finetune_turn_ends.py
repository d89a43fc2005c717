"""The line break that chat templates put after a turn is not learned; the token that ends the turn is, and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_support import rows_of
from tiny_chat import tiny_chat_model

from harness_ext.finetune.args import TrainArgs
from harness_ext.finetune.encoding import Dialogue
from harness_ext.finetune.report import DataReport, build_dataset
from harness_ext.finetune.tokenising import encode

ROLE = "<|{{ m['role'] }}|>"
BODIES = {
    "ChatML": f"{ROLE}\n{{{{ m['content'] }}}}<|end|>\n",
    "two line breaks": f"{ROLE}{{{{ m['content'] }}}}<|end|>\n\n",
    "nothing after it": f"{ROLE}{{{{ m['content'] }}}}<|end|>",
    "no special token": "{{ m['role'] }}: {{ m['content'] }}\n\n",
    "text after it": f"{ROLE}{{{{ m['content'] }}}}<|end|>over\n",
}
LEARNED = {
    "ChatML": "{}<|end|>",
    "two line breaks": "{}<|end|>",
    "nothing after it": "{}<|end|>",
    # Here the line breaks are all that ends a turn, so they have to be learned.
    "no special token": "{}\n\n",
    "text after it": "{}<|end|>over\n",
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    from transformers import AutoTokenizer

    found = {}
    for name, body in BODIES.items():
        opening = {"ChatML": "<|assistant|>\n", "no special token": "assistant: "}.get(name, "<|assistant|>")
        template = (
            f"{{% for m in messages %}}{body}{{% endfor %}}{{% if add_generation_prompt %}}{opening}{{% endif %}}"
        )
        folder = tiny_chat_model(tmp_path_factory.mktemp("chat"), template=template)
        found[name] = AutoTokenizer.from_pretrained(folder)
    return found


replies = st.lists(st.text("ab\n \t<é", min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=3)


@pytest.mark.parametrize("name", BODIES)
@given(said=replies)
def test_a_turn_is_learned_up_to_the_token_that_ends_it(
    name: str, said: list[str], tokenizers: dict[str, object]
) -> None:
    tokenizer = tokenizers[name]
    messages = [
        message
        for reply in said
        for message in ({"role": "user", "content": "Go on."}, {"role": "assistant", "content": reply})
    ]
    one = encode(Dialogue(messages), tokenizer)  # type: ignore[arg-type]
    turns: list[list[int]] = []
    before = -100
    for token, label in zip(one.input_ids, one.labels, strict=True):
        assert label in (token, -100)
        if label != -100:
            if before == -100:
                turns.append([])
            turns[-1].append(token)
        before = label
    assert [tokenizer.decode(turn) for turn in turns] == [LEARNED[name].format(reply) for reply in said]  # type: ignore[attr-defined]
    assert tokenizer.decode(one.input_ids) == tokenizer.apply_chat_template(messages, tokenize=False)  # type: ignore[attr-defined]


def test_a_reply_alone_ends_with_the_stop_token(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from harness_ext.finetune.encoding import PromptCompletion

    tokenizer = AutoTokenizer.from_pretrained(tiny_chat_model(tmp_path))
    one = encode(PromptCompletion([{"role": "user", "content": "a"}], "b"), tokenizer)
    assert tokenizer.decode(one.input_ids) == "<|user|>a<|end|><|assistant|>b<|end|>"
    assert tokenizer.decode([label for label in one.labels if label != -100]) == "b<|end|>"


# -- what the report says about it ----------

TURN_END = "<|over|>"
OVER = f"{{% for m in messages %}}{ROLE}{{{{ m['content'] }}}}{TURN_END}\n{{% endfor %}}"
DIALOGUE = {"messages": [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": "ab"}]}


@pytest.fixture
def over(tmp_path: Path) -> Path:
    """Return a model whose template ends turns with a token that is not the end-of-sequence token."""
    from transformers import AutoTokenizer

    opening = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    folder = Path(tiny_chat_model(tmp_path / "model", template=OVER + opening))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([TURN_END], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder


def report_on(model: Path, *rows: dict[str, Any]) -> tuple[DataReport, int]:
    """Return the report on rows, and the id of the token that ends turns."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    args = TrainArgs(str(model), "rows.jsonl", "out", learning_rate=1e-5)
    report = build_dataset(rows_of(*rows), tokenizer, args, "rows")[1]
    return report, tokenizer.convert_tokens_to_ids(TURN_END)


def set_stops(model: Path, ids: object, file: str = "generation_config.json") -> None:
    path = model / file
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "eos_token_id": ids}), encoding="utf-8")


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_turn_end_at_which_generation_stops_counts_as_a_stop_token(several: bool, file: str, over: Path) -> None:
    before, end = report_on(over, DIALOGUE)
    assert (before.stops, before.stop_tokens) == (0, ["<|end|>"])
    if file == "config.json":  # transformers reads it where there is no other file
        (over / "generation_config.json").unlink()
    set_stops(over, [0, end] if several else end, file)
    # The tokens are cached, and what was said about them before must not be said again.
    report, _ = report_on(over, DIALOGUE)
    assert (report.stops, report.stop_tokens, report.open_ends) == (1, ["<|end|>", TURN_END], {})
    assert f"a stop token (<|end|> or {TURN_END}) is learned in 1 of 1 rows" in report.text()
    assert "WARNING" not in report.text()
    assert report.digest == before.digest


def test_a_turn_end_at_which_generation_does_not_stop_is_named_with_the_remedy(over: Path) -> None:
    cut = {"messages": DIALOGUE["messages"], "finished": False}
    replied = {"prompt": "a", "completion": "b"}
    report, _ = report_on(over, DIALOGUE, replied, cut, DIALOGUE)
    assert (report.stops, report.open_ends) == (1, {TURN_END: 2})
    text = report.text()
    assert "the stop token <|end|> is learned in 1 of 4 rows" in text
    assert f"WARNING: in 2 of 4 rows, turns end with {TURN_END}, at which generation does not stop. Remedy: add" in text
    assert "WARNING: 1 of 4 rows do not teach the model to stop" in text


def test_a_dialogue_whose_last_turn_was_cut_still_ends_its_other_turns(over: Path) -> None:
    turns = [*DIALOGUE["messages"], *DIALOGUE["messages"]]
    report, end = report_on(over, {"messages": turns, "finished": False})
    assert report.open_ends == {TURN_END: 1}
    set_stops(over, end)
    assert report_on(over, {"messages": turns, "finished": False})[0].stops == 1


def test_a_stop_token_that_the_tokenizer_does_not_know_is_shown_by_its_id(over: Path) -> None:
    set_stops(over, [0, 99999])
    assert report_on(over, DIALOGUE)[0].stop_tokens == ["<|end|>", "token 99999"]


def test_a_special_token_within_a_turn_is_no_turn_end(over: Path) -> None:
    row = {"prompt": "a", "completion": f"b {TURN_END} c", "finished": False}
    report, _ = report_on(over, row)
    assert (report.stops, report.open_ends) == (0, {})
    assert "WARNING: 1 of 1 rows do not teach the model to stop" in report.text()

"""The line break that chat templates put after a turn is not learned; the token that ends the turn is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_chat import tiny_chat_model

from harness_ext.finetune.encoding import Dialogue
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

"""The embedded pair: its files, its tokenizer, the prompts it was trained on, and its accuracy."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness_ext.embedded import SEATS, model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.finetune.recipes.embedded_pair.held_out import Item, Player, is_right
from harness_ext.finetune.recipes.embedded_pair.model import PROMPTS_FILE
from harness_ext.finetune.recipes.embedded_pair.prompts import (
    REFINE_USER,
    REVIEW_AGAIN,
    REVIEW_SYSTEM,
    REVIEW_USER,
    trained_prompts,
)
from harness_ext.finetune.recipes.embedded_pair.tokenizer import build_tokenizer, fixed_texts
from harness_ext.tasks.babi_stories.rows import draw

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_path("student"))


def test_other_seats_are_refused() -> None:
    with pytest.raises(ValueError, match="student and teacher"):
        model_path("judge")


def test_both_together_are_small() -> None:
    sizes = [path.stat().st_size for seat in SEATS for path in model_path(seat).rglob("*") if path.is_file()]
    assert sum(sizes) < 10 * MEGABYTE


@pytest.mark.parametrize("seat", SEATS)
def test_models_load_with_transformers(seat: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path(seat))
    assert isinstance(model, LlamaForCausalLM)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert model.config.max_position_embeddings == 8192
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2


@pytest.mark.parametrize("seat", SEATS)
def test_the_tokenizer_is_that_of_the_recipe(seat: str) -> None:
    stored = json.loads((model_path(seat) / "tokenizer.json").read_text(encoding="utf-8"))
    built = json.loads(build_tokenizer().backend_tokenizer.to_str())
    assert stored["model"] == built["model"]
    assert stored["added_tokens"] == built["added_tokens"]


@pytest.mark.parametrize("seat", SEATS)
def test_the_prompts_are_those_of_the_training(seat: str) -> None:
    trained_on = json.loads((model_path(seat) / PROMPTS_FILE).read_text(encoding="utf-8"))
    assert trained_on == trained_prompts(), (
        "A prompt was changed after the embedded pair was trained: train it again (docs/embedded-pair.md)."
    )


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("  two  blanks \n\n and\ttabs ")
@example("12, 3 Mary, 4x 1,000")
@example(INSTRUCTION + "\n\n" + INSTRUCTION.strip())
def test_every_text_survives_encoding(tokenizer, text: str) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    # The text of a special token is encoded as that token, and decoding restores it.
    assert tokenizer.decode(ids) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["Mary", " went", "  ", "\n", "1", ", 2", ".", " the", " garden", "é", "Answer:"])))
def test_texts_of_known_words_survive_encoding(tokenizer, parts: list[str]) -> None:  # type: ignore[no-untyped-def]
    text = "".join(parts)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_fixed_texts_and_words_are_one_token(tokenizer) -> None:  # type: ignore[no-untyped-def]
    for text in [*fixed_texts(), "Mary", " Mary", " hallway", "\n", "12", " unknown"]:
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1, text


def test_complete_prompts_stay_short(tokenizer) -> None:  # type: ignore[no-untyped-def]
    context = INSTRUCTION + story_text(["Mary went to the garden."], "Where is Mary?")
    review = REVIEW_USER.format(task=context.strip(), draft="Answer: garden")
    for text, most in (
        (context, 24),
        (REVIEW_SYSTEM, 1),
        (review, 34),
        (REVIEW_AGAIN.format(draft="Answer: garden"), 6),
        (REFINE_USER.format(review="Incorrect."), 5),
    ):
        assert len(tokenizer(text)["input_ids"]) <= most + 1, text


def test_the_chat_template_accepts_every_conversation(tokenizer) -> None:  # type: ignore[no-untyped-def]
    chat = [{"role": "system", "content": " s "}, {"role": "user", "content": "u\n"}]
    started = [*chat, {"role": "assistant", "content": "Reasoning: "}]
    render = tokenizer.apply_chat_template
    assert (
        render(chat, tokenize=False, add_generation_prompt=True) == "<s><|system|> s </s><|user|>u\n</s><|assistant|>"
    )
    assert render(started, tokenize=False, continue_final_message=True).endswith("</s><|assistant|>Reasoning: ")


@pytest.fixture(scope="module")
def stories() -> list[Item]:
    rows = list(draw(7_000_000, 60, (2, 8)))
    return [
        Item(row["task"], INSTRUCTION + story_text(row["passage"].splitlines(), row["question"]), row["answer"])
        for row in rows
    ]


def test_the_teacher_solves_more_than_the_student(stories: list[Item]) -> None:
    shares = {}
    for seat in SEATS:
        replies = Player(str(model_path(seat)))([story.context for story in stories])
        shares[seat] = sum(is_right(story, reply) for story, reply in zip(stories, replies, strict=True)) / len(stories)
    assert shares["teacher"] >= 0.80
    assert shares["student"] <= 0.75

"""The embedded models: their files, their tokenizer, the prompts they were trained on, and their accuracy."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness_ext.embedded import MODELS, SEATS, model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.finetune.recipes.embedded_pair.held_out import Item, Player, is_right, play
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


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match="student, teacher, small_student"):
        model_path("judge")


def size(name: str) -> int:
    return sum(path.stat().st_size for path in model_path(name).rglob("*") if path.is_file())


def test_all_together_are_small() -> None:
    assert sum(map(size, SEATS)) < 10 * MEGABYTE
    assert size("small_student") < 2 * MEGABYTE


@pytest.mark.parametrize("seat", MODELS)
def test_models_load_with_transformers(seat: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path(seat))
    assert isinstance(model, LlamaForCausalLM)
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
    assert model.config.max_position_embeddings == 8192
    assert model.generation_config.eos_token_id == model.config.eos_token_id == 2


@pytest.mark.parametrize("seat", MODELS)
def test_the_tokenizer_is_that_of_the_recipe(seat: str) -> None:
    stored = json.loads((model_path(seat) / "tokenizer.json").read_text(encoding="utf-8"))
    built = json.loads(build_tokenizer().backend_tokenizer.to_str())
    assert stored["model"] == built["model"]
    assert stored["added_tokens"] == built["added_tokens"]


@pytest.mark.parametrize("seat", MODELS)
def test_the_prompts_are_those_of_the_training(seat: str) -> None:
    trained_on = json.loads((model_path(seat) / PROMPTS_FILE).read_text(encoding="utf-8"))
    assert trained_on == trained_prompts(seat), (
        "A prompt was changed after the embedded models were trained: train them again (docs/embedded-pair.md)."
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


def test_feedback_and_its_controls_differ_only_in_what_the_student_is_told() -> None:
    """The student answers the first question correctly, and the second one after a hint."""
    items = [Item(1, "Where is Mary?", "garden"), Item(6, "Is John in the hall?", "no")]
    told: list[str] = []

    def student(prompts: list[str | list[dict[str, str]]]) -> list[str]:
        told.extend(prompt[-1]["content"] for prompt in prompts if not isinstance(prompt, str))
        shown = [prompt if isinstance(prompt, str) else prompt[0]["content"] for prompt in prompts]
        hints = ["Hint" in str(prompt) for prompt in prompts]
        return [
            "Answer: garden" if "Mary" in text else f"Answer: {'no' if hint else 'yes'}"
            for text, hint in zip(shown, hints, strict=True)
        ]

    def teacher(prompts: list[str | list[dict[str, str]]]) -> list[str]:
        wrong = ["Answer: yes" in str(prompt) for prompt in prompts]
        return ["Incorrect.\nHint: Look again at line 2." if one else "Correct." for one in wrong]

    result = play(items, student, teacher, 3, "Look again.")
    assert result["baseline"] == {"pooled": 0.5, "open": 1.0, "1": 1.0, "6": 0.0}
    assert result["feedback_pair round 1"]["pooled"] == 1.0
    assert result["verdict only round 1"] == result["second look round 1"] == result["baseline"]
    assert "second look round 2" not in result, "no draft has changed"
    rejected = [REFINE_USER.format(review=text) for text in ("Incorrect.\nHint: Look again at line 2.", "Incorrect.")]
    assert told == [*rejected, "Look again.", "Look again."]
    assert result["hints"] == {"given": 1, "naming the answer": 0}
    assert not any("second look" in name for name in play(items, student, teacher, 3))


def test_the_teacher_solves_more_than_the_student(stories: list[Item]) -> None:
    shares = {}
    for seat in SEATS:
        replies = Player(str(model_path(seat)))([story.context for story in stories])
        shares[seat] = sum(is_right(story, reply) for story, reply in zip(stories, replies, strict=True)) / len(stories)
    assert shares["teacher"] >= 0.80
    assert shares["student"] <= 0.75

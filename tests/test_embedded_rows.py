"""The embedded pair's training rows: their layouts are those of the protocol, and their replies fit."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.embedded.stories import FAMILIES, Story, StoryGenerator, render
from harness_ext.embedded.stories.mistakes import careless, correct, review
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.finetune.encoding import parse_row
from harness_ext.finetune.recipes.embedded_pair.prompts import REFINE_USER, REVIEW_AGAIN, REVIEW_SYSTEM, REVIEW_USER
from harness_ext.finetune.recipes.embedded_pair.training_rows import (
    continuation_row,
    draft_row,
    refine_row,
    review_row,
    rows,
)

SEEDS = st.integers(0, 2**32)


def wrong_story(seed: int) -> Story:
    """Return a story that a careless reader gets wrong."""
    stories = StoryGenerator(seed, ["one_fact", "conjunction", "lists"], (6, 9))
    return next(story for story in stories if careless(story.ask, story.sentences).answer != story.gold.answer)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.booleans())
def test_a_started_reply_and_its_continuation_form_one_reply(seed: int, chat: bool) -> None:
    story = next(StoryGenerator(seed, sorted(FAMILIES), (3, 8)))
    row = continuation_row(random.Random(seed), story, story.gold, chat)
    started = row["prompt"][-1]["content"] if chat else row["prompt"].split("?\n", 1)[1]
    assert started.startswith("Reasoning: ")
    assert started + row["completion"] == render(story.gold)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_rows_have_the_layouts_of_the_protocol(seed: int) -> None:
    story = wrong_story(seed)
    text = story_text(story.lines, story.ask.text)
    draft = careless(story.ask, story.sentences)
    found = review(draft, story.sentences)
    rng = random.Random(seed)
    assert draft_row(rng, story, draft, False) == {"prompt": INSTRUCTION + text, "completion": render(draft)}
    asked = {"role": "user", "content": REVIEW_USER.format(task=(INSTRUCTION + text).rstrip(), draft=render(draft))}
    system = {"role": "system", "content": REVIEW_SYSTEM}
    assert review_row(rng, story, draft, False, False) == {"prompt": [system, asked], "completion": found.text}
    assert refine_row(rng, story, draft, False) == {
        "prompt": [
            {"role": "user", "content": INSTRUCTION + text},
            {"role": "assistant", "content": render(draft)},
            {"role": "user", "content": REFINE_USER.format(review=found.text)},
        ],
        "completion": render(correct(draft, found, story.sentences)),
    }
    in_chat = draft_row(rng, story, draft, True)["prompt"]
    assert [one["role"] for one in in_chat] == ["system", "user"]
    assert in_chat[0]["content"].strip() == INSTRUCTION.strip()
    assert in_chat[1]["content"] == text
    again = review_row(rng, story, draft, False, True)["prompt"]
    assert [one["role"] for one in again] == ["system", "user", "assistant", "user"]
    assert again[2]["content"] == found.text
    assert again[3]["content"].startswith(REVIEW_AGAIN.split("{")[0])


@pytest.mark.parametrize("seat", ["student", "teacher"])
def test_drawn_rows_are_valid_and_reproducible(seat: str) -> None:
    other = "refine" if seat == "student" else "review"
    shares = {"draft": 1.0, "continue": 1.0, other: 2.0}
    first, second = (list(itertools.islice(rows(seat, 5, tuple(FAMILIES), (2, 8), shares), 300)) for _ in range(2))
    assert first == second
    assert {type(row["prompt"]) for row in first} == {str, list}
    for row in first:
        parse_row(row)
        if row["completion"].startswith(("Reasoning", ",", ".")):
            assert re.search(r"\nAnswer: [a-z,]+$", row["completion"])
        else:
            assert seat == "teacher"
            assert re.match(r"Correct\.\n|Incorrect\.\nHint: .*\nIssue: ", row["completion"])
    if seat == "teacher":
        verdicts = [
            row["completion"].startswith("Correct") for row in first if "Hint:" in str(row) or "well." in str(row)
        ]
        assert 0.25 < sum(verdicts) / len(verdicts) < 0.75

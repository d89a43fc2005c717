"""The embedded models' training rows: their layouts are those of the protocols, and their replies fit."""

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
from harness_ext.finetune.recipes.embedded_pair.hints import notes_in
from harness_ext.finetune.recipes.embedded_pair.honest_rows import honest_rows, revision_row, wrong_draft
from harness_ext.finetune.recipes.embedded_pair.prompts import (
    LOOK_USER,
    REFINE_USER,
    REJECTION,
    REVIEW_AGAIN,
    REVIEW_SYSTEM,
    REVIEW_USER,
)
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


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(sorted(FAMILIES)))
def test_the_notes_of_a_reply_are_found_by_their_numbers(seed: int, family: str) -> None:
    story = next(StoryGenerator(seed, [family], (2, 9)))
    notes = notes_in(render(story.gold))
    assert list(notes) == list(range(1, len(story.lines) + 1))
    for note in story.gold.notes:
        assert notes[note.number].startswith(note.sentence.subject)


@pytest.mark.parametrize("reply", ["", "Answer: garden", "Reasoning: Mary yes", "Reasoning: Mary? So Mary is here."])
def test_replies_of_another_form_have_no_notes(reply: str) -> None:
    assert notes_in(reply) == {}


HONEST_KINDS = ("draft", "continue", "refine", "retry", "look")


def kind_of(row: dict[str, object]) -> str:
    """Return the kind of a row of the small student, as its prompt shows it."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return "draft" if prompt.endswith("?\n") else "continue"
    last = prompt[-1]["content"]
    if prompt[-2]["role"] != "assistant":
        return "continue" if prompt[-1]["role"] == "assistant" else "draft"
    if last == LOOK_USER:
        return "look"
    return "retry" if last == REFINE_USER.format(review=REJECTION) else "refine"


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(sorted(FAMILIES)))
def test_the_small_student_is_taught_no_mistakes(seed: int, family: str) -> None:
    """Every reply that it learns is that of a careful reader, whatever draft precedes it."""
    shares = dict.fromkeys(HONEST_KINDS, 1.0)
    learned = itertools.islice(honest_rows(seed, (family,), (2, 8), shares), 12)
    gold = {render(story.gold) for story in itertools.islice(StoryGenerator(seed, [family], (2, 8)), 200)}
    for row in learned:
        parse_row(row)
        if kind_of(row) == "continue":
            prompt = row["prompt"]
            started = prompt.split("?\n", 1)[1] if isinstance(prompt, str) else prompt[-1]["content"]
            assert started + row["completion"] in gold
        else:
            assert row["completion"] in gold


def test_the_small_student_learns_both_controls_as_well_as_reviews() -> None:
    shares = {"refine": 1.0, "retry": 1.0, "look": 1.0}
    learned = list(itertools.islice(honest_rows(3, ("one_fact", "conjunction"), (4, 8), shares), 600))
    assert learned == list(itertools.islice(honest_rows(3, ("one_fact", "conjunction"), (4, 8), shares), 600))
    by_kind = {kind: [row for row in learned if kind_of(row) == kind] for kind in shares}
    assert all(150 < len(some) < 250 for some in by_kind.values())
    unchanged = {
        kind: sum(row["prompt"][-2]["content"] == row["completion"] for row in some) / len(some)
        for kind, some in by_kind.items()
    }
    assert unchanged["refine"] == unchanged["retry"] == 0, "only wrong drafts are rejected"
    assert 0.4 < unchanged["look"] < 0.7, "a second look is asked for whether a draft is right or wrong"


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_rows_of_the_small_student_have_the_layouts_of_the_protocols(seed: int) -> None:
    story = next(StoryGenerator(seed, ["one_fact", "conjunction"], (4, 8)))
    rng = random.Random(seed)
    draft = wrong_draft(rng, story)
    assert draft is not None
    assert draft.answer != story.gold.answer
    text = INSTRUCTION + story_text(story.lines, story.ask.text)
    assert revision_row(rng, story, draft, LOOK_USER, False)["prompt"] == [
        {"role": "user", "content": text},
        {"role": "assistant", "content": render(draft)},
        {"role": "user", "content": LOOK_USER},
    ]

"""The training rows of the small student. Every reply that it learns is right: no mistake is taught."""

from __future__ import annotations

import random
from collections.abc import Iterator

from harness_ext.embedded.stories import Draft, Story, StoryGenerator, render
from harness_ext.embedded.stories.mistakes import misread, review
from harness_ext.finetune.recipes.embedded_pair.prompts import LOOK_USER, REFINE_USER, REJECTION
from harness_ext.finetune.recipes.embedded_pair.training_rows import (
    TrainingRow,
    continuation_row,
    draft_row,
    message,
    task_messages,
)

# Few random mistakes change the answer of a yes/no question.
MOST_ATTEMPTS = 20


def revision_row(rng: random.Random, story: Story, draft: Draft, asked: str, chat: bool) -> TrainingRow:
    """Return a row that teaches to write the right answer after a draft.

    rng: the source of randomness.
    story: the story and its question.
    draft: the draft, right or wrong.
    asked: the message that follows the draft.
    chat: whether the task comes as a system and a user message.
    """
    prompt = [*task_messages(rng, story, chat), message("assistant", render(draft)), message("user", asked)]
    return {"prompt": prompt, "completion": render(story.gold)}


def wrong_draft(rng: random.Random, story: Story) -> Draft | None:
    """Return a draft with random mistakes and a wrong answer, or None if none is found soon."""
    drafts = (misread(rng, story.ask, story.sentences) for _ in range(MOST_ATTEMPTS))
    return next((draft for draft in drafts if draft.answer != story.gold.answer), None)


def honest_rows(
    seed: int, families: tuple[str, ...], lines: tuple[int, int], shares: dict[str, float]
) -> Iterator[TrainingRow]:
    """Yield rows without end.

    seed: seed of the stories and rows.
    families: the story families to draw from.
    lines: least and greatest number of lines per story.
    shares: relative frequency of the kinds of rows.
        `draft`: an answer.
        `continue`: the rest of an answer.
        `refine`: the right answer after a wrong draft and its review.
        `retry`: the same, but the review is only its first word (`student_sees=verdict`).
        `look`: the right answer after a draft, right or wrong, and a request to look again (`second_look`).
    """
    rng = random.Random(f"small_student {seed}")
    for story in StoryGenerator(seed, families, lines):
        kind = rng.choices(list(shares), list(shares.values()))[0]
        chat = rng.random() < 0.25
        if kind == "draft":
            yield draft_row(rng, story, story.gold, chat)
            continue
        if kind == "continue":
            yield continuation_row(rng, story, story.gold, chat)
            continue
        draft = wrong_draft(rng, story)
        if kind == "look":
            shown = story.gold if draft is None or rng.random() < 0.5 else draft
            yield revision_row(rng, story, shown, LOOK_USER, chat)
        elif draft is not None:
            said = review(draft, story.sentences).text if kind == "refine" else REJECTION
            yield revision_row(rng, story, draft, REFINE_USER.format(review=said), chat)

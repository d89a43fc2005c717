"""The training rows of the embedded pair: drafts, reviews, refinements and continuations on generated stories."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from harness_ext.embedded.stories import Draft, Story, StoryGenerator, answer, read, render
from harness_ext.embedded.stories.mistakes import careless, correct, misread, review, skim
from harness_ext.embedded.stories.questions import matters, render_notes
from harness_ext.finetune.recipes.embedded_pair.prompts import (
    INSTRUCTION,
    REFINE_USER,
    REVIEW_AGAIN,
    REVIEW_SYSTEM,
    REVIEW_USER,
    story_text,
)

Messages = list[dict[str, str]]
TrainingRow = dict[str, str | Messages]


def message(role: str, content: str) -> dict[str, str]:
    """Return one chat message."""
    return {"role": role, "content": content}


def task_messages(rng: random.Random, story: Story, chat: bool) -> Messages:
    """Return the task as one user message, or, with `chat`, as a system message and a user message."""
    text = story_text(story.lines, story.ask.text)
    if not chat:
        return [message("user", INSTRUCTION + text)]
    system = INSTRUCTION if rng.random() < 0.7 else INSTRUCTION.strip()
    return [message("system", system), message("user", text)]


def task_text(rng: random.Random, story: Story, chat: bool) -> str:
    """Return the task as the teacher sees it."""
    messages = task_messages(rng, story, chat)
    return "\n\n".join(one["content"] for one in messages).strip()


def draft_row(rng: random.Random, story: Story, draft: Draft, chat: bool) -> TrainingRow:
    """Return a row that teaches to answer a question with `draft`."""
    prompt: str | Messages = task_messages(rng, story, True) if chat else INSTRUCTION + _plain(story)
    return {"prompt": prompt, "completion": render(draft)}


def _plain(story: Story) -> str:
    return story_text(story.lines, story.ask.text)


def continuation_row(rng: random.Random, story: Story, draft: Draft, chat: bool) -> TrainingRow:
    """Return a row whose reply has been started, with a correct last step, and is to be continued."""
    relevant = [note.number for note in draft.notes if matters(note, draft.ask)] or [len(draft.notes)]
    cut = rng.choice(relevant)
    gold = read(story.sentences)
    begun = answer(draft.ask, [*draft.notes[: cut - 1], gold[cut - 1], *draft.notes[cut:]])
    prefix = render_notes(begun, cut)
    rest = render(begun).removeprefix(prefix)
    if chat:
        return {"prompt": [*task_messages(rng, story, True), message("assistant", prefix)], "completion": rest}
    return {"prompt": INSTRUCTION + _plain(story) + prefix, "completion": rest}


def review_row(rng: random.Random, story: Story, draft: Draft, chat: bool, again: bool) -> TrainingRow:
    """Return a row that teaches to review a draft.

    rng: the source of randomness.
    story: the story and its question.
    draft: the draft to review.
    chat: whether the task comes as a system and a user message.
    again: whether the row reviews the revision of a rejected draft, after the first review.
    """
    found = review(draft, story.sentences)
    prompt = [
        message("system", REVIEW_SYSTEM),
        message("user", REVIEW_USER.format(task=task_text(rng, story, chat), draft=render(draft))),
    ]
    if again and not found.accepted:
        second = (
            correct(draft, found, story.sentences) if rng.random() < 0.75 else misread(rng, story.ask, story.sentences)
        )
        prompt += [message("assistant", found.text), message("user", REVIEW_AGAIN.format(draft=render(second)))]
        found = review(second, story.sentences)
    return {"prompt": prompt, "completion": found.text}


def refine_row(rng: random.Random, story: Story, draft: Draft, chat: bool) -> TrainingRow:
    """Return a row that teaches to correct a wrong draft after its review."""
    found = review(draft, story.sentences)
    prompt = [
        *task_messages(rng, story, chat),
        message("assistant", render(draft)),
        message("user", REFINE_USER.format(review=found.text)),
    ]
    return {"prompt": prompt, "completion": render(correct(draft, found, story.sentences))}


def _wrong(rng: random.Random, story: Story, careless_share: float) -> Draft:
    draft = careless(story.ask, story.sentences) if rng.random() < careless_share else story.gold
    while draft.answer == story.gold.answer:
        draft = misread(rng, story.ask, story.sentences)
        careless_notes = [skim(note) if rng.random() < 0.3 else note for note in draft.notes]
        if draft.answer == story.gold.answer:
            draft = answer(story.ask, careless_notes)
        if draft.answer == story.gold.answer and rng.random() < 0.1:
            return draft
    return draft


def _right(rng: random.Random, story: Story) -> Draft:
    """Return a correct draft: that of the careful reader, or one whose mistakes do not change the answer."""
    for _ in range(3):
        roll = rng.random()
        draft = careless(story.ask, story.sentences) if roll < 0.4 else misread(rng, story.ask, story.sentences)
        if draft.answer == story.gold.answer and rng.random() < 0.8:
            return draft
    return story.gold


def rows(
    seat: str, seed: int, families: tuple[str, ...], lines: tuple[int, int], shares: dict[str, float]
) -> Iterator[TrainingRow]:
    """Yield rows for a seat, without end.

    seat: `student` or `teacher`.
    seed: seed of the stories and rows.
    families: the story families to draw from.
    lines: least and greatest number of lines per story.
    shares: relative frequency of the kinds `draft`, `continue`, `review` and `refine`.
    """
    rng = random.Random(f"{seat} {seed}")
    for story in StoryGenerator(seed, families, lines):
        kind = rng.choices(list(shares), list(shares.values()))[0]
        chat = rng.random() < 0.25
        own = careless(story.ask, story.sentences) if seat == "student" else story.gold
        if kind == "draft":
            yield draft_row(rng, story, own, chat)
        elif kind == "continue":
            yield continuation_row(rng, story, own, chat)
        elif kind == "review":
            draft = _wrong(rng, story, 0.6) if rng.random() < 0.55 else _right(rng, story)
            yield review_row(rng, story, draft, chat, again=rng.random() < 0.2)
        else:
            draft = _wrong(rng, story, 0.7)
            if draft.answer != story.gold.answer:
                yield refine_row(rng, story, replace(draft), chat)

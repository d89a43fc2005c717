"""Count how a student uses hints on generated stories: `python -m …embedded_pair.hints STUDENT TEACHER`.

Two things can go wrong with feedback: the teacher does not find the student's mistakes, or the student does not act on
what it is told. Here the teacher reviews the student's own drafts, and each refinement is compared with the line that
the hint names. Then the student gets drafts with random mistakes and true reviews of them, so that no teacher matters.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness_ext.backends.hf import trained_prompts
from harness_ext.embedded.stories import Story, StoryGenerator, render
from harness_ext.embedded.stories.mistakes import review
from harness_ext.finetune.recipes.embedded_pair.held_out import (
    Item,
    Model,
    Player,
    is_right,
    refine_prompt,
    review_prompt,
)
from harness_ext.finetune.recipes.embedded_pair.honest_rows import wrong_draft
from harness_ext.finetune.recipes.embedded_pair.prepare import MAIN
from harness_ext.finetune.recipes.embedded_pair.prompts import INSTRUCTION, REFINE_USER, REJECTION, story_text

# Far from the seeds of the training rows and of `babi_stories`.
SEED = 8_300_000
LINES = (2, 10)


def draw_stories(per_family: int) -> list[Story]:
    """Return the first stories of each of the families on which the pair is evaluated."""
    return [
        story
        for number, family in enumerate(MAIN)
        for story in itertools.islice(StoryGenerator(SEED + number, [family], LINES), per_family)
    ]


def item_of(story: Story) -> Item:
    """Return a story's question as the student is asked it."""
    return Item(story.task, INSTRUCTION + story_text(story.lines, story.ask.text), story.gold.answer)


def notes_in(reply: str) -> dict[int, str]:
    """Return the notes of a reply by the numbers of their lines; none if it has another form."""
    found = re.match(r"Reasoning: [^?\n]*\? (.*?)\. So", reply)
    notes = re.split(r", (?=\d+ )", found[1]) if found else []
    numbered = (re.fullmatch(r"(\d+) (.*)", note) for note in notes)
    return {int(match[1]): match[2] for match in numbered if match}


def use_of_hints(stories: Sequence[Story], student: Model, teacher: Model) -> dict[str, int]:
    """Return how many of the student's drafts the teacher rejects, and what becomes of them.

    stories: the stories.
    student, teacher: functions that map prompts to replies, such as a `Player`.
    """
    items = [item_of(story) for story in stories]
    drafts = student([item.context for item in items])
    reviews = teacher([review_prompt(item, draft) for item, draft in zip(items, drafts, strict=True)])
    rejected = [index for index, text in enumerate(reviews) if not text.startswith("Correct")]
    told = {index: REFINE_USER.format(review=reviews[index]) for index in rejected}
    replies = student([refine_prompt(items[index], drafts[index], told[index]) for index in rejected])
    count: Counter[str] = Counter(drafts=len(drafts))
    count["wrong drafts"] = sum(not is_right(item, draft) for item, draft in zip(items, drafts, strict=True))
    for index, reply in zip(rejected, replies, strict=True):
        right = is_right(items[index], reply)
        if is_right(items[index], drafts[index]):
            count["right drafts rejected"] += 1
            count["of these, wrong afterwards"] += not right
            continue
        count["wrong drafts rejected"] += 1
        count["of these, right afterwards"] += right
        count["of these, unchanged"] += reply == drafts[index]
        line = re.search(r"line (\d+)", reviews[index])
        before, after, gold = (notes_in(text) for text in (drafts[index], reply, render(stories[index].gold)))
        number = int(line[1]) if line else 0
        if before.get(number) != gold.get(number):
            count["of these, hints at a misread line"] += 1
            count["whose note is right afterwards"] += after.get(number) == gold.get(number)
            count["whose note is unchanged"] += after.get(number) == before.get(number)
    return dict(count)


def after_true_reviews(stories: Sequence[Story], student: Model, look_user: str) -> dict[str, float]:
    """Return the student's share of right answers after drafts with random mistakes.

    stories: the stories.
    student: a function that maps prompts to replies.
    look_user: the request to look again; empty if the student has none.
    """
    rng = random.Random(SEED)
    drafted = [(story, draft) for story in stories if (draft := wrong_draft(rng, story)) is not None]
    told = {
        "after the review": [
            REFINE_USER.format(review=review(draft, story.sentences).text) for story, draft in drafted
        ],
        "after the verdict": [REFINE_USER.format(review=REJECTION)] * len(drafted),
        "after a second look": [look_user] * len(drafted) if look_user else [],
    }
    items = [item_of(story) for story, _ in drafted]
    replies = {"without a draft": student([item.context for item in items])}
    for name, texts in told.items():
        if texts:
            asked = zip(items, drafted, texts, strict=True)
            replies[name] = student([refine_prompt(item, render(draft), text) for item, (_, draft), text in asked])
    return {
        name: sum(is_right(item, reply) for item, reply in zip(items, some, strict=True)) / len(items)
        for name, some in replies.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Print the counts and the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", help="model folder")
    parser.add_argument("teacher", help="model folder")
    parser.add_argument("--stories", type=int, default=80, help="number of stories per family (default: 80)")
    options = parser.parse_args(argv)
    stories = draw_stories(options.stories)
    student = Player(options.student)
    for name, number in use_of_hints(stories, student, Player(options.teacher)).items():
        print(f"{name:36}{number:6}")
    look_user = trained_prompts(Path(options.student)).get("look_user", "")
    for name, share in after_true_reviews(stories, student, look_user).items():
        print(f"{name:36}{share:6.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

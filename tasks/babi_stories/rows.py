"""The rows of `babi_stories`, drawn from the story generator. They are the same on every machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from harness_ext.embedded.stories import FAMILIES, Story, StoryGenerator

if TYPE_CHECKING:
    from datasets import DatasetDict

# These seeds are far from those of the embedded pair's training rows, so that no story is shared.
SEEDS = {"train": 5_000_000, "test": 6_000_000}
TRAIN_ROWS = 20


def row(story: Story) -> dict[str, Any]:
    """Return a story as a row with bAbI's columns (`passage`, `question`, `answer`, `task`) and `family`."""
    return {
        "passage": story.passage,
        "question": story.ask.text,
        "answer": story.gold.answer,
        "task": story.task,
        "family": story.family,
    }


def draw(seed: int, count: int, lines: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield `count` rows without repeated questions, from all story families in turn.

    seed: seed of the first family; each further family uses the next one.
    count: number of rows.
    lines: least and greatest number of lines per story.
    """
    streams = [StoryGenerator(seed + number, [family], lines) for number, family in enumerate(FAMILIES)]
    seen: set[tuple[str, str]] = set()
    turns = itertools.cycle(streams)
    while len(seen) < count:
        one = row(next(next(turns)))
        if (one["passage"], one["question"]) not in seen:
            seen.add((one["passage"], one["question"]))
            yield one


def load(rows: int = 100, shortest: int = 2, longest: int = 10, seed: int = 0, **_: Any) -> DatasetDict:
    """Return the splits `train` (for few-shot examples) and `test`. Other arguments, which lm-eval adds, are ignored.

    rows: number of test questions. Default 100.
    shortest, longest: least and greatest number of lines per story. Default 2 and 10.
    seed: another seed, below 1,000, gives other stories. Default 0.
    """
    from datasets import Dataset, DatasetDict

    counts = {"train": TRAIN_ROWS, "test": rows}
    return DatasetDict(
        {
            split: Dataset.from_list(list(draw(start + 100 * seed, counts[split], (shortest, longest))))
            for split, start in SEEDS.items()
        }
    )

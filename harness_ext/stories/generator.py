"""The generator: an endless, seeded stream of stories with a question each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness_ext.stories.families import FAMILIES, ask, new_world, next_sentence
from harness_ext.stories.questions import Ask, Draft, answer, read
from harness_ext.stories.seen import public_hashes, question_hash
from harness_ext.stories.sentences import Sentence


@dataclass(frozen=True)
class Story:
    """A story and a question about it. `gold` is the careful reader's draft, with the right answer."""

    family: str
    task: int
    sentences: tuple[Sentence, ...]
    ask: Ask
    gold: Draft

    @property
    def lines(self) -> list[str]:
        """Return the sentences' texts, oldest first, without numbers."""
        return [sentence.text for sentence in self.sentences]

    @property
    def passage(self) -> str:
        """Return the lines as bAbI data files have them: each ends in a line break, no numbers."""
        return "".join(f"{line}\n" for line in self.lines)


class StoryGenerator:
    """An iterator over stories; equal arguments give equal stories.

    `families` are names of `FAMILIES` (repeat one to draw it more often); `lines` is the range of story lengths, both
    ends included; a family whose lines come in pairs rounds up to an even number. A (passage, question) that is a
    public bAbI test question is skipped and counted in `skipped`.
    """

    def __init__(self, seed: int, families: Sequence[str] = tuple(FAMILIES), lines: tuple[int, int] = (2, 10)) -> None:
        """Prepare the stream; nothing is drawn yet. Raises ValueError for unknown families or an empty range."""
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown or not families:
            raise ValueError(f"Unknown story families: {unknown}. Choose from {sorted(FAMILIES)}.")
        if not 1 <= lines[0] <= lines[1]:
            raise ValueError(f"lines={lines} is no range of story lengths: give (shortest, longest), at least 1.")
        self.families = tuple(families)
        self.lines = lines
        self.skipped = 0
        self._rng = random.Random(seed)
        self._seen = public_hashes()

    def __iter__(self) -> Iterator[Story]:
        """Return the iterator itself."""
        return self

    def __next__(self) -> Story:
        """Return the next story."""
        while True:
            story = self._draw()
            if story is None:
                continue
            if question_hash(story.passage, story.ask.text) in self._seen:
                self.skipped += 1
                continue
            return story

    def _draw(self) -> Story | None:
        rng = self._rng
        name = rng.choice(self.families)
        family = FAMILIES[name]
        world = new_world(rng, family)
        count = rng.randint(*self.lines)
        sentences: list[Sentence] = []
        while len(sentences) < count or (family.pronouns and len(sentences) % 2):
            sentences.append(next_sentence(rng, family, world, sentences[-1] if sentences else None))
        told = tuple(sentences)
        question = ask(rng, family, told, world.places) if any(one.places for one in told) else None
        if question is None:
            return None
        return Story(name, family.task, told, question, answer(question, read(told)))

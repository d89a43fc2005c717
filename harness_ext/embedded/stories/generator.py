"""The generator: an endless, seeded stream of stories, each with a question."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness_ext.embedded.stories.families import FAMILIES, ask, new_world, next_sentence
from harness_ext.embedded.stories.questions import Ask, Draft, answer, read
from harness_ext.embedded.stories.seen import public_hashes, question_hash
from harness_ext.embedded.stories.sentences import Sentence


@dataclass(frozen=True)
class Story:
    """A story and a question about it.

    family: the name of its family.
    task: the number of the bAbI task that the family is modelled on.
    sentences: the lines of the story.
    ask: the question.
    gold: the draft of a careful reader, with the right answer.
    """

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
        """Return the lines as in bAbI data files: without numbers, each with a line break at its end."""
        return "".join(f"{line}\n" for line in self.lines)


class StoryGenerator:
    """An iterator over stories. Equal arguments give equal stories.

    seed: seed of the random choices.
    families: names of `FAMILIES`; a name that is repeated is drawn more often. Default: all families once.
    lines: the shortest and the longest story, in lines. Families whose lines come in pairs round up to an even number.
        Default 2 to 10.

    Questions of the public bAbI test set are skipped and counted in `skipped`.
    """

    def __init__(self, seed: int, families: Sequence[str] = tuple(FAMILIES), lines: tuple[int, int] = (2, 10)) -> None:
        """Prepare the stream without drawing anything. Raises ValueError for unknown families or an empty range."""
        unknown = sorted(set(families) - set(FAMILIES))
        if unknown or not families:
            raise ValueError(f"Unknown story families: {unknown}. Choose from {sorted(FAMILIES)}.")
        if not 1 <= lines[0] <= lines[1]:
            raise ValueError(f"lines={lines} is not a range of story lengths: give (shortest, longest), at least 1.")
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
        story = tuple(sentences)
        question = ask(rng, family, story, world.places) if any(one.places for one in story) else None
        if question is None:
            return None
        return Story(name, family.task, story, question, answer(question, read(story)))

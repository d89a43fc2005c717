"""Plausible mistakes of a reader, the reviews that point at them, and their corrections."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness_ext.embedded.stories.questions import Ask, Draft, Note, answer, matters, read
from harness_ext.embedded.stories.sentences import Sentence
from harness_ext.embedded.stories.vocabulary import OBJECTS

# The embedded student is trained to overlook these wordings in its drafts, so that there is something to correct.
OVERLOOKED_VERBS = frozenset(
    ("journeyed", "travelled", "went back", "is no longer", "is not", "got", "grabbed", "discarded", "handed")
)


@dataclass(frozen=True)
class Review:
    """A teacher's review of a draft.

    accepted: whether the draft is right.
    line: the line that the hint names; 0 if the draft is right.
    hint, issue: the two sentences of the review.
    """

    accepted: bool
    line: int = 0
    hint: str = ""
    issue: str = ""

    @property
    def text(self) -> str:
        """Return the review in the format that the teacher's prompt asks for."""
        if self.accepted:
            return f"Correct.\n{self.issue}"
        return f"Incorrect.\nHint: {self.hint}\nIssue: {self.issue}"


def careless(ask: Ask, sentences: Sequence[Sentence]) -> Draft:
    """Return the draft of a reader who overlooks the wordings in `OVERLOOKED_VERBS`."""
    return answer(ask, [skim(note) for note in read(sentences)])


def skim(note: Note) -> Note:
    """Return the note of a careless reader, who overlooks the wordings in `OVERLOOKED_VERBS`."""
    return replace(note, noticed=note.sentence.verb not in OVERLOOKED_VERBS)


def misread(rng: random.Random, ask: Ask, sentences: Sequence[Sentence]) -> Draft:
    """Return a draft with one or two random mistakes, which may or may not change the answer."""
    notes = list(read(sentences))
    for _ in range(1 if rng.random() < 0.75 else 2):
        rng.choice((_overlook, _overlook, _misplace, _misplace, _stop_early, _intrude))(rng, ask, notes)
    draft = answer(ask, notes)
    if rng.random() < 0.12:
        draft = _slip(rng, draft)
    return draft


def _relevant(ask: Ask, notes: Sequence[Note]) -> list[int]:
    return [index for index, note in enumerate(notes) if matters(note, ask)]


def _pick_late(rng: random.Random, indices: list[int]) -> int:
    return indices[-1] if rng.random() < 0.6 else rng.choice(indices)


def _overlook(rng: random.Random, ask: Ask, notes: list[Note]) -> None:
    if indices := _relevant(ask, notes):
        index = _pick_late(rng, indices)
        notes[index] = replace(notes[index], noticed=False)


def _misplace(rng: random.Random, ask: Ask, notes: list[Note]) -> None:
    if not (indices := _relevant(ask, notes)):
        return
    index = _pick_late(rng, indices)
    sentence = notes[index].sentence
    if sentence.kind == "not_at" and rng.random() < 0.5:
        changed = replace(sentence, kind="at")
    elif sentence.places:
        others = sorted({place for note in notes for place in note.sentence.places} - set(sentence.places))
        if not others:
            return
        changed = replace(sentence, places=(rng.choice(others), *sentence.places[1:]))
    else:
        changed = replace(sentence, thing=rng.choice([thing for thing in OBJECTS if thing != sentence.thing]))
    notes[index] = replace(notes[index], sentence=changed)


def _stop_early(rng: random.Random, ask: Ask, notes: list[Note]) -> None:
    if len(notes) > 1:
        del notes[rng.randrange(max(1, len(notes) - 4), len(notes)) :]


def _intrude(rng: random.Random, ask: Ask, notes: list[Note]) -> None:
    others = [i for i, note in enumerate(notes) if note.sentence.places and not matters(note, ask)]
    if others:
        index = _pick_late(rng, others)
        notes[index] = replace(notes[index], intruder=True)


def _slip(rng: random.Random, draft: Draft) -> Draft:
    """Return the draft with a conclusion that ignores its last notes."""
    older = answer(draft.ask, draft.notes[: rng.randrange(len(draft.notes))] or draft.notes)
    return replace(draft, conclusion=older.conclusion, answer=older.answer)


def review(draft: Draft, sentences: Sequence[Sentence]) -> Review:
    """Judge a draft by its answer. A wrong one gets a hint at its decisive line, which never names the answer.

    If the last statement about a person settles the question, the last misread line is decisive. If the lines add up,
    the first one is.
    """
    ask = draft.ask
    gold = read(sentences)
    if draft.answer == answer(ask, gold).answer:
        return Review(True, issue=f"It reads the lines about {ask.topic} well.")
    for number in mistaken_lines(draft, gold):
        if number > len(draft.notes):
            return Review(False, number, f"Read on from line {number}.", "The story is not at its end there.")
        mine, true = draft.notes[number - 1], gold[number - 1]
        if mine.intruder:
            return Review(False, number, f"Ask who line {number} is about.", "It is about somebody else.")
        if not mine.noticed:
            return Review(False, number, f"Look again at line {number}.", _overlooked_issue(ask, true.sentence))
        return Review(False, number, f"Read line {number} again, word for word.", "The line says something else.")
    decisive = [note.number for note in gold if matters(note, ask)] or [len(gold)]
    return Review(
        False, decisive[-1], f"Compare the conclusion with line {decisive[-1]}.", "It does not follow from the notes."
    )


def _overlooked_issue(ask: Ask, sentence: Sentence) -> str:
    if sentence.lead:
        return f"Think who is meant there: it is about {ask.topic} too."
    if sentence.kind == "not_at":
        return f"It rules out a place for {ask.topic}."
    if ask.kind == "where_thing":
        return "What it says was overlooked."
    return f"It is about {ask.topic} and was overlooked."


def mistaken_lines(draft: Draft, gold: Sequence[Note]) -> list[int]:
    """Return the numbers of the lines that the draft misread, the decisive ones first."""
    ask = draft.ask
    wrong = []
    for true in gold:
        if true.number > len(draft.notes):
            wrong.append(true.number)
            break
        mine = draft.notes[true.number - 1]
        differs = matters(mine, ask) != matters(true, ask) or (
            matters(true, ask) and (not mine.noticed or mine.sentence != true.sentence)
        )
        if differs:
            wrong.append(true.number)
    return wrong[::-1] if ask.kind in ("where", "is_in") else wrong


def correct(draft: Draft, found: Review, sentences: Sequence[Sentence]) -> Draft:
    """Return the draft after its reader has read the hinted line correctly and drawn the conclusion again."""
    gold = read(sentences)
    notes = list(draft.notes)
    if found.line > len(notes):
        notes += gold[len(notes) :]
    elif found.line:
        notes[found.line - 1] = gold[found.line - 1]
    return answer(draft.ask, notes)

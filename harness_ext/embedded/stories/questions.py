"""Questions about a story, and a reader who takes a note of each line and draws a conclusion from the notes.

A rationale names who or what the question is about and goes through the numbered lines. For each it notes whom the line
is about and, if the line is relevant, what it says. The conclusion depends only on the notes. So a mistake is a change
of the notes, and drafts, hints and corrected replies all come from the same few functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness_ext.embedded.stories.sentences import Sentence
from harness_ext.embedded.stories.vocabulary import NUMBERS, listing

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Ask:
    """A question.

    kind: `where`, `is_in`, `count` or `carrying` for questions about a person, `where_thing` for those about a thing.
    who: the person or thing.
    place: the place that a question of kind `is_in` names.
    """

    kind: str
    who: str
    place: str = ""

    @property
    def text(self) -> str:
        """Return the question's wording."""
        return {
            "where": f"Where is {self.who}?",
            "is_in": f"Is {self.who} in the {self.place}?",
            "count": f"How many objects is {self.who} carrying?",
            "carrying": f"What is {self.who} carrying?",
            "where_thing": f"Where is the {self.who}?",
        }[self.kind]

    @property
    def topic(self) -> str:
        """Return who or what the question is about, as hints name it."""
        return f"the {self.who}" if self.kind == "where_thing" else self.who


@dataclass(frozen=True)
class Note:
    """A reader's note of one line.

    number: the number of the line.
    sentence: the sentence as the reader understood it.
    noticed: whether the reader noticed its content. Default true.
    intruder: whether the line is about somebody else, but the reader took it to be about the person in the question.
        Default false.
    """

    number: int
    sentence: Sentence
    noticed: bool = True
    intruder: bool = False


@dataclass(frozen=True)
class Draft:
    """A worked answer.

    ask: the question.
    notes: the notes, one per line.
    conclusion: the conclusion, as a sentence.
    answer: the short answer.
    """

    ask: Ask
    notes: tuple[Note, ...]
    conclusion: str
    answer: str


def read(sentences: Sequence[Sentence]) -> tuple[Note, ...]:
    """Return the notes of a careful reader; `sentences` come from `resolve`."""
    return tuple(Note(number, sentence) for number, sentence in enumerate(sentences, start=1))


def matters(note: Note, ask: Ask) -> bool:
    """Return whether the line is relevant, so that a careful reader notes more than its subject."""
    sentence = note.sentence
    if ask.kind in ("where", "is_in"):
        return bool(sentence.places) and (ask.who in sentence.actors or note.intruder)
    if ask.kind in ("count", "carrying"):
        return bool(sentence.thing) and (ask.who in sentence.about or note.intruder)
    return bool(sentence.places) or sentence.thing == ask.who


def _details(ask: Ask, notes: Sequence[Note]) -> list[str]:
    """Return the text of each note after its subject; it is empty if the line is irrelevant or was overlooked."""
    details: list[str] = []
    held: list[str] = []
    where: dict[str, str] = {}
    holder = ""
    for note in notes:
        sentence = note.sentence
        if not note.noticed or not matters(note, ask):
            details.append("")
            continue
        if sentence.places:
            if ask.kind == "where_thing":
                where.update(dict.fromkeys(sentence.actors, sentence.places[0]))
            said = listing(sentence.places, "or")
            details.append(f"not {said}" if sentence.kind == "not_at" else said)
            if ask.kind == "where_thing" and holder in sentence.actors:
                details[-1] += f" with {ask.who}"
            continue
        verb = {"take": "takes", "drop": "drops", "give": "gives"}[sentence.kind]
        said = f"{verb} {sentence.thing}" + (f" to {sentence.receiver}" if sentence.receiver else "")
        if ask.kind == "where_thing":
            holder = {"take": sentence.actors[0], "drop": "", "give": sentence.receiver}[sentence.kind]
            details.append(f"{said} in {where.get(sentence.actors[0], UNKNOWN)}")
            continue
        gains = sentence.kind == "take" or sentence.receiver == ask.who
        if gains and sentence.thing not in held:
            held.append(sentence.thing)
        elif not gains and sentence.thing in held:
            held.remove(sentence.thing)
        details.append(f"{said}, has {listing(tuple(held)) or 'nothing'}")
    return details


def conclude(ask: Ask, notes: Sequence[Note]) -> tuple[str, str]:
    """Return the conclusion and the answer that follow from the notes, right or wrong."""
    seen = [note for note in notes if note.noticed and matters(note, ask)]
    if ask.kind == "where_thing":
        return _conclude_thing(ask, seen)
    if ask.kind in ("count", "carrying"):
        held = _held(ask, seen)
        having = f"{ask.who} has {listing(held) or 'nothing'}"
        return having, NUMBERS[len(held)] if ask.kind == "count" else ",".join(held) or "nothing"
    if not seen:
        return f"{ask.who} is not mentioned", "no" if ask.kind == "is_in" else UNKNOWN
    last = seen[-1].sentence
    said = listing(tuple(f"the {place}" for place in last.places), "or")
    stays = f"{ask.who} is {'not ' if last.kind == 'not_at' else ''}in {said}"
    if ask.kind == "where":
        return stays, last.places[0]
    if last.kind == "not_at" or ask.place not in last.places:
        return stays, "no"
    return stays, "maybe" if last.kind == "either" else "yes"


def _held(ask: Ask, seen: Sequence[Note]) -> tuple[str, ...]:
    held: list[str] = []
    for note in seen:
        sentence = note.sentence
        if sentence.kind == "take" or sentence.receiver == ask.who:
            if sentence.thing not in held:
                held.append(sentence.thing)
        elif sentence.thing in held:
            held.remove(sentence.thing)
    return tuple(held)


def _conclude_thing(ask: Ask, seen: Sequence[Note]) -> tuple[str, str]:
    where: dict[str, str] = {}
    holder, place = "", UNKNOWN
    for note in seen:
        sentence = note.sentence
        if sentence.places:
            where.update(dict.fromkeys(sentence.actors, sentence.places[0]))
            if holder in sentence.actors:
                place = sentence.places[0]
        else:
            holder = {"take": sentence.actors[0], "drop": "", "give": sentence.receiver}[sentence.kind]
            place = where.get(sentence.actors[0], UNKNOWN)
    return f"the {ask.who} is in the {place}", place


def answer(ask: Ask, notes: Sequence[Note]) -> Draft:
    """Return the draft that follows from these notes."""
    conclusion, short = conclude(ask, notes)
    return Draft(ask, tuple(notes), conclusion, short)


def render(draft: Draft) -> str:
    """Return the text of the reply: `Reasoning: …` and `Answer: …` on two lines."""
    asked = f" Asked: {draft.ask.place}." if draft.ask.place else ""
    return f"{render_notes(draft, len(draft.notes))}. So {draft.conclusion}.{asked}\nAnswer: {draft.answer}"


def render_notes(draft: Draft, count: int) -> str:
    """Return the beginning of the reply, up to the end of the note with the number `count`."""
    details = _details(draft.ask, draft.notes)
    items = [
        f"{note.number} {note.sentence.subject}" + (f" {detail}" if detail else "")
        for note, detail in zip(draft.notes, details, strict=True)
    ]
    return f"Reasoning: {draft.ask.topic}? {', '.join(items[:count])}"

"""One sentence of a story: its parts, its wording, and how it is parsed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness_ext.embedded.stories.vocabulary import (
    DROP_VERBS,
    GIVE_VERBS,
    LEADS,
    MOVE_VERBS,
    TAKE_VERBS,
    listing,
    pronoun,
)


@dataclass(frozen=True)
class Sentence:
    """One line of a story.

    kind: `move`, `at` (is in), `not_at`, `either` (one of two places), `take`, `drop` or `give`.
    actors: the people it is about, even if the text says `she` or `they`.
    verb: the wording of the verb.
    places: the places it names; two for `either`.
    thing: the thing that is taken, dropped or given.
    receiver: who receives the thing.
    lead: `Then`, `After that` and so on, in front of a pronoun.
    there: whether the text ends in `there`.
    """

    kind: str
    actors: tuple[str, ...]
    verb: str
    places: tuple[str, ...] = ()
    thing: str = ""
    receiver: str = ""
    lead: str = ""
    there: bool = False

    @property
    def subject(self) -> str:
        """Return the subject as it appears in the text: a name, two names, or a pronoun."""
        return pronoun(self.actors) if self.lead else " and ".join(self.actors)

    @property
    def text(self) -> str:
        """Return the sentence's text, with its full stop."""
        start = f"{self.lead} {self.subject}" if self.lead else self.subject
        if self.kind == "move":
            rest = f"to the {self.places[0]}"
        elif self.kind in ("at", "not_at"):
            rest = f"in the {self.places[0]}"
        elif self.kind == "either":
            rest = listing(tuple(f"the {place}" for place in self.places), "or")
        elif self.kind == "give":
            rest = f"the {self.thing} to {self.receiver}"
        else:
            rest = f"the {self.thing}" + (" there" if self.there else "")
        return f"{start} {self.verb} {rest}."

    @property
    def about(self) -> tuple[str, ...]:
        """Return everybody whom the sentence is about: the actors and the receiver of a thing."""
        return (*self.actors, self.receiver) if self.receiver else self.actors


def _words(options: Sequence[str]) -> str:
    return "|".join(sorted(options, key=len, reverse=True))


_SUBJECT = rf"(?:(?P<lead>{_words(LEADS)}) (?:he|she|they)|(?P<names>[A-Z][a-z]+(?: and [A-Z][a-z]+)?))"
_SHAPES = {
    "move": rf"(?P<verb>{_words(MOVE_VERBS)}) to the (?P<place>\w+)",
    "not_at": r"(?P<verb>is no longer|is not) in the (?P<place>\w+)",
    "either": r"(?P<verb>is either in) the (?P<place>\w+) or the (?P<other>\w+)",
    "at": r"(?P<verb>is) in the (?P<place>\w+)",
    "take": rf"(?P<verb>{_words(TAKE_VERBS)}) the (?P<thing>\w+)(?P<there> there)?",
    "drop": rf"(?P<verb>{_words(DROP_VERBS)}) the (?P<thing>\w+)(?P<there> there)?",
    "give": rf"(?P<verb>{_words(GIVE_VERBS)}) the (?P<thing>\w+) to (?P<receiver>[A-Z][a-z]+)",
}
_PATTERNS = {kind: re.compile(rf"{_SUBJECT} {shape}\.") for kind, shape in _SHAPES.items()}


def parse_sentence(text: str) -> Sentence | None:
    """Parse one line of a story, or return None if it fits no known pattern.

    For a pronoun, `actors` stays empty; see `resolve`.
    """
    for kind, pattern in _PATTERNS.items():
        match = pattern.fullmatch(text.strip())
        if match is None:
            continue
        parts = {key: value or "" for key, value in match.groupdict().items()}
        places = tuple(parts[key] for key in ("place", "other") if parts.get(key))
        return Sentence(
            kind,
            tuple(parts["names"].split(" and ")) if parts["names"] else (),
            parts["verb"],
            places,
            thing=parts.get("thing", ""),
            receiver=parts.get("receiver", ""),
            lead=parts["lead"],
            there=bool(parts.get("there")),
        )
    return None


def resolve(sentences: Sequence[Sentence]) -> tuple[Sentence, ...]:
    """Fill in the people that each pronoun refers to: the actors of the previous line."""
    done: list[Sentence] = []
    for sentence in sentences:
        if not sentence.actors:
            if not done:
                raise ValueError("A story begins with a pronoun. Its first line must name somebody.")
            sentence = replace(sentence, actors=done[-1].actors)
        done.append(sentence)
    return tuple(done)

"""The families of stories: which sentences occur and which question is asked. All share one simulation."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from harness_ext.embedded.stories.questions import UNKNOWN, Ask, answer, read
from harness_ext.embedded.stories.sentences import Sentence
from harness_ext.embedded.stories.vocabulary import (
    CASTS,
    DROP_VERBS,
    GIVE_VERBS,
    LEADS,
    MAPS,
    MOVE_VERBS,
    OBJECTS,
    TAKE_VERBS,
)


@dataclass(frozen=True)
class Family:
    """A family of stories, modelled on a bAbI task.

    task: the number of the bAbI task.
    kinds: the kinds of sentences and their weights.
    asks: the kinds of questions.
    pairs: whether people move in pairs. Default false.
    pronouns: whether each line with names is followed by one with `she`, `he` or `they`. Default false.
    casts, maps: indices of the entries of `vocabulary.CASTS` and `vocabulary.MAPS` to draw from. Default the first.
    """

    task: int
    kinds: dict[str, float]
    asks: tuple[str, ...]
    pairs: bool = False
    pronouns: bool = False
    casts: tuple[int, ...] = (0,)
    maps: tuple[int, ...] = (0,)


_CARRY = {"move": 0.55, "take": 0.29, "drop": 0.16}
FAMILIES: dict[str, Family] = {
    "one_fact": Family(1, {"move": 1.0}, ("where",)),
    "two_facts": Family(2, _CARRY, ("where_thing",)),
    "yes_no": Family(6, {"move": 0.72, "take": 0.2, "drop": 0.08}, ("is_in",)),
    "counting": Family(7, {"move": 0.5, "take": 0.26, "drop": 0.12, "give": 0.12}, ("count",), casts=(0, 2)),
    "lists": Family(8, _CARRY, ("carrying",)),
    "negation": Family(9, {"move": 0.5, "at": 0.2, "not_at": 0.3}, ("is_in",)),
    "indefinite": Family(10, {"move": 0.45, "at": 0.25, "either": 0.3}, ("is_in",), casts=(1,), maps=(1,)),
    "coreference": Family(11, {"move": 1.0}, ("where",), pronouns=True),
    "conjunction": Family(12, {"move": 1.0}, ("where",), pairs=True),
    "compound_coreference": Family(13, {"move": 1.0}, ("where",), pairs=True, pronouns=True),
}


@dataclass
class World:
    """The state of the world while a story unfolds.

    people, places: who and what exists.
    where: the place of each person, as far as it is known.
    holder: who carries each thing that is being carried.
    lies: the place where each thing was last put down.
    """

    people: tuple[str, ...]
    places: tuple[str, ...]
    where: dict[str, str] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    def elsewhere(self, rng: random.Random, people: tuple[str, ...]) -> str:
        """Return a place where none of these people is."""
        taken = {self.where.get(person, "") for person in people}
        return rng.choice([place for place in self.places if place not in taken])


def next_sentence(rng: random.Random, family: Family, world: World, previous: Sentence | None) -> Sentence:
    """Return the next line of a story and update `world` accordingly.

    rng: the source of randomness.
    family: the family of the story.
    world: the state after the previous line.
    previous: the previous line, or None for the first.
    """
    if family.pronouns and previous is not None and not previous.lead:
        return _move(rng, world, previous.actors, rng.choice(LEADS))
    kinds = [kind for kind in family.kinds if _possible(kind, world)]
    kind = rng.choices(kinds, [family.kinds[kind] for kind in kinds])[0]
    if kind == "move":
        return _move(rng, world, tuple(rng.sample(world.people, 2 if family.pairs else 1)), "")
    if kind in ("take", "drop", "give"):
        return _carry(rng, world, kind)
    person = rng.choice(world.people)
    if kind == "at":
        place = world.elsewhere(rng, (person,)) if rng.random() < 0.7 else rng.choice(world.places)
        world.where[person] = place
        return Sentence("at", (person,), "is", (place,))
    if kind == "either":
        world.where.pop(person, None)
        return Sentence("either", (person,), "is either in", tuple(rng.sample(world.places, 2)))
    place = world.where.pop(person, "") or rng.choice(world.places)
    return Sentence("not_at", (person,), rng.choice(("is no longer", "is not")), (place,))


def _move(rng: random.Random, world: World, actors: tuple[str, ...], lead: str) -> Sentence:
    place = world.elsewhere(rng, actors)
    world.where.update(dict.fromkeys(actors, place))
    return Sentence("move", actors, rng.choice(MOVE_VERBS), (place,), lead=lead)


def _possible(kind: str, world: World) -> bool:
    if kind == "take":
        return any(_reachable(world, thing) for thing in OBJECTS)
    return bool(world.holder) if kind in ("drop", "give") else True


def _reachable(world: World, thing: str) -> list[str]:
    # Until a thing is first taken, its place is unknown and anybody may take it; afterwards it is where it was left.
    if thing in world.holder:
        return []
    lies = world.lies.get(thing, "")
    return [person for person, place in world.where.items() if not lies or place == lies]


def _carry(rng: random.Random, world: World, kind: str) -> Sentence:
    if kind == "take":
        thing = rng.choice([thing for thing in OBJECTS if _reachable(world, thing)])
        person = rng.choice(_reachable(world, thing))
        world.holder[thing] = person
        return Sentence("take", (person,), rng.choice(TAKE_VERBS), thing=thing, there=True)
    thing = rng.choice(sorted(world.holder))
    person = world.holder.pop(thing)
    if kind == "drop":
        world.lies[thing] = world.where[person]
        return Sentence("drop", (person,), rng.choice(DROP_VERBS), thing=thing, there=rng.random() < 0.15)
    receiver = rng.choice([other for other in world.people if other != person])
    world.holder[thing] = receiver
    world.where.setdefault(receiver, world.where[person])
    return Sentence("give", (person,), rng.choice(GIVE_VERBS), thing=thing, receiver=receiver)


def new_world(rng: random.Random, family: Family) -> World:
    """Return a world in which nothing is known yet."""
    return World(CASTS[rng.choice(family.casts)], MAPS[rng.choice(family.maps)])


def ask(rng: random.Random, family: Family, sentences: tuple[Sentence, ...], places: tuple[str, ...]) -> Ask | None:
    """Return a question that the lines answer, or None if they answer no question of the family's kind.

    rng: the source of randomness.
    family: the family of the story.
    sentences: the lines of the story.
    places: the places of its world.
    """
    kind = rng.choice(family.asks)
    if kind == "where_thing":
        things = sorted({sentence.thing for sentence in sentences if sentence.thing})
        rng.shuffle(things)
        asks = [Ask(kind, thing) for thing in things]
        return next((one for one in asks if answer(one, read(sentences)).answer != UNKNOWN), None)
    people = sorted({person for sentence in sentences for person in sentence.about})
    if kind in ("count", "carrying"):
        active = sorted({person for sentence in sentences if sentence.thing for person in sentence.about})
        people = active if active and rng.random() < 0.75 else people
        return Ask(kind, rng.choice(people))
    located = sorted({person for sentence in sentences if sentence.places for person in sentence.actors})
    person = rng.choice(located)
    if kind == "where":
        return Ask(kind, person)
    last = [sentence for sentence in sentences if sentence.places and person in sentence.actors][-1]
    # After "is not in the garden" only the garden can be asked about: the lines say nothing about other places.
    if last.kind == "not_at" or rng.random() < 0.45:
        return Ask(kind, person, rng.choice(last.places))
    mentioned = [place for sentence in sentences for place in sentence.places if place not in last.places]
    pool = mentioned if mentioned and rng.random() < 0.6 else [place for place in places if place not in last.places]
    return Ask(kind, person, rng.choice(pool))

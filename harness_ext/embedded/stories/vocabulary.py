"""The words of the stories."""

from __future__ import annotations

WOMEN = ("Mary", "Sandra", "Julie")
MEN = ("John", "Daniel", "Fred", "Bill", "Jeff")
PEOPLE = WOMEN + MEN
# bAbI draws the people and places of a task from one of these casts and maps.
CASTS = (("Mary", "John", "Daniel", "Sandra"), ("Fred", "Mary", "Bill", "Julie"), ("Mary", "Fred", "Jeff", "Bill"))
MAPS = (
    ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen"),
    ("school", "cinema", "park", "office", "bedroom", "kitchen"),
)
PLACES = ("bathroom", "hallway", "garden", "office", "bedroom", "kitchen", "school", "cinema", "park")
OBJECTS = ("football", "milk", "apple")

MOVE_VERBS = ("moved", "journeyed", "went", "travelled", "went back")
TAKE_VERBS = ("got", "grabbed", "took", "picked up")
DROP_VERBS = ("left", "dropped", "discarded", "put down")
GIVE_VERBS = ("gave", "handed", "passed")
LEADS = ("Then", "Afterwards", "After that", "Following that")
NUMBERS = ("none", "one", "two", "three")


def pronoun(people: tuple[str, ...]) -> str:
    """Return the pronoun for one person or for a group: `she`, `he` or `they`."""
    if len(people) > 1:
        return "they"
    return "she" if people[0] in WOMEN else "he"


def listing(words: tuple[str, ...], conjunction: str = "and") -> str:
    """Return `a`, `a and b` or `a, b and c`."""
    if len(words) < 3:
        return f" {conjunction} ".join(words)
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}"

"""The three types of questions. Their instructions are a protocol's own; what they are about is data, the state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

YES, NO = "true", "false"


@dataclass(frozen=True, slots=True)
class Predicate:
    """A yes/no question. Its options are `true` and `false`.

    instructions: the question.
    true, false: what the two answers mean. Default: no more than the question says.
    """

    instructions: str
    true: str = ""
    false: str = ""

    type: ClassVar[Literal["predicate"]] = "predicate"

    @property
    def options(self) -> tuple[str, ...]:
        """Return the names of the options."""
        return (YES, NO)

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Return the description of each option; empty for one without."""
        return (self.true, self.false)


@dataclass(frozen=True, slots=True)
class Choice:
    """A question with named options, of which one fits best.

    instructions: the question.
    options: the names of the options, in the order in which they are shown; two or more, no two of them equal.
    descriptions: the description of each option. Default: none.

    Raises ValueError for options that cannot be told apart.
    """

    instructions: str
    options: tuple[str, ...]
    descriptions: tuple[str, ...] = ()

    type: ClassVar[Literal["choice"]] = "choice"

    def __post_init__(self) -> None:
        if len(self.options) < 2 or len(set(self.options)) < len(self.options):
            raise ValueError(f"a choice needs two or more different options, not {list(self.options)}")
        if not self.descriptions:
            object.__setattr__(self, "descriptions", ("",) * len(self.options))
        if len(self.descriptions) != len(self.options):
            raise ValueError(f"{len(self.descriptions)} descriptions for {len(self.options)} options")


@dataclass(frozen=True, slots=True)
class Score:
    """A rating on ordered levels. Its options are the numbers of the levels, from `0`.

    instructions: the question.
    levels: what each level means, the lowest first; two to ten.

    Raises ValueError for another number of levels.
    """

    instructions: str
    levels: tuple[str, ...]
    options: tuple[str, ...] = field(init=False)

    type: ClassVar[Literal["score"]] = "score"

    def __post_init__(self) -> None:
        if not 2 <= len(self.levels) <= 10:
            raise ValueError(f"a score needs 2 to 10 levels, not {len(self.levels)}")
        object.__setattr__(self, "options", tuple(map(str, range(len(self.levels)))))

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Return the description of each level."""
        return self.levels


TypedQuestion = Predicate | Choice | Score


def as_state(state: str | Mapping[str, Any]) -> str:
    """Return what a question is about as text: a text as it is, fields as JSON."""
    return state if isinstance(state, str) else json.dumps(dict(state), ensure_ascii=False)


def parts_of(question: TypedQuestion) -> list[Any]:
    """Return what makes up a typed question, as JSON values."""
    return [question.type, question.instructions, list(question.options), list(question.descriptions)]


def question_digest(*parts: Any) -> str:
    """Return a short digest of what is asked, without the state: equal for the same question about other data."""
    text = json.dumps(parts, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def openings_digest(wording: Sequence[str], openings: Mapping[str, str]) -> str:
    """Return the digest of the question how a reply begins, given what its prompt says apart from what it is about."""
    return _openings_digest(tuple(wording), tuple(openings.items()))


@lru_cache(maxsize=256)  # the same in every question of a run
def _openings_digest(wording: tuple[str, ...], openings: tuple[tuple[str, str], ...]) -> str:
    return question_digest("openings", list(wording), dict(openings))

"""What `show` and `report` say about a turn: its verdict in words, and how its text was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness_ext.reading import AnswerForm, read_answer, read_verdict
from harness_ext.records import Completion, Decision, Loglikelihood, Turn
from harness_ext.records.chat import messages_of
from harness_ext.records.lost_answers import is_answer
from harness_ext.terminal import safe_line

_SHOWN = ("answer", "agrees", "closes", "continuation", "choice", "confidence")


@dataclass(frozen=True)
class HowRead:
    """How a turn's text was read.

    rule: the name of the rule (docs/reading.md lists them).
    value: what was read.
    span: where it stands in the text.
    """

    rule: str
    value: str
    span: tuple[int, int]


def readable(context: str) -> str:
    """Return a context in readable form: messages that are encoded as JSON become lines of `role: content`."""
    return "\n\n".join(f"{role}: {content}" if role else content for role, content in messages_of(context))


def how_read(turn: Turn, form: AnswerForm) -> HowRead | None:
    """Return how a turn's text is read: the verdict of a review, or the answer of any other reply.

    turn: the turn.
    form: what the question asks for.

    Returns None if nothing can be read, or if the protocol recorded another reading: then it read the text by rules of
    its own, of which the record has only the name.
    """
    verdict = turn.verdict or {}
    if not isinstance(turn.result, Completion) or not turn.text.strip():
        return None
    if "accepted" in verdict:
        found = _read_verdict(turn.text)
        return found if found is not None and verdict.get("rule") == found.rule else None
    if not is_answer(turn):
        return None
    answer = _read_answer(turn.text, form)
    if answer is None or ("answer" in verdict and verdict["answer"] != answer.value):
        return None
    return answer


# A run repeats many of another run's drafts, so what was read is remembered.
@lru_cache(maxsize=65536)
def _read_verdict(text: str) -> HowRead | None:
    found = read_verdict(text)
    word = "malformed" if found.malformed else "accepted" if found.accepted else "rejected"
    return None if found.span is None else HowRead(found.rule, word, found.span)


@lru_cache(maxsize=65536)
def _read_answer(text: str, form: AnswerForm) -> HowRead | None:
    found = read_answer(text, form=form)
    return None if found is None else HowRead(found.rule, found.value, found.span)


def verdict_words(turn: Turn) -> str:
    """Return what was read from a turn, as one line; empty if nothing was."""
    verdict = turn.verdict or {}
    details = ["malformed"] if verdict.get("malformed") else []
    if "accepted" not in verdict:
        said = [f"{k}: {v}" for k, v in verdict.items() if k in _SHOWN and not (details and v is None)]
        if isinstance(points := verdict.get("points"), Mapping):
            said.append(f"points: {', '.join(f'{seat} {_number(given)}' for seat, given in points.items())}")
        return safe_line(", ".join([*said, *details]))
    word = "✓ accepted" if verdict["accepted"] else "✗ rejected"
    rule = verdict.get("rule")
    details += [str(rule)] if rule not in (None, "first_word") else []
    if isinstance(verdict.get("probability"), int | float):
        details.append(f"{verdict['probability']:.2f}")
    return safe_line(f"{word} ({', '.join(details)})" if details else word)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def decision_words(decision: Decision) -> str:
    """Return a decision as one line: the options with their probabilities, and where these come from."""
    shares = {o: decision.probability(o) for o in decision.options}
    listed = [f"{safe_line(o)} {'–' if p is None else f'{p:.3f}'}" for o, p in shares.items()]
    mass = "" if decision.label_mass is None else f", label mass {decision.label_mass:.3f}"
    chosen = "refused" if decision.refused else "no decision" if decision.choice is None else safe_line(decision.choice)
    return f"{chosen}  [{' | '.join(listed)}]  ({decision.source}{mass})"


def result_words(turn: Turn) -> str:
    """Return a result that is no text in words: a score, a decision, a check of given tokens; empty for a text."""
    if isinstance(turn.result, Completion):
        return ""
    if isinstance(turn.result, Loglikelihood):
        return f"log-probability {turn.result.logprob:.4f}"
    return decision_words(turn.result) if isinstance(turn.result, Decision) else "checked a draft token by token"


def turn_notes(turn: Turn) -> list[str]:
    """Return what was done to a turn's prompt and reply, and whether its limit cut it off."""
    return [*turn.notes, *turn.result.notes, *(["cut at limit"] if turn.finish == "length" else [])]


def acceptance_words(figures: Mapping[str, Any]) -> str:
    """Return the figures of `acceptance_figures` as one sentence."""

    def show(value: float | None) -> str:
        return "—" if value is None else f"{value:.3f}"

    accepted = figures["accepted_right"] + figures["accepted_wrong"]
    wrong = figures["accepted_wrong"] + figures["rejected_wrong"]
    total = accepted + figures["rejected_right"] + figures["rejected_wrong"]
    return (
        f"{accepted} of {total} drafts accepted, precision {show(figures['precision'])}, recall "
        f"{show(figures['recall'])}; {figures['rejected_wrong']} of {wrong} wrong drafts rejected; "
        f"{figures['malformed']} reviews malformed"
    )

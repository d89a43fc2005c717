"""Stop sequences, which apply to a reply's answer and not to the thoughts before it."""

from __future__ import annotations

from collections.abc import Sequence

from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers, split_thought


def cut_at_stop(text: str, stops: Sequence[str], markers: Markers | None = DEFAULT_MARKERS) -> tuple[str, bool]:
    """Return a reply up to the first stop sequence in its answer, and whether there was one.

    Args:
        text: the reply, thoughts included.
        stops: the stop sequences; empty ones are ignored.
        markers: how thoughts are marked; None if the reply has none.
    """
    if not any(stop and stop in text for stop in stops):
        return text, False
    start = 0
    if markers is not None:
        thought = split_thought(text, markers)
        if not thought.finished:
            return text, False
        start = thought.start
    found = [index for stop in stops if stop and (index := text.find(stop, start)) >= 0]
    return (text[: min(found)], True) if found else (text, False)

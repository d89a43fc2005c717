"""Reading the questions in a list that a model wrote."""

from __future__ import annotations

import re

_ITEM = re.compile(
    r"(?:\*\*)?(?:Q(?:uestion)?\s*)?(?:\(?\d{1,2}\\?[.):](?=\D)|[-*•](?=\s))(?:\*\*)?\s*(.*\S)", re.IGNORECASE
)
_ASKED = re.compile(r"(.*[?？])")


def read_questions(text: str, whole: bool = True) -> list[str]:
    """Return the questions in a list, without their numbers and without what follows their question marks.

    text: the list. Its lines with a question mark are the questions, of which those in the list count alone if there
        are any. A list without a question mark is one of statements to check.
    whole: whether it is complete. Default True. Of one that was cut off, an unfinished question does not count.
    """
    lines = [line.strip() for line in text.splitlines()]
    if not whole and lines and not lines[-1].endswith("?"):
        del lines[-1]
    items = [match[1].strip() for line in lines if (match := _ITEM.match(line))]
    for group in (items, lines):
        if asked := [match[1] for one in group if (match := _ASKED.match(one))]:
            return [*dict.fromkeys(one.replace("**", "") if one.count("**") % 2 else one for one in asked)]
    return [*dict.fromkeys(items)]


def finished_items(text: str, finish: str | None) -> str:
    """Return a list as it was written; without its last item if it was cut off, unless there is no other.

    text: the list.
    finish: why it ends; `length` if it was cut off.
    """
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if _ITEM.match(line.strip())]
    return "\n".join(lines[: starts[-1]] if finish == "length" and len(starts) > 1 else lines).strip()

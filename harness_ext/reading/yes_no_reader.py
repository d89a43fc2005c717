"""Reading yes or no, true or false."""

from __future__ import annotations

from harness_ext.reading.choice_reader import choice_of
from harness_ext.reading.kinds import Reading
from harness_ext.reading.letters import Several
from harness_ext.reading.options import Options
from harness_ext.reading.prose import own_parts
from harness_ext.reading.reply import cleaned

_BINARY = Options(("True", "False"))


def read_yes_no(text: str, question: str = "") -> Reading | None:
    """Return what a reply answers to a yes/no question, or None; the reading's `value` is `true` or `false`.

    Yes, true and correct are one answer, no, false and incorrect the other; (A) and (B) stand for the first and the
    second, as do T and F.

    Args:
        text: the reply; its thoughts are left out.
        question: what was asked: where the reply recites it, what follows its last recital counts first.
    """
    for part in own_parts(cleaned(text), question):
        try:
            found = choice_of(part, _BINARY, of_others=True)
        except Several:
            return None
        if found is not None:
            start, end = part.span(found.start, found.end)
            return Reading("yes_no", text[start:end], "false" if found.position else "true", (start, end), found.rule)
    return None

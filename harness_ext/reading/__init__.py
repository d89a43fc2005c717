"""Reading what models write: one reader for answers, verdicts, ratings and thoughts.

Protocols, tasks and scoring all read replies here, so that a vote and a score never differ. Every reader leaves
thoughts out first, and returns what was written, where it stands and the rule that found it, beside its value.
docs/reading.md describes what is read and in which order.

A reader is imported when it is first named: its patterns take longer to compile than most modules take to import, and
no protocol needs all readers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_ext.reading.answer_reader import check_pattern, read_answer
    from harness_ext.reading.choice_reader import read_choice
    from harness_ext.reading.control_tokens import neutralise
    from harness_ext.reading.equality import all_agree, same_answer
    from harness_ext.reading.forms import answer_form
    from harness_ext.reading.json_replies import JsonReply, read_json_choice
    from harness_ext.reading.kinds import AnswerForm, Reading
    from harness_ext.reading.number_reader import read_number
    from harness_ext.reading.prose import cut_run_on
    from harness_ext.reading.ratings import read_choice_of, read_confidence, read_rating
    from harness_ext.reading.rows import RowError, read_row
    from harness_ext.reading.system0 import read_verdict_system0
    from harness_ext.reading.thoughts import DEFAULT_MARKERS, Thought, split_thought
    from harness_ext.reading.verdicts import Verdict, read_verdict
    from harness_ext.reading.votes import Vote, vote
    from harness_ext.reading.yes_no_reader import read_yes_no

__all__ = [
    "DEFAULT_MARKERS",
    "AnswerForm",
    "JsonReply",
    "Reading",
    "RowError",
    "Thought",
    "Verdict",
    "Vote",
    "all_agree",
    "answer_form",
    "check_pattern",
    "cut_run_on",
    "neutralise",
    "read_answer",
    "read_choice",
    "read_choice_of",
    "read_confidence",
    "read_json_choice",
    "read_number",
    "read_rating",
    "read_row",
    "read_verdict",
    "read_verdict_system0",
    "read_yes_no",
    "same_answer",
    "split_thought",
    "vote",
]

_MODULES = {
    "AnswerForm": "kinds",
    "DEFAULT_MARKERS": "thoughts",
    "JsonReply": "json_replies",
    "Reading": "kinds",
    "RowError": "rows",
    "Thought": "thoughts",
    "Verdict": "verdicts",
    "Vote": "votes",
    "all_agree": "equality",
    "answer_form": "forms",
    "check_pattern": "answer_reader",
    "cut_run_on": "prose",
    "neutralise": "control_tokens",
    "read_answer": "answer_reader",
    "read_choice": "choice_reader",
    "read_choice_of": "ratings",
    "read_confidence": "ratings",
    "read_json_choice": "json_replies",
    "read_number": "number_reader",
    "read_rating": "ratings",
    "read_row": "rows",
    "read_verdict": "verdicts",
    "read_verdict_system0": "system0",
    "read_yes_no": "yes_no_reader",
    "same_answer": "equality",
    "split_thought": "thoughts",
    "vote": "votes",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value  # the next access finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

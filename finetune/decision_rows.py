"""Rows that teach a model to answer typed questions: a state, a question about it, and the answer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.hf_decide import pipeline_request, pipeline_tokenizer
from harness_ext.decisions import Choice, Predicate, Score, TypedQuestion, as_state
from harness_ext.reading.control_tokens import neutralise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.decision import DecisionConfig

COLUMNS = frozenset({"state", "question", "answer"})
FORMS = {
    "predicate": ({"instructions"}, {"true", "false"}),
    "choice": ({"instructions", "options"}, {"descriptions"}),
    "score": ({"instructions", "levels"}, set[str]()),
}
LISTED = frozenset({"options", "descriptions", "levels"})


class OldTransformers(ValueError):
    """The installed transformers library has no decision models."""


@dataclass(frozen=True)
class DecisionRow:
    """A typed question about a state, and its answer.

    state: what the question is about, as text.
    question: the question, in the form that `question_of` reads.
    answer: the option that is right.
    """

    state: str
    question: Mapping[str, Any]
    answer: str

    @property
    def typed(self) -> TypedQuestion:
        """Return the question."""
        return question_of(self.question)


@dataclass(frozen=True)
class DecisionTokens:
    """A row as a model reads it.

    prompt: the tokens after which the model names an option.
    labels: the token of each option.
    answer: the index of the right one.
    type: the question's type, as `decision.json` names it: `noul`, `choice` or `score`.
    """

    prompt: list[int]
    labels: list[int]
    answer: int
    type: str


def is_decision(value: Any) -> bool:
    """Return whether a row has the columns of a decision."""
    return isinstance(value, dict) and value.keys() >= COLUMNS


def parse_decision(value: Mapping[str, Any]) -> DecisionRow:
    """Parse a row with `state`, `question` and `answer`.

    The state is a text, or fields, which are sent as JSON. Control tokens in it are taken apart, as seats do. The
    answer of a predicate is true or false, that of a choice the name of an option, that of a score the number of a
    level, from 0. Raises ValueError with the reason for anything else.
    """
    state, answer = value["state"], value["answer"]
    if not (isinstance(state, dict) or (isinstance(state, str) and state.strip())):
        raise ValueError("the state is neither text nor fields")
    question = value["question"] if isinstance(value["question"], Mapping) else {"instructions": value["question"]}
    question = {name: part for name, part in question.items() if part is not None}
    typed = question_of(question)
    named = str(answer).lower() if isinstance(answer, bool) else str(answer)
    if not isinstance(answer, (bool, int, str)) or named not in typed.options:
        raise ValueError(f"the answer {answer!r} is none of the options {', '.join(typed.options)}")
    return DecisionRow(neutralise(as_state(state))[0], {**question, "type": typed.type}, named)


def question_of(value: Mapping[str, Any]) -> TypedQuestion:
    """Return the question that a row states.

    value: `type` (`predicate`, `choice` or `score`; default `predicate`) and `instructions`; for a predicate, `true`
        and `false` may say what the answers mean; a choice has `options`, and may have as many `descriptions`; a score
        has `levels`, the lowest first.

    Raises ValueError with the reason for anything else.
    """
    kind = value.get("type", "predicate")
    if not isinstance(kind, str) or kind not in FORMS:
        raise ValueError(f"the question's type is {kind!r}; the types are {', '.join(FORMS)}")
    needed, optional = FORMS[kind]
    given = {name: part for name, part in value.items() if name != "type"}
    if given.keys() - needed - optional or needed - given.keys():
        known = ", ".join([*sorted(needed), *(f"{name} (optional)" for name in sorted(optional))])
        raise ValueError(f"a {kind} has {known}; this question has {', '.join(sorted(given)) or 'nothing'}")
    for name, part in given.items():
        fits = isinstance(part, list | tuple) if name in LISTED else isinstance(part, str)
        if not fits or not all(isinstance(text, str) for text in part):
            raise ValueError(f"the question's {name} must be {'a list of texts' if name in LISTED else 'text'}")
    texts: dict[str, Any] = {name: tuple(part) if name in LISTED else part for name, part in given.items()}
    if not texts["instructions"].strip():
        raise ValueError("the question has no instructions")
    makers: dict[str, Any] = {"predicate": Predicate, "choice": Choice, "score": Score}
    made: TypedQuestion = makers[kind](**texts)
    return made


def decision_tokens(row: DecisionRow, tokenizer: PreTrainedTokenizerBase) -> DecisionTokens:
    """Return a row as the decision pipeline of the transformers library gives it to the model.

    A model that comes with a `decision.json` of its own is taught with its own labels and template.

    row: the row.
    tokenizer: the tokenizer of the model, from whose folder the decision settings are read.

    Raises ValueError if the labels are not single tokens of the model or the question has more options than labels,
    and OldTransformers if the library has no decision models.
    """
    settings, copied = _reader(tokenizer)
    from transformers.decision import label_token_ids

    typed = row.typed
    request = DecideRequest("", typed.options, (), question=typed, state=row.state)
    ((inputs, (asked,)),) = settings.prepare_inputs(pipeline_request(request), copied)
    if inputs["marks"].tolist() != [inputs["input_ids"].shape[-1]]:
        raise ValueError("the model's decision template does not end where the label follows, so it has its own head")
    labels = label_token_ids(copied, tuple(asked.labels))
    return DecisionTokens(inputs["input_ids"][0].tolist(), labels, asked.options.index(row.answer), asked.type)


def decision_settings(tokenizer: PreTrainedTokenizerBase) -> DecisionConfig:
    """Return the decision settings in the folder of a model, by its tokenizer; the default ones if it has none.

    Raises OldTransformers if the library has no decision models.
    """
    return deepcopy(_reader(tokenizer)[0])


@functools.lru_cache(maxsize=4)
def _reader(tokenizer: PreTrainedTokenizerBase) -> tuple[DecisionConfig, Any]:
    """Return a model's decision settings, and a copy of its tokenizer for the decision pipeline."""
    try:
        from transformers.decision import DecisionConfig
    except ImportError:
        raise OldTransformers(
            "this version of transformers has no decision models: pip install -U 'transformers>=5.23'"
        ) from None
    return DecisionConfig.from_pretrained(tokenizer.name_or_path), pipeline_tokenizer(tokenizer)

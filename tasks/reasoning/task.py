"""The task class of the reasoning tasks: without examples, the demanded form comes last in the user's turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lm_eval.api.task import ConfigurableTask

from harness_ext.tasks.reasoning.forms import CHOICE_DEMAND, NUMBER_DEMAND


class ReasoningTask(ConfigurableTask):  # type: ignore[misc]
    """A task that asks for a rationale and a last line in a given form.

    The description states the form, and few-shot examples show it. Under a chat template and without examples, chat
    models often ignore a form that is stated before a long question, so it is repeated after the question.
    """

    demand: ClassVar[str]

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_context(
        self, doc: Mapping[str, Any], num_fewshot: int, *, apply_chat_template: bool = False, **options: Any
    ) -> Any:
        """Return the context as lm-eval builds it, with the demanded form after the question where it is needed."""
        if num_fewshot == 0 and apply_chat_template:
            doc = {**doc, "demand": self.demand}
        return super().fewshot_context(doc, num_fewshot, apply_chat_template=apply_chat_template, **options)


class ChoiceTask(ReasoningTask):
    """A task that asks for the letter of a choice."""

    demand = CHOICE_DEMAND


class NumberTask(ReasoningTask):
    """A task that asks for a number."""

    demand = NUMBER_DEMAND

"""The task class of bAbI's conversations: one request per story, which contains the parts of the story."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from lm_eval.api.task import ConfigurableTask

from harness_ext.embedded.story_prompt import INSTRUCTION
from harness_ext.errors import ConfigurationError
from harness_ext.protocol.conversation import PART, read_answers
from harness_ext.records.chat import MESSAGES_TOKENIZER
from harness_ext.tasks.babi_conversation.rows import part_text
from harness_ext.tasks.babi_reasoning.metrics import exact_match, parse_reply, soft_match


class BabiConversation(ConfigurableTask):  # type: ignore[misc]
    """A task with one document and one request per story.

    A score is the mean over the questions of a story. The scores ending in `_before` are those of the first drafts,
    which the student wrote with the refined replies to earlier parts in its history.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def build_all_requests(self, *, tokenizer_name: str = "", num_fewshot: int = 0, **options: Any) -> None:
        """Build one request per story. Raises ConfigurationError for models that do not support conversations."""
        if tokenizer_name != MESSAGES_TOKENIZER:
            raise ConfigurationError(
                [
                    f"{self.config.task} is a conversation that is answered part by part: pass --apply_chat_template "
                    "and use a model of harness-ext (--model baseline for a single model, feedback_pair for a pair). "
                    "For other models, use babi_reasoning, which asks each question on its own"
                ]
            )
        super().build_all_requests(tokenizer_name=tokenizer_name, **options)

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int,
        system_instruction: str | None = None,
        chat_template: Callable[[list[dict[str, str]]], str] | None = None,
        **_: Any,
    ) -> str:
        """Return the context with the parts of the story. There are no few-shot examples."""
        assert chat_template is not None  # build_all_requests guarantees it
        system = "\n\n".join(text for text in (system_instruction, self.config.description or INSTRUCTION) if text)
        parts = [{"role": PART, "content": part_text(part)} for part in doc["parts"]]
        return chat_template([{"role": "system", "content": system}, *parts])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score the replies to a story. A part without a reply counts as wrong."""
    answers = read_answers(results[0])
    golds = [part["answer"] for part in doc["parts"]]
    before = [parse_reply(a.after if a.before is None else a.before).answer for a in answers]
    after = [parse_reply(a.after).answer for a in answers]
    scores: dict[str, float] = {}
    for suffix, said in (("", after), ("_before", before)):
        said += [""] * (len(golds) - len(said))
        pairs = list(zip(golds, said, strict=False))
        scores[f"exact_match{suffix}"] = fmean(float(exact_match(gold, text)) for gold, text in pairs)
        scores[f"soft_match{suffix}"] = fmean(soft_match(gold, text) for gold, text in pairs)
    return {**scores, "rounds": fmean(a.rounds for a in answers) if answers else 0.0}

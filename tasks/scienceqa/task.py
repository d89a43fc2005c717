"""The task class of ScienceQA, whose metrics depend on the subjects and topics of the rows."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask

from harness_ext.reading import read_json_choice
from harness_ext.tasks.scienceqa.metrics import MISSING, measures, score


def mean_or_missing(values: Sequence[float | str]) -> float | str:
    """Return the mean, or `missing` if the values could not be computed."""
    numbers = [value for value in values if not isinstance(value, str)]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else MISSING


def groups_of(doc: Mapping[str, Any]) -> list[str]:
    """Return the groups that a question belongs to (subject, context, grade and topic), with the original's names."""
    context = ["has_text"] if doc["hint"] else []
    context += ["has_image"] if doc["has_image"] else []
    grade = int(re.sub(r"\D", "", doc["grade"]) or 0)
    return [
        doc["subject"].partition(" ")[0],
        *(context or ["no_context"]),
        "grade_1_6" if grade <= 6 else "grade_7_12",
        doc["topic"],
    ]


class ScienceQA(ConfigurableTask):  # type: ignore[misc]
    """Scores answers and explanations. Groups without questions have no metric."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})
        measures()  # warn about missing measures before the run, not after it
        self._names = {"acc", "unmapped", *measures(), "overall"}
        light = self.eval_docs.select_columns(["subject", "hint", "has_image", "grade", "topic"])
        self._names |= {f"acc_{group}" for doc in light for group in groups_of(doc)}

    def process_results(self, doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | str]:
        """Score a reply."""
        reply = read_json_choice(results[0], doc["choices"])
        right = float(reply.choice == doc["answer"])
        return {
            "acc": right,
            "unmapped": float(reply.choice is None),
            **{f"acc_{group}": right for group in groups_of(doc)},
            **score(f"{doc['lecture']} {doc['solution']}", reply.explanation),
        }

    def aggregation(self) -> dict[str, Callable[[Sequence[Any]], Any]]:
        return defaultdict(lambda: mean, dict.fromkeys([*measures(), "overall"], mean_or_missing))

    def higher_is_better(self) -> dict[str, bool]:
        return {name: name != "unmapped" for name in sorted(self._names)}

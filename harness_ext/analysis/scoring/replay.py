"""Passes replies through a task's own filters and `process_results`, as lm-eval's `evaluate` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.errors import HarnessExtError

Response = str | tuple[float, bool] | float
"""A text; a choice's log-probability and whether greedy decoding would produce it; or a text's log-probability."""
Scores = dict[str, dict[str, Any]]


class ScoringError(HarnessExtError):
    """A run cannot be scored. The message names every document and task that causes it."""


@dataclass(frozen=True)
class AnsweredDocument:
    """A document with its replies.

    doc_id: the number of the document in the task's data.
    doc: the document.
    replies: for each of its requests, by index, the replies of all repeats.
    """

    doc_id: int
    doc: Any
    replies: tuple[tuple[Response, ...], ...]


def replay(task: Any, name: str, cases: Sequence[AnsweredDocument]) -> list[Scores]:
    """Return the result of the task's `process_results` for each case, as `{filter: {metric: value}}`.

    task: lm-eval's task object.
    name: the name of the task, for messages.
    cases: the documents with their replies.

    Values are numbers, or else the inputs of the task's aggregation (such as pairs for `f1` or `bleu`). Raises
    ScoringError if the task's own code raises.
    """
    from lm_eval.api.instance import Instance

    if not cases:
        return []
    groups = [
        [
            Instance(
                request_type=task.OUTPUT_TYPE,
                doc=case.doc,
                arguments=("", {}),
                idx=index,
                metadata=(name, case.doc_id, len(replies)),
                resps=list(replies),
            )
            for index, replies in enumerate(case.replies)
        ]
        for case in cases
    ]
    task._instances = [instance for group in groups for instance in group]
    try:
        task.apply_filters()
    except Exception as error:
        raise ScoringError(f"task {name}: its filters raised {type(error).__name__}: {error}") from error
    finally:
        task._instances = None
    results: list[Scores] = []
    for case, group in zip(cases, groups, strict=True):
        try:
            results.append(
                {
                    key: dict(task.process_results(case.doc, [instance.filtered_resps[key] for instance in group]))
                    for key in group[0].filtered_resps
                }
            )
        except Exception as error:
            raise ScoringError(
                f"task {name}, document {case.doc_id}: its process_results raised {type(error).__name__}: {error}"
            ) from error
    return results


def takes_first(task: Any) -> dict[str, bool]:
    """Return, for each filter of a task, whether it scores only the first of several repeats.

    If so, each repeat can also be scored by itself. If a filter uses all repeats (`majority_vote`, `take_first_k`, or
    no selection), they only have a score together.
    """
    from lm_eval.filters.selection import MajorityVoteFilter, TakeFirstFilter, TakeKFilter

    found: dict[str, bool] = {}
    for ensemble in getattr(task, "_filters", []):
        classes = [getattr(make, "func", make) for make in ensemble.filters]
        kinds = [c for c in classes if isinstance(c, type)]
        together = any(issubclass(c, MajorityVoteFilter | TakeKFilter) for c in kinds)
        found[ensemble.name] = any(issubclass(c, TakeFirstFilter) for c in kinds) and not together
    return found


def aggregations(task: Any) -> Mapping[str, Any]:
    """Return the aggregation function of each metric of a task."""
    found: Mapping[str, Any] = task.aggregation()
    return found


def numeric(value: Any) -> float | None:
    """Return a metric's value as a number, or None if it is something else (a pair, a text)."""
    if isinstance(value, bool | int | float):
        return float(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return numeric(value.item())
    return None

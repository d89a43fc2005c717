"""Runs replies through a task's own filters and `process_results`, as lm-eval's `evaluate` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness_ext.errors import HarnessExtError

Reply = str | tuple[float, bool] | float
"""A text, a choice's log-probability and whether greedy decoding writes it, or a whole text's log-probability."""
Scores = dict[str, dict[str, Any]]


class ScoringError(HarnessExtError):
    """A run cannot be scored; the message names every document and task at fault."""


@dataclass(frozen=True)
class Case:
    """What one document was answered: for each of its requests (by index) the replies of all repeats."""

    doc_id: int
    doc: Any
    replies: tuple[tuple[Reply, ...], ...]


def replay(task: Any, name: str, cases: Sequence[Case]) -> list[Scores]:
    """Return for each case, filter and metric what the task's `process_results` says (`{filter: {metric: value}}`).

    `task` is lm-eval's task object; values are the task's own: numbers, or what its aggregation takes (pairs for `f1`
    or `bleu`). Raises ScoringError where the task's own code raises.
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
    """Return for each filter of a task whether it scores the first of several repeats alone.

    Then each repeat can be scored by itself. Where a filter looks at all of them (`majority_vote`, `take_first_k`, or
    none that chooses), they only have a score together.
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
    """Return a task's aggregation function for each metric."""
    found: Mapping[str, Any] = task.aggregation()
    return found


def numeric(value: Any) -> float | None:
    """Return a metric's value as a number, or None where it is something else (a pair, a text)."""
    if isinstance(value, bool | int | float):
        return float(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return numeric(value.item())
    return None

"""Clusters of questions: which questions share something (a story, a template), so that their errors correlate."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from harness_ext.errors import HarnessExtError


class ClusterError(HarnessExtError):
    """The documents of a task do not say which cluster they belong to."""


def cluster_of(field: str, task: str, document: Any) -> Hashable:
    """Return the cluster of a question. Equal values in different tasks are different clusters.

    field: a field of the documents, a Jinja template over them, or `task`.
    task: the name of the question's task.
    document: the question's document.

    Raises ClusterError if the document lacks the field, or if the template cannot be applied to it.
    """
    from lm_eval.utils import apply_template

    if field == "task":
        return task
    if isinstance(document, Mapping) and field in document:
        return task, str(document[field])
    fields = f"their fields are: {', '.join(map(str, document))}" if isinstance(document, Mapping) else "they have none"
    if "{{" not in field and "{%" not in field:
        raise ClusterError(f"--cluster {field}: the documents of {task} have no such field; {fields}")
    try:
        return task, str(apply_template(field, document))
    except Exception as error:  # a template is the user's own code
        raise ClusterError(
            f"--cluster {field}: the template cannot be applied to the documents of {task} "
            f"({type(error).__name__}: {error}); {fields}"
        ) from error

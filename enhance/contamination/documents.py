"""The documents that tasks are scored on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness_ext.errors import ConfigurationError
from harness_ext.terminal import outside


def task_documents(names: Sequence[str], include_path: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the documents that lm-eval's tasks are scored on, by task.

    An unreachable hub is not waited for: data that are on this machine are used.

    names: names of tasks, groups or tags.
    include_path: a folder with further tasks. Default none.

    Raises ConfigurationError if a task is unknown or its documents cannot be loaded.
    """
    from harness_ext.analysis.scoring.task_documents import TaskSource, task_manager
    from harness_ext.data.hub import is_hub_error, without_waiting

    manager = task_manager(TaskSource((include_path,) if include_path else ()))
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ConfigurationError(
            [f"there is no task `{name}`: run `lm_eval ls tasks` to list all tasks" for name in unknown]
        )
    with without_waiting() as fault:
        try:
            tasks = manager.load(list(names))["tasks"]
            return {name: [dict(document) for document in task.eval_docs] for name, task in tasks.items()}
        except Exception as error:  # loading a data set may raise anything, depending on the library behind it
            away = f"; the hub cannot be reached ({fault})" if fault is not None and is_hub_error(error) else ""
            problem = f"the documents of {', '.join(names)} cannot be loaded: {outside(error)}{away}"
            raise ConfigurationError([problem]) from error

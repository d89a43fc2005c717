"""What was loaded to get the tasks of a run: their names in the records do not always load them again.

The group `gsm8k_local` contains a task with the name of lm-eval's own `gsm8k`, a task that is defined inside a group
has no name of its own, and a task in a user's folder needs that folder. lm-eval does not tell a model any of this.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness_ext.data import data_folder
from harness_ext.records.run_directory import write_json

FILE = "tasks.json"
logger = logging.getLogger("harness_ext")


@dataclass(frozen=True)
class TaskOrigin:
    """Where a task came from.

    loaded: what was loaded: the name of a task, group or tag, or a file.
    include_path: the folders of task files besides lm-eval's own and the installed packs. Default none.
    data: the folder that `HARNESS_EXT_DATA` named. Default None: it was not set.
    """

    loaded: str
    include_path: tuple[str, ...] = ()
    data: str | None = None


_origins: dict[str, TaskOrigin] = {}


def watch() -> None:
    """Take note of what lm-eval's `TaskManager.load` loads from now on. A second call changes nothing."""
    from lm_eval.tasks import TaskManager

    load = TaskManager.load
    if getattr(load, "notes_origins", False):
        return

    @functools.wraps(load)
    def noting(manager: Any, task_list: Any) -> Any:
        found = load(manager, task_list)
        specs = task_list if isinstance(task_list, list) else [task_list]
        _origins.update(_origins_of(manager, specs, found))
        return found

    noting.notes_origins = True  # type: ignore[attr-defined]
    TaskManager.load = noting  # type: ignore[method-assign]


def record_origins(run: Path, tasks: Iterable[str]) -> None:
    """Write the origins of these tasks into a run directory, besides those that are already there.

    run: the run directory.
    tasks: the names of the tasks in the records.

    A file that cannot be written is reported and ends nothing: scoring asks for the tasks then.
    """
    there = read_origins(run)
    found = there | {name: _origins[name] for name in tasks if name in _origins}
    if found == there:
        return
    try:
        write_json(run / FILE, {name: asdict(origin) for name, origin in sorted(found.items())}, private=True)
    except OSError as error:
        logger.warning(
            "%s cannot be written (%s). `harness-ext score` may need --tasks or --include_path for this run", run, error
        )


def read_origins(run: Path) -> dict[str, TaskOrigin]:
    """Return the origins of a run's tasks by name, as far as they were recorded."""
    try:
        rows = json.loads((run / FILE).read_text(encoding="utf-8"))
        return {
            name: TaskOrigin(str(row["loaded"]), tuple(map(str, row["include_path"])), row["data"])
            for name, row in rows.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _origins_of(manager: Any, specs: Sequence[Any], found: Mapping[str, Any]) -> dict[str, TaskOrigin]:
    folders = manager.include_path or ()
    folders = [folders] if isinstance(folders, str | os.PathLike) else folders
    include_path = tuple(str(Path(folder).expanduser().absolute()) for folder in folders)
    data = data_folder()
    origins: dict[str, TaskOrigin] = {}
    for spec in specs:
        # A file on lm-eval's command line arrives here as its content, which nothing can be loaded from again.
        if isinstance(spec, str | os.PathLike):
            origin = TaskOrigin(str(spec), include_path, None if data is None else str(data))
            origins |= dict.fromkeys(_members(manager, str(spec), specs, found), origin)
    return origins


def _members(manager: Any, spec: str, specs: Sequence[Any], found: Mapping[str, Any]) -> list[str]:
    """Return the names of the tasks that a specification loaded."""
    tasks, groups = found["tasks"], found.get("groups") or {}
    if spec in groups:
        return [task.task_name for task in groups[spec].get_all_tasks()]
    if spec in tasks:
        return [spec]
    entry = manager.task_index.get(spec)
    if entry is not None and entry.kind.name == "TAG":
        return [name for name in entry.tags if name in tasks]
    return list(tasks) if len(specs) == 1 else []

"""Finds the documents of a run in the tasks' own data."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.analysis.scoring.replay import ScoringError
from harness_ext.bridge import plugins
from harness_ext.bridge.document_hash import document_hash
from harness_ext.bridge.loaded_tasks import TaskOrigin
from harness_ext.data import DATA_VARIABLE, data_folder
from harness_ext.data.hub import is_hub_error, without_waiting
from harness_ext.errors import HarnessExtError

SHOWN = 10


@dataclass(frozen=True)
class TaskSource:
    """Where to find tasks, as for `lm_eval`.

    include_path: folders of task files. Default none: those of the run.
    tasks: names or YAML files to load. Default none: what the run loaded.
    metadata: metadata for tasks that need it. Default none.
    seeds: the run's seeds of Python, numpy and torch. Default 0, 1234, 1234, as in lm-eval.
    unsafe_code: whether tasks may run code written by a model. Default false.
    """

    include_path: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, int, int] = (0, 1234, 1234)
    unsafe_code: bool = False


def load_tasks(
    names: Sequence[str], source: TaskSource, manager: Any = None, origins: Mapping[str, TaskOrigin] | None = None
) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return lm-eval's task objects by name, and the groups that contain only these tasks (`{group: [task, …]}`).

    names: the names of the tasks in the records.
    source: where to find them.
    manager: lm-eval's TaskManager, or those of several runs. Default: a new one.
    origins: what the run loaded, for what `source` leaves open. Default: nothing is known, so the names are loaded.

    Raises ScoringError if a task cannot be loaded.
    """
    import numpy as np
    from lm_eval.utils import set_torch_seed

    known = {name: origin for name, origin in (origins or {}).items() if name in names}
    shared = manager if isinstance(manager, TaskManagers) else None
    manager = task_manager(source, known.values(), manager) if shared is None else shared.of(known.values())
    # Some tasks shuffle their choices while loading. With the run's seeds they get the same order as in the run.
    random.seed(source.seeds[0])
    np.random.seed(source.seeds[1])
    set_torch_seed(source.seeds[2])
    files = (".yaml", ".yml")
    given = [str(Path(t).expanduser().absolute()) if t.endswith(files) else t for t in source.tasks]
    recorded = dict.fromkeys(known[name].loaded if name in known else name for name in names)
    specs = tuple(given or recorded)
    problems: list[str] = []
    loaded: dict[str, Any] = {} if shared is None else dict(shared.loaded.get((id(manager), specs), {}))
    wanted = () if loaded else specs
    with without_waiting() if _may_ask_hub(manager, wanted) else nullcontext() as fault:
        for spec in wanted:
            try:
                loaded |= manager.load([spec])["tasks"]
            except HarnessExtError as error:
                problems.append(f"task {spec!r}: {error}")
            except Exception as error:
                why, others = f"{type(error).__name__}: {error}", list[str]()
                if fault is not None and is_hub_error(error):
                    why = f"its data are not on this machine, and the hub cannot be reached: {fault}; {why}"
                    others = _redefinitions(manager, spec)
                problems.append(f"task {spec!r} cannot be loaded ({why})")
                problems += [_alternative(group, spec) for group in others]
    if shared is not None and not problems:
        shared.loaded[id(manager), specs] = loaded
    missing = [name for name in names if name not in loaded]
    if missing and not problems:
        problems.append(f"the records contain tasks that were not loaded: {', '.join(missing)}")
    problems += [
        f"task {name} runs code written by a model: give --confirm_run_unsafe_code to allow that"
        for name in names
        if name in loaded and getattr(loaded[name], "UNSAFE_CODE", False) and not source.unsafe_code
    ]
    if problems:
        folder = data_folder()
        folders = sorted({origin.data for origin in known.values() if origin.data} - {str(folder)})
        raise ScoringError(
            "\n".join(
                [
                    "these tasks cannot be scored:",
                    *(f"  - {p}" for p in problems),
                    *(f"  - the run read rows with {DATA_VARIABLE}={there}: set it again" for there in folders),
                    "Say where to find them, as for the run: --include_path FOLDER, or --tasks GROUP_OR_FILE",
                ]
            )
        )
    return {name: loaded[name] for name in names}, _groups(manager, set(names))


def task_manager(source: TaskSource, origins: Iterable[TaskOrigin] = (), manager: Any = None) -> Any:
    """Return a TaskManager that knows lm-eval's tasks, the installed packs and the folders of a run.

    source: where to find tasks.
    origins: what the run loaded; its folders count if `source` names none. Default: nothing is known.
    manager: the manager to use unless the run has folders of its own. Default: a new one.
    """
    folders = _folders(source, origins)
    if manager is not None and (source.include_path or not folders):
        return manager
    from lm_eval.tasks import TaskManager

    plugins.extend_task_index()  # where the start-up file is not installed or turned off
    return TaskManager(include_path=list(folders) or None, metadata=source.metadata or None)


class TaskManagers:
    """lm-eval's TaskManagers for several runs: one for those with the same folders, since each takes seconds to build.

    source: where to find tasks.

    Tasks are shared by runs that loaded the same in the same order, since those that shuffle depend on what was loaded
    before them.
    """

    def __init__(self, source: TaskSource) -> None:
        self.source = source
        self.loaded: dict[tuple[int, tuple[str, ...]], dict[str, Any]] = {}  # by the manager and what was loaded
        self._made: dict[tuple[str, ...], Any] = {}

    def of(self, origins: Iterable[TaskOrigin]) -> Any:
        """Return the TaskManager for a run that loaded this."""
        origins = tuple(origins)
        folders = _folders(self.source, origins)
        if folders not in self._made:
            self._made[folders] = task_manager(self.source, origins)
        return self._made[folders]


def _folders(source: TaskSource, origins: Iterable[TaskOrigin]) -> tuple[str, ...]:
    """Return the folders of task files: those that the user named, or else the run's."""
    return source.include_path or tuple(dict.fromkeys(f for origin in origins for f in origin.include_path))


def _may_ask_hub(manager: Any, specs: Iterable[str]) -> bool:
    """Return whether loading these tasks may ask the hub for their rows.

    Tasks with a function that loads their rows do not: the functions of this package ask in their own way.
    """
    from lm_eval.tasks._yaml_loader import load_yaml

    def may_ask(task: Any, path: tuple[str, ...]) -> bool:
        if isinstance(task, dict):
            named = task.get("group") or task.get("task")
            members = named if isinstance(named, list) else [named]
            return "custom_dataset" not in task and any(may_ask(member, path) for member in members)
        entry = manager.task_index.get(task)
        if task in path:
            return False
        if entry is not None and entry.kind.name == "TAG":
            return any(may_ask(member, (*path, task)) for member in entry.tags)
        if entry is None or entry.yaml_path is None:
            return True
        config = load_yaml(entry.yaml_path, resolve_func=False, recursive=True)
        members = config.get("task")
        if isinstance(members, list):
            return any(may_ask(member, (*path, task)) for member in members)
        return "custom_dataset" not in config

    return any(may_ask(spec, ()) for spec in specs)


def _redefinitions(manager: Any, name: str) -> list[str]:
    """Return the groups that contain a task of this name with rows from another place."""

    def redefines(member: Any) -> bool:
        places = ("custom_dataset", "dataset_path")
        return isinstance(member, dict) and member.get("task") == name and any(place in member for place in places)

    members = {group: (manager.task_index[group].cfg or {}).get("task") for group in manager.all_groups}
    return [group for group, listed in members.items() if isinstance(listed, list) and any(map(redefines, listed))]


def _alternative(group: str, name: str) -> str:
    return f"`--tasks {group}` takes the rows of {name} from elsewhere, such as the folder {DATA_VARIABLE}"


def find_documents(task: Any, name: str, recorded: Iterable[tuple[int, str]]) -> tuple[dict[tuple[int, str], int], Any]:
    """Return the index in the task's data of each recorded document, and the data.

    task: lm-eval's task object.
    name: the name of the task, for messages.
    recorded: the documents, as (number, hash).

    Raises ScoringError, which names every document whose hash does not occur in the data.
    """
    docs = task.eval_docs
    count = len(docs)
    # The number alone is not reliable: with `--samples`, lm-eval numbers the selected documents from 0, and the data
    # may have changed since the run. So the hash has to match. Hashing all documents is slow, hence the document with
    # the recorded number is tried first, and only if that fails are all others searched.
    positions: dict[tuple[int, str], int] = {}
    elsewhere: list[tuple[int, str]] = []
    for doc_id, digest in sorted(set(recorded)):
        if doc_id < count and document_hash(docs[doc_id]) == digest:
            positions[doc_id, digest] = doc_id
        else:
            elsewhere.append((doc_id, digest))
    if not elsewhere:
        return positions, docs
    # Equal documents have equal hashes. Each recorded one takes the next index that is still free, in order, so that no
    # two share an index.
    taken = set(positions.values())
    free: dict[str, deque[int]] = {}
    for position in range(count):
        if position not in taken:
            free.setdefault(document_hash(docs[position]), deque()).append(position)
    problems: list[str] = []
    for doc_id, digest in elsewhere:
        if free.get(digest):
            positions[doc_id, digest] = free[digest].popleft()
        else:
            found = document_hash(docs[doc_id])[:12] if doc_id < count else f"none, there are {count} documents"
            problems.append(f"document {doc_id} (recorded hash {digest[:12]}, in the data: {found})")
    if problems:
        more = f"\n  - and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ScoringError(
            f"task {name}: {len(problems)} documents of the run are not in the task's data, so their answers cannot be "
            "scored:\n" + "\n".join(f"  - {p}" for p in problems[:SHOWN]) + more + "\nUse the data of the run "
            "(HARNESS_EXT_DATA, or the same revision on the hub), and its seeds (--seed) for tasks that shuffle"
        )
    return positions, docs


def _groups(manager: Any, names: set[str]) -> dict[str, list[str]]:
    """Return the groups whose tasks were all run, with the tasks of each."""
    # Only the index is read: loading a group would load the data of all its tasks. Groups may contain groups and inline
    # entries; `path` stops the recursion if a group contains itself.
    index = manager.task_index
    found: dict[str, list[str]] = {}

    def leaves(entry: Any, path: tuple[str, ...]) -> list[str]:
        if isinstance(entry, dict):
            entry = entry.get("group") or entry.get("task")
        if isinstance(entry, list):
            return [leaf for child in entry for leaf in leaves(child, path)]
        known = index.get(entry)
        if known is None or known.kind.name != "GROUP" or entry in path:
            return [str(entry)]
        return leaves((known.cfg or {}).get("task", []), (*path, entry))

    for group in manager.all_groups:
        tasks = leaves(group, ())
        if len(tasks) > 1 and set(tasks) <= names:
            found[group] = sorted(set(tasks), key=tasks.index)
    return found

"""A run's documents, found again in the tasks' own data."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness_ext.documents import document_hash
from harness_ext.errors import HarnessExtError
from harness_ext.scoring.replay import ScoringError

SHOWN = 10


@dataclass(frozen=True)
class TaskSource:
    """How tasks are found, as for `lm_eval`: `include_path`, `tasks` (names or YAML files to load instead of the names
    in the records), `metadata` for tasks that need some, the seeds of Python, numpy and torch, and the user's word
    that a task may run code."""

    include_path: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, int, int] = (0, 1234, 1234)
    unsafe_code: bool = False


def load_tasks(names: Sequence[str], source: TaskSource, manager: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return lm-eval's task objects by name, and the groups made of these tasks alone (`{group: [task, …]}`).

    `manager` is lm-eval's TaskManager where one is at hand. Raises ScoringError for tasks that cannot be loaded.
    """
    import numpy as np
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import set_torch_seed

    if manager is None:
        manager = TaskManager(include_path=list(source.include_path) or None, metadata=source.metadata or None)
    # Some tasks shuffle their choices while they load: with lm-eval's seeds they come out as in the run.
    random.seed(source.seeds[0])
    np.random.seed(source.seeds[1])
    set_torch_seed(source.seeds[2])
    files = (".yaml", ".yml")
    wanted = [str(Path(t).expanduser().absolute()) if t.endswith(files) else t for t in source.tasks] or list(names)
    problems: list[str] = []
    loaded: dict[str, Any] = {}
    for spec in wanted:
        try:
            loaded |= manager.load([spec])["tasks"]
        except HarnessExtError as error:
            problems.append(f"task {spec!r}: {error}")
        except Exception as error:
            problems.append(f"task {spec!r} cannot be loaded ({type(error).__name__}: {error})")
    missing = [name for name in names if name not in loaded]
    if missing and not problems:
        problems.append(f"the records hold tasks that were not loaded: {', '.join(missing)}")
    problems += [
        f"task {name} runs code that a model wrote: say --confirm_run_unsafe_code if you want that"
        for name in names
        if name in loaded and getattr(loaded[name], "UNSAFE_CODE", False) and not source.unsafe_code
    ]
    if problems:
        raise ScoringError(
            "\n".join(
                [
                    "these tasks cannot be scored:",
                    *(f"  - {p}" for p in problems),
                    "Name where they are found as for the run: --include_path FOLDER, or --tasks GROUP_OR_FILE",
                ]
            )
        )
    return {name: loaded[name] for name in names}, _groups(manager, set(names))


def find_documents(task: Any, name: str, recorded: Iterable[tuple[int, str]]) -> tuple[dict[tuple[int, str], int], Any]:
    """Return where each recorded document (number, hash) stands in the task's data, and the data.

    The hash decides: under `--samples` lm-eval numbers the picked documents from 0, so a document that is not where its
    number says is looked up by its hash; equal documents keep their order. Raises ScoringError that names every
    document whose hash is nowhere in the data.
    """
    docs = task.eval_docs
    count = len(docs)
    places: dict[tuple[int, str], int] = {}
    elsewhere: list[tuple[int, str]] = []
    for doc_id, digest in sorted(set(recorded)):
        if doc_id < count and document_hash(docs[doc_id]) == digest:
            places[doc_id, digest] = doc_id
        else:
            elsewhere.append((doc_id, digest))
    if not elsewhere:
        return places, docs
    taken = set(places.values())
    free: dict[str, deque[int]] = {}
    for place in range(count):
        if place not in taken:
            free.setdefault(document_hash(docs[place]), deque()).append(place)
    problems: list[str] = []
    for doc_id, digest in elsewhere:
        if free.get(digest):
            places[doc_id, digest] = free[digest].popleft()
        else:
            found = document_hash(docs[doc_id])[:12] if doc_id < count else f"none, the data hold {count} documents"
            problems.append(f"document {doc_id} (recorded hash {digest[:12]}, in the data: {found})")
    if problems:
        more = f"\n  - and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ScoringError(
            f"task {name}: {len(problems)} documents of the run are not in the task's data, so nothing can be scored "
            "against their answers:\n" + "\n".join(f"  - {p}" for p in problems[:SHOWN]) + more + "\nUse the data of "
            "the run (HARNESS_EXT_DATA, or the same revision on the hub), and its seeds (--seed) for tasks that shuffle"
        )
    return places, docs


def _groups(manager: Any, names: set[str]) -> dict[str, list[str]]:
    """Return the groups whose tasks were all run."""
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

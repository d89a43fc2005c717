"""Which tasks are analysed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness_ext.analysis.compare.matching import Matched
from harness_ext.analysis.compare.runs import CompareError, Run


@dataclass(frozen=True)
class Pool:
    """Questions that are analysed together.

    name: the name of the pool.
    tasks: the tasks whose questions it contains.
    two_way: whether a verdict alone reveals the answer in all of them. Default false.
    """

    name: str
    tasks: tuple[str, ...]
    two_way: bool = False


def pools_of(
    runs: Sequence[Run], matched: Matched, groups: Mapping[str, Sequence[str]], notes: list[str]
) -> list[Pool]:
    """Return a pool for every task, for every group whose tasks are all compared, and for two-way and other tasks.

    runs: the runs.
    matched: the questions that they have in common.
    groups: the user's groups.
    notes: receives a note about each group that cannot be shown.

    Raises CompareError if one of the user's groups names a task that is not compared.
    """
    tasks = list(matched.questions)
    two_way = {t for t in tasks if all(run.tasks[t].two_way for run in runs)}
    named = {name: members for run in runs for name, members in run.groups.items()} | dict(groups)
    for name, members in named.items():
        missing = [task for task in members if task not in tasks]
        if missing and name in groups:
            raise CompareError(
                f"--group {name}: the comparison does not include {', '.join(missing)}: choose from {', '.join(tasks)}"
            )
        if missing and set(members) & set(tasks):
            notes.append(f"group {name} is not shown: {len(missing)} of its tasks are not compared")
    pools = [Pool(task, (task,), task in two_way) for task in tasks]
    several = [(n, tuple(m)) for n, m in named.items() if len(m) > 1 and set(m) <= set(tasks)]
    if len(tasks) > 1 and not any(set(m) == set(tasks) for _, m in several):
        several.append(("all tasks", tuple(tasks)))
    if two_way and len(two_way) < len(tasks):
        several += [
            ("two-way tasks", tuple(t for t in tasks if t in two_way)),
            ("other tasks", tuple(t for t in tasks if t not in two_way)),
        ]
    return pools + [Pool(n, m, set(m) <= two_way) for n, m in several if len(m) > 1]

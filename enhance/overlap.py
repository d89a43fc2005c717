"""N-gram overlap between training rows and the documents of evaluation tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness_ext.errors import ConfigurationError

NGRAM = 8
SHORTEST = 5
_WORD = re.compile(r"\w+")


def overlap(
    rows: Sequence[Mapping[str, Any]], documents: Mapping[str, Iterable[Mapping[str, Any]]], n: int = NGRAM
) -> dict[str, Any]:
    """Find the rows that share `n` consecutive words with a document; return a report as JSON values.

    All text fields of rows and documents are compared word by word, ignoring case and punctuation. A document text of
    fewer than `n` words, but at least 5, counts if a row contains all of it.

    The report has the line numbers of the matching rows (from 1) as `lines` and, for each task, the number of
    documents, of matching documents and rows, and the first 20 matches.

    rows: the training rows.
    documents: the documents of each task, by the task's name.
    n: number of consecutive words. Default 8.
    """
    index: dict[tuple[str, ...], tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    for task, docs in documents.items():
        for number, document in enumerate(docs):
            sizes[task] = number + 1
            for text in _texts(document):
                for gram in _grams(text, n, whole=True):
                    index.setdefault(gram, (task, number))
    lengths = sorted({len(gram) for gram in index})
    hits: list[tuple[int, str, int, str]] = []
    for line, row in enumerate(rows, start=1):
        met: dict[tuple[str, int], str] = {}
        for text in _texts(row):
            for length in lengths:
                for gram in _grams(text, length):
                    if gram in index:
                        met.setdefault(index[gram], " ".join(gram))
        hits += [(line, task, number, gram) for (task, number), gram in met.items()]
    return {
        "n": n,
        "lines": sorted({line for line, *_ in hits}),
        "tasks": {
            task: {
                "documents": size,
                "documents_met": len({number for _, t, number, _ in hits if t == task}),
                "rows_met": len({line for line, t, *_ in hits if t == task}),
                "first": [
                    {"line": line, "document": number, "words": gram} for line, t, number, gram in hits if t == task
                ][:20],
            }
            for task, size in sizes.items()
        },
    }


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _grams(text: str, n: int, whole: bool = False) -> Iterator[tuple[str, ...]]:
    words = _WORD.findall(text.casefold())
    if whole and SHORTEST <= len(words) < n:
        yield tuple(words)
    for start in range(len(words) - n + 1):
        yield tuple(words[start : start + n])


def task_documents(names: Sequence[str], include_path: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the documents that lm-eval's tasks are scored on, by task.

    Raises ConfigurationError if a task is unknown or its documents cannot be loaded.
    """
    from lm_eval.tasks import TaskManager, get_task_dict

    from harness_ext.bridge import startup

    startup.enforce()
    manager = TaskManager(include_path=include_path)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown:
        raise ConfigurationError(
            [f"there is no task `{name}`: run `lm_eval ls tasks` to list all tasks" for name in unknown]
        )
    found: dict[str, list[dict[str, Any]]] = {}

    def collect(tasks: Mapping[Any, Any]) -> None:
        for name, task in tasks.items():
            if isinstance(task, Mapping):
                collect(task)
            else:
                found[str(name)] = [dict(document) for document in task.eval_docs]

    try:
        collect(get_task_dict(list(names), manager))
    except Exception as error:  # loading a data set may raise anything, depending on the library behind it
        raise ConfigurationError([f"the documents of {', '.join(names)} cannot be loaded: {error}"]) from error
    return found

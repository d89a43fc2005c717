"""Digests of the files that a cell's settings name: prompts, other small files, and the files of tasks."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from harness_ext.records.file_digest import file_digest

LARGEST = 1 << 20  # bytes: what is larger is weights or data
# What lm-eval's task files and their templates have, and no study, training or configuration of lm-eval.
_OF_A_TASK = re.compile(
    rb"^(task|group|doc_to_\w+|output_type|metric_list|generation_kwargs|dataset_kwargs|custom_dataset|process_\w+)\s*:",
    re.MULTILINE,
)


@cache
def argument_digest(name: str, value: str) -> str:
    """Return a digest of what a model's argument refers to: a small file, or a folder of prompts; empty if neither.

    name: the name of the argument.
    value: its value.

    Files are read once, so that all cells of a study see the same content (see `read_anew`).
    """
    path = os.path.expanduser(value)
    if os.path.isfile(path):  # unlike Path.is_file, it takes texts that no path can be
        return _digest(path, [Path(path)] if os.path.getsize(path) <= LARGEST else [])
    if name.endswith("prompts") and os.path.isdir(path):
        return _digest(path, Path(path).glob("*.txt"))
    return ""


@cache
def tasks_digest(folder: str) -> str:
    """Return a digest of the task files in a folder, with their templates and the Python files beside them.

    folder: the folder, which lm-eval searches with all folders in it.

    Empty if there are none. Files are read once, as for `argument_digest`.
    """
    return _digest(folder, _task_files(folder))


def read_anew() -> None:
    """Let files be read again."""
    argument_digest.cache_clear()
    tasks_digest.cache_clear()


def _task_files(root: str) -> Iterator[Path]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        files = [file for name in names if (file := Path(folder, name)).is_file()]
        # Templates are often called `_template_yaml`.
        tasks = [file for file in files if file.name.endswith("yaml") and _OF_A_TASK.search(file.read_bytes())]
        yield from tasks
        if tasks:
            yield from (file for file in files if file.suffix == ".py")


def _digest(root: str, files: Iterable[Path]) -> str:
    found = sorted((os.path.relpath(file, root), file_digest(file)) for file in files)
    return hashlib.sha256(repr(found).encode(errors="replace")).hexdigest()[:10] if found else ""

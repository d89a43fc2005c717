"""The command `harness-ext new-task`."""

from __future__ import annotations

import argparse
import keyword
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness_ext.cli.new_task.inspect_data import InspectedData, LookError, TaskFields, guess, look_at
from harness_ext.cli.new_task.write_files import write_task
from harness_ext.errors import HarnessExtError
from harness_ext.terminal import clean, shell_word


def main(arguments: Sequence[str]) -> int:
    """Create a task, run a few of its rows and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="harness-ext new-task",
        description="Create the files of a task from its data, then try a few rows with the embedded student.",
    )
    parser.add_argument("name", metavar="NAME", help="the task's name: letters, digits and _")
    parser.add_argument("--kind", required=True, choices=("choice", "generate", "chat"))
    parser.add_argument("--data", required=True, help="a file, a folder with one file per split, or a hub id")
    parser.add_argument("--pack", action="store_true", help="create a package that pip installs and lm-eval finds")
    parser.add_argument("--output", type=Path, help="the folder to create (default: ./NAME)")
    parser.add_argument("--question", help="the field with the question (default: guessed by name)")
    parser.add_argument("--answer", help="the field with the answer (default: guessed by name)")
    parser.add_argument("--choices", type=lambda s: tuple(s.split(",")), help="the field or fields with the choices")
    parser.add_argument("--rows", type=int, default=2, help="how many rows to try at the end; 0 for none (default: 2)")
    options = parser.parse_args(list(arguments))
    try:
        _check_name(options.name)
        data = look_at(options.data)
        fields = _fields(options, data)
        folder = write_task(
            options.name, options.kind, data, fields, options.output or Path(options.name), options.pack
        )
        print(f"{options.name}: {fields}, evaluated on {data.evaluated!r} of {', '.join(data.splits)}")
        for file in sorted(f for f in (options.output or Path(options.name)).rglob("*") if f.is_file()):
            print(f"  {file}")
        if options.rows > 0:
            _try(options.name, folder, options)
    except (HarnessExtError, ValueError, OSError) as error:
        print(f"harness-ext new-task: {clean(error)}", file=sys.stderr)
        return 1
    # pip takes a bare name for one of the index, and `./` before an absolute path would make it a relative one.
    installed = shell_word(os.path.join(".", folder.parent))
    where = f"pip install {installed}" if options.pack else f"lm_eval … --include_path {shell_word(folder)}"
    print(f"Next: check {folder / 'rows.py'} and {folder / (options.name + '.yaml')}, then run {where}")
    return 0


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise LookError(f"{name!r} is not a valid task name: use lower-case letters, digits and _, a letter first")


def _fields(options: argparse.Namespace, data: InspectedData) -> TaskFields:
    """Return the fields of the task: those that the user names, and guesses for the rest."""
    named = {k: v for k in ("question", "answer", "choices") if (v := getattr(options, k))}
    unknown = [f for v in named.values() for f in ([v] if isinstance(v, str) else v) if f not in data.types]
    if unknown:
        raise LookError(f"{data.name} has no field {', '.join(unknown)}; its fields are: {', '.join(data.types)}")
    needed = {"question", "answer"} | ({"choices"} if options.kind == "choice" else set())
    if needed <= set(named):
        return TaskFields(**named)
    return replace(guess(options.kind, data), **named) if len(named) < len(needed) else TaskFields(**named)


def _try(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Run the first rows with `baseline` on the embedded student, and print questions and replies."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from harness_ext.models.baseline import BaselineLM

    sys.path.insert(0, str(folder.absolute().parent))  # so that a pack's module is found without being installed
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    loaded = manager.load([name])
    task: Any = loaded["tasks"][name]
    task.set_config("num_fewshot", 0)
    chat = options.kind == "chat"
    with tempfile.TemporaryDirectory() as scratch:
        lm = BaselineLM(batch_size=8, store="off", run_dir=scratch, model=f"try-{name}", progress="off")
        results = lm_eval.evaluate(
            lm=lm, task_dict=loaded, limit=options.rows, bootstrap_iters=0, apply_chat_template=chat
        )
    assert results is not None
    for sample in results["samples"][name]:
        context = str(sample["arguments"][0][0])
        print(f"  asked    {context!r}\n  wanted   {sample['target']!r}\n  replied  {sample['resps'][0][0]!r}")
    figures = {k: v for k, v in results["results"][name].items() if "," in k and "stderr" not in k}
    print(f"  scores   {figures} (by the embedded student: they only show that the task runs)")

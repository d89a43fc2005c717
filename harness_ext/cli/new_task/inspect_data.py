"""Inspects data: its splits, the types of its fields, and which fields are question, choices and answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness_ext.data.formats import READERS, is_typed, read_rows
from harness_ext.errors import HarnessExtError

TaskKind = Literal["choice", "generate", "chat"]
QUESTIONS = ("question", "prompt", "input", "instruction", "problem", "query", "text", "sentence")
ANSWERS = ("answer", "target", "label", "output", "gold", "completion", "response", "solution")
CHOICES = ("choices", "options", "endings", "candidates")
CHATS = ("messages", "conversation", "conversations", "prompt")
EVALUATED = ("test", "validation", "valid", "dev", "train")
LOOKED_AT = 200


class LookError(HarnessExtError):
    """The data cannot be used for such a task. The message names cause and remedy."""


@dataclass(frozen=True)
class InspectedData:
    """Data for a task.

    name: the file, folder or hub id.
    files: the local file of each split; empty for a hub id.
    splits: the names of the splits.
    rows: the first rows of the evaluated split.
    types: the type of each field, as `harness_ext.data` names it.
    """

    name: str
    files: Mapping[str, Path]
    splits: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    types: Mapping[str, str]

    @property
    def evaluated(self) -> str:
        """Return the split to evaluate on."""
        return next((s for s in EVALUATED if s in self.splits), self.splits[0])

    @property
    def shots(self) -> str | None:
        """Return the split for few-shot examples, or None if there is no separate one."""
        return "train" if "train" in self.splits and self.evaluated != "train" else None


@dataclass(frozen=True)
class TaskFields:
    """The fields that a task reads.

    question: the field with the question.
    answer: the field with the answer.
    choices: one field with a list of choices, or several fields with one choice each. Default none.
    """

    question: str
    answer: str
    choices: tuple[str, ...] = ()


def look_at(data: str) -> InspectedData:
    """Inspect a file, a folder of splits or a hub data set. Raises LookError if it cannot be used."""
    path = Path(data).expanduser()
    if path.exists() or path.suffix in READERS or data.startswith((".", "/", "~")):
        files = _files(path)
        found = {split: list(read_rows(file, split)) for split, file in files.items()}
        problems = [
            f"{files[s]} {location}: {row}"
            for s, rows in found.items()
            for location, row in rows
            if isinstance(row, str)
        ]
        problems += [f"{files[s]} contains no rows" for s, rows in found.items() if not rows]
        if problems:
            more = f"\n  - and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise LookError("these rows cannot be used:\n" + "\n".join(f"  - {p}" for p in problems[:5]) + more)
        rows = [row for _, row in next(iter(_evaluated_first(found).values())) if not isinstance(row, str)]
        types = {name: _type([row.get(name) for row in rows], is_typed(next(iter(files.values())))) for name in rows[0]}
        return InspectedData(
            str(path), {s: f.absolute() for s, f in files.items()}, tuple(files), rows[:LOOKED_AT], types
        )
    try:
        from datasets import load_dataset

        loaded = _evaluated_first(load_dataset(data))
    except Exception as error:
        raise LookError(
            f"{data} is not a local file, and the hub does not return such a data set ({type(error).__name__}: "
            f"{error}). Name a file ({', '.join(READERS)}), a folder of such files, or a hub id"
        ) from error
    first = next(iter(loaded.values()))
    rows = [dict(first[i]) for i in range(min(LOOKED_AT, len(first)))]
    if not rows:
        raise LookError(f"{data} contains no rows: name another data set")
    return InspectedData(
        data, {}, tuple(loaded), rows, {name: _type([row[name] for row in rows], True) for name in rows[0]}
    )


def _files(path: Path) -> dict[str, Path]:
    if path.is_file() or path.suffix in READERS:
        return {"test": path}
    saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
    if saved and not (path / "dataset_dict.json").exists():
        return {"test": path}
    if saved:
        from datasets import load_from_disk

        return dict.fromkeys(load_from_disk(str(path)), path)
    files = {file.stem: file for file in sorted(path.iterdir()) if file.suffix in READERS and "." not in file.stem}
    if not files:
        raise LookError(f"{path} contains no data files: put one file per split there ({', '.join(READERS)})")
    return files


def _evaluated_first(splits: Mapping[str, Any]) -> dict[str, Any]:
    order = {name: index for index, name in enumerate(EVALUATED)}
    return dict(sorted(splits.items(), key=lambda item: order.get(item[0], len(order))))


def _type(values: Sequence[Any], typed: bool) -> str:
    """Return the narrowest type of `harness_ext.data` that fits all values."""
    if not typed:
        texts = [str(value) for value in values]
        return "int" if all(text.lstrip("-").isdigit() for text in texts) else "str"
    present = [value for value in values if value is not None]
    for kind, test in (("bool", bool), ("int", int), ("float", int | float), ("str", str)):
        if present and all(isinstance(v, test) and (kind == "bool" or not isinstance(v, bool)) for v in present):
            return kind if len(present) == len(values) else f"{kind} | None"
    if present and all(isinstance(v, list) and all(isinstance(i, str) for i in v) for v in present):
        return "list[str]" if len(present) == len(values) else "list[str] | None"
    return "object"


def guess(kind: TaskKind, data: InspectedData) -> TaskFields:
    """Guess from names and types which fields a task of this kind reads.

    Raises LookError, which lists the fields of the data, if that is not clear.
    """
    wanted = {"question": CHATS if kind == "chat" else QUESTIONS, "answer": ANSWERS}
    found = {what: next((n for n in names if n in data.types), "") for what, names in wanted.items()}
    choices: tuple[str, ...] = ()
    problems = []
    if kind == "choice":
        choices = tuple(n for n in CHOICES if data.types.get(n) == "list[str]")[:1] or _numbered(data)
        if not choices:
            problems.append("a list of choices (--choices FIELD, or --choices FIELD,FIELD,… for one field per choice)")
    if kind == "chat" and data.types.get(found["question"]) == "object":
        found["answer"] = found["answer"] or found["question"]  # the last message is the expected reply
    problems += [f"the {what} (--{what} FIELD)" for what in ("question", "answer") if not found[what]]
    if problems:
        listed = ", ".join(f"{name} ({kind})" for name, kind in data.types.items())
        raise LookError(
            f"the field names of {data.name} do not show which is {' and which is '.join(problems)}; "
            f"its fields are: {listed}"
        )
    return TaskFields(found["question"], found["answer"], choices)


def _numbered(data: InspectedData) -> tuple[str, ...]:
    """Return fields named like A, B, C, like choice1, choice2 or like q_op1, q_op2."""
    letters = tuple(n for n in "ABCDEFGH" if n in data.types)
    if len(letters) > 1:
        return letters
    stems: dict[str, list[str]] = {}
    for name in data.types:
        if name[-1:].isdigit():
            stems.setdefault(name.rstrip("0123456789"), []).append(name)
    return next((tuple(names) for names in stems.values() if len(names) > 1), ())

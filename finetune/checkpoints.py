"""Complete checkpoints: a marker file, written last, lists every file of a folder with its size."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.files import atomic_write

MARKER = "complete.json"
# transformers writes this file while it saves because of a signal, and removes it afterwards.
SENTINEL = "checkpoint-is-incomplete.txt"


@dataclass(frozen=True)
class Found:
    """The last complete checkpoint of an output folder, and why later ones were skipped."""

    checkpoint: Path | None
    skipped: tuple[str, ...]


def mark_complete(folder: str | Path, **facts: Any) -> None:
    """Write the marker of a finished folder, with the sizes of its files in bytes and `facts` about it."""
    root = Path(folder)
    sizes = {
        str(path.relative_to(root)): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith((MARKER, f".{MARKER}"))
    }
    write_json(root / MARKER, {**facts, "files": sizes})


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, because other processes of the run may be reading it."""
    with atomic_write(path) as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write("\n")


def why_incomplete(folder: str | Path) -> str:
    """Return why a folder is incomplete, or an empty string if it is complete."""
    root = Path(folder)
    if (root / SENTINEL).exists():
        return f"{root.name} contains {SENTINEL}: saving was interrupted"
    try:
        files = json.loads((root / MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{root.name} has no {MARKER}: saving was not finished"
    except (ValueError, KeyError, TypeError):
        return f"{root.name}/{MARKER} cannot be read"
    for name, size in files.items():
        path = root / name
        if not path.is_file():
            return f"{root.name} lacks {name}"
        if path.stat().st_size != size:
            return f"{root.name}/{name} has {path.stat().st_size} bytes instead of {size}"
    return ""


def numbered(output_dir: str | Path) -> list[Path]:
    """Return the `checkpoint-<step>` folders in order of their steps, incomplete ones included."""
    named = [
        (int(match[1]), path)
        for path in Path(output_dir).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(named)]


def marker_facts(folder: str | Path) -> dict[str, Any]:
    """Return the content of a complete folder's marker: `step`, `epoch`, `processes` and `files`."""
    facts: dict[str, Any] = json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))
    return facts


def prune(output_dir: str | Path, limit: int) -> None:
    """Delete the oldest complete checkpoints beyond `limit` (0 keeps all). Incomplete ones are left alone."""
    complete = [path for path in numbered(output_dir) if not why_incomplete(path)]
    for path in complete[: max(0, len(complete) - limit)] if limit else ():
        # Removing the marker first makes a folder that is only half deleted count as incomplete.
        (path / MARKER).unlink()
        shutil.rmtree(path)


def last_complete(output_dir: str | Path) -> Found:
    """Return the complete checkpoint with the highest step, and why those with higher steps were skipped."""
    skipped: list[str] = []
    for path in reversed(numbered(output_dir)):
        reason = why_incomplete(path)
        if not reason:
            return Found(path, tuple(skipped))
        skipped.append(reason)
    return Found(None, tuple(skipped))

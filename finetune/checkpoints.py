"""Which checkpoints can be trusted: a marker, written last, lists every file of a folder with its size."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.files import whole_file

MARKER = "complete.json"
# transformers writes it into a folder while it saves under a signal, and removes it afterwards.
SENTINEL = "checkpoint-is-incomplete.txt"


@dataclass(frozen=True)
class Found:
    """What a look into an output folder gave: the last complete checkpoint, and why others were passed over."""

    checkpoint: Path | None
    skipped: tuple[str, ...]


def mark_complete(folder: str | Path, **facts: Any) -> None:
    """Write the marker of a finished folder, with the sizes of its files (bytes) and `facts` about it."""
    root = Path(folder)
    sizes = {
        str(path.relative_to(root)): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.name.startswith((MARKER, f".{MARKER}"))
    }
    write_json(root / MARKER, {**facts, "files": sizes})


def write_json(path: Path, value: Any) -> None:
    """Write a file at once: whoever reads it meanwhile, another process of the run say, sees the old one or the new."""
    with whole_file(path) as out:
        json.dump(value, out, indent=1, ensure_ascii=False)
        out.write("\n")


def why_incomplete(folder: str | Path) -> str:
    """Return why a folder cannot be trusted; an empty string when it is complete."""
    root = Path(folder)
    if (root / SENTINEL).exists():
        return f"{root.name} holds {SENTINEL}: saving was interrupted"
    try:
        files = json.loads((root / MARKER).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return f"{root.name} has no {MARKER}: it was not finished"
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
    """Return the `checkpoint-<step>` folders by step, torn ones included."""
    named = [
        (int(match[1]), path)
        for path in Path(output_dir).glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(named)]


def marker_facts(folder: str | Path) -> dict[str, Any]:
    """Return what a complete folder's marker says: `step`, `epoch`, `processes` and the `files`."""
    facts: dict[str, Any] = json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))
    return facts


def prune(output_dir: str | Path, limit: int) -> None:
    """Delete the oldest complete checkpoints beyond `limit` (0: keep all). Torn ones are left for the reader."""
    complete = [path for path in numbered(output_dir) if not why_incomplete(path)]
    for path in complete[: max(0, len(complete) - limit)] if limit else ():
        # Without its marker a half-deleted folder counts as torn.
        (path / MARKER).unlink()
        shutil.rmtree(path)


def last_complete(output_dir: str | Path) -> Found:
    """Return the complete `checkpoint-<step>` folder of the highest step, and the torn ones above it."""
    skipped: list[str] = []
    for path in reversed(numbered(output_dir)):
        reason = why_incomplete(path)
        if not reason:
            return Found(path, tuple(skipped))
        skipped.append(reason)
    return Found(None, tuple(skipped))

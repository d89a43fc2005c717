"""Which checkpoints can be trusted: a marker, written last, lists every file of a folder with its size."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARKER = "complete.json"


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
        if path.is_file() and path.name not in (MARKER, f"{MARKER}.part")
    }
    part = root / f"{MARKER}.part"
    with open(part, "w", encoding="utf-8") as out:
        json.dump({**facts, "files": sizes}, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    os.replace(part, root / MARKER)


def why_incomplete(folder: str | Path) -> str:
    """Return why a folder cannot be trusted; an empty string when it is complete."""
    root = Path(folder)
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


def last_complete(output_dir: str | Path) -> Found:
    """Return the complete `checkpoint-<step>` folder of the highest step, and the torn ones above it."""
    root = Path(output_dir)
    named = [
        (int(match[1]), path)
        for path in root.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    skipped: list[str] = []
    for _, path in sorted(named, reverse=True):
        reason = why_incomplete(path)
        if not reason:
            return Found(path, tuple(skipped))
        skipped.append(reason)
    return Found(None, tuple(skipped))

"""Complete checkpoints: a marker file, written last, lists every file of a folder with its size."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness_ext.files import atomic_write

MARKER = "complete.json"
# The model card. People edit it, so it says nothing about whether a folder is complete.
CARD = "README.md"
# Files that contain weights, or lead to them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
# What only resuming needs: optimizer, scheduler, loss scale and random states, and DeepSpeed's own files.
STATES = ("optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "global_step*", "latest", "zero_to_fp32.py")
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
        if path.is_file() and path.name != CARD and not path.name.startswith((MARKER, f".{MARKER}"))
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
        if path.name == CARD:
            continue  # markers of earlier versions list it
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
    """Return the content of a complete folder's marker: `step`, `epoch`, `processes`, `files` and `resumable`."""
    facts: dict[str, Any] = json.loads((Path(folder) / MARKER).read_text(encoding="utf-8"))
    return facts


def prune(output_dir: str | Path, limit: int) -> None:
    """Delete the oldest complete checkpoints beyond `limit` (0 keeps all). Incomplete ones are left alone."""
    complete = [path for path in numbered(output_dir) if not why_incomplete(path)]
    for path in complete[: max(0, len(complete) - limit)] if limit else ():
        # Removing the marker first makes a folder that is only half deleted count as incomplete.
        (path / MARKER).unlink()
        shutil.rmtree(path)


def drop_states(folder: Path) -> None:
    """Delete from a complete checkpoint what only resuming needs. It stays complete, but cannot be resumed from.

    ZeRO partitions stay if the checkpoint contains its weights in no other form.
    """
    if not any((folder / name).is_file() for name in (*WEIGHTS, *ADAPTERS)):
        return
    facts = marker_facts(folder)
    files = {name: size for name, size in facts["files"].items() if not is_state(Path(name).parts[0])}
    # First the marker: what is only half deleted then counts as complete, and not as something to resume from.
    if facts.get("resumable", True):
        write_json(folder / MARKER, {**facts, "resumable": False, "files": files})
    for path in folder.iterdir():
        if is_state(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def is_state(name: str) -> bool:
    """Return whether a file or folder of a checkpoint is needed for nothing but resuming."""
    return any(fnmatchcase(name, pattern) for pattern in STATES)


def why_not_resumable(folder: str | Path) -> str:
    """Return why a checkpoint cannot be resumed from, or an empty string if it can."""
    reason = why_incomplete(folder)
    if not reason and not marker_facts(folder).get("resumable", True):
        reason = f"{Path(folder).name} contains the model only (`save_only_model`)"
    return reason


def last_complete(output_dir: str | Path, resumable: bool = False) -> Found:
    """Return the complete checkpoint with the highest step, and why those with higher steps were skipped.

    output_dir: the folder of the run.
    resumable: whether to skip those that contain the model only. Default false.
    """
    skipped: list[str] = []
    for path in reversed(numbered(output_dir)):
        reason = why_not_resumable(path) if resumable else why_incomplete(path)
        if not reason:
            return Found(path, tuple(skipped))
        skipped.append(reason)
    return Found(None, tuple(skipped))

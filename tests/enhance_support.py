"""CREAK rows, and a run of the annotation over them with a scripted teacher."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate, settings
from harness_ext.enhance.prepare import prepare
from harness_ext.enhance.running import plan_seats
from harness_ext.enhance.templates import load_templates
from harness_ext.records import Completion

CREAK_ROWS = [
    {"sentence": "Water  is wet. ", "label": "true", "ex_id": "a", "spans": [[0, 5]]},
    {"sentence": "Fish can fly planes.", "label": "false", "ex_id": "b", "spans": []},
    {"sentence": "Oslo is in Norway.", "label": "true", "ex_id": "c", "spans": [[0, 4], [11, 17]]},
]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def write(path: Path, rows: Sequence[Mapping[str, Any] | str | bytes]) -> Path:
    parts = [r if isinstance(r, bytes) else (r if isinstance(r, str) else json.dumps(r)).encode() for r in rows]
    path.write_bytes(b"\n".join(parts) + b"\n")
    return path


def run(
    folder: Path,
    rows: Sequence[Mapping[str, Any] | str | bytes],
    reply: Callable[[str], str | Completion],
    *,
    name: str = "out",
    task_type: str = "cot_text",
    backend: ScriptedBackend | None = None,
    **more: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]], ScriptedBackend]:
    """Prepare CREAK rows and annotate them; return the manifest, the output rows and the teacher."""
    raw = write(folder / "raw.jsonl", rows)
    templates = load_templates("creak")
    prepare(raw, folder / "in.jsonl", templates)
    teacher = backend or ScriptedBackend(reply, name="teacher")
    plan = plan_seats(Annotate, {"teacher": teacher}, {"store": str(folder / "calls"), "progress": "off", **more})
    job = AnnotateJob(folder / "in.jsonl", folder / f"{name}.jsonl", task_type, settings(templates, {}), templates)
    manifest = annotate(job, plan)
    return manifest, lines(job.target) if job.target.exists() else [], teacher


def asked(teacher: ScriptedBackend) -> list[str]:
    return [prompt for call in teacher.calls for prompt in call]

"""Adds the prompts for a teacher to the rows of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.enhance.rows import Output, file_digest, read
from harness_ext.enhance.templates import RowProblem, TemplateSet


def prepare(source: Path, target: Path, templates: TemplateSet, split: str = "train", limit: int | None = None) -> Any:
    """Write the rows of `source` with the prompts of `templates` as JSON lines; return the manifest.

    Rows without what a prompt is made of go to `<target>.bad.jsonl`. For CREAK the fields are those of TeacherLM:
    `text`, `cot_text`, `error_text`, `fundamental_text`. Raises ConfigurationError, StoreError.
    """
    with Output(target, {"stage": "prepare", "templates": templates.digest}) as output:
        count = 0
        for number, row in enumerate(read(source, split, limit)):
            count += 1
            if row.fields is None:
                output.reject(number, row, "unreadable", row.problem)
                continue
            try:
                output.add(number, [templates.fill(row.fields)])
            except RowProblem as problem:
                output.reject(number, row, "incomplete", str(problem))
        manifest = {
            "harness_ext": __version__,
            "source": str(source.absolute()),
            "source_sha256": file_digest(source),
            "counts": {"read": count, "written": output.written, "bad": output.bad},
            "templates": templates.to_json(),
        }
        output.finish(manifest)
    return manifest

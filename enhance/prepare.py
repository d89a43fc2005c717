"""Adds a teacher's prompts to the rows of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.enhance.row_files import Output, file_digest, read
from harness_ext.enhance.templates import RowProblem, TemplateSet


def prepare(source: Path, target: Path, templates: TemplateSet, split: str = "train", limit: int | None = None) -> Any:
    """Write rows with their prompts as JSON lines; return the manifest.

    Rows that lack a field that a prompt needs go to `<target>.bad.jsonl`. For CREAK, the fields are those of TeacherLM:
    `text`, `cot_text`, `error_text` and `fundamental_text`. Raises ConfigurationError or StoreError.

    source: the file or folder with the rows.
    target: the JSON-lines file to write.
    templates: the prompts.
    split: the split to read of a saved DatasetDict. Default `train`.
    limit: number of rows to read. Default: all.
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

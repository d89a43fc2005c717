"""Helpers for the tests of `score`, `compare` and `show`: small tasks, and run directories with given transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness_ext.bridge.document_hash import document_hash
from harness_ext.records import Completion, Failure, Transcript, Turn
from harness_ext.records.run_directory import RunDirectory

ROWS = [{"q": f"{i}+{i}?", "a": str(2 * i)} for i in range(8)]


def make_task(name: str = "sums", rows: Sequence[Mapping[str, Any]] = ROWS, **more: Any) -> Any:
    """Return an lm-eval task over the given rows, scored by exact match; `more` overrides its configuration."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list([dict(row) for row in rows])},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_target": "{{a}}",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
            **more,
        }
    )


def manager_of(*tasks: Any) -> Any:
    """Return a stand-in for lm-eval's TaskManager, which takes seconds to create."""
    by_name = {task.config.task: task for task in tasks}
    return SimpleNamespace(
        load=lambda names: {"tasks": {name: by_name[name] for name in names}}, task_index={}, all_groups=[]
    )


def said(seat: str, kind: str, text: str, tokens: int = 10, **verdict: Any) -> Turn:
    """Return a turn with the given verdict."""
    return Turn(
        seat,
        kind,
        f"{seat}-{kind}-{text}",
        Completion(text, "stop", prompt_tokens=tokens, cached_tokens=0, completion_tokens=tokens, seconds=0.5),
        verdict or None,
    )


def transcript(
    doc_id: int, *turns: Turn, task: str = "sums", text: str | None = None, rows: Sequence[Any] = ROWS, **more: Any
) -> Transcript:
    """Return the transcript of the question in a row. Its final text defaults to the last draft."""
    drafts = [t.text for t in turns if t.kind in ("draft", "refine")]
    final = text if text is not None else drafts[-1] if drafts else ""
    values: dict[str, Any] = {
        "doc_hash": document_hash(dict(rows[doc_id])), "repeat": 0, "index": 0, "question": f"q{doc_id}",
        "context": f"Q: {rows[doc_id]['q']}\nA:", "stop": "accepted", **more,
    }  # fmt: skip
    return Transcript(task=task, doc_id=doc_id, turns=turns, text=final, **values)


def failed(doc_id: int, **more: Any) -> Transcript:
    """Return the transcript of a question without an answer."""
    return transcript(doc_id, stop="failed", failure=Failure("backend", "out of memory"), **more)


def write_run(path: Path, *transcripts: Transcript, label: str = "pair", seed: int = 1, **config: Any) -> Path:
    """Write a run directory with these transcripts and return its path."""
    seats = {"student": {"parameters": 1000}, "teacher": {"parameters": 5000, "price_in": 1.0, "price_out": 2.0}}
    run = RunDirectory(
        path,
        {
            "label": label, "started": "2026-01-01T00:00:00+0000", "seeds": {"torch": seed}, "seats": seats,
            "identity": {"protocol": label}, **config,
        },
    )  # fmt: skip
    for one in transcripts:
        run.add(one)
    run.close()
    return path

"""Protocols in lm-eval's own `evaluate`: plain and chat, few-shot, `gen_prefix`, repeats, results and samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.run_directory import read_transcripts

ROWS = [{"q": f"{i}+{i}?", "a": str(2 * i)} for i in range(6)]


def make_task(name: str, **more: Any) -> Any:
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": name,
            "custom_dataset": lambda **_: {"test": Dataset.from_list(ROWS), "train": Dataset.from_list(ROWS[:2])},
            "test_split": "test",
            "fewshot_split": "train",
            "output_type": "generate_until",
            "doc_to_text": "Q: {{q}}\nA:",
            "doc_to_target": "{{a}}",
            "num_fewshot": 1,
            "fewshot_config": {"sampler": "first_n"},
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
            "metric_list": [{"metric": "exact_match"}],
            **more,
        }
    )


def student(prompt: str) -> str:
    """Answer wrongly at first, and correctly after a hint."""
    asked = [line for line in prompt.replace("User: ", "").split("\n") if line.startswith("Q: ")]
    number = int(asked[1 if len(asked) > 1 else 0][3:].split("+")[0])
    return str(2 * number if "Hint" in prompt else 7)


def teacher(prompt: str) -> str:
    return "Incorrect.\nHint: add" if '"""\n7\n"""' in prompt or "is7" in prompt else "Correct."


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("more", [{}, {"repeats": 2}, {"gen_prefix": "It is"}])
def test_evaluate(tmp_path: Path, chat: bool, more: dict[str, Any]) -> None:
    from lm_eval.evaluator import evaluate

    lm = FeedbackPairLM(
        student=ScriptedBackend(student, name="student"), teacher=ScriptedBackend(teacher, name="teacher"),
        store="off", run_dir=tmp_path / "run", progress="off", model="my-label",
    )  # fmt: skip
    results = evaluate(
        lm,
        {"sums": make_task("sums", **more)},
        limit=5,
        bootstrap_iters=0,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        system_instruction="Be exact." if chat else None,
    )
    assert results is not None
    transcripts = list(read_transcripts(lm.session.run.path))
    assert len(transcripts) == 5 * more.get("repeats", 1)
    assert {t.doc_hash for t in transcripts} == {s["doc_hash"] for s in results["samples"]["sums"]}
    assert {t.stop for t in transcripts} == {"accepted"}
    first = next(p for b in lm.plan.seats["student"].backend.calls for p in b)  # type: ignore[attr-defined]
    if chat:
        assert first.startswith("Instructions: Be exact.\n\nUser: Q: 0+0?\nA:\n\nAssistant: ")
        assert first.endswith("Assistant: It is" if "gen_prefix" in more else "Assistant:")
    else:
        assert first.startswith("Q: 0+0?\nA:")
        assert not first.startswith("User:")
    assert results["results"]["sums"]["exact_match,none"] == 1.0
    json.dumps(results["samples"], default=str)
    assert json.dumps(lm.get_model_info())

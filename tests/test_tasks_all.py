"""Every task with local rows: all documents are rendered, all requests are built, and a few of them run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks import TaskManager
from tasks_support import evaluate, real_rows, task_manager

from harness_ext.embedded import model_path
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.chat import MESSAGES_TOKENIZER, ChatContext

CHOICE = ("creak", "ecqa", "strategyqa_facts", "strategyqa_no_facts", "teacherlm_mmlu_global_facts")
TEXT = (
    *("creak_cot", "ecqa_cot", "strategyqa_cot", "strategyqa_facts_cot", "gsm8k_cot_answer"),
    *("scienceqa_qtch", "scienceqa_qtchl", "scienceqa_qtchls", "scienceqa_qtchs", "babi_reasoning_1", "babi_stories"),
)
CONVERSATIONS = tuple(f"babi_conversation_{n}" for n in (1, 8, 19))


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return task_manager(mmlu_split="test")


@pytest.mark.data
def test_all_documents_are_rendered_and_all_requests_built(data_dir: Path, manager: TaskManager) -> None:
    rows = {name: real_rows(data_dir, name) for name in ("ecqa", "strategyqa", "gsm8k", "mmlu", "babi")}
    subjects = Counter(row["subject"] for row in rows["mmlu"])
    counts = {
        "creak": 2 * len(real_rows(data_dir, "creak", "validation")),
        "ecqa": 5 * len(rows["ecqa"]),
        "strategyqa_facts": 2 * len(rows["strategyqa"]),
        "strategyqa_no_facts": 2 * len(rows["strategyqa"]),
        **{f"teacherlm_mmlu_{subject}": 4 * count for subject, count in subjects.items()},
        "creak_cot": len(real_rows(data_dir, "creak", "validation")),
        "ecqa_cot": len(rows["ecqa"]),
        "strategyqa_cot": len(rows["strategyqa"]),
        "strategyqa_facts_cot": len(rows["strategyqa"]),
        "gsm8k_cot_answer": len(rows["gsm8k"]),
    }
    loaded = manager.load([*counts, *TEXT, *CONVERSATIONS])["tasks"]
    parts = 0
    for name, task in loaded.items():
        task.set_config("num_fewshot", 0)
        chat = name in CONVERSATIONS
        task.build_all_requests(
            apply_chat_template=chat,
            chat_template=(lambda history, add_generation_prompt=True: ChatContext.of(history)) if chat else None,
            tokenizer_name=MESSAGES_TOKENIZER if chat else "",
        )
        contexts = [request.args[0] for request in task.instances]
        assert all(context.strip() for context in contexts)
        assert not any("{{" in context or "}}" in context for context in contexts), name
        assert len(contexts) == counts.get(name, len(contexts))
        parts += sum(m.role == "part" for c in contexts if isinstance(c, ChatContext) for m in c.messages)
    assert len(subjects) == 5
    assert parts == sum(row["task"] in (1, 8, 19) for row in rows["babi"])


@pytest.mark.data
@pytest.mark.parametrize("kind", ["baseline", "feedback_pair", "hf"])
def test_all_tasks_run(
    data_dir: Path, manager: TaskManager, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = [*CHOICE, *TEXT]
    lm: Any
    if kind == "hf":
        from lm_eval.models.huggingface import HFLM

        lm = HFLM(pretrained=str(model_path("student")), device="cpu", batch_size=8)
    else:
        more = {"max_rounds": 1, "review_max_tokens": 4} if kind == "feedback_pair" else {}
        lm = {"baseline": BaselineLM, "feedback_pair": FeedbackPairLM}[kind](batch_size=8, **more)
    results = evaluate(lm, manager, *names, limit=1, max_gen_toks=4)["results"]
    for name in names:
        metric = "acc,none" if name in CHOICE or name.startswith("scienceqa") else "exact_match,none"
        assert results[name][metric] in (0.0, 1.0), name

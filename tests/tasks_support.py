"""Helpers of the task tests: folders of rows, and a model that answers by rule and records its requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

import harness_ext.tasks

TASKS = Path(harness_ext.tasks.__file__).parent


class RuleLM(LM):
    """Replies with `reply(request)` and prefers a continuation if `prefer(request)`. Its chat template is JSON."""

    tokenizer_name = "rule"

    def __init__(self, reply: Callable[[Instance], str] = lambda r: "", prefer: Callable[[Instance], bool] = bool):
        super().__init__()
        self.reply, self.prefer = reply, prefer
        self.asked: list[Instance] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        self.asked += requests
        return [self.reply(request) for request in requests]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        self.asked += requests
        return [(0.0 if self.prefer(request) else -1.0, False) for request in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        raise AssertionError("no task of these tests uses it")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return json.dumps(chat_history)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "json"


def task_manager(**metadata: Any) -> TaskManager:
    """Return a manager of our tasks only. Loading lm-eval's whole index would take seconds."""
    return TaskManager(include_path=TASKS, include_defaults=False, metadata=metadata)


def write_rows(folder: Path, **splits: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON-lines file per split."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def real_rows(data_dir: Path, name: str, split: str = "test") -> list[dict[str, Any]]:
    """Return the rows of a real data set."""
    return [json.loads(line) for line in (data_dir / name / f"{split}.jsonl").read_bytes().splitlines() if line.strip()]


def evaluate(
    lm: Any,
    manager: TaskManager,
    *names: str,
    num_fewshot: int | None = None,
    max_gen_toks: int | None = None,
    **options: Any,
) -> Any:
    """Run tasks as `lm_eval` does, without its inspection of the machine, which takes seconds."""
    loaded = manager.load(list(names))
    for task in loaded["tasks"].values():
        if max_gen_toks is not None and task.config.generation_kwargs:
            task.set_config("generation_kwargs", {"max_gen_toks": max_gen_toks}, update=True)
        if num_fewshot is not None or task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=num_fewshot or 0)
        task.set_fewshot_seed(seed=1234)
    return lm_eval.evaluate(lm=lm, task_dict=loaded, bootstrap_iters=0, **options)

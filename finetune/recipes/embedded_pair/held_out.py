"""Score a student and a teacher on bAbI rows: `python -m …embedded_pair.held_out STUDENT TEACHER ROWS.jsonl`.

This is a quick check between two stages of training: a plain loop of greedy batches with the same prompts, without
lm-eval and the engine. The published numbers come from lm-eval.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.finetune.recipes.embedded_pair.prompts import (
    INSTRUCTION,
    REFINE_USER,
    REVIEW_SYSTEM,
    REVIEW_USER,
    story_text,
)
from harness_ext.finetune.recipes.embedded_pair.training_rows import message

JUDGED = (1, 6, 9, 11, 12, 13)
OPEN = (1, 11, 12, 13)
OTHERS = (2, 7, 8, 10)
BATCH = 64
REPLY_TOKENS = 300


@dataclass(frozen=True)
class Item:
    """A question as the student is asked it, with the number of its bAbI task and its answer."""

    task: int
    context: str
    answer: str


def read_items(path: Path, tasks: Sequence[int], limit: int) -> list[Item]:
    """Return up to `limit` questions of each task, in the order of the file."""
    found: dict[int, list[Item]] = defaultdict(list)
    with open(path, encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            context = INSTRUCTION + story_text(row["passage"].splitlines(), row["question"])
            found[row["task"]].append(Item(row["task"], context, row["answer"]))
    return [item for task in tasks for item in found[task][:limit]]


class Player:
    """A model that replies greedily to plain texts or chats, in batches of similar length."""

    def __init__(self, folder: str) -> None:
        """Load the model and its tokenizer from a folder."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()

    def __call__(self, prompts: Sequence[str | list[dict[str, str]]]) -> list[str]:
        """Return one reply per prompt."""
        import torch

        encoded = [self._encode(prompt) for prompt in prompts]
        replies = [""] * len(encoded)
        # Batches of similar length need little padding. Padding goes on the left, so that all replies begin together.
        order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
        pad = self.tokenizer.pad_token_id
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            width = max(len(encoded[index]) for index in batch)
            gaps = [width - len(encoded[index]) for index in batch]
            ids = torch.tensor([[pad] * gap + encoded[index] for gap, index in zip(gaps, batch, strict=True)])
            mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
            with torch.no_grad():
                out = self.model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=REPLY_TOKENS, do_sample=False
                )
            for index, tokens in zip(batch, out, strict=True):
                replies[index] = self.tokenizer.decode(tokens[width:], skip_special_tokens=True)
        return replies

    def _encode(self, prompt: str | list[dict[str, str]]) -> list[int]:
        if isinstance(prompt, str):
            return list(self.tokenizer(prompt)["input_ids"])
        text = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def shares(items: Sequence[Item], good: Sequence[bool]) -> dict[str, float]:
    """Return the share of good items: pooled over the judged tasks, over those that are not yes/no, and per task."""
    tasks = sorted({item.task for item in items})
    groups = {"pooled": JUDGED, "open": OPEN, **{str(task): (task,) for task in tasks}}
    result = {}
    for name, members in groups.items():
        chosen = [one for item, one in zip(items, good, strict=True) if item.task in members]
        if chosen:
            result[name] = round(sum(chosen) / len(chosen), 4)
    return result


def is_right(item: Item, reply: str) -> bool:
    """Return whether a reply's answer is exactly that of the row."""
    match = re.search(r"(?im)^answer:\s*(.+)", reply)
    return match is not None and match[1].strip() == item.answer


def play(
    items: Sequence[Item], student: Callable[..., list[str]], teacher: Callable[..., list[str]], rounds: int
) -> dict[str, Any]:
    """Return the shares of correct answers of the teacher alone, the student alone, and the pair after each round.

    items: the questions.
    student, teacher: functions that map prompts to replies, such as a `Player`.
    rounds: maximum number of reviews per question.
    """
    right = [is_right(item, reply) for item, reply in zip(items, teacher([one.context for one in items]), strict=True)]
    result: dict[str, Any] = {"skyline": shares(items, right)}
    drafts = student([item.context for item in items])
    right = [is_right(item, draft) for item, draft in zip(items, drafts, strict=True)]
    result["baseline"] = shares(items, right)
    waiting = list(range(len(items)))
    hints = named = 0
    for number in range(1, rounds + 1):
        reviews = teacher([_review_prompt(items[index], drafts[index]) for index in waiting])
        accepted = {index: review.startswith("Correct") for index, review in zip(waiting, reviews, strict=True)}
        if number == 1:
            result["verdict_right"] = shares(items, [accepted[index] == right[index] for index in waiting])
        refused = [(index, review) for index, review in zip(waiting, reviews, strict=True) if not accepted[index]]
        hints += len(refused)
        named += sum(
            re.search(rf"\b{re.escape(items[index].answer)}\b", review) is not None for index, review in refused
        )
        if refused:
            better = student([_refine_prompt(items[index], drafts[index], review) for index, review in refused])
            for (index, _), reply in zip(refused, better, strict=True):
                drafts[index] = reply
        right = [is_right(item, draft) for item, draft in zip(items, drafts, strict=True)]
        result[f"feedback_pair round {number}"] = shares(items, right)
        waiting = [index for index, _ in refused]
        if not waiting:
            break
    result["hints"] = {"given": hints, "naming the answer": named}
    return result


def _review_prompt(item: Item, draft: str) -> list[dict[str, str]]:
    task = item.context.rstrip()
    return [message("system", REVIEW_SYSTEM), message("user", REVIEW_USER.format(task=task, draft=draft))]


def _refine_prompt(item: Item, draft: str, review: str) -> list[dict[str, str]]:
    return [
        message("user", item.context),
        message("assistant", draft),
        message("user", REFINE_USER.format(review=review)),
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the shares as a table and, with `--json`, write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", help="model folder")
    parser.add_argument("teacher", help="model folder")
    parser.add_argument("rows", type=Path, help="JSON-lines file with bAbI rows")
    parser.add_argument("--limit", type=int, default=1000, help="maximum number of questions per task (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="maximum number of reviews per question (default: 3)")
    parser.add_argument("--others", action="store_true", help=f"score tasks {OTHERS}, too")
    parser.add_argument("--json", type=Path, help="file to write the scores to")
    options = parser.parse_args(argv)
    items = read_items(options.rows, JUDGED + (OTHERS if options.others else ()), options.limit)
    result = play(items, Player(options.student), Player(options.teacher), options.rounds)
    for name, values in result.items():
        print(f"{name:24}", "  ".join(f"{key} {value:g}" for key, value in values.items()))
    if options.json:
        record = {"questions": len(items), "scores": result}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

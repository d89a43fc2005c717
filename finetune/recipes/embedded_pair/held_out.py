"""Score a student and a teacher on bAbI rows: `python -m …embedded_pair.held_out STUDENT TEACHER ROWS.jsonl`.

This is a quick check between two stages of training: a plain loop of greedy batches with the same prompts, without
lm-eval and the engine. The published numbers come from lm-eval.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext.backends.hf import trained_prompts
from harness_ext.finetune.recipes.embedded_pair.prompts import (
    INSTRUCTION,
    REFINE_USER,
    REJECTION,
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


Model = Callable[..., list[str]]
# What the student is told about each draft that it is to look at again, by the number of the question.
Reaction = Callable[[list[int], list[str]], dict[int, str]]


def play(items: Sequence[Item], student: Model, teacher: Model, rounds: int, look_user: str = "") -> dict[str, Any]:
    """Return the shares of correct answers of the teacher alone, and of the student alone and after each round.

    items: the questions.
    student, teacher: functions that map prompts to replies, such as a `Player`.
    rounds: maximum number of rounds per question.
    look_user: the request to look again. Default none: no second looks.

    The rounds are those of the feedback, and of its controls: reviews truncated to their first word, and second looks.
    """
    right = [is_right(item, reply) for item, reply in zip(items, teacher([one.context for one in items]), strict=True)]
    result: dict[str, Any] = {"skyline": shares(items, right)}
    drafts = student([item.context for item in items])
    right = [is_right(item, draft) for item, draft in zip(items, drafts, strict=True)]
    result["baseline"] = shares(items, right)
    hints = named = 0

    def rejected(waiting: list[int], drafts: list[str]) -> dict[int, str]:
        reviews = teacher([review_prompt(items[index], drafts[index]) for index in waiting])
        return {index: text for index, text in zip(waiting, reviews, strict=True) if not text.startswith("Correct")}

    def hinted(waiting: list[int], drafts: list[str]) -> dict[int, str]:
        nonlocal hints, named
        reviews = rejected(waiting, drafts)
        hints += len(reviews)
        answers = ((re.escape(items[index].answer), review) for index, review in reviews.items())
        named += sum(re.search(rf"\b{answer}\b", review) is not None for answer, review in answers)
        return {index: REFINE_USER.format(review=review) for index, review in reviews.items()}

    def refused(waiting: list[int], drafts: list[str]) -> dict[int, str]:
        return dict.fromkeys(rejected(waiting, drafts), REFINE_USER.format(review=REJECTION))

    everything = list(range(len(items)))
    wrong = rejected(everything, drafts)
    result["verdict_right"] = shares(items, [(index not in wrong) == right[index] for index in everything])
    runs: dict[str, Reaction] = {"feedback_pair": hinted, "verdict only": refused}
    if look_user:
        runs["second look"] = lambda waiting, drafts: dict.fromkeys(waiting, look_user)
    for name, reaction in runs.items():
        for number, share in enumerate(_after_each_round(items, drafts, student, reaction, rounds), start=1):
            result[f"{name} round {number}"] = share
    result["hints"] = {"given": hints, "naming the answer": named}
    return result


def _after_each_round(
    items: Sequence[Item], first: list[str], student: Model, reaction: Reaction, rounds: int
) -> Iterator[dict[str, float]]:
    """Yield the shares of correct answers after each round, until no draft changes any more."""
    drafts, waiting = list(first), list(range(len(items)))
    for _ in range(rounds):
        told = reaction(waiting, drafts)
        waiting = list(told)
        if not waiting:
            break
        better = student([refine_prompt(items[index], drafts[index], told[index]) for index in waiting])
        changed = [(index, reply) for index, reply in zip(waiting, better, strict=True) if reply != drafts[index]]
        for index, reply in changed:
            drafts[index] = reply
        waiting = [index for index, _ in changed]
        yield shares(items, [is_right(item, draft) for item, draft in zip(items, drafts, strict=True)])


def review_prompt(item: Item, draft: str) -> list[dict[str, str]]:
    """Return the messages that ask the teacher for a review of a draft."""
    task = item.context.rstrip()
    return [message("system", REVIEW_SYSTEM), message("user", REVIEW_USER.format(task=task, draft=draft))]


def refine_prompt(item: Item, draft: str, told: str) -> list[dict[str, str]]:
    """Return the messages that tell the student something about its draft."""
    return [message("user", item.context), message("assistant", draft), message("user", told)]


def main(argv: list[str] | None = None) -> int:
    """Print the shares as a table and, with `--json`, write them to a file.

    Second looks are scored if the student's `prompts.json` has a request for them.
    """
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
    look = trained_prompts(Path(options.student)).get("look_user", "")
    result = play(items, Player(options.student), Player(options.teacher), options.rounds, look)
    for name, values in result.items():
        print(f"{name:24}", "  ".join(f"{key} {value:g}" for key, value in values.items()))
    if options.json:
        record = {"questions": len(items), "scores": result}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

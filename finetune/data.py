"""Prompt+completion rows: read, checked, and tokenised exactly as a prompt is tokenised when the model is used."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

SHOWN = 10
IGNORED = -100


class DataError(ValueError):
    """Rows that cannot be trained on; the message lists them by line."""


@dataclass(frozen=True)
class Row:
    """A training row: `prompt` is text or chat messages, `completion` the reply to learn."""

    prompt: str | list[dict[str, str]]
    completion: str


def parse_row(value: Any) -> Row:
    """Check one row. Raises ValueError with the reason when it cannot be trained on.

    `prompt` is a string, or a list of messages with `role` and `content`; when its last message is the assistant's,
    that message is a reply begun, which the completion continues. `completion` is a string, or a list of one
    assistant message.
    """
    if not isinstance(value, dict):
        raise ValueError(f"a row is an object, not {type(value).__name__}")
    missing = [key for key in ("prompt", "completion") if value.get(key) in (None, "", [])]
    if missing:
        raise ValueError(f"no {' and no '.join(missing)}")
    prompt, completion = value["prompt"], value["completion"]
    if isinstance(completion, list):
        _check_messages(completion)
        if len(completion) != 1 or completion[0]["role"] != "assistant":
            raise ValueError("a completion in messages is exactly one assistant message")
        completion = completion[0]["content"]
    if not isinstance(completion, str) or not completion:
        raise ValueError("the completion is no text")
    if isinstance(prompt, list):
        _check_messages(prompt)
    elif not isinstance(prompt, str):
        raise ValueError("the prompt is neither text nor messages")
    return Row(prompt, completion)


def _check_messages(messages: list[Any]) -> None:
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise ValueError("every message needs `role` and `content`, both text")


def read_rows(path: str | Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number, parsed JSON) of every line that is not blank. Raises DataError for one that is no JSON."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number} is no JSON: {error}") from None


def encode(row: Row, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """Return `input_ids` and `labels` of a row; the loss is on the completion and the end-of-sequence token only.

    Prompt and completion are tokenised apart, because a model that replies sees its prompt tokenised alone.
    """
    if isinstance(row.prompt, str):
        prompt = list(tokenizer(row.prompt)["input_ids"])
    else:
        begun = row.prompt[-1]["role"] == "assistant"
        text = tokenizer.apply_chat_template(
            row.prompt, tokenize=False, add_generation_prompt=not begun, continue_final_message=begun
        )
        prompt = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    completion = [*tokenizer(row.completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}


def build_dataset(
    values: Iterable[tuple[int, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int, source: str
) -> Dataset:
    """Return the tokenised data set (`input_ids`, `labels`). Raises DataError naming the rows that do not fit.

    Nothing is dropped or cut: a row longer than `max_length` tokens is an error.
    """
    from datasets import Dataset

    problems: list[str] = []
    encoded: list[dict[str, list[int]]] = []
    for number, value in values:
        try:
            one = encode(parse_row(value), tokenizer)
            if len(one["input_ids"]) > max_length:
                raise ValueError(f"{len(one['input_ids'])} tokens, more than max_length {max_length}")
            encoded.append(one)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(
            f"{len(problems)} rows of {source} cannot be trained on; mend or remove them:\n"
            + "\n".join(f"  - {one}" for one in [*problems[:SHOWN], *more])
        )
    if not encoded:
        raise DataError(f"{source} holds no rows.")
    return Dataset.from_dict({key: [one[key] for one in encoded] for key in ("input_ids", "labels")})


class LengthGroupedSampler:
    """Row order in which the rows of a batch have similar lengths, while batches come in random order.

    Less padding than a plain shuffle; unlike transformers' `group_by_length`, which sorts the batches within a pool,
    short and long batches alternate at random, so that kinds of rows that differ in length are not learned in turns.
    `lengths` are in tokens; equal seeds and epochs give equal orders.
    """

    POOL = 25

    def __init__(self, lengths: list[int], batch_size: int, seed: int) -> None:
        """Prepare the order of epoch 0; `set_epoch` changes it."""
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Yield every row's index once."""
        rng = random.Random(f"{self.seed} {self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        size = self.batch_size * self.POOL
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            pool = sorted(order[start : start + size], key=self.lengths.__getitem__)
            batches += [pool[at : at + self.batch_size] for at in range(0, len(pool), self.batch_size)]
        # The one short batch, if any, goes last: anywhere else it would shift the rows of all later batches.
        short = [batch for batch in batches if len(batch) < self.batch_size]
        full = [batch for batch in batches if len(batch) == self.batch_size]
        rng.shuffle(full)
        for batch in full + short:
            yield from batch

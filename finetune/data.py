"""Prompt+completion rows: read, checked, and tokenised exactly as a prompt is tokenised when the model is used."""

from __future__ import annotations

import json
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
    """Yield (line number, parsed JSON) for every line that is not blank. Raises DataError for a line that is no JSON."""
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

"""Training rows: parsed, checked, and tokenised exactly as the model's prompts are tokenised at inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.terminal import clean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
Prompt: TypeAlias = "str | list[dict[str, str]]"


class DataError(ValueError):
    """Rows cannot be trained on. The message lists them by line."""

    def __init__(self, message: str) -> None:
        super().__init__(clean(message))


class BadRow(ValueError):
    """One row cannot be trained on. `kind` is the category under which the data report counts it."""

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind = kind
        super().__init__(detail or kind)


@dataclass(frozen=True)
class Text:
    """A row that is learned as a whole."""

    text: str


@dataclass(frozen=True)
class Dialogue:
    """Chat messages of which every assistant turn is learned."""

    messages: list[dict[str, str]]


@dataclass(frozen=True)
class PromptCompletion:
    """A prompt (text or chat messages) and the reply to learn."""

    prompt: Prompt
    completion: str


@dataclass(frozen=True)
class Preference:
    """Two replies to a prompt, the better (`chosen`) and the worse (`rejected`)."""

    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Encoded:
    """A tokenised row. `labels` are the ids, with IGNORED at positions that are not learned."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class EncodedPair:
    """A tokenised preference."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def parse(value: Any, args: TrainArgs, golden: bool = False) -> Text | Dialogue | PromptCompletion | Preference:
    """Parse one row of a data set into what the method learns from.

    Without `args.column`, the row's own columns decide: chosen and rejected, prompt and completion, messages, or text.
    Raises BadRow with the reason if the row cannot be trained on.

    value: the row, a mapping from columns to values.
    args: the run's settings.
    golden: whether to use the golden target whatever `args.targets` says. Default false.
    """
    if not isinstance(value, dict):
        raise BadRow("malformed", f"a row is an object, not {type(value).__name__}")
    if args.method in PREFERENCE_METHODS:
        return parse_pair(value)
    # With a teacher model and golden targets, rows only supply texts on which distributions are compared, in any form.
    by_target = args.prompt_column or args.targets == "teacher" or not args.teacher_model
    if args.method == "kd" and not args.column and by_target:
        target = args.golden_column if golden or args.targets == "golden" else args.teacher_column
        prompt = args.prompt_column or "prompt"
        return parse_row({"prompt": value.get(prompt), "completion": value.get(target)}, (prompt, target))
    if args.column and args.prompt_column:
        names = (args.prompt_column, args.column)
        return parse_row({"prompt": value.get(names[0]), "completion": value.get(names[1])}, names)
    if args.column:
        return _one_column(value, args.column)
    if "prompt" in value or "completion" in value:
        return parse_row(value)
    for name in ("messages", "text"):
        if name in value:
            return _one_column(value, name)
    raise BadRow(
        "malformed", f"no prompt and completion, no messages and no text among the columns {', '.join(map(str, value))}"
    )


def parse_row(value: Any, names: tuple[str, str] = ("prompt", "completion")) -> PromptCompletion:
    """Parse one row of prompt and completion. Raises BadRow with the reason if it cannot be trained on.

    `prompt` is a string, or a list of messages with `role` and `content`. If its last message is an assistant message,
    the completion continues that message. `completion` is a string, or a list of one assistant message.

    value: the row.
    names: the original names of the two columns, for error messages.
    """
    if not isinstance(value, dict):
        raise BadRow("malformed", f"a row is an object, not {type(value).__name__}")
    missing = [name for key, name in zip(("prompt", "completion"), names, strict=True) if _blank(value.get(key))]
    if missing:
        raise BadRow("empty", f"no {' and no '.join(missing)}")
    return PromptCompletion(_prompt(value["prompt"]), _reply(value["completion"], "completion"))


def parse_pair(value: dict[str, Any]) -> Preference:
    """Parse one preference row: `chosen` and `rejected` with a `prompt`, or two dialogues with a common beginning.

    Raises BadRow with the reason if it cannot be trained on.
    """
    missing = [key for key in ("chosen", "rejected") if _blank(value.get(key))]
    if missing:
        raise BadRow("empty", f"no {' and no '.join(missing)}")
    chosen, rejected, prompt = value["chosen"], value["rejected"], value.get("prompt")
    if isinstance(chosen, list) and isinstance(rejected, list) and len(chosen) > 1 and len(rejected) > 1:
        if chosen[:-1] != rejected[:-1]:
            raise BadRow("malformed", "chosen and rejected begin differently, so they have no common prompt")
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]
    if _blank(prompt):
        raise BadRow("empty", "no prompt")
    pair = Preference(_prompt(prompt), _reply(chosen, "chosen"), _reply(rejected, "rejected"))
    if pair.chosen == pair.rejected:
        raise BadRow("identical pair", "chosen and rejected are the same")
    return pair


def _one_column(value: dict[str, Any], column: str) -> Text | Dialogue:
    found = value.get(column)
    if column not in value:
        raise BadRow("malformed", f"no column {column}; the columns are {', '.join(map(str, value))}")
    if _blank(found):
        raise BadRow("empty", f"no {column}")
    if isinstance(found, str):
        return Text(found)
    messages = _messages(found)
    if not any(message["role"] == "assistant" and message["content"] for message in messages):
        raise BadRow("empty", f"{column}: no assistant turn to learn")
    return Dialogue(messages)


def _blank(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list):
        return _messages(prompt)
    raise BadRow("malformed", "the prompt is neither text nor messages")


def _reply(reply: Any, name: str) -> str:
    if isinstance(reply, list):
        messages = _messages(reply)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadRow("malformed", f"a list of messages under {name} must be exactly one assistant message")
        reply = messages[0]["content"]
    if not isinstance(reply, str):
        raise BadRow("malformed", f"the {name} is not text")
    if not reply.strip():
        raise BadRow("empty", f"no {name}")
    return reply


def _messages(messages: Any) -> list[dict[str, str]]:
    if not isinstance(messages, list):
        raise BadRow("malformed", f"{type(messages).__name__} is neither text nor messages")
    for message in messages:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise BadRow("malformed", "every message needs `role` and `content`, both text")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def encode(row: Text | Dialogue | PromptCompletion, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Tokenise a row and add the end-of-sequence token. Only what is learned has labels.

    Prompt and reply are tokenised separately, because at inference the model sees a prompt that was tokenised alone.
    Raises BadRow for messages that the tokenizer's chat template cannot render.
    """
    if isinstance(row, Text):
        ids = list(tokenizer(row.text)["input_ids"])
        if not ids or ids[-1] != tokenizer.eos_token_id:
            ids.append(tokenizer.eos_token_id)
        return Encoded(ids, ids)
    if isinstance(row, Dialogue):
        return _encode_dialogue(row.messages, tokenizer)
    prompt, completion = _prompt_ids(row.prompt, tokenizer), _reply_ids(row.completion, tokenizer)
    return Encoded(prompt + completion, [IGNORED] * len(prompt) + completion)


def encode_pair(pair: Preference, tokenizer: PreTrainedTokenizerBase) -> EncodedPair:
    """Tokenise a preference and add the end-of-sequence token to each reply."""
    chosen, rejected = _reply_ids(pair.chosen, tokenizer), _reply_ids(pair.rejected, tokenizer)
    return EncodedPair(_prompt_ids(pair.prompt, tokenizer), chosen, rejected)


def _prompt_ids(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        # Some tokenizers append an end-of-sequence token to every text; the reply must not follow it.
        return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids
    begun = prompt[-1]["role"] == "assistant"
    text = _render(prompt, tokenizer, add_generation_prompt=not begun, continue_final_message=begun)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _reply_ids(reply: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _encode_dialogue(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Encoded:
    ids: list[int] = []
    labels: list[int] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # Rendering ever longer beginnings shows which part of the text belongs to which turn. This works only if the
        # template renders a beginning the same way however the dialogue continues.
        before = _render(messages[:index], tokenizer, add_generation_prompt=True) if index else done
        after = _render(messages[: index + 1], tokenizer, add_generation_prompt=False)
        if not (before.startswith(done) and after.startswith(before)):
            raise BadRow(
                "malformed",
                "the chat template renders the beginning of a dialogue differently once it continues, so the turns "
                "cannot be told apart; provide the last turn as prompt and completion",
            )
        for text, learned in ((before[len(done) :], False), (after[len(before) :], True)):
            piece = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            ids += piece
            labels += piece if learned else [IGNORED] * len(piece)
        done = after
    return Encoded(ids, labels)


def _render(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (ValueError, TemplateError) as error:
        # transformers explains the problem in several sentences, of which the first names the cause.
        raise BadRow("malformed", f"the chat template cannot render it: {str(error).split('. ')[0]}") from None

"""Training rows: what they contain, how they are parsed and checked, and what they become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from harness_ext.finetune.args import PREFERENCE_METHODS, TrainArgs
from harness_ext.finetune.decision_rows import DecisionRow, is_decision, parse_decision
from harness_ext.terminal import clean

IGNORED = -100
# Columns that are false where a text was cut off, so that its end must not be learned as one. `enhance` writes them.
FINISHED = "finished"
FINISHED_PAIR = ("chosen_finished", "rejected_finished")
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
    """A row that is learned as a whole. After one that is not `finished`, no end is learned."""

    text: str
    finished: bool = True


@dataclass(frozen=True)
class Dialogue:
    """Chat messages of which every assistant turn is learned; if not `finished`, without the end of the last."""

    messages: list[dict[str, str]]
    finished: bool = True


@dataclass(frozen=True)
class PromptCompletion:
    """A prompt (text or chat messages) and the reply to learn; after one that is not `finished`, no end is learned."""

    prompt: Prompt
    completion: str
    finished: bool = True


@dataclass(frozen=True)
class Preference:
    """Two replies to a prompt, the better (`chosen`) and the worse (`rejected`)."""

    prompt: Prompt
    chosen: str
    rejected: str
    chosen_finished: bool = True
    rejected_finished: bool = True


Row: TypeAlias = "Text | Dialogue | PromptCompletion | DecisionRow"


@dataclass(frozen=True)
class Encoded:
    """A tokenised row. `labels` are the ids, with IGNORED at positions that are not learned.

    In a `decision`, only the label of the answer is learned, and no stop token, since nothing is ever written after it.
    """

    input_ids: list[int]
    labels: list[int]
    decision: bool = False


@dataclass(frozen=True)
class EncodedPair:
    """A tokenised preference."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


def parse(value: Any, args: TrainArgs, golden: bool = False) -> Row | Preference:
    """Parse one row of a data set into what the method learns from.

    Without `args.column`, the row's own columns decide: chosen and rejected, prompt and completion, messages, text, or
    state, question and answer. A reply whose column `finished` is false is learned without an end after it; golden
    targets are always finished.
    Raises BadRow with the reason if the row cannot be trained on.

    value: the row, a mapping from columns to values.
    args: the run's settings.
    golden: whether to use the golden target whatever `args.targets` says. Default false.
    """
    if not isinstance(value, dict):
        raise BadRow("malformed", f"a row is an object, not {type(value).__name__}")
    if args.method in PREFERENCE_METHODS:
        chosen, rejected = (value.get(name) is not False for name in FINISHED_PAIR)
        return replace(parse_pair(value), chosen_finished=chosen, rejected_finished=rejected)
    row = _parse(value, args, golden)
    is_golden = by_target(args) and target_column(args, golden) == args.golden_column
    if value.get(FINISHED) is not False or is_golden or isinstance(row, DecisionRow):
        return row
    return replace(row, finished=False)


def _parse(value: dict[str, Any], args: TrainArgs, golden: bool) -> Row:
    if by_target(args):
        names = args.prompt_column or "prompt", target_column(args, golden)
        return parse_row({"prompt": value.get(names[0]), "completion": value.get(names[1])}, names)
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
    if is_decision(value):
        try:
            return parse_decision(value)
        except ValueError as error:
            raise BadRow("malformed", str(error)) from None
    raise BadRow(
        "malformed",
        "no prompt and completion, no messages, no text and no state, question and answer among the columns "
        + ", ".join(map(str, value)),
    )


def by_target(args: TrainArgs) -> bool:
    """Return whether `kd` learns the column of golden targets or the teacher's.

    With a teacher model and golden targets, rows only supply texts on which distributions are compared, in any form.
    """
    chosen = args.prompt_column or args.targets == "teacher" or not args.teacher_model
    return args.method == "kd" and not args.column and bool(chosen)


def target_column(args: TrainArgs, golden: bool = False) -> str:
    """Return the column that `kd` learns.

    args: the run's settings.
    golden: whether to use the golden target whatever `args.targets` says. Default false.
    """
    return args.golden_column if golden or args.targets == "golden" else args.teacher_column


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
    raise BadRow("malformed", f"the prompt is neither text nor messages but {type(prompt).__name__}")


def _reply(reply: Any, name: str) -> str:
    if isinstance(reply, list):
        messages = _messages(reply)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            raise BadRow("malformed", f"a list of messages under {name} must be exactly one assistant message")
        reply = messages[0]["content"]
    if not isinstance(reply, str):
        raise BadRow("malformed", f"the {name} is not text but {type(reply).__name__}")
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

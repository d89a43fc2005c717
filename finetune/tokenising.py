"""Training rows, tokenised exactly as the model's prompts are tokenised at inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from harness_ext.finetune.decision_rows import DecisionRow, decision_tokens
from harness_ext.finetune.encoding import (
    IGNORED,
    BadRow,
    Dialogue,
    Encoded,
    EncodedPair,
    Preference,
    Prompt,
    PromptCompletion,
    Row,
    Text,
)
from harness_ext.finetune.stop_tokens import turn_marks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Plan:
    """How a row is tokenised: its texts, whether each gets special tokens, and what their tokens become."""

    texts: Sequence[tuple[str, bool]]
    assemble: Callable[[list[list[int]]], Encoded | EncodedPair]


def encode(row: Row, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """Tokenise a row and add the end-of-sequence token, unless it is a decision or not finished.

    Only what is learned has labels.

    Prompt and reply are tokenised separately, because at inference the model sees a prompt that was tokenised alone.
    Raises BadRow for messages that the tokenizer's chat template cannot render, and for text that is not Unicode.
    """
    (one,) = encode_all([row], tokenizer)
    if isinstance(one, BadRow):
        raise one
    assert isinstance(one, Encoded)
    return one


def encode_pair(pair: Preference, tokenizer: PreTrainedTokenizerBase) -> EncodedPair:
    """Tokenise a preference and end each finished reply with the end-of-sequence token. Raises BadRow as `encode`."""
    (one,) = encode_all([pair], tokenizer)
    if isinstance(one, BadRow):
        raise one
    assert isinstance(one, EncodedPair)
    return one


def encode_all(
    rows: Sequence[Row | Preference | BadRow], tokenizer: PreTrainedTokenizerBase
) -> list[Encoded | EncodedPair | BadRow]:
    """Tokenise rows as `encode` and `encode_pair` do, but with one or two calls of the tokenizer for all of them.

    Returns a BadRow for each row that cannot be tokenised, and those among `rows` as they are.
    """
    marks = turn_marks(tokenizer) if any(isinstance(row, Dialogue) for row in rows) else frozenset()
    eos = tokenizer.eos_token_id
    plans = [row if isinstance(row, BadRow) else _plan(row, tokenizer, eos, marks) for row in rows]
    texts = [text for plan in plans if isinstance(plan, _Plan) for text in plan.texts]
    ids: list[list[int]] = [[] for _ in texts]
    for special in (True, False):
        chosen = [at for at, (_, wanted) in enumerate(texts) if wanted == special]
        found = _tokenise([texts[at][0] for at in chosen], special, tokenizer)
        for at, one in zip(chosen, found, strict=True):
            ids[at] = one
    rest = iter(ids)
    return [plan if isinstance(plan, BadRow) else plan.assemble([next(rest) for _ in plan.texts]) for plan in plans]


def _tokenise(texts: list[str], special: bool, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    # Some tokenizers fail on an empty list.
    if not texts:
        return []
    found = tokenizer(
        texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return list(found["input_ids"])


def _plan(row: Row | Preference, tokenizer: PreTrainedTokenizerBase, eos: int, marks: frozenset[int]) -> _Plan | BadRow:
    try:
        plan = _dialogue_plan(row, tokenizer, marks) if isinstance(row, Dialogue) else _plan_of(row, tokenizer, eos)
        for text, _ in plan.texts:
            text.encode()
    except BadRow as error:
        return error
    except UnicodeEncodeError:
        return BadRow("malformed", "a text contains half of a surrogate pair, which is not Unicode")
    return plan


def _plan_of(
    row: Text | PromptCompletion | DecisionRow | Preference, tokenizer: PreTrainedTokenizerBase, eos: int
) -> _Plan:
    if isinstance(row, Text):

        def whole(ids: list[list[int]]) -> Encoded:
            text = [*(ids[0][:-1] if ids[0] and ids[0][-1] == eos else ids[0]), *_end(row.finished, eos)]
            return Encoded(text, text)

        return _Plan(((row.text, True),), whole)
    if isinstance(row, DecisionRow):
        decision = _encode_decision(row, tokenizer)
        return _Plan((), lambda _: decision)
    prompt, opened = _prompt_text(row.prompt, tokenizer), isinstance(row.prompt, str)
    if isinstance(row, Preference):

        def pair(ids: list[list[int]]) -> EncodedPair:
            begin = _opened(ids[0], eos) if opened else ids[0]
            chosen, rejected = _end(row.chosen_finished, eos), _end(row.rejected_finished, eos)
            return EncodedPair(begin, [*ids[1], *chosen], [*ids[2], *rejected])

        return _Plan(((prompt, opened), (row.chosen, False), (row.rejected, False)), pair)

    def answered(ids: list[list[int]]) -> Encoded:
        begin, reply = _opened(ids[0], eos) if opened else ids[0], [*ids[1], *_end(row.finished, eos)]
        return Encoded(begin + reply, [IGNORED] * len(begin) + reply)

    return _Plan(((prompt, opened), (row.completion, False)), answered)


def _end(finished: bool, eos: int) -> list[int]:
    # A text that was cut off does not end where it was cut.
    return [eos] if finished else []


def _opened(ids: list[int], eos: int) -> list[int]:
    # Some tokenizers append an end-of-sequence token to every text; the reply must not follow it.
    return ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids


def _prompt_text(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> str:
    if isinstance(prompt, str):
        return prompt
    begun = prompt[-1]["role"] == "assistant"
    return _render(prompt, tokenizer, add_generation_prompt=not begun, continue_final_message=begun)


def _encode_decision(row: DecisionRow, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    try:
        found = decision_tokens(row, tokenizer)
    except ValueError as error:
        raise BadRow("malformed", str(error)) from None
    label = found.labels[found.answer]
    return Encoded([*found.prompt, label], [IGNORED] * len(found.prompt) + [label], decision=True)


def _dialogue_plan(row: Dialogue, tokenizer: PreTrainedTokenizerBase, marks: frozenset[int]) -> _Plan:
    messages = row.messages
    texts: list[tuple[str, bool]] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        # Rendering ever longer beginnings shows which part of the text belongs to which turn. This works only if the
        # template renders a beginning the same way however the dialogue continues.
        before = _render(messages[:index], tokenizer, add_generation_prompt=True) if index else done
        cut = not row.finished and index == len(messages) - 1
        after = _render(messages[: index + 1], tokenizer, add_generation_prompt=False, continue_final_message=cut)
        if not (before.startswith(done) and after.startswith(before)):
            raise BadRow(
                "malformed",
                "the chat template renders the beginning of a dialogue differently once it continues, so the turns "
                "cannot be told apart; provide the last turn as prompt and completion",
            )
        texts += [(before[len(done) :], False), (after[len(before) :], False)]
        done = after

    def turns(ids: list[list[int]]) -> Encoded:
        labels: list[int] = []
        for at, piece in enumerate(ids):
            end = _turn_end(piece, tokenizer, marks) if at % 2 else 0
            labels += piece[:end] + [IGNORED] * (len(piece) - end)
        return Encoded(list(chain.from_iterable(ids)), labels)

    return _Plan(texts, turns)


def _turn_end(turn: list[int], tokenizer: PreTrainedTokenizerBase, marks: frozenset[int]) -> int:
    """Return how many tokens of an assistant turn are learned: all up to its end-of-turn token.

    Many templates put a line break after that token. In use, generation has stopped there, so a model that learns the
    line break learns something that it is never asked for.
    """
    end = max((at + 1 for at, token in enumerate(turn) if token in marks), default=len(turn))
    return len(turn) if end < len(turn) and tokenizer.decode(turn[end:]).strip() else end


def _render(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, **options: bool) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (ValueError, TemplateError) as error:
        # transformers explains the problem in several sentences, of which the first names the cause.
        raise BadRow("malformed", f"the chat template cannot render it: {str(error).split('. ')[0]}") from None

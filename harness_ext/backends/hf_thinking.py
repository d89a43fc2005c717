"""How much a local model thinks: the arguments of its chat template, and how many tokens a thought has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from harness_ext.backends.base import GenerateRequest
from harness_ext.backends.thinking import SWITCHES, Effort, Switch, switched
from harness_ext.options import convert
from harness_ext.reading.thoughts import split_thought
from harness_ext.records import CallResult, Completion

# Arguments of a seat that are none of `HFLM`.
NAMES = frozenset({"thinking", "reasoning_effort", "thinking_tokens"})


def template_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a chat template that a seat's own arguments stand for.

    args: the seat's arguments. lm-eval reads some values of them as True, False and None.

    Raises ValueError with cause and remedy.
    """
    if args.get("thinking_tokens") is not None:
        raise ValueError(
            "`thinking_tokens` needs a server that ends thoughts (vLLM, SGLang, llama.cpp): use `serve:<model>`, or "
            "limit whole replies (`gen.max_gen_toks`)"
        )
    effort = args.get("reasoning_effort", "auto")
    try:
        switch = convert(args.get("thinking", "auto"), Switch)
        level = convert("none" if effort is None else effort, Effort)
    except ValueError as error:
        raise ValueError(f"`thinking` or `reasoning_effort`: expected {error}") from None
    return {
        **({} if switch == "auto" else switched(switch == "on")),
        **({} if level == "auto" else {"reasoning_effort": level}),
    }


def check_template(name: str, render: Callable[[Mapping[str, Any]], str], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if a chat template does not read its arguments: other values give the same text.

    name: the model's name in messages.
    render: renders a conversation with these arguments.
    arguments: the arguments.
    """
    others: dict[str, dict[str, Any]] = {}
    if SWITCHES[0] in arguments:
        others["thinking"] = {**arguments, **switched(not arguments[SWITCHES[0]])}
    if (level := arguments.get("reasoning_effort")) is not None:
        others["reasoning_effort"] = {**arguments, "reasoning_effort": "low" if level != "low" else "high"}
    if unknown := [option for option, other in others.items() if render(other) == render(arguments)]:
        raise ValueError(
            f"the chat template of {name} does not know {' and '.join(f'`{option}`' for option in unknown)}: leave "
            "that out, or give the template's own arguments (`chat_template_args`)"
        )


def with_thinking_tokens(lm: Any, request: GenerateRequest, result: CallResult) -> CallResult:
    """Return a reply with the number of tokens of its thought, if it has one.

    lm: the `HFLM`.
    request: the request.
    result: the reply.
    """
    if not isinstance(result, Completion) or request.thought_markers is None or result.completion_tokens is None:
        return result
    thought = split_thought(result.text, request.thought_markers).thought
    if not thought:
        return result
    count = len(lm.tok_encode(thought, add_special_tokens=False))
    return replace(result, thinking_tokens=min(count, result.completion_tokens))

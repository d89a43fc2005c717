"""How much a reasoning model thinks: the options for it, the fields that servers take, and whether they obeyed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers, split_thought
from harness_ext.records import Completion
from harness_ext.records.usage import tokens_of_thought

Effort = Literal["auto", "none", "minimal", "low", "medium", "high", "xhigh", "max"]
Switch = Literal["auto", "on", "off"]
# What chat templates call the switch: Qwen3 and most others, and DeepSeek V3 and Granite.
SWITCHES = ("enable_thinking", "thinking")
TEMPLATE = "chat_template_kwargs"
SLACK = 32  # tokens by which engines pass a budget until they have ended the thought


def switched(on: bool) -> dict[str, Any]:
    """Return the arguments of a chat template that switch thinking on or off; templates ignore unknown ones."""
    return dict.fromkeys(SWITCHES, on)


@dataclass(frozen=True)
class Thinking:
    """How much a served reasoning model is to think.

    effort: the level that is sent as `reasoning_effort`; `auto` leaves it to the server. Default `auto`.
    switch: whether the chat template is told to switch thinking on or off; `auto` tells it nothing. Default `auto`.
    tokens: the largest number of tokens of a thought. Default None: no limit of its own.
    """

    effort: Effort = "auto"
    switch: Switch = "auto"
    tokens: int | None = None

    @property
    def is_off(self) -> bool:
        """Return whether the model should not think at all."""
        return self.switch == "off" or self.effort == "none" or self.tokens == 0

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields of a request.

        There is no common name for a budget. Each server reads its own field and ignores those of others: vLLM
        `thinking_token_budget`, llama.cpp `thinking_budget_tokens`, SGLang `custom_params`.
        """
        fields: dict[str, Any] = {}
        if self.effort != "auto":
            fields["reasoning_effort"] = self.effort
        if self.switch != "auto":
            fields[TEMPLATE] = switched(self.switch == "on")
        if self.tokens is not None:
            fields |= {"thinking_token_budget": self.tokens, "thinking_budget_tokens": self.tokens}
            fields["custom_params"] = {"thinking_budget": self.tokens}
        return fields

    def identity(self) -> dict[str, Any]:
        """Return what of this belongs to the fingerprint of the model; nothing if nothing is set."""
        named = {"reasoning_effort": self.effort, "thinking": self.switch, "thinking_tokens": self.tokens}
        return {name: value for name, value in named.items() if value not in ("auto", None)}

    def refused_by(self, status: int, text: str) -> bool:
        """Return whether a refusal is about one of the fields.

        status: the HTTP status.
        text: what the server said.
        """
        names = [*self.fields, *(SWITCHES if self.switch != "auto" else ())]
        return status in (400, 422) and any(re.search(rf"\b{name}\b", text) for name in names)

    def note(self, reply: Completion, markers: Markers | None) -> str:
        """Return how a reply shows that the server did not do what it was told; empty if it does not.

        reply: the reply.
        markers: the marks around a thought that is a part of the text.
        """
        thought = reply.thought or split_thought(reply.text, markers or DEFAULT_MARKERS).thought
        thinks = bool(thought.strip()) or bool(reply.thinking_tokens)
        if self.is_off:
            return "thinking_not_off" if thinks else ""
        if self.switch == "on" and not thinks:
            return "no_thought"
        if self.tokens is not None and (tokens_of_thought(reply) or 0) > self.tokens + SLACK:
            return "thinking_over_budget"
        return ""


def thinking_tokens(usage: Mapping[str, Any]) -> int | None:
    """Return how many tokens of a reply were a thought, from the usage that a server reports; None if it does not."""
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    found = details.get("reasoning_tokens") if isinstance(details, Mapping) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None

"""lm-eval's own API models (`local-completions`, `local-chat-completions`, `openai-chat-completions`, …) on seats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from harness_ext.backends.base import Capability, Deliver, GenerateRequest, Prompt
from harness_ext.backends.registered import LMBackend
from harness_ext.backends.registered_calls import WireChat
from harness_ext.backends.settings import effective_settings
from harness_ext.errors import CallFailed
from harness_ext.records import Message


class LMAPIBackend(LMBackend):
    """A seat backed by a subclass of lm-eval's `TemplateAPI`.

    lm-eval sends the same seed with every draw; here each draw sends its own.

    name, device, fingerprint: as in `Backend`.
    make: returns the model.
    takes_messages: whether the model sends messages to a chat server.
    """

    def __init__(self, name: str, device: str, fingerprint: str, make: Any, takes_messages: bool) -> None:
        super().__init__(name, device, fingerprint, make)
        self.takes_messages = takes_messages
        able: set[Capability] = {"generate", "seeds"} if takes_messages else {"generate", "seeds", "continue", "score"}
        self.capabilities = frozenset(able)

    def prepare(self) -> None:
        super().prepare()
        self.token_counts = "none" if self.lm.tokenizer is None else "estimated"

    @property
    def chat_default(self) -> bool:
        if self.takes_messages:
            return True
        renders = self.lm.tokenizer_backend == "huggingface" and self.lm.tokenized_requests
        return renders and getattr(self.lm.tokenizer, "chat_template", None) is not None

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        if self.takes_messages and messages[-1].role == "assistant":
            raise CallFailed(
                "backend",
                f"{self.name} cannot continue a reply that the task begins (`gen_prefix`): use an `openai:` model",
            )
        prompt = super().render_chat(messages)
        return replace(prompt, text=WireChat(prompt.text)) if self.takes_messages else prompt

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        def seeded(request: GenerateRequest) -> GenerateRequest:
            sampled = effective_settings(request.gen_kwargs, self.default_max_gen_toks).get("do_sample")
            return replace(request, gen_kwargs={**request.gen_kwargs, "seed": request.seed}) if sampled else request

        super().generate([seeded(request) for request in requests], deliver)

"""A backend that answers from a function: for tests of protocols, and for the engine's own benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, ScoreRequest
from harness_ext.chat import plain_form
from harness_ext.records import Completion, Message

Reply = Callable[[str], "str | Completion"]


class ScriptedBackend(Backend):
    """Answers every prompt with `reply(prompt)`; an exception that `reply` raises fails the whole call, as a model's
    would. Tokens are words.

    `calls` holds every batch sent, so a test can count them; `score_reply(prompt, continuation)` gives
    log-probabilities; `lane` puts several scripted models on one device.
    """

    capabilities = frozenset({"generate", "continue", "score"})
    token_counts = "exact"
    parameters = 1_000

    def __init__(
        self,
        reply: Reply,
        *,
        name: str = "scripted",
        lane: str | None = None,
        score_reply: Callable[[str, str], float] | None = None,
    ) -> None:
        super().__init__()
        self.reply = reply
        self.score_reply = score_reply
        self.name = name
        self.lane = lane or name
        self.fingerprint = f"scripted:{name}"
        self.calls: list[list[str]] = []
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        return Prompt(plain_form(messages))

    @property
    def chat_default(self) -> bool:
        return True

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        self.calls.append([r.prompt for r in requests])
        for i, request in enumerate(requests):
            text = self.reply(request.prompt)
            if isinstance(text, Completion):
                deliver(i, text)
                continue
            deliver(i, Completion(text, "stop", len(request.prompt.split()), 0, len(text.split())))

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        self.calls.append([r.prompt for r in requests])
        for i, request in enumerate(requests):
            value = self.score_reply(request.prompt, request.continuation) if self.score_reply else -1.0
            deliver(i, Completion("", None, len(request.prompt.split()), 0, 0, logprob=value, greedy=False))

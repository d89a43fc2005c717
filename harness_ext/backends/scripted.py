"""A backend that answers with a function, for tests of protocols and benchmarks of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, ScoreRequest
from harness_ext.records import Completion, Loglikelihood, Message
from harness_ext.records.chat import plain_form

ScriptedReply = Callable[[str], "str | Completion"]


class ScriptedBackend(Backend):
    """Answers every prompt with `reply(prompt)`. Tokens are words.

    An exception raised by `reply` fails the whole batch, as a model's would. The attribute `calls` has the prompts of
    every batch, so that a test can count them.

    reply: returns the reply to a prompt, as text or as a completion.
    name: the model's name. Default `scripted`.
    device: the device. Scripted models on one device take turns. Default: the name.
    score_reply: returns the log-probability of a continuation after a prompt. Default None: it is always -1.
    """

    capabilities = frozenset({"generate", "continue", "score"})
    token_counts = "exact"
    parameters = 1_000

    def __init__(
        self,
        reply: ScriptedReply,
        *,
        name: str = "scripted",
        device: str | None = None,
        score_reply: Callable[[str, str], float] | None = None,
    ) -> None:
        super().__init__()
        self.reply = reply
        self.score_reply = score_reply
        self.name = name
        self.device = device or name
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
            deliver(
                i,
                Completion(
                    text,
                    "stop",
                    prompt_tokens=len(request.prompt.split()),
                    cached_tokens=0,
                    completion_tokens=len(text.split()),
                ),
            )

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        self.calls.append([r.prompt for r in requests])
        for i, request in enumerate(requests):
            value = self.score_reply(request.prompt, request.continuation) if self.score_reply else -1.0
            deliver(
                i,
                Loglikelihood(
                    value, prompt_tokens=len(request.prompt.split()), cached_tokens=0, completion_tokens=0, greedy=False
                ),
            )

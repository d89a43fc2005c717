"""A backend that answers with a function, for tests of protocols and benchmarks of the engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness_ext.backends.base import Backend, DecideRequest, Deliver, GenerateRequest, Prompt, ScoreRequest
from harness_ext.records import Completion, Decision, Loglikelihood, Message
from harness_ext.records.chat import plain_form

ScriptedReply = Callable[[str], "str | Completion"]
DecideReply = Callable[[DecideRequest], "Sequence[float] | Decision"]


class ScriptedBackend(Backend):
    """Answers every prompt with `reply(prompt)`. Tokens are words.

    An exception raised by `reply` fails the whole batch, as a model's would. The attribute `calls` has the prompts of
    every batch, so that a test can count them.

    reply: returns the reply to a prompt, as text or as a completion.
    name: the model's name. Default `scripted`.
    device: the device. Scripted models on one device take turns. Default: the name.
    score_reply: returns the log-probability of a continuation after a prompt. Default None: it cannot score.
    decide_reply: returns the probability of each option, or the whole decision. Default None: it cannot decide.
    """

    capabilities = frozenset({"generate", "continue"})
    token_counts = "exact"
    parameters = 1_000

    def __init__(
        self,
        reply: ScriptedReply,
        *,
        name: str = "scripted",
        device: str | None = None,
        score_reply: Callable[[str, str], float] | None = None,
        decide_reply: DecideReply | None = None,
    ) -> None:
        super().__init__()
        self.reply = reply
        self.score_reply = score_reply
        self.decide_reply = decide_reply
        if score_reply is not None:
            self.capabilities |= {"score"}
        if decide_reply is not None:
            self.decision_sources = ("logprobs",)
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
            assert self.score_reply is not None
            value = self.score_reply(request.prompt, request.continuation)
            deliver(
                i,
                Loglikelihood(
                    value, prompt_tokens=len(request.prompt.split()), cached_tokens=0, completion_tokens=0, greedy=False
                ),
            )

    def decide(self, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
        self.calls.append([r.prompt for r in requests])
        assert self.decide_reply is not None
        for i, request in enumerate(requests):
            made = self.decide_reply(request)
            if not isinstance(made, Decision):
                shares, options = tuple(made), request.options
                read = len(request.prompt.split())
                made = Decision.likeliest(
                    options,
                    shares,
                    "logprobs",
                    label_mass=1.0,
                    prompt_tokens=read,
                    cached_tokens=0,
                    completion_tokens=0,
                )
            deliver(i, made)

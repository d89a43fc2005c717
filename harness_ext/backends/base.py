"""What a seat's model is to the engine: something that renders conversations and answers batches of requests."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness_ext.chat import PLAIN_STOP, ChatContext, plain_form
from harness_ext.errors import CallFailed
from harness_ext.images import Image
from harness_ext.records import Completion, Message

Capability = Literal[
    "generate", "continue", "score", "verify", "distribution", "reward", "seeds", "images", "diverse_beams"
]
ChatMode = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt. `lead` is what parts it from a reply's first word, `stops` are stop texts its form needs,
    `notes` what rendering did to the messages."""

    text: str
    lead: str = ""
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue `prompt` under lm-eval's generation settings (`until`, `max_gen_toks`, `do_sample`, …).

    `seed` is for backends that take one a request: each draw of a prompt has its own, the same draw always the same.
    `reply` are the token ids of a reply that is begun already (for backends with `tokens`): it is continued without a
    seam, stop texts and length hold for the whole of it, and the completion's text is what is new. `only` ends it
    after the first step that is new (`"step"`), or after so many new tokens. `keep_ids` asks for the token ids. The
    n-th of `images` belongs where the n-th `<image>` of the prompt's messages stands.
    """

    prompt: str
    gen_kwargs: Mapping[str, Any]
    reply: tuple[int, ...] | None = None
    only: Literal["step"] | int | None = None
    keep_ids: bool = False
    seed: int = 0
    images: tuple[Image, ...] = ()


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Score `continuation` given `prompt`: natural log-probability, and whether greedy decoding would write it.

    With `rolling`, score `prompt` itself, all of it, in windows as long as the model reads.
    """

    prompt: str
    continuation: str
    rolling: bool = False


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """Say in one pass how likely each token of `draft` is after `prompt` and the tokens of `reply`: `Checks`.

    The distribution is the one that `gen_kwargs` would generate from, at the length they allow. Of the distribution
    after the draft, `uniforms` (numbers in [0, 1)) draw one token each, and `candidates` are tokens asked about.
    `ranks` is how many of the likeliest tokens matter to the asker.
    """

    prompt: str
    gen_kwargs: Mapping[str, Any]
    reply: tuple[int, ...]
    draft: tuple[int, ...]
    uniforms: tuple[float, ...] = ()
    candidates: tuple[int, ...] = ()
    ranks: int = 1


Request = GenerateRequest | ScoreRequest | VerifyRequest
Deliver = Callable[[int, Completion], None]


class Tokens(abc.ABC):
    """A backend's tokens, for those that take token ids. `vocabulary` is equal where token ids mean the same."""

    vocabulary: str

    @abc.abstractmethod
    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of (the beginning of) a reply."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a reply's first tokens."""

    @abc.abstractmethod
    def read(self, ids: Sequence[int], gen_kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        """Return a reply's text as generation under these settings would, cut at its stop texts, and whether the reply
        ends (an ending token, a stop text, the length) with or before the last of these tokens."""

    @abc.abstractmethod
    def limit(self, gen_kwargs: Mapping[str, Any]) -> int:
        """Return how many tokens a reply may have under these settings."""


class Backend(abc.ABC):
    """One model. Made cheaply (`__init__`), checked before anything loads, loaded on the first call it must answer.

    `name` is what records and messages call it, `lane` the device it occupies (backends of one lane take turns),
    `fingerprint` what tells its answers from any other model's, `capabilities` what protocols may ask of it,
    `token_counts` how far its counts can be trusted, `parameters` the number of weights, None if unknown, `remedy` what
    a user can do who needs more than its capabilities.
    """

    name: str
    lane: str
    fingerprint: str
    capabilities: frozenset[Capability]
    token_counts: Literal["exact", "estimated", "none"] = "none"
    parameters: int | None = None
    default_max_gen_toks: int = 256
    remedy: str = ""
    tokens: Tokens | None = None
    loaded: bool = False

    def __init__(self) -> None:
        # An interrupted run leaves a batch to end by itself; the next run on the same model waits for that.
        self.lock = threading.Lock()
        # Whether the run that called has ended: a long call may look, and raise RunAborted.
        self.cancelled: Callable[[], bool] = lambda: False

    def prepare(self) -> None:  # noqa: B027  (most backends have nothing to do here)
        """Do what rendering needs, once nothing is wrong with the run's arguments; a second call does nothing."""

    @abc.abstractmethod
    def load(self) -> None:
        """Load the weights; called once, in the lane's thread. Raises whatever the library raises."""

    @abc.abstractmethod
    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        """Answer generation requests as one call. `deliver(i, completion)` hands over the i-th as soon as it exists."""

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        """Answer scoring requests as one call, delivered likewise."""
        raise CallFailed("backend", f"{self.name} cannot score continuations")

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        """Answer verification requests as one call, delivered likewise."""
        raise CallFailed("backend", f"{self.name} cannot verify given tokens")

    def check(self, request: Request) -> CallFailed | None:
        """Say what is wrong with a request before it is sent: the failure it would be, or None."""
        return None

    @property
    def chat_default(self) -> bool:
        """Whether conversations are rendered with the model's own template when nobody says otherwise."""
        return False

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        """Render with the model's own template. A trailing assistant message is left open for the reply to continue.

        Raises CallFailed where the template cannot express the conversation.
        """
        raise CallFailed("backend", f"{self.name} has no chat template")

    def render(self, prompt: str | Sequence[Message], chat: ChatMode = "auto") -> Prompt:
        """Render a context or a conversation to the text the model continues.

        A plain context goes through unchanged, whatever `chat` says: it is the very string lm-eval would send.
        """
        if isinstance(prompt, ChatContext):
            prompt = prompt.messages
        elif isinstance(prompt, str):
            return Prompt(prompt)
        if chat == "on" or (chat == "auto" and self.chat_default):
            return self.render_chat(prompt)
        return Prompt(plain_form(prompt), lead=" ", stops=(PLAIN_STOP,))

    def info(self) -> dict[str, Any]:
        """Return what a run directory records about the model, as JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "lane": self.lane,
            "token_counts": self.token_counts,
            "parameters": self.parameters,
        }

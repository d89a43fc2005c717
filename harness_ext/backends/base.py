"""The interface between the engine and a model: it renders conversations and answers batches of requests."""

from __future__ import annotations

import abc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from harness_ext.backends.meter import Meter
from harness_ext.decisions import TypedQuestion
from harness_ext.errors import CallFailed, FailureCode
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers
from harness_ext.records import CallResult, Message, Source
from harness_ext.records.chat import PLAIN_STOPS, ChatContext, plain_form
from harness_ext.records.images import Image

Capability = Literal[
    "generate", "continue", "score", "decide", "verify", "distribution", "reward", "seeds", "images", "diverse_beams"
]
ChatMode = Literal["auto", "on", "off"]

# The code of the failure of a decision that a model has no way to make, so that its reply is read instead.
CANNOT_DECIDE: FailureCode = "cannot_decide"
# Stands for the log-probability of what is impossible, since JSON has no infinities.
LEAST_LOGPROB = -1000.0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    text: the text that the model continues.
    lead: what separates the prompt from the first word of a reply. Default: nothing.
    stops: stop sequences that the prompt's format needs. Default: none.
    notes: what rendering did to the messages (`system_merged`, …). Default: none.
    """

    text: str
    lead: str = ""
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyRequest:
    """What all kinds of requests have in common.

    affinity: names what the request is about. Requests with the same name begin alike, so that a pool of servers sends
        them to the same one, whose prompt cache then helps. Default: nothing.
    """

    affinity: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class GenerateRequest(AnyRequest):
    """A request to continue a prompt.

    prompt: the rendered prompt.
    gen_kwargs: lm-eval's generation settings (`until`, `max_gen_toks`, `do_sample`, …).
    reply: the token ids of a partial reply to be continued, for backends with `tokens`. Stop sequences and the length
        limit apply to the whole reply; the completion's text is only what is new. Default None: a new reply.
    only: ends the reply after its first new step (`"step"`) or after this many new tokens. Default None: neither.
    confidence: ends the continuation of a reply after a token to which the model gave a lower probability, on backends
        with `tokens`. Default 0: nowhere.
    keep_ids: whether the completion includes its token ids. Default False.
    seed: the random seed, for backends that accept one per request. Each draw of a prompt has its own, and always the
        same one. Default 0.
    images: the images, in the order of the `<image>` marks in the prompt's messages. Default: none.
    thought_markers: pairs of marks that begin and end a thought. Stop sequences apply to the answer after it. Default:
        the usual ones; None if stop sequences apply to the whole text.
    """

    prompt: str
    gen_kwargs: Mapping[str, Any]
    reply: tuple[int, ...] | None = None
    only: Literal["step"] | int | None = None
    confidence: float = 0.0
    keep_ids: bool = False
    seed: int = 0
    images: tuple[Image, ...] = ()
    thought_markers: Markers | None = DEFAULT_MARKERS


@dataclass(frozen=True, slots=True)
class ScoreRequest(AnyRequest):
    """A request for the natural log-probability of a text, and for whether greedy decoding would produce it.

    prompt: the rendered prompt.
    continuation: the text to score after the prompt.
    rolling: whether to score the whole of `prompt` instead, in windows of the model's context length. Default False.
    """

    prompt: str
    continuation: str
    rolling: bool = False


@dataclass(frozen=True, slots=True)
class VerifyRequest(AnyRequest):
    """A request for how likely the tokens of a draft are, from one forward pass (`Verification`).

    prompt: the rendered prompt.
    gen_kwargs: lm-eval's generation settings. The distributions are those that generation under them would draw from.
    reply: the token ids of the partial reply before the draft.
    draft: the token ids to verify.
    uniforms: numbers in [0, 1), each of which draws one token from the distribution after the draft. Default: none.
    candidates: token ids whose log-probability after the draft is wanted. Default: none.
    ranks: how many of the likeliest tokens the caller looks at. Default 1.
    certainty: whether the draft's self-certainty is wanted, for which a model must know whole distributions. Default
        False.
    """

    prompt: str
    gen_kwargs: Mapping[str, Any]
    reply: tuple[int, ...]
    draft: tuple[int, ...]
    uniforms: tuple[float, ...] = ()
    candidates: tuple[int, ...] = ()
    ranks: int = 1
    certainty: bool = False


@dataclass(frozen=True, slots=True)
class DecideRequest(AnyRequest):
    """A request to decide between options (`Decision`).

    prompt: the rendered prompt, after which the model would write a label.
    options: the options.
    labels: what the model would write for each option, or the beginning of it.
    sources: the sources that may answer, in the order in which they are tried. Default: the probabilities of the first
        token.
    question: the typed question that the prompt asks about `state`. Default None: the prompt is the protocol's own, and
        no decisions endpoint can answer it.
    state: what the question is about. Default: nothing.
    draws: how often a forced choice is drawn, so that its probabilities are frequencies. Default 0: it is made once,
        greedily, and has no probabilities.
    images: the images, in the order of the `<image>` marks in the prompt's messages. Default: none.
    """

    prompt: str
    options: tuple[str, ...]
    labels: tuple[str, ...]
    sources: tuple[Source, ...] = ("logprobs",)
    question: TypedQuestion | None = None
    state: str = ""
    draws: int = 0
    images: tuple[Image, ...] = ()


Request = GenerateRequest | ScoreRequest | VerifyRequest | DecideRequest
Deliver = Callable[[int, CallResult], None]


class Tokens(abc.ABC):
    """The tokenizer of a backend that accepts token ids.

    vocabulary: identifies the vocabulary; equal for backends whose token ids mean the same.
    """

    vocabulary: str

    @abc.abstractmethod
    def encode(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a reply, or of its beginning."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a reply's first tokens."""

    @abc.abstractmethod
    def read(self, ids: Sequence[int], gen_kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        """Return a reply's text as generation under these settings would, and whether the reply has ended.

        The text is cut at the first stop sequence. The reply has ended if these tokens contain an end token or a stop
        sequence, or reach the length limit.
        """

    @abc.abstractmethod
    def limit(self, gen_kwargs: Mapping[str, Any]) -> int:
        """Return how many tokens a reply may have under these settings."""


class Backend(abc.ABC):
    """One model. It is cheap to construct, and loads its weights when it must answer its first call.

    name: the model's name in records and messages.
    device: the device that it occupies. Backends on one device take turns.
    fingerprint: identifies the model in store keys; different for models that may answer differently.
    capabilities: what protocols may ask of it. `decide` goes without saying: see `lacks`.
    token_counts: whether its token counts are exact, estimated or missing. Default `none`.
    parameters: the number of weights. Default None: unknown.
    default_max_gen_toks: the length limit of replies, in tokens, if a task sets none. Default 256.
    remedy: appended to the error about a missing capability: what the user can do about it. Default: nothing.
    tokens: its tokenizer, if it accepts token ids. Default None.
    prompts: prompts of protocols that the model was trained on, by option name. Default: none.
    decision_sources: the sources from which it can decide, apart from its texts. Default: none.
    loaded: whether the weights are loaded.
    passes_through: whether the run only does what lm-eval itself would do, so that its calls must be lm-eval's own.
    meter: what it is doing at the moment.
    kept_in: the folder for what must outlive the run, so that the next one does not pay for it again: that of the call
        store, or the run directory. Default `harness_ext_runs` in the current folder.
    """

    name: str
    device: str
    fingerprint: str
    capabilities: frozenset[Capability]
    token_counts: Literal["exact", "estimated", "none"] = "none"
    parameters: int | None = None
    default_max_gen_toks: int = 256
    remedy: str = ""
    tokens: Tokens | None = None
    prompts: Mapping[str, str] = MappingProxyType({})
    decision_sources: tuple[Source, ...] = ()
    loaded: bool = False
    passes_through: bool = False
    kept_in: Path = Path("harness_ext_runs")

    def __init__(self) -> None:
        # An interrupted run may leave a batch running. The next run on the same model waits for it to end.
        self.lock = threading.Lock()
        # Returns whether the calling run has ended. A long batch may check it and raise RunAborted.
        self.cancelled: Callable[[], bool] = lambda: False
        # Returns up to this many more generation requests, which may join the batch that `generate` is answering. Their
        # indices go on counting.
        self.waiting: Callable[[int], Sequence[GenerateRequest]] = lambda _: ()
        self.meter = Meter()

    def prepare(self) -> None:  # noqa: B027  (most backends have nothing to do here)
        """Get ready to render prompts; called once the run's arguments are known to be valid. Idempotent."""

    def attach(self, folder: Path, seat: str, alone: bool) -> None:  # noqa: B027  (only servers have something to write)
        """Learn to which run it belongs; called for each of its seats, once the run directory exists.

        folder: the run directory.
        seat: the seat's name.
        alone: whether this process is the only one of the run.
        """

    @abc.abstractmethod
    def load(self) -> None:
        """Load the weights; called once, in the device queue's thread. Raises whatever the library raises."""

    @abc.abstractmethod
    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        """Answer a batch of generation requests. `deliver(i, completion)` hands over the i-th as soon as it exists."""

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        """Answer a batch of scoring requests, delivered in the same way."""
        raise CallFailed("backend", f"{self.name} cannot score continuations")

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        """Answer a batch of verification requests, delivered in the same way."""
        raise CallFailed("backend", f"{self.name} cannot verify given tokens")

    def decide(self, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
        """Answer a batch of requests for decisions, delivered in the same way.

        A request that none of its sources can answer fails with the code `cannot_decide`.
        """
        raise CallFailed(CANNOT_DECIDE, f"{self.name} has no probabilities of the next token")

    def pass_cost(self, tokens: int) -> float:
        """Return what a pass that reads this many tokens after a known prompt costs, in passes over one token.

        Models are mostly limited by the memory that their weights are read from: then it is 1.
        """
        return 1.0

    def lacks(self, needed: frozenset[Capability]) -> frozenset[Capability]:
        """Return the capabilities among those needed that the model does not have.

        It can decide if it has a source of decisions, or can write or score what it decides.
        """
        able = self.capabilities
        if self.decision_sources or able & {"generate", "score"}:
            able |= {"decide"}
        return needed - able

    def check(self, request: Request) -> CallFailed | None:
        """Return the failure that sending a request would cause, or None."""
        return None

    @property
    def samples(self) -> bool:
        """Return whether it samples even under greedy settings, as a protocol in the place of a model may."""
        return False

    @property
    def chat_default(self) -> bool:
        """Return whether conversations are rendered with the model's own chat template by default."""
        return False

    def uses_template(self, chat: ChatMode) -> bool:
        """Return whether conversations are rendered with the model's chat template, not in the plain form."""
        return chat == "on" or (chat == "auto" and self.chat_default)

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        """Render a conversation with the model's own chat template.

        A trailing assistant message is left open for the reply to continue. Raises CallFailed if the template cannot
        express the conversation.
        """
        raise CallFailed("backend", f"{self.name} has no chat template")

    def render(self, prompt: str | Sequence[Message], chat: ChatMode = "auto") -> Prompt:
        """Render a context or a conversation to the text that the model continues.

        A plain context is returned unchanged, whatever `chat` is: it is exactly the string that lm-eval would send.
        """
        if isinstance(prompt, ChatContext):
            prompt = prompt.messages
        elif isinstance(prompt, str):
            return Prompt(prompt)
        if self.uses_template(chat):
            return self.render_chat(prompt)
        return Prompt(plain_form(prompt), lead=" ", stops=PLAIN_STOPS)

    def render_decision(self, prompt: str | Sequence[Message], chat: ChatMode = "auto") -> Prompt:
        """Render a prompt after which the model decides at once: a reasoning model does not think first."""
        return self.render(prompt, chat)

    def info(self) -> dict[str, Any]:
        """Return what the run directory records about the model, as JSON values."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "device": self.device,
            "token_counts": self.token_counts,
            "parameters": self.parameters,
        }

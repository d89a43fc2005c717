"""Decision models of the transformers library, which answer typed questions and write no text: `decision:<model>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.backends.base import Backend, DecideRequest, Deliver, GenerateRequest, Prompt, Request
from harness_ext.backends.hf_decide import decide_by_pipeline
from harness_ext.data.hub import without_waiting_for
from harness_ext.errors import CallFailed
from harness_ext.records import Message
from harness_ext.records.fingerprint import count_parameters, model_fingerprint, resolve_folder

ARGUMENTS = ("batch_size", "device", "dtype", "revision", "trust_remote_code")


class DecisionModelBackend(Backend):
    """A seat that answers typed questions through the decision pipeline of transformers, one at a time.

    The pipeline reads the model's own prompt, labels and temperature (`decision.json`), and its own head if it has one.

    name: a folder or a hub id.
    args: the seat's further arguments (`ARGUMENTS`).
    """

    capabilities = frozenset()
    decision_sources = ("logprobs",)
    token_counts = "exact"
    remedy = (
        "; it only answers typed questions: use it for decisions (`judge=decision:<model>,verdict=decision`, "
        "`choices=decision`)"
    )

    def __init__(self, name: str, args: Mapping[str, Any]) -> None:
        from transformers import AutoConfig

        super().__init__()
        self.name, self.args = name, dict(args)
        self.hub = {k: args[k] for k in ("revision", "trust_remote_code") if args.get(k) is not None}
        config = AutoConfig.from_pretrained(name, **self.hub)
        self.device = str(args.get("device") or "cpu")
        commit = getattr(config, "_commit_hash", None)
        self.fingerprint = model_fingerprint("decision", {**args, "pretrained": name}, commit=commit)
        folder = resolve_folder(name, args.get("revision"))
        self.parameters = count_parameters(folder) if folder else None
        self.pipeline: Any = None

    def load(self) -> None:
        from transformers import pipeline

        dtype = self.args.get("dtype") or "auto"
        self.pipeline = pipeline("decision", model=self.name, device=self.device, dtype=dtype, **self.hub)
        if self.parameters is None:
            self.parameters = sum(p.numel() for p in self.pipeline.model.parameters())

    @property
    def chat_default(self) -> bool:
        return True

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        # The pipeline renders the question itself. The text here is what a prompt of our own would say.
        return Prompt("\n\n".join(message.content for message in messages))

    def check(self, request: Request) -> CallFailed | None:
        if isinstance(request, DecideRequest) and request.question is not None:
            return None
        return CallFailed("backend", f"{self.name} is a decision model and writes no text: use it for typed questions")

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        raise CallFailed("backend", f"{self.name} is a decision model and writes no text")

    def decide(self, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
        decide_by_pipeline(self.pipeline, requests, deliver)

    def info(self) -> dict[str, Any]:
        return super().info() | {"backend": "decision", "args": {k: str(v) for k, v in self.args.items()}}


def is_decision_model(name: str, **hub: Any) -> bool:
    """Return whether a folder or hub model has a decision head instead of one that writes text."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, **hub)
    except (OSError, ValueError):
        return False
    return any(name.endswith("ForDecision") for name in getattr(config, "architectures", None) or ())


def make_decision_backend(name: str, args: Mapping[str, Any]) -> DecisionModelBackend:
    """Return the backend of a decision model, without loading weights. Raises ValueError with cause and remedy."""
    own = {k: v for k, v in args.items() if k != "max_batch_size"}
    known = ", ".join(ARGUMENTS)
    problems = [f"there is no argument `{k}`; the arguments are {known}" for k in own if k not in ARGUMENTS]
    try:
        from transformers.pipelines import decision  # noqa: F401
    except ImportError:
        problems.append("this version of transformers has no decision models: pip install -U 'transformers>=5.23'")
    if problems:
        raise ValueError("; ".join(problems))
    folder = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        with without_waiting_for(folder):
            return DecisionModelBackend(folder, own)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise ValueError(
            f"the decision model {name} cannot be read: {reason}. Give a folder with config.json and a tokenizer, or "
            "the id of a model that this machine can download"
        ) from error

"""Sequence classifiers of the transformers library as reward models: `reward=classifier:<model>`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, Request, ScoreRequest
from harness_ext.data.hub import without_waiting_for
from harness_ext.errors import CallFailed, RunAborted
from harness_ext.records import Loglikelihood, Message
from harness_ext.records.chat import is_utf8
from harness_ext.records.fingerprint import count_parameters, model_fingerprint, resolve_folder

ARGUMENTS = ("batch_size", "device", "dtype", "label", "max_length", "revision", "trust_remote_code")


class ClassifierBackend(Backend):
    """A seat that scores texts from 0 to 1 and generates none.

    The score of the reply `continuation` to `prompt` is the probability of one class, or the sigmoid of the output if
    the model has only one. It is returned as a log-probability, since that is what a scoring request asks for.

    name: a folder or a hub id.
    args: the seat's further arguments (`ARGUMENTS`). `label` chooses the class, by name or number; by default it is the
        last one.
    """

    capabilities = frozenset({"reward"})
    token_counts = "exact"

    def __init__(self, name: str, args: Mapping[str, Any]) -> None:
        from transformers import AutoConfig, AutoTokenizer

        super().__init__()
        self.name, self.args = name, dict(args)
        hub = {k: args[k] for k in ("revision", "trust_remote_code") if args.get(k) is not None}
        self.config = AutoConfig.from_pretrained(name, **hub)
        self.tokenizer = AutoTokenizer.from_pretrained(name, **hub)
        self.hub = hub
        self.device = str(args.get("device") or "cpu")
        commit = getattr(self.config, "_commit_hash", None)
        self.fingerprint = model_fingerprint("classifier", {**args, "pretrained": name}, commit=commit)
        folder = resolve_folder(name, args.get("revision"))
        self.parameters = count_parameters(folder) if folder else None
        self.label = self._label(args.get("label"))
        longest = getattr(self.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.max_length = int(args.get("max_length") or longest)
        self.model: Any = None

    def _label(self, wanted: Any) -> int:
        names = {str(name): int(index) for index, name in self.config.id2label.items()}
        if wanted is None:
            return len(names) - 1
        if str(wanted) in names:
            return names[str(wanted)]
        if str(wanted).isdecimal() and int(wanted) < len(names):
            return int(wanted)
        raise ValueError(f"{self.name} has no label `{wanted}`; its labels are {', '.join(names)}")

    def load(self) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        dtype = self.args.get("dtype")
        more = {} if dtype is None else {"dtype": getattr(torch, str(dtype), dtype)}
        self.model = AutoModelForSequenceClassification.from_pretrained(self.name, **self.hub, **more)
        self.model.to(self.device).eval()
        if self.parameters is None:
            self.parameters = sum(p.numel() for p in self.model.parameters())

    @property
    def chat_default(self) -> bool:
        return getattr(self.tokenizer, "chat_template", None) is not None

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        history = [{"role": m.role, "content": m.content} for m in messages]
        is_open = messages[-1].role == "assistant"
        try:
            text = self.tokenizer.apply_chat_template(
                history, tokenize=False, add_generation_prompt=not is_open, continue_final_message=is_open
            )
        except Exception as error:
            raise CallFailed("backend", f"{self.name} cannot render this conversation: {error}") from error
        return Prompt(text)

    def check(self, request: Request) -> CallFailed | None:
        if not isinstance(request, ScoreRequest):
            return CallFailed("backend", f"{self.name} is a classifier and generates no text: use it for `reward`")
        text = request.prompt + request.continuation
        if not is_utf8(text):
            return CallFailed("undecodable", "the text contains lone surrogates: fix the task's data")
        if not text:
            return CallFailed("empty", f"{self.name} cannot score an empty text: fix the task's data")
        if (length := len(self._ids(text))) > self.max_length:
            return CallFailed(
                "overflow",
                f"{length} tokens do not fit into the {self.max_length} positions of {self.name}: use fewer shots, or "
                "a classifier with a longer context",
            )
        return None

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        raise CallFailed("backend", f"{self.name} is a classifier and generates no text: use it for `reward`")

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        import torch

        rows = [self._ids(r.prompt + r.continuation) for r in requests]
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        size = self.args.get("batch_size")
        # A model without a padding token cannot tell where a padded row ends.
        size = size if isinstance(size, int) and self.config.pad_token_id is not None else 1
        for start in range(0, len(order), size):
            if self.cancelled():
                raise RunAborted
            chosen, started = order[start : start + size], time.perf_counter()
            width = max(len(rows[i]) for i in chosen)
            pad = self.config.pad_token_id or 0
            ids = torch.tensor([rows[i] + [pad] * (width - len(rows[i])) for i in chosen])
            mask = torch.tensor([[1] * len(rows[i]) + [0] * (width - len(rows[i])) for i in chosen])
            with torch.no_grad():
                logits = self.model(ids.to(self.device), attention_mask=mask.to(self.device)).logits.float()
            if logits.shape[-1] == 1:
                logprobs = torch.nn.functional.logsigmoid(logits[:, 0])
            else:
                logprobs = torch.log_softmax(logits, dim=-1)[:, self.label]
            share = (time.perf_counter() - started) / len(chosen)
            for i, logprob in zip(chosen, logprobs.tolist(), strict=True):
                deliver(
                    i,
                    Loglikelihood(
                        logprob, prompt_tokens=len(rows[i]), cached_tokens=0, completion_tokens=0, seconds=share
                    ),
                )

    def _ids(self, text: str) -> list[int]:
        bos = getattr(self.tokenizer, "bos_token", None)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
        return ids

    def info(self) -> dict[str, Any]:
        return super().info() | {"backend": "classifier", "label": self.label, "max_length": self.max_length}


def make_classifier_backend(name: str, args: Mapping[str, Any]) -> ClassifierBackend:
    """Return the backend of a classifier, without loading weights. Raises ValueError with cause and remedy."""
    own = {k: v for k, v in args.items() if k != "max_batch_size"}
    unknown = [k for k in own if k not in ARGUMENTS]
    if unknown:
        raise ValueError(f"there is no argument `{unknown[0]}`; the arguments are {', '.join(ARGUMENTS)}")
    folder = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        with without_waiting_for(folder):
            return ClassifierBackend(folder, own)
    except OSError as error:
        reason = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise ValueError(
            f"the classifier {name} cannot be read: {reason}. Give a folder with config.json and a tokenizer, or the "
            "id of a model that this machine can download"
        ) from error

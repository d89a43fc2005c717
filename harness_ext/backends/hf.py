"""Models of the transformers library, through lm-eval's own `hf` class."""

from __future__ import annotations

import inspect
import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness_ext.backends import hf_decide, hf_score
from harness_ext.backends import hf_verify as verify_hf
from harness_ext.backends.base import (
    Backend,
    ChatMode,
    DecideRequest,
    Deliver,
    GenerateRequest,
    Prompt,
    Request,
    ScoreRequest,
    VerifyRequest,
)
from harness_ext.backends.constructor import typed_arguments
from harness_ext.backends.hf_beams import search_beams, wants_beams
from harness_ext.backends.hf_rows import GeneratedRow, completion_of
from harness_ext.backends.hf_stops import AnswerStops
from harness_ext.backends.meter import Meter
from harness_ext.backends.registered_calls import call_lm
from harness_ext.backends.settings import effective_settings
from harness_ext.errors import CallFailed, RunAborted
from harness_ext.reading.thoughts import DEFAULT_MARKERS, Markers
from harness_ext.records import Message
from harness_ext.records.chat import is_utf8, merge_system
from harness_ext.records.fingerprint import count_parameters, model_fingerprint, resolve_folder

PROMPTS_FILE = "prompts.json"
DECISION_FILE = "decision.json"
WEIGHT_FILES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"})


class HFBackend(Backend):
    """A seat backed by lm-eval's `HFLM`.

    Configuration and tokenizer are read on construction, the weights when the first call must be answered.

    args: the arguments of `HFLM`, including `pretrained`.
    """

    token_counts = "exact"
    capabilities = frozenset({"generate", "continue", "score", "diverse_beams"})

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        self.args = args
        self.name = str(args["pretrained"])
        self.lm = _lazy_hflm_class()(**args)
        self.lm.meter = self.meter
        if self.lm.backend == "causal":
            self.capabilities |= {"verify", "distribution"}
            self.tokens = verify_hf.HFTokens(self.lm)
            self.decision_sources = ("logprobs",)
        self.device = str(self.lm.device)
        self.fingerprint = model_fingerprint("hf", args, commit=getattr(self.lm.config, "_commit_hash", None))
        folder = resolve_folder(self.name, args.get("revision"))
        self.parameters = count_parameters(folder) if folder else None
        self.prompts = trained_prompts(folder) if folder else {}
        self.default_max_gen_toks = self.lm.max_gen_toks
        # A model that comes with decision settings answers typed questions in its own way.
        self._own_decisions = folder is not None and (folder / DECISION_FILE).exists()
        self._pipeline: Any = None
        self._template_args: dict[str, Any] = {}

    def load(self) -> None:
        self.lm.load_weights()
        self.lm.model.register_forward_pre_hook(self._check_cancelled)
        if self.parameters is None:
            self.parameters = sum(p.numel() for p in self.lm.model.parameters())

    def _check_cancelled(self, *_: Any) -> None:
        """Abort the batch between two tokens if the run has ended."""
        if self.cancelled():
            raise RunAborted

    @property
    def chat_default(self) -> bool:
        return getattr(self.lm.tokenizer, "chat_template", None) is not None

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        from jinja2 import TemplateError

        if not self.chat_default:
            raise CallFailed("backend", f"{self.name} has no chat template: leave out `chat=on`, or use a chat model")
        # Some templates reject a system message, others drop it. Then it is merged into the first user message.
        reason: Exception | str = "it drops the system message"
        for attempt, notes in ((messages, ()), (merge_system(messages), ("system_merged",))):
            try:
                text = self._apply_template(attempt)
            except (TemplateError, ValueError) as error:
                reason = error
            else:
                if all(m.content.strip() in text for m in attempt if m.role == "system"):
                    return Prompt(text, notes=notes)
        raise CallFailed("backend", f"the chat template of {self.name} refuses this conversation: {reason}")

    def _apply_template(self, messages: Sequence[Message]) -> str:
        is_open = messages[-1].role == "assistant"
        text: str = self.lm.tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            tokenize=False,
            add_generation_prompt=not is_open,
            continue_final_message=is_open,
            **{**self.lm.chat_template_args, **self._template_args},
        )
        return text

    def render_decision(self, prompt: str | Sequence[Message], chat: ChatMode = "auto") -> Prompt:
        self._template_args = {"enable_thinking": False}  # templates ignore what they do not know
        try:
            return self.render(prompt, chat)
        finally:
            self._template_args = {}

    def check(self, request: Request) -> CallFailed | None:
        if not request.prompt and not isinstance(request, ScoreRequest):
            return CallFailed("empty", f"{self.name} cannot continue an empty prompt: fix the task's data")
        if not is_utf8(request.prompt):
            return CallFailed(
                "undecodable", "the prompt contains lone surrogates, which no tokenizer can encode: fix the task's data"
            )
        if isinstance(request, DecideRequest) and not self._answers_itself(request):
            try:
                hf_decide.label_tokens(self.lm, request.labels)
            except CallFailed as error:
                return error
        return check_length(self.lm, self.name, request)

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        whole = [i for i, request in enumerate(requests) if request.reply is None]
        begun = [i for i, request in enumerate(requests) if request.reply is not None]
        # HFLM decides from the first prompt of a batch whether the tokenizer adds BOS to the whole batch.
        for group in groups_by_bos(self.lm, [requests[i] for i in whole]):
            indices = [whole[i] for i in group]
            if beams := [i for i in indices if wants_beams(requests[i])]:
                search_beams(self.lm, requests, beams, deliver)
            plain = [i for i in indices if not wants_beams(requests[i])]
            for markers in dict.fromkeys(requests[i].thought_markers for i in plain):
                alike = [i for i in plain if requests[i].thought_markers == markers]
                self._generate_group(requests, alike, markers, deliver)
        if begun:
            verify_hf.continue_replies(self.lm, [requests[i] for i in begun], lambda i, c: deliver(begun[i], c))

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        verify_hf.verify(self.lm, requests, deliver)

    def _answers_itself(self, request: DecideRequest) -> bool:
        return self._own_decisions and request.question is not None

    def decide(self, requests: Sequence[DecideRequest], deliver: Deliver) -> None:
        typed = [i for i, request in enumerate(requests) if self._answers_itself(request)]
        if typed:
            self._pipeline = self._pipeline or hf_decide.make_pipeline(self.lm)
            hf_decide.decide_by_pipeline(
                self._pipeline, [requests[i] for i in typed], lambda i, decision: deliver(typed[i], decision)
            )
        plain = [i for i, request in enumerate(requests) if not self._answers_itself(request)]
        if plain:
            hf_decide.decide(self.lm, [requests[i] for i in plain], lambda i, decision: deliver(plain[i], decision))

    def _generate_group(
        self, requests: Sequence[GenerateRequest], group: list[int], markers: Markers | None, deliver: Deliver
    ) -> None:
        self.lm.rows.clear()
        self.lm.thought_markers = markers

        def found(index: int, text: str) -> None:
            # HFLM reports a batch's results in the order of its rows.
            completion = completion_of(self.lm, text, self.lm.rows.popleft(), requests[group[index]].keep_ids)
            deliver(group[index], completion)

        call_lm(self.lm, [requests[i] for i in group], found)

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        hf_score.score(self.lm, requests, deliver)

    def info(self) -> dict[str, Any]:
        args = {k: v for k, v in self.args.items() if isinstance(v, str | int | float | bool) or v is None}
        return super().info() | {"backend": "hf", "args": args, "max_length": self.lm.max_length}


def trained_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts that a model was trained on, from the file `prompts.json` in its folder, if there is one."""
    try:
        found = json.loads((folder / PROMPTS_FILE).read_text(encoding="utf-8"))
        return {str(name): str(text) for name, text in found.get("prompts", {}).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def groups_by_bos(lm: Any, requests: Sequence[GenerateRequest]) -> list[list[int]]:
    """Return the indices of the prompts that do not begin with the text of the BOS token, and of those that do."""
    bos = getattr(getattr(lm, "tokenizer", None), "bos_token", None)
    with_bos = [isinstance(bos, str) and r.prompt.startswith(bos) for r in requests]
    groups = [[i for i, has in enumerate(with_bos) if has == kind] for kind in (False, True)]
    return [group for group in groups if group]


def check_length(lm: Any, name: str, request: Request) -> CallFailed | None:
    """Return the failure of a request that is too long for an `HFLM`, which would only log that it cuts the prompt."""
    prompt_tokens, room = len(lm.tok_encode(request.prompt)), lm.max_length
    if isinstance(request, ScoreRequest):
        if request.rolling:
            return None
        room += 1  # the last token is scored but not read
        new = count_scored(lm, request)
        if not new:
            return CallFailed(
                "backend",
                f"the tokenizer of {name} merges the end of the context ({request.prompt[-8:]!r}) and the continuation "
                f"{request.continuation!r} into one token, so nothing is left to score: separate them by a blank "
                '(`target_delimiter: " "` in the task), or use a generative form of the task',
            )
    elif isinstance(request, DecideRequest):
        new = max((len(lm.tok_encode(label, add_special_tokens=False)) for label in request.labels), default=1)
    else:
        new = effective_settings(request.gen_kwargs, lm.max_gen_toks)["max_gen_toks"]
        if new >= lm.max_length:
            return CallFailed(
                "overflow",
                f"max_gen_toks={new} leaves no room for a prompt in the {lm.max_length} positions of "
                f"{name}: lower it (`--gen_kwargs max_gen_toks=…`)",
            )
    if lm.backend == "causal" and prompt_tokens + new > room:
        return CallFailed(
            "overflow",
            f"{prompt_tokens} prompt tokens and {new} new ones do not fit into the {lm.max_length} positions "
            f"of {name}: use fewer shots, a lower max_gen_toks, or `on_overflow=truncate` to cut the prompt's "
            "beginning as lm-eval does",
            can_cut=True,
        )
    return None


def count_scored(lm: Any, request: ScoreRequest) -> int:
    """Return how many tokens a continuation has where an `HFLM` separates it from its context."""
    if not request.prompt:
        return len(lm.tok_encode(request.continuation, add_special_tokens=False))
    return len(lm._encode_pair(request.prompt, request.continuation)[1])


def _lazy_hflm_class() -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import StoppingCriteriaList

    class Unloaded(torch.nn.Module):
        """The placeholder that HFLM uses as its model until the weights are needed."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config

        def tie_weights(self) -> None:
            """Do nothing: there are no weights to tie."""

    class LazyHFLM(HFLM):  # type: ignore[misc]
        """lm-eval's `hf`, but it loads its weights on request and keeps the generated token ids for counting."""

        def __init__(self, **kwargs: Any) -> None:
            self.rows: deque[GeneratedRow] = deque()
            self.thought_markers: Markers | None = DEFAULT_MARKERS
            self.end_ids: frozenset[int] = frozenset()
            self.meter = Meter()
            self.scoring = hf_score.ScoreWatch()
            super().__init__(**kwargs)

        def _create_model(self, **kwargs: Any) -> None:
            self._pending = bitsandbytes_config(kwargs)
            self._model = Unloaded(self._config)

        def load_weights(self) -> None:
            pending = self._pending
            super()._create_model(**pending)
            if isinstance(self.model, torch.nn.Module):
                self.model.eval()
                self.model.tie_weights()
            placed = (
                pending["parallelize"]
                or pending.get("tp_plan")
                or pending.get("autogptq")
                or hasattr(self, "accelerator")
            )
            quantized = getattr(self.model, "is_quantized", False)
            if not placed and not quantized:
                self.model.to(self.device)
            eos = getattr(self.model.generation_config, "eos_token_id", None)
            ids = eos if isinstance(eos, list) else [eos]
            self.end_ids = frozenset(i for i in [*ids, self.tokenizer.eos_token_id] if i is not None)
            self.keeps_logits = "logits_to_keep" in inspect.signature(self.model.forward).parameters
            if self.batch_size == "auto":
                self.batch_size_per_gpu = self._detect_batch_size()

        def _loglikelihood_tokens(self, requests: Any, **how: Any) -> Any:
            self.scoring.begin(requests, groups=self.backend == "causal" and self.logits_cache)
            return self.scoring.end(super()._loglikelihood_tokens(requests, **how))

        def _model_call(self, inps: Any, *more: Any, **how: Any) -> Any:
            self.scoring.forward(len(inps))
            return super()._model_call(inps, *more, **how)

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
            started = time.perf_counter()
            lengths = kwargs["attention_mask"].sum(dim=1).tolist()
            width = context.shape[1] if self.backend == "causal" else 0
            # HFLM's own method, but with another stopping criterion (see `AnswerStops`).
            with torch.autocast(
                device_type=self.device.type,
                dtype=self.mixed_precision_dtype,
                enabled=self.mixed_precision_dtype is not None,
            ):
                out = self.model.generate(
                    input_ids=context,
                    max_length=max_length,
                    stopping_criteria=StoppingCriteriaList(
                        [AnswerStops(self.tokenizer, stop, width, self.thought_markers, self.meter.wrote, self.end_ids)]
                    ),
                    pad_token_id=self.tokenizer.pad_token_id,
                    use_cache=True,
                    **verify_hf.generate_settings(kwargs),
                )
            self.meter.handed_over()
            seconds = (time.perf_counter() - started) / len(lengths)
            self.rows.extend(
                GeneratedRow(length, tokens[width:], max_length - width, stop, seconds, self.thought_markers)
                for length, tokens in zip(lengths, out.tolist(), strict=True)
            )
            return out

    return LazyHFLM


def make_hf_backend(name: str, args: Mapping[str, Any]) -> HFBackend:
    """Return the backend of an `HFLM` with these arguments, without loading weights.

    Raises ValueError with cause and remedy.
    """
    from lm_eval.models.huggingface import HFLM

    checked = typed_arguments(HFLM.__init__, args)
    if any(checked.get(name) for name in ("load_in_4bit", "load_in_8bit")) and find_spec("bitsandbytes") is None:
        raise ValueError("`load_in_4bit` and `load_in_8bit` need bitsandbytes: pip install bitsandbytes")
    if looks_like_path(name) and not Path(name).expanduser().is_dir():
        raise ValueError(
            f"there is no folder {name}: give a folder that contains a model, or the id of a model on the Hugging Face "
            "hub"
        )
    folder = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    if folder_lacks_weights(Path(folder)):
        raise ValueError(
            f"the folder {name} contains no weights (*.safetensors or *.bin): is its download or copy complete?"
        )
    try:
        return HFBackend({**checked, "pretrained": folder})
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"the model {name} cannot be read: {reason}. Give a folder with config.json and a tokenizer, or the id "
            "of a model that this machine can download"
        ) from error


BITSANDBYTES = ("load_in_4bit", "load_in_8bit", "bnb_4bit_", "llm_int8_")


def bitsandbytes_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return model arguments with those for bitsandbytes combined into a quantization config.

    lm-eval 0.4.13 passes `load_in_4bit` on to transformers, which no longer accepts it as of release 5.
    """
    own = {name: value for name, value in kwargs.items() if name.startswith(BITSANDBYTES)}
    rest = {name: value for name, value in kwargs.items() if name not in own}
    if not (own.get("load_in_4bit") or own.get("load_in_8bit")):
        return rest
    from transformers import BitsAndBytesConfig

    return {**rest, "quantization_config": BitsAndBytesConfig(**own)}


def looks_like_path(name: str) -> bool:
    """Return whether a model's name can only be a path: hub ids are `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def folder_lacks_weights(folder: Path) -> bool:
    """Return whether a local folder contains no file that could be a model's weights."""
    return folder.is_dir() and not any(path.suffix in WEIGHT_FILES for path in folder.iterdir())

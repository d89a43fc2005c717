"""Models of the transformers library, through lm-eval's own `hf` class."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness_ext.backends import hf_decide, hf_score, hf_verify
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
from harness_ext.backends.hf_decoding import Decoder, sampling_of
from harness_ext.backends.hf_lm import lazy_hflm_class
from harness_ext.backends.hf_rows import GeneratedRow, completion_of, reply_text
from harness_ext.backends.hf_states import States, open_states, state_budget
from harness_ext.backends.hf_thinking import NAMES, check_template, template_arguments, with_thinking_tokens
from harness_ext.backends.hf_tokens import HFTokens
from harness_ext.backends.registered_calls import call_lm
from harness_ext.backends.settings import effective_settings
from harness_ext.backends.thinking import switched
from harness_ext.data.hub import without_waiting_for
from harness_ext.errors import CallFailed, RunAborted
from harness_ext.reading.thoughts import Markers
from harness_ext.records import CallResult, Message
from harness_ext.records.chat import is_utf8, merge_system
from harness_ext.records.fingerprint import count_parameters, model_fingerprint, resolve_folder
from harness_ext.terminal import outside

PROMPTS_FILE = "prompts.json"
DECISION_FILE = "decision.json"
WEIGHT_FILES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"})


class HFBackend(Backend):
    """A seat backed by lm-eval's `HFLM`.

    Configuration and tokenizer are read on construction, the weights when the first call must be answered.

    args: the arguments of `HFLM`, including `pretrained`.
    kv_cache_gb: the memory for the states of what the model has read, in GB; 0 to keep none, so that every batch is one
        call of lm-eval's own. Default None: a quarter of the device's free memory, or a tenth on a CPU.
    """

    token_counts = "exact"
    capabilities = frozenset({"generate", "continue", "score", "diverse_beams"})

    def __init__(self, args: dict[str, Any], kv_cache_gb: float | None = None) -> None:
        super().__init__()
        self.args, self.kv_cache_gb = args, kv_cache_gb
        self.states: States | None = None
        self.why_static = "it is not causal"
        self.name = str(args["pretrained"])
        self.lm = lazy_hflm_class()(**args)
        self.lm.meter = self.meter
        if self.lm.backend == "causal":
            self.capabilities |= {"verify", "distribution"}
            self.tokens = HFTokens(self.lm)
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
        if self.lm.backend == "causal":
            self.states, self.why_static = open_states(self.lm, state_budget(self.lm, self.kv_cache_gb))
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

    def rendered_with(self, arguments: Mapping[str, Any]) -> str:
        """Return a short conversation as the chat template renders it with these arguments."""
        if not self.chat_default:
            return ""
        self._template_args = dict(arguments)
        try:
            return self.render_chat([Message("user", "Say yes.")]).text
        except CallFailed as error:  # the template refuses these values
            return str(error)
        finally:
            self._template_args = {}

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
        self._template_args = switched(False)
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
        taken = list(requests)
        streamed: list[int] = []
        beams: list[int] = []
        batched: list[int] = []

        def sort(indices: range) -> list[GenerateRequest]:
            """Return those of the requests that can join a running batch, and remember where the others go."""
            begin = len(streamed)
            for i in indices:
                request = taken[i]
                if wants_beams(request):
                    beams.append(i)
                elif request.reply is not None or self._streams(request):
                    streamed.append(i)
                else:
                    batched.append(i)
            return [taken[i] for i in streamed[begin:]]

        def hand_over(index: int, result: CallResult) -> None:
            deliver(index, with_thinking_tokens(self.lm, taken[index], result))

        def more(free: int) -> list[GenerateRequest]:
            begin = len(taken)
            taken.extend(self.waiting(free))
            return sort(range(begin, len(taken)))

        if joined := sort(range(len(taken))):
            assert self.states is not None
            Decoder(self.lm, self.states, lambda i, completion: hand_over(streamed[i], completion), more).write(joined)
        # HFLM decides from the first prompt of a batch whether the tokenizer adds BOS to the whole batch.
        for group in groups_by_bos(self.lm, taken, beams):
            search_beams(self.lm, taken, group, hand_over)
        for group in groups_by_bos(self.lm, taken, batched):
            for markers in dict.fromkeys(taken[i].thought_markers for i in group):
                own = [i for i in group if taken[i].thought_markers == markers]
                self._generate_group(taken, own, markers, hand_over)

    def _streams(self, request: GenerateRequest) -> bool:
        """Return whether a new reply is written by our own decoding loop, not by lm-eval's call."""
        if self.passes_through or self.why_static:
            return False
        return sampling_of(self.lm, request.gen_kwargs).plain

    def pass_cost(self, tokens: int) -> float:
        # From the arguments, not from the loaded model: a run must not depend on when its weights are loaded. For the
        # same reason the batch size does not count: sampled texts depend on how long the drafts are.
        dtype = self.args.get("dtype") or "auto"
        dtype = getattr(self.lm.config, "dtype", None) if dtype == "auto" else dtype
        on_cpu = self.lm.device.type == "cpu"
        return hf_verify.float32_cost(tokens) if on_cpu and str(dtype) in ("float32", "torch.float32", "None") else 1.0

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        assert self.states is not None
        hf_verify.verify(self.lm, self.states, requests, deliver)

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
            assert self.states is not None
            hf_decide.decide(
                self.lm, self.states, [requests[i] for i in plain], lambda i, decision: deliver(plain[i], decision)
            )

    def _generate_group(
        self, requests: Sequence[GenerateRequest], group: list[int], markers: Markers | None, deliver: Deliver
    ) -> None:
        self.lm.rows.clear()
        self.lm.thought_markers = markers

        def found(index: int, text: str) -> None:
            # HFLM reports a batch's results in the order of its rows.
            completion = completion_of(self.lm, text, self.lm.rows.popleft(), requests[group[index]].keep_ids)
            deliver(group[index], completion)

        def ended(row: GeneratedRow) -> None:
            # As HFLM itself reports a row, but before its batch has ended. HFLM's own report of it is then ignored.
            self.lm.rows.append(row)
            self.lm.cache_hook.add_partial("generate_until", (self.lm.contexts[row.number],), reply_text(self.lm, row))

        self.lm.row_ended = ended
        try:
            call_lm(self.lm, [requests[i] for i in group], found)
        finally:
            self.lm.row_ended = None

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        hf_score.score(self.lm, requests, deliver)

    def info(self) -> dict[str, Any]:
        args = {k: v for k, v in self.args.items() if isinstance(v, str | int | float | bool) or v is None}
        args |= {} if self.kv_cache_gb is None else {"kv_cache_gb": self.kv_cache_gb}
        found = super().info() | {"backend": "hf", "args": args, "max_length": self.lm.max_length}
        if self.loaded:
            found["batches"] = f"lm-eval's own ({self.why_static})" if self.why_static else "continuous"
        return found


def trained_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts that a model was trained on, from the file `prompts.json` in its folder, if there is one."""
    try:
        found = json.loads((folder / PROMPTS_FILE).read_text(encoding="utf-8"))
        return {str(name): str(text) for name, text in found.get("prompts", {}).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def groups_by_bos(lm: Any, requests: Sequence[GenerateRequest], indices: Sequence[int]) -> list[list[int]]:
    """Return which prompts do not begin with the text of the BOS token, and which do.

    lm: the `HFLM`.
    requests: the requests.
    indices: the indices of those that are divided.
    """
    bos = getattr(getattr(lm, "tokenizer", None), "bos_token", None)
    with_bos = {i: isinstance(bos, str) and requests[i].prompt.startswith(bos) for i in indices}
    groups = [[i for i, has in with_bos.items() if has == kind] for kind in (False, True)]
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


def make_hf_backend(name: str, args: Mapping[str, Any]) -> HFBackend:
    """Return the backend of an `HFLM` with these arguments, without loading weights.

    Raises ValueError with cause and remedy.
    """
    from lm_eval.models.huggingface import HFLM

    memory = args.get("kv_cache_gb")
    if memory is not None and (isinstance(memory, bool) or not isinstance(memory, int | float) or memory < 0):
        raise ValueError(f"`kv_cache_gb={outside(memory, 100)}`: expected a number of gigabytes, 0 or more")
    thinking = template_arguments(args)
    checked = typed_arguments(HFLM.__init__, {k: v for k, v in args.items() if k not in NAMES | {"kv_cache_gb"}})
    if thinking:
        # Not as `enable_thinking`, with which lm-eval cuts off the thought, and asks for the mark at its end.
        checked["chat_template_args"] = {**(checked.get("chat_template_args") or {}), **thinking}
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
        with without_waiting_for(folder):
            backend = HFBackend({**checked, "pretrained": folder}, memory)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(
            f"the model {name} cannot be read: {reason}. Give a folder with config.json and a tokenizer, or the id "
            "of a model that this machine can download"
        ) from error
    if thinking:
        check_template(backend.name, backend.rendered_with, thinking)
    return backend


def looks_like_path(name: str) -> bool:
    """Return whether a model's name can only be a path: hub ids are `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def folder_lacks_weights(folder: Path) -> bool:
    """Return whether a local folder contains no file that could be a model's weights."""
    return folder.is_dir() and not any(path.suffix in WEIGHT_FILES for path in folder.iterdir())

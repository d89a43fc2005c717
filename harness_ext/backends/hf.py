"""Models of the transformers library, through lm-eval's own `hf` class."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness_ext.backends import verify_hf
from harness_ext.backends.arguments import typed_arguments
from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, Request, ScoreRequest, VerifyRequest
from harness_ext.backends.beams import search_beams, wants_beams
from harness_ext.backends.delivery import call_lm
from harness_ext.chat import is_utf8, merge_system
from harness_ext.errors import CallFailed, RunAborted
from harness_ext.fingerprint import count_parameters, model_fingerprint, resolve_folder
from harness_ext.records import Completion, Finish, Message

WEIGHT_FILES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a generated batch: its prompt's length, its new tokens, how long its share of the batch took."""

    prompt_tokens: int
    tokens: list[int]
    max_new: int
    stops: list[str]
    seconds: float


class HFBackend(Backend):
    """A seat on lm-eval's `HFLM`; `args` are that class's own arguments, `pretrained` among them.

    Configuration and tokenizer are read when it is made, the weights when the first call must be answered.
    """

    token_counts = "exact"
    capabilities = frozenset({"generate", "continue", "score", "diverse_beams"})

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        self.args = args
        self.name = str(args["pretrained"])
        self.lm = _lazy_hflm_class()(**args)
        if self.lm.backend == "causal":
            self.capabilities |= {"verify", "distribution"}
            self.tokens = verify_hf.HFTokens(self.lm)
        self.lane = str(self.lm.device)
        self.fingerprint = model_fingerprint("hf", args, commit=getattr(self.lm.config, "_commit_hash", None))
        folder = resolve_folder(self.name, args.get("revision"))
        self.parameters = count_parameters(folder) if folder else None
        self.default_max_gen_toks = self.lm.max_gen_toks

    def load(self) -> None:
        self.lm.load_weights()
        self.lm.model.register_forward_pre_hook(self._check_cancelled)
        if self.parameters is None:
            self.parameters = sum(p.numel() for p in self.lm.model.parameters())

    def _check_cancelled(self, *_: Any) -> None:
        """End a batch between two tokens when the run has ended."""
        if self.cancelled():
            raise RunAborted

    @property
    def chat_default(self) -> bool:
        return getattr(self.lm.tokenizer, "chat_template", None) is not None

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        from jinja2 import TemplateError

        if not self.chat_default:
            raise CallFailed("backend", f"{self.name} has no chat template; leave out `chat=on` or name a chat model")
        reason: Exception | str = "it leaves the system text out"
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
            **self.lm.chat_template_args,
        )
        return text

    def check(self, request: Request) -> CallFailed | None:
        if not request.prompt and not isinstance(request, ScoreRequest):
            return CallFailed("empty", f"the prompt is empty, and {self.name} cannot continue nothing")
        if not is_utf8(request.prompt):
            return CallFailed(
                "undecodable", "the prompt holds lone surrogates, which no tokenizer can encode: mend the task's data"
            )
        return check_length(self.lm, self.name, request)

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        whole = [i for i, request in enumerate(requests) if request.reply is None]
        begun = [i for i, request in enumerate(requests) if request.reply is not None]
        # HFLM decides for a whole call, from its first prompt, whether the tokenizer adds BOS.
        for group in groups_by_bos(self.lm, [requests[i] for i in whole]):
            places = [whole[i] for i in group]
            if beams := [i for i in places if wants_beams(requests[i])]:
                search_beams(self, requests, beams, deliver)
            if plain := [i for i in places if not wants_beams(requests[i])]:
                self._generate_group(requests, plain, deliver)
        if begun:
            verify_hf.continue_replies(self.lm, [requests[i] for i in begun], lambda i, c: deliver(begun[i], c))

    def verify(self, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
        verify_hf.verify(self.lm, requests, deliver)

    def _generate_group(self, requests: Sequence[GenerateRequest], group: list[int], deliver: Deliver) -> None:
        self.lm.rows.clear()

        def found(index: int, text: str) -> None:
            # HFLM reports a batch's results in the order of its rows.
            completion = self._completion(text, self.lm.rows.popleft(), requests[group[index]].keep_ids)
            deliver(group[index], completion)

        call_lm(self.lm, [requests[i] for i in group], found)

    def _completion(self, text: str, row: Row, keep_ids: bool) -> Completion:
        used, finish = self._used_tokens(row)
        ids = tuple(row.tokens[:used]) if keep_ids else None
        return Completion(text, finish, row.prompt_tokens, 0, used, row.seconds, ids=ids)

    def _used_tokens(self, row: Row) -> tuple[int, Finish]:
        """Count a row's tokens up to its own end: a batch goes on until its last row is done."""
        end = next((i + 1 for i, token in enumerate(row.tokens) if token in self.lm.end_ids), None)
        tokens = row.tokens[:end]

        def stopped(length: int) -> bool:
            text = self.lm.tok_decode(tokens[:length])
            return any(stop and stop in text for stop in row.stops)

        if not stopped(len(tokens)):
            return len(tokens), "stop" if end is not None or len(tokens) < row.max_new else "length"
        low, high = 1, len(tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if stopped(middle) else (middle + 1, high)
        return low, "stop"

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        started = time.perf_counter()
        results: dict[int, Any] = {}
        call_lm(self.lm, requests, results.__setitem__)
        share = (time.perf_counter() - started) / len(requests)
        for index, result in results.items():
            tokens = len(self.lm.tok_encode(requests[index].prompt + requests[index].continuation))
            deliver(index, scored(result, tokens, 0, share))

    def info(self) -> dict[str, Any]:
        args = {k: v for k, v in self.args.items() if isinstance(v, str | int | float | bool) or v is None}
        return super().info() | {"backend": "hf", "args": args, "max_length": self.lm.max_length}


def scored(result: Any, read: int | None, cached: int | None, seconds: float) -> Completion:
    """Return what lm-eval's models say of a scored text: log-probability and greedy, or of a whole one the former."""
    logprob, greedy = result if isinstance(result, tuple | list) else (result, None)
    greedy = None if greedy is None else bool(greedy)
    return Completion("", None, read, cached, 0, seconds, float(logprob), greedy)


def groups_by_bos(lm: Any, requests: Sequence[GenerateRequest]) -> list[list[int]]:
    """Return the places of prompts without, and of prompts with, the text of the tokenizer's BOS in front."""
    bos = getattr(getattr(lm, "tokenizer", None), "bos_token", None)
    with_bos = [isinstance(bos, str) and r.prompt.startswith(bos) for r in requests]
    groups = [[i for i, has in enumerate(with_bos) if has == kind] for kind in (False, True)]
    return [group for group in groups if group]


def check_length(lm: Any, name: str, request: Request) -> CallFailed | None:
    """Return the failure of a request that is too long for an `HFLM`, which would cut it with a mere log line."""
    prompt_tokens, room = len(lm.tok_encode(request.prompt)), lm.max_length
    if isinstance(request, ScoreRequest):
        if request.rolling:
            return None
        room += 1  # the last token is scored, not read
        new = count_scored(lm, request)
        if not new:
            return CallFailed(
                "backend",
                f"the tokenizer of {name} makes one token of the end of the context ({request.prompt[-8:]!r}) and the "
                f"continuation {request.continuation!r}, so that nothing is left to score: let a blank part them "
                '(`target_delimiter: " "` in the task), or use a generative form of the task',
            )
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
    """Return how many tokens a continuation has as an `HFLM` parts it from its context."""
    if not request.prompt:
        return len(lm.tok_encode(request.continuation, add_special_tokens=False))
    return len(lm._encode_pair(request.prompt, request.continuation)[1])


def effective_settings(gen_kwargs: Any, default_max_gen_toks: int) -> dict[str, Any]:
    """Return generation settings as lm-eval's models read them: aliases resolved, defaults filled in."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return dict(normalize_gen_kwargs(dict(gen_kwargs), default_max_gen_toks))


def _lazy_hflm_class() -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    class Unloaded(torch.nn.Module):
        """What HFLM holds, moves about and asks for its config while the weights are not needed yet."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.config = config

        def tie_weights(self) -> None:
            """There are none to tie."""

    class LazyHFLM(HFLM):  # type: ignore[misc]
        """lm-eval's `hf`, with its weights loaded on request and its generated token ids kept for counting."""

        def __init__(self, **kwargs: Any) -> None:
            self.rows: deque[Row] = deque()
            self.end_ids: frozenset[int] = frozenset()
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
            if self.batch_size == "auto":
                self.batch_size_per_gpu = self._detect_batch_size()

        def _model_generate(self, context: Any, max_length: int, stop: list[str], **kwargs: Any) -> Any:
            started = time.perf_counter()
            lengths = kwargs["attention_mask"].sum(dim=1).tolist()
            out = super()._model_generate(context=context, max_length=max_length, stop=stop, **kwargs)
            seconds = (time.perf_counter() - started) / len(lengths)
            width = context.shape[1] if self.backend == "causal" else 0
            self.rows.extend(
                Row(length, tokens[width:], max_length - width, stop, seconds)
                for length, tokens in zip(lengths, out.tolist(), strict=True)
            )
            return out

    return LazyHFLM


def make_hf_backend(name: str, args: Mapping[str, Any]) -> HFBackend:
    """Make a seat on `HFLM` from its own arguments. Raises ValueError with cause and remedy, before anything loads."""
    from lm_eval.models.huggingface import HFLM

    checked = typed_arguments(HFLM.__init__, args)
    if any(checked.get(name) for name in ("load_in_4bit", "load_in_8bit")) and find_spec("bitsandbytes") is None:
        raise ValueError("`load_in_4bit` and `load_in_8bit` need bitsandbytes: pip install bitsandbytes")
    if looks_like_path(name) and not Path(name).expanduser().is_dir():
        raise ValueError(
            f"there is no folder {name}: name a folder with a model in it, or a model of the Hugging Face hub"
        )
    folder = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    if folder_lacks_weights(Path(folder)):
        raise ValueError(
            f"the folder {name} holds no weights (*.safetensors or *.bin): is its download or copy complete?"
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
    """Return model arguments with those of bitsandbytes gathered in a quantization config.

    lm-eval 0.4.13 passes `load_in_4bit` on to transformers, which no longer takes it since release 5.
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
    """Return whether a local folder holds no file that could be a model's weights."""
    return folder.is_dir() and not any(path.suffix in WEIGHT_FILES for path in folder.iterdir())

"""Any other model class registered with lm-eval, and ready-made `LM` objects (in notebooks)."""

from __future__ import annotations

import inspect
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from harness_ext.backends.arguments import typed_arguments
from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, Request, ScoreRequest
from harness_ext.backends.delivery import call_lm
from harness_ext.backends.hf import check_length, groups_by_bos, scored
from harness_ext.chat import is_utf8
from harness_ext.errors import CallFailed
from harness_ext.fingerprint import model_fingerprint
from harness_ext.records import Completion, Message

NAME_ARGUMENTS = ("pretrained", "model", "model_name", "path", "engine")


class LMBackend(Backend):
    """A seat on an lm-eval model. Its texts are lm-eval's; tokens are counted by re-tokenising, given a tokenizer.

    `make` builds the model, once all arguments are found right, since most classes load when they are made.
    """

    capabilities = frozenset({"generate", "continue", "score"})

    def __init__(self, name: str, lane: str, fingerprint: str, make: Any) -> None:
        super().__init__()
        self.name, self.lane, self.fingerprint = name, lane, fingerprint
        self._make = make
        self.lm: Any = None

    def prepare(self) -> None:
        if self.lm is None:
            self.lm = self._make()
            self.token_counts = "estimated" if callable(getattr(self.lm, "tok_encode", None)) else "none"
            self.default_max_gen_toks = int(getattr(self.lm, "max_gen_toks", 256))

    def load(self) -> None:
        self.prepare()

    @property
    def chat_default(self) -> bool:
        from lm_eval.api.model import LM

        has_method = getattr(type(self.lm), "apply_chat_template", None) is not LM.apply_chat_template
        tokenizer = getattr(self.lm, "tokenizer", None)
        return has_method and (tokenizer is None or getattr(tokenizer, "chat_template", None) is not None)

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        history = [{"role": m.role, "content": m.content} for m in messages]
        try:
            text = self.lm.apply_chat_template(history, add_generation_prompt=messages[-1].role != "assistant")
        except Exception as error:
            raise CallFailed("backend", f"{self.name} cannot render this conversation: {error}") from error
        return Prompt(text if isinstance(text, str) else text.prompt)

    def check(self, request: Request) -> CallFailed | None:
        if not is_utf8(request.prompt):
            return CallFailed("undecodable", "the prompt holds lone surrogates: mend the task's data")
        if self._is_hflm:
            if not request.prompt and not isinstance(request, ScoreRequest):
                return CallFailed("empty", f"the prompt is empty, and {self.name} cannot continue nothing")
            return check_length(self.lm, self.name, request)
        return None

    @property
    def _is_hflm(self) -> bool:
        return any(cls.__name__ == "HFLM" for cls in type(self.lm).__mro__)

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        # HFLM decides for a whole call, from its first prompt, whether the tokenizer adds BOS.
        for group in groups_by_bos(self.lm, requests) if self._is_hflm else [list(range(len(requests)))]:

            def deliver_one(index: int, completion: Completion, group: list[int] = group) -> None:
                deliver(group[index], completion)

            self._call([requests[i] for i in group], deliver_one)

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        self._call(requests, deliver)

    def _call(self, requests: Sequence[GenerateRequest] | Sequence[ScoreRequest], deliver: Deliver) -> None:
        started = time.perf_counter()

        def found(index: int, result: Any) -> None:
            nonlocal started
            now = time.perf_counter()
            seconds, started = now - started, now
            request = requests[index]
            read = self._count(request.prompt)
            if isinstance(request, ScoreRequest):
                deliver(index, scored(result, read, None, seconds))
            elif isinstance(result, str):
                deliver(index, Completion(result, None, read, None, self._count(result), seconds))
            # anything else is a class's own sign of failure: left unanswered, so that the engine counts it

        call_lm(self.lm, requests, found)

    def _count(self, text: str) -> int | None:
        if self.token_counts == "none":
            return None
        return len(self.lm.tok_encode(text)) if text else 0


def make_lm_backend(backend: str, name: str, args: Mapping[str, Any]) -> LMBackend:
    """Make a seat on a registered lm-eval model. Raises ValueError with cause and remedy."""
    from lm_eval.api.registry import get_model

    from harness_ext.lm import ProtocolLM

    cls = get_model(backend)
    if issubclass(cls, ProtocolLM):
        raise ValueError(f"`{backend}` is a protocol, which cannot sit on a seat: name a model")
    parameters = inspect.signature(cls.__init__).parameters
    takes = next((n for n in NAME_ARGUMENTS if n in parameters), "pretrained")
    operational = {k: args[k] for k in ("batch_size", "max_batch_size", "device") if args.get(k) is not None}
    own = typed_arguments(cls.__init__, {k: v for k, v in args.items() if k not in operational})
    own[takes] = name
    served = "base_url" in parameters
    lane = f"{backend}:{name}@{own.get('base_url', '')}" if served else str(args.get("device") or backend)
    fingerprint = model_fingerprint(backend, own)
    kinds = {base.__name__ for base in cls.__mro__}

    def make() -> Any:
        return cls.create_from_arg_obj(own, operational)

    if "TemplateAPI" in kinds:
        from harness_ext.backends.lm_api import LMAPIBackend

        return LMAPIBackend(f"{backend}:{name}", lane, fingerprint, make, "LocalChatCompletion" in kinds)
    return _class_for(cls)(f"{backend}:{name}", lane, fingerprint, make)


def wrap_lm(lm: Any) -> LMBackend:
    """Make a seat of a ready `lm_eval.api.model.LM`. No later run reuses its calls: nothing identifies it."""
    name = type(lm).__name__
    lane = str(getattr(lm, "device", None) or name)
    backend = _class_for(type(lm))(name, lane, f"object:{uuid.uuid4()}", lambda: lm)
    backend.prepare()
    return backend


def _class_for(cls: type[Any]) -> type[LMBackend]:
    if getattr(cls, "MULTIMODAL", False):
        from harness_ext.backends.multimodal import MultimodalBackend

        return MultimodalBackend
    return LMBackend

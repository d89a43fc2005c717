"""Any other model class registered with lm-eval, and ready-made `LM` objects (in notebooks)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, Request, ScoreRequest
from harness_ext.backends.hf import check_length, groups_by_bos
from harness_ext.backends.hf_score import scored
from harness_ext.backends.registered_calls import LMRequest, call_lm
from harness_ext.errors import CallFailed
from harness_ext.records import CallResult, Completion, Message
from harness_ext.records.chat import is_utf8


class LMBackend(Backend):
    """A seat backed by an lm-eval model. Tokens are counted by re-tokenising, if the model has a tokenizer.

    name, device, fingerprint: as in `Backend`.
    make: returns the model. It is called only once all arguments are known to be valid, since most classes load their
        weights when they are constructed.
    """

    capabilities = frozenset({"generate", "continue", "score"})

    def __init__(self, name: str, device: str, fingerprint: str, make: Any) -> None:
        super().__init__()
        self.name, self.device, self.fingerprint = name, device, fingerprint
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
            return CallFailed("undecodable", "the prompt contains lone surrogates: fix the task's data")
        if self._is_hflm:
            if not request.prompt and not isinstance(request, ScoreRequest):
                return CallFailed("empty", f"{self.name} cannot continue an empty prompt: fix the task's data")
            return check_length(self.lm, self.name, request)
        return None

    @property
    def _is_hflm(self) -> bool:
        return any(cls.__name__ == "HFLM" for cls in type(self.lm).__mro__)

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        # HFLM decides from the first prompt of a batch whether the tokenizer adds BOS to the whole batch.
        every = range(len(requests))
        for group in groups_by_bos(self.lm, requests, every) if self._is_hflm else [list(every)]:

            def deliver_one(index: int, result: CallResult, group: list[int] = group) -> None:
                deliver(group[index], result)

            self._call([requests[i] for i in group], deliver_one)

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        self._call(requests, deliver)

    def _call(self, requests: Sequence[LMRequest], deliver: Deliver) -> None:
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
                deliver(
                    index,
                    Completion(
                        result,
                        None,
                        prompt_tokens=read,
                        cached_tokens=None,
                        completion_tokens=self._count(result),
                        seconds=seconds,
                    ),
                )
            # Any other result is the class's own sign of a failure. Without a delivery the engine counts it as one.

        call_lm(self.lm, requests, found)

    def _count(self, text: str) -> int | None:
        if self.token_counts == "none":
            return None
        return len(self.lm.tok_encode(text)) if text else 0

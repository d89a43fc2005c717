"""Multimodal models of lm-eval (`hf-multimodal`, `vllm-vlm`, any registered class that sets `MULTIMODAL`)."""

from __future__ import annotations

from collections.abc import Sequence

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.registered import LMBackend
from harness_ext.records import CallResult


class MultimodalBackend(LMBackend):
    """A seat backed by a multimodal model. Images are part of the request, as in lm-eval's own tasks."""

    capabilities = frozenset({"generate", "continue", "score", "images"})

    @property
    def chat_default(self) -> bool:
        processor = getattr(self.lm, "processor", None)
        return getattr(processor, "chat_template", None) is not None if processor is not None else super().chat_default

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        # These classes decide from the first request of a batch whether the whole batch has images.
        for seeing in (True, False):
            group = [i for i, request in enumerate(requests) if bool(request.images) == seeing]
            if not group:
                continue
            # Once a template has been used, this flag is set, and the `<image>` marks of plain contexts would no longer
            # become image tokens. Rendered prompts have no marks left, so it is safe to clear it for all.
            if hasattr(self.lm, "chat_applied"):
                self.lm.chat_applied = False

            def deliver_one(index: int, result: CallResult, group: list[int] = group) -> None:
                deliver(group[index], result)

            super().generate([requests[i] for i in group], deliver_one)

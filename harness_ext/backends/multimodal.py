"""Models of lm-eval that see images (`hf-multimodal`, `vllm-vlm`, any registered class that says `MULTIMODAL`)."""

from __future__ import annotations

from collections.abc import Sequence

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.lm import LMBackend
from harness_ext.records import Completion


class MultimodalBackend(LMBackend):
    """A seat on such a model. Its images go with the request, as lm-eval's own tasks send them."""

    capabilities = frozenset({"generate", "continue", "score", "images"})

    @property
    def chat_default(self) -> bool:
        processor = getattr(self.lm, "processor", None)
        return getattr(processor, "chat_template", None) is not None if processor is not None else super().chat_default

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        # These classes decide for a whole call, from its first request, whether it has images.
        for seeing in (True, False):
            group = [i for i, request in enumerate(requests) if bool(request.images) == seeing]
            if not group:
                continue
            # Set once a template was used, it keeps the `<image>` marks of plain contexts from becoming image tokens;
            # in rendered ones there are none left.
            if hasattr(self.lm, "chat_applied"):
                self.lm.chat_applied = False

            def deliver_one(index: int, completion: Completion, group: list[int] = group) -> None:
                deliver(group[index], completion)

            super().generate([requests[i] for i in group], deliver_one)

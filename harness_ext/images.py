"""Pictures of a task: the bytes, and the mark that stands for one in a text."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from harness_ext.records import Message

IMAGE_MARK = "<image>"  # lm-eval's: the n-th mark of a prompt stands for the n-th image that goes with it
NOT_SHOWN = "(an image, not shown)"


@dataclass(frozen=True)
class Image:
    """A picture, as PNG bytes."""

    png: bytes

    @classmethod
    def of(cls, picture: Any) -> Image:
        """Return the record of a `PIL.Image.Image`; the same pixels give the same bytes."""
        buffer = io.BytesIO()
        picture.convert("RGBA" if picture.mode in ("RGBA", "LA", "PA") else "RGB").save(buffer, format="PNG")
        return cls(buffer.getvalue())

    @cached_property
    def digest(self) -> str:
        """Return what identifies the picture in keys."""
        return hashlib.sha256(self.png).hexdigest()

    @property
    def data_url(self) -> str:
        """Return the picture as chat servers take it (`data:image/png;base64,…`)."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    def open(self) -> Any:
        """Return it as a `PIL.Image.Image`."""
        from PIL import Image as Pillow

        return Pillow.open(io.BytesIO(self.png)).convert("RGB")


def is_picture(value: Any) -> bool:
    """Return whether a value is a `PIL.Image.Image`."""
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(value).__mro__)


def count_marks(prompt: str | Sequence[Message]) -> int:
    """Return how many images a context or a conversation speaks of."""
    return prompt.count(IMAGE_MARK) if isinstance(prompt, str) else sum(m.content.count(IMAGE_MARK) for m in prompt)


def without_images(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation for a model that sees no images: words stand where they were."""
    return [replace(m, content=m.content.replace(IMAGE_MARK, NOT_SHOWN)) for m in messages]

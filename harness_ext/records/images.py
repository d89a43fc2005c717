"""The images of a task: their bytes, and the mark that stands for one in a text."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from harness_ext.records.message import Message

IMAGE_MARK = "<image>"  # lm-eval's own: the n-th mark in a prompt stands for the prompt's n-th image
NOT_SHOWN = "(an image, not shown)"


@dataclass(frozen=True)
class Image:
    """An image, as PNG bytes."""

    png: bytes

    @classmethod
    def of(cls, picture: Any) -> Image:
        """Return the record of a `PIL.Image.Image`. Equal pixels give equal bytes."""
        buffer = io.BytesIO()
        picture.convert("RGBA" if picture.mode in ("RGBA", "LA", "PA") else "RGB").save(buffer, format="PNG")
        return cls(buffer.getvalue())

    @cached_property
    def digest(self) -> str:
        """Return the digest that identifies the image in store keys."""
        return hashlib.sha256(self.png).hexdigest()

    @property
    def data_url(self) -> str:
        """Return the image as chat servers accept it (`data:image/png;base64,…`)."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"

    def open(self) -> Any:
        """Return the image as a `PIL.Image.Image`."""
        from PIL import Image as Pillow

        return Pillow.open(io.BytesIO(self.png)).convert("RGB")


def is_picture(value: Any) -> bool:
    """Return whether a value is a `PIL.Image.Image`, without importing Pillow."""
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(value).__mro__)


def count_marks(prompt: str | Sequence[Message]) -> int:
    """Return how many image marks a context or a conversation contains."""
    return prompt.count(IMAGE_MARK) if isinstance(prompt, str) else sum(m.content.count(IMAGE_MARK) for m in prompt)


def without_images(messages: Sequence[Message]) -> list[Message]:
    """Return a conversation for a model that accepts no images: words replace the marks."""
    return [replace(m, content=m.content.replace(IMAGE_MARK, NOT_SHOWN)) for m in messages]

"""lm-eval's hash of a document, by which records, scores and samples of different runs are matched."""

from __future__ import annotations

import json
from typing import Any

from harness_ext.chat import repair
from harness_ext.images import Image, is_picture


def document_json(doc: Any) -> str:
    """Return a document as lm-eval writes it before hashing; half a surrogate pair becomes U+FFFD.

    A picture counts by its pixels: lm-eval writes its address in memory, which no second run shares.
    """
    from lm_eval.utils import handle_non_serializable

    def default(value: Any) -> Any:
        return Image.of(value).digest if is_picture(value) else handle_non_serializable(value)

    return repair(json.dumps(doc, indent=2, default=default, ensure_ascii=False))


def document_hash(doc: Any) -> str:
    """Return the `doc_hash` of lm-eval's samples."""
    from lm_eval.utils import hash_string

    return str(hash_string(document_json(doc)))

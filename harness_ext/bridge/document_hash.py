"""lm-eval's document hash, which matches the records, scores and samples of different runs."""

from __future__ import annotations

import json
from typing import Any

from harness_ext.records.chat import repair
from harness_ext.records.images import Image, is_picture


def document_json(doc: Any) -> str:
    """Return a document as the JSON text that lm-eval hashes; a lone surrogate becomes U+FFFD.

    An image is represented by its pixels. lm-eval would write its memory address, which differs in every run.
    """
    from lm_eval.utils import handle_non_serializable

    def default(value: Any) -> Any:
        return Image.of(value).digest if is_picture(value) else handle_non_serializable(value)

    return repair(json.dumps(doc, indent=2, default=default, ensure_ascii=False))


def document_hash(doc: Any) -> str:
    """Return the `doc_hash` that lm-eval writes into its samples."""
    from lm_eval.utils import hash_string

    return str(hash_string(document_json(doc)))

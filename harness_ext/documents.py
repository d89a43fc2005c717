"""lm-eval's hash of a document, by which records, scores and samples of different runs are matched."""

from __future__ import annotations

import json
from typing import Any

from harness_ext.chat import repair


def document_json(doc: Any) -> str:
    """Return a document as lm-eval writes it before hashing; half a surrogate pair becomes U+FFFD."""
    from lm_eval.utils import handle_non_serializable

    return repair(json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False))


def document_hash(doc: Any) -> str:
    """Return the `doc_hash` of lm-eval's samples."""
    from lm_eval.utils import hash_string

    return str(hash_string(document_json(doc)))

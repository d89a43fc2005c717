"""Finds model arguments that look like secrets, before anything is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET_NAME = re.compile(r"(key|token|secret|passw|credential)|(^|[._-])auth", re.IGNORECASE)
# Names in which a token is a unit of text: `tokenizer_revision`, `max_num_batched_tokens`, `image_token_id`.
_MODEL_WORDS = re.compile(
    r"tokeni[sz]e[rd]?|tokeni[sz]ation|(max|min|num|new|special|skip|batched|total)_(\w+_)?tokens|token_ids?\b"
    r"|(bos|eos|pad|unk|mask|image|prefix|think_start|think_end)_token\b",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(
    r"://[^/@\s]+:[^/@\s]+@|\b(sk|gsk|xai)-[A-Za-z0-9_-]{20,}|\b(hf|ghp|gsk)_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bAKIA[A-Z0-9]{16}\b|\bAIza[A-Za-z0-9_-]{35}|\bBearer\s+\S{8,}"
)


def secrets_in(arguments: Mapping[str, Any], harmless: frozenset[str], prefix: str = "") -> list[str]:
    """Return the names of arguments that look like secrets, because lm-eval copies model arguments into its results.

    Names are checked, and so are values: credentials in URLs and well-known key formats count. Values are never
    repeated in the result.

    arguments: the arguments, flat or nested.
    harmless: names of declared options that only look like secrets (`chunk_tokens`).
    prefix: prefix of the names in the result.
    """
    found = []
    for name, value in arguments.items():
        suspicious = any(
            _SECRET_NAME.search(_MODEL_WORDS.sub("", part)) for part in str(name).split(".") if part not in harmless
        )
        if isinstance(value, Mapping) and not suspicious:
            found += secrets_in(value, harmless, f"{prefix}{name}.")
        elif suspicious or (isinstance(value, str | list | tuple) and _SECRET_VALUE.search(str(value))):
            found.append(f"{prefix}{name}")
    return found

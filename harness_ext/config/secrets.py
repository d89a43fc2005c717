"""Finds model arguments that look like secrets, before anything is written.

The rule is that arguments hold no credentials at all, because lm-eval copies them into its results.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from harness_ext.credentials import has_credential, is_secret_name

_TEXTS = (str, bytes, PurePath, list, tuple, set)


def secrets_in(arguments: Mapping[str, Any], harmless: frozenset[str], prefix: str = "") -> list[str]:
    """Return the names of arguments that look like secrets.

    Names are checked, and so are values: the formats of well-known keys, whatever an URL contains besides an address,
    and the secrets of the environment count. Values are never repeated in the result.

    arguments: the arguments, flat or nested.
    harmless: names of declared options that only look like secrets (`chunk_tokens`).
    prefix: prefix of the names in the result.
    """
    found = []
    for name, value in arguments.items():
        suspicious = any(is_secret_name(part) for part in str(name).split(".") if part not in harmless)
        if isinstance(value, Mapping) and not suspicious:
            found += secrets_in(value, harmless, f"{prefix}{name}.")
        elif suspicious or (isinstance(value, _TEXTS) and has_credential(str(value))):
            found.append(f"{prefix}{name}")
    return found

"""Finds model arguments that look like secrets, before anything is written.

The rule is that arguments hold no credentials at all, because lm-eval copies them into its results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from harness_ext.credentials import has_credential, is_secret_name

# A name in a text of JSON or Python, in which headers may be given: `{"Authorization": "…"}`.
_NAMED = re.compile(r"""["']([\w.-]{1,100})["']\s*:""")


def secrets_in(arguments: Mapping[str, Any], harmless: frozenset[str], prefix: str = "") -> list[str]:
    """Return the names of arguments that look like secrets.

    Names are checked, and so are values: the formats of well-known keys, whatever a URL contains besides an address,
    the secrets of the environment, and the names in lists and in texts of JSON count. Values are never repeated in the
    result.

    arguments: the arguments, flat or nested.
    harmless: names of declared options that only look like secrets (`chunk_tokens`).
    prefix: prefix of the names in the result.
    """
    found = []
    for name, value in arguments.items():
        suspicious = any(is_secret_name(part) for part in str(name).split(".") if part not in harmless)
        if isinstance(value, Mapping) and not suspicious:
            found += secrets_in(value, harmless, f"{prefix}{name}.")
        elif suspicious or _holds_secret(value):
            found.append(f"{prefix}{name}")
    return found


def _holds_secret(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(is_secret_name(str(name)) or _holds_secret(inner) for name, inner in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_secret, value))
    if not isinstance(value, str | bytes | PurePath):
        return False
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return has_credential(text) or any(map(is_secret_name, _NAMED.findall(text)))

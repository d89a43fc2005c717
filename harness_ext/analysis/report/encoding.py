"""Turns data into text that is inert inside a page, and scripts into sources that a content security policy names."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from typing import Any

# What ends a script element, or a line in old readings of JavaScript, cannot occur in JSON that is escaped like this.
_INERT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def inert_json(data: Any) -> str:
    """Return JSON that can stand inside a script element, whatever texts it contains."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_INERT)


def packed(data: Any) -> str:
    """Return JSON, deflated and in base64: what the page's `unpack` reads with the browser's DecompressionStream."""
    return packed_text(json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def packed_text(text: str) -> str:
    """Return a text, deflated and in base64."""
    # Lone surrogates were written out before, but a text of the package itself must not end a report either.
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"), 9)).decode("ascii")


def script_hash(script: str) -> str:
    """Return the source expression by which a content security policy allows exactly this script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}'"

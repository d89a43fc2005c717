"""Generation settings as lm-eval's models read them. This is the only module that normalises them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

_encode = json.JSONEncoder(sort_keys=True, default=str).encode


def effective_settings(gen_kwargs: Mapping[str, Any], default_max_gen_toks: int) -> dict[str, Any]:
    """Return generation settings with aliases resolved (`max_new_tokens`, …) and defaults filled in."""
    from lm_eval.models.utils import normalize_gen_kwargs

    return dict(normalize_gen_kwargs(dict(gen_kwargs), default_max_gen_toks))


def canonical_settings(gen_kwargs: Mapping[str, Any], default_max_gen_toks: int) -> tuple[str, bool]:
    """Return the effective settings as canonical JSON (equal if they mean the same), and whether they sample."""
    return _canonical(_encode(gen_kwargs), default_max_gen_toks)


@lru_cache(maxsize=1024)
def _canonical(gen_kwargs: str, default_max_gen_toks: int) -> tuple[str, bool]:
    settings = effective_settings(json.loads(gen_kwargs), default_max_gen_toks)
    settings["until"] = sorted(set(stop_sequences(settings)))
    return json.dumps(settings, sort_keys=True), bool(settings.get("do_sample"))


def stop_sequences(gen_kwargs: Mapping[str, Any]) -> list[str]:
    """Return the stop sequences of generation settings (`until`, one or several) as a list."""
    until = gen_kwargs.get("until") or []
    return [until] if isinstance(until, str) else list(until)

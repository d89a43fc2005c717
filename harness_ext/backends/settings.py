"""Generation settings as lm-eval's models read them. This is the only module that normalises them."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from harness_ext.options import MOST
from harness_ext.terminal import outside

# What generation settings can be. Those that are not listed are passed on as they are, unless they are misspelt.
_NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repetition_penalty": (0, 100),
    "presence_penalty": (-10, 10),
    "frequency_penalty": (-10, 10),
}
_COUNTS: Mapping[str, int] = {
    "max_gen_toks": 1,
    "max_new_tokens": 1,
    "max_tokens": 1,
    "max_completion_tokens": 1,
    "top_k": -1,
    "num_beams": 1,
}
_NAMES = (*_NUMBERS, *_COUNTS, "do_sample", "until", "stop")
ALIKE = 0.9  # from here on a name counts as misspelt: `min_tokens` and `top_a`, which some servers know, are less alike
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


def settings_problems(gen_kwargs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return what is wrong with generation settings, one message for each setting that no model can take.

    gen_kwargs: the settings.
    prefix: what comes before their names in the messages. Default: nothing.
    """
    problems = []
    for name, value in gen_kwargs.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        expected = ""
        if name in _NUMBERS and value is not None:
            low, high = _NUMBERS[name]
            expected = "" if number and low <= value <= high else f"a number from {low:g} to {high:g}"
        elif name in _COUNTS and value is not None:
            least = _COUNTS[name]
            fits = number and value == int(value) and least <= value <= MOST
            expected = "" if fits else f"a whole number from {least} to {MOST:,}"
        elif name == "do_sample" and not isinstance(value, bool):
            expected = "True or False"
        elif name in ("until", "stop") and not _are_texts(value):
            expected = "a text or a list of texts"
        elif name not in _NAMES and (close := difflib.get_close_matches(str(name), _NAMES, 1, ALIKE)):
            problems.append(f"there is no setting `{prefix}{outside(name)}` (did you mean `{close[0]}`?)")
        if expected:
            problems.append(f"`{prefix}{name}={outside(value, 100)}`: expected {expected}")
    return problems


def _are_texts(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, str)
        or (isinstance(value, list | tuple) and all(isinstance(part, str) for part in value))
    )


def stop_sequences(gen_kwargs: Mapping[str, Any]) -> list[str]:
    """Return the stop sequences of generation settings (`until`, one or several) as a list."""
    until = gen_kwargs.get("until") or []
    return [until] if isinstance(until, str) else list(until)

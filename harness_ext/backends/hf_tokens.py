"""The tokenizer of lm-eval's `HFLM`, for protocols that work on token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from harness_ext.backends.base import Tokens
from harness_ext.backends.hf_sampling import settings_of
from harness_ext.reading.stops import cut_at_stop


class HFTokens(Tokens):
    """The tokenizer of an `HFLM`. Texts are decoded and cut as its `generate_until` does."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm

    @cached_property
    def vocabulary(self) -> str:  # type: ignore[override]
        """Return a digest of all tokens and their ids."""
        listed = json.dumps(sorted(self.lm.tokenizer.get_vocab().items()))
        return hashlib.sha256(listed.encode("utf-8", "surrogatepass")).hexdigest()

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.lm.tok_encode(text, add_special_tokens=False)) if text else ()

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.lm.tok_decode(list(ids))
        return text

    def read(self, ids: Sequence[int], gen_kwargs: Mapping[str, Any]) -> tuple[str, bool]:
        from lm_eval.models.utils import postprocess_generated_text

        settings, stops = settings_of(self.lm, gen_kwargs)
        end = next((i + 1 for i, token in enumerate(ids) if token in self.lm.end_ids), None)
        kept = list(ids)[: min(end or len(ids), settings["max_gen_toks"])]
        ended = end is not None or len(ids) >= settings["max_gen_toks"]
        ended = ended or cut_at_stop(self.lm.tokenizer.decode(kept), stops)[1]
        thinking = self.lm.think_end_token
        if isinstance(thinking, int) and thinking in kept:
            kept = kept[len(kept) - kept[::-1].index(thinking) :]
        text = self.lm.tok_decode(kept)
        text = text.lstrip() if isinstance(thinking, int) else text
        if isinstance(thinking, str):
            text = postprocess_generated_text(generation=text, stop=stops, think_end_token=thinking)
        return cut_at_stop(text, stops)[0], ended

    def limit(self, gen_kwargs: Mapping[str, Any]) -> int:
        return int(settings_of(self.lm, gen_kwargs)[0]["max_gen_toks"])

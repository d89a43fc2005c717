"""Verification by a completions server that tells log-probabilities of the prompt (vLLM's `prompt_logprobs`).

A server tells the likeliest tokens and the given one at each place, with its rank; what lies between is not known.
Its settings are greedy: penalties that a run sets are not part of what it tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import exp
from typing import Any

from harness_ext.backends.base import GenerateRequest, VerifyRequest
from harness_ext.backends.verify_hf import LEAST_LOGPROB, HFTokens
from harness_ext.errors import LoadError
from harness_ext.records import Checks

MOST_RANKS = 20  # vLLM's own limit, unless it was started with another (`--max-logprobs`)


class ServedTokens(HFTokens):
    """The tokens of a served model, by its tokenizer on this side."""

    def __init__(self, name: str, max_gen_toks: int) -> None:
        from transformers import AutoTokenizer

        super().__init__(self)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"`tokenizer={name}` cannot be read: {reason}") from error
        self.max_gen_toks = max_gen_toks
        self.eot_token_id = self.tokenizer.eos_token_id
        self.end_ids = frozenset({self.eot_token_id})
        self.think_end_token = None

    def tok_encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the token ids of a reply, as `HFLM` gives them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def tok_decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """Return a reply's text, as `HFLM` gives it."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def prompt(self, text: str) -> list[int]:
        """Return the token ids of a prompt: with BOS in front, once."""
        bos = self.tokenizer.bos_token
        return self.tok_encode(text, add_special_tokens=not (bos and text.startswith(bos)))

    def row(self, request: GenerateRequest | VerifyRequest) -> list[int]:
        """Return all tokens that a request has the model read."""
        draft = request.draft if isinstance(request, VerifyRequest) else ()
        return [*self.prompt(request.prompt), *(request.reply or ()), *draft]


def verify_body(model: str, tokens: ServedTokens, request: VerifyRequest) -> bytes:
    """Return the request that a server is sent: read all, tell of each token, write one."""
    ranks = max(2, min(request.ranks, MOST_RANKS))
    fields = {
        "model": model,
        "prompt": tokens.row(request),
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": ranks,
        "prompt_logprobs": ranks,
        "return_tokens_as_token_ids": True,
    }
    return json.dumps(fields).encode()


def read_checks(name: str, choice: Mapping[str, Any], tokens: ServedTokens, request: VerifyRequest) -> Checks:
    """Return what a server's reply says of a draft. Raises LoadError where it tells nothing of the prompt."""
    told = choice.get("prompt_logprobs")
    after = ((choice.get("logprobs") or {}).get("top_logprobs") or [None])[0]
    row = tokens.row(request)
    if not told or len(told) != len(row) or not after or not all(key.startswith("token_id:") for key in after):
        raise LoadError(
            f"{name} tells no log-probabilities of a prompt's tokens (`prompt_logprobs`, with token ids), so it cannot "
            "verify: take a server that does (vLLM), or `accept=judge`"
        )
    places = [{int(token): entry for token, entry in place.items()} for place in told[len(row) - len(request.draft) :]]
    if not request.draft:
        places = []
    logprobs, ranks, above, floors = [], [], [], []
    for number, (place, token) in enumerate(zip(places, request.draft, strict=True)):
        own = float(place[token]["logprob"])
        listed = [float(entry["logprob"]) for other, entry in place.items() if other != token]
        likelier = [value for value in listed if value > own]
        rank = place[token].get("rank")
        # The given token is listed behind the likeliest ones: beyond them nothing is known but its rank.
        beyond = len(likelier) == len(listed) and (rank is None or rank - 1 > len(likelier))
        logprobs.append(max(round(own, 6), LEAST_LOGPROB))
        ranks.append(len(likelier) if rank is None else rank - 1)
        above.append(round(sum(map(exp, likelier)), 7))
        if beyond:
            floors.append(number)
    likeliest = [{t: float(entry["logprob"]) for t, entry in place.items()} for place in places]
    likeliest.append({int(key.partition(":")[2]): float(value) for key, value in after.items()})
    best = [_best(found) for found in likeliest]
    instead = {}
    for number, found in enumerate(likeliest):
        others = {token: value for token, value in found.items() if token not in tokens.end_ids}
        if best[number][0] in tokens.end_ids and others:
            instead[number] = _best(others)
    order = sorted(likeliest[-1], key=lambda token: -likeliest[-1][token])
    end_rank = next((rank for rank, token in enumerate(order) if token in tokens.end_ids), None)
    return Checks(tuple(logprobs), tuple(ranks), tuple(above), tuple(best), instead, end_rank, tuple(floors))


def _best(found: Mapping[int, float]) -> tuple[int, float]:
    token = max(found, key=lambda t: found[t])
    return token, max(round(found[token], 6), LEAST_LOGPROB)


def prompt_field(request: GenerateRequest, tokens: ServedTokens, settings: dict[str, Any]) -> list[int]:
    """Return a begun reply's prompt as token ids, and shorten in `settings` what may still be written."""
    left = tokens.limit(request.gen_kwargs) - len(request.reply or ())
    settings["max_gen_toks"] = max(1, min(left, request.only) if isinstance(request.only, int) else left)
    return tokens.row(request)

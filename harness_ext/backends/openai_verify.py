"""Verification by a completions server that returns log-probabilities of the prompt (vLLM's `prompt_logprobs`).

For each position the server returns its likeliest tokens, and the given token with its rank. The tokens between them
are unknown. The request is greedy, so penalties that a run sets do not affect the log-probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import exp
from typing import Any

from harness_ext.backends.base import LEAST_LOGPROB, GenerateRequest, VerifyRequest
from harness_ext.backends.hf_tokens import HFTokens
from harness_ext.errors import LoadError
from harness_ext.records import Verification

MOST_RANKS = 20  # vLLM's default limit (`--max-logprobs`)


class ServedTokens(HFTokens):
    """The tokenizer of a served model, loaded into this process."""

    def __init__(self, name: str, max_gen_toks: int) -> None:
        from transformers import AutoTokenizer

        super().__init__(self)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"`tokenizer={name}` cannot be read: {reason}. Give a folder with the model's tokenizer, or a hub id"
            ) from error
        self.max_gen_toks = max_gen_toks
        self.eot_token_id = self.tokenizer.eos_token_id
        self.end_ids = frozenset({self.eot_token_id})
        self.think_end_token = None

    def tok_encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Return the token ids of a reply, as `HFLM` does."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return ids

    def tok_decode(self, ids: Any, skip_special_tokens: bool = True) -> str:
        """Return the text of a reply, as `HFLM` does."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def prompt(self, text: str) -> list[int]:
        """Return the token ids of a prompt, without a second BOS if its text begins with one."""
        bos = self.tokenizer.bos_token
        return self.tok_encode(text, add_special_tokens=not (bos and text.startswith(bos)))

    def row(self, request: GenerateRequest | VerifyRequest) -> list[int]:
        """Return all tokens that the model reads for a request: prompt, partial reply and draft."""
        draft = request.draft if isinstance(request, VerifyRequest) else ()
        return [*self.prompt(request.prompt), *(request.reply or ()), *draft]


def verify_body(model: str, tokens: ServedTokens, request: VerifyRequest) -> bytes:
    """Return the body of a verification request: the log-probabilities of all tokens are wanted, and one new token."""
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


def read_verification(
    name: str, choice: Mapping[str, Any], tokens: ServedTokens, request: VerifyRequest
) -> Verification:
    """Return the verification of a draft from a server's reply.

    name: the model's name, for the error message.
    choice: the first choice of the reply.
    tokens: the model's tokenizer.
    request: the request that was sent.

    Raises LoadError if the reply has no log-probabilities of the prompt.
    """
    reported = choice.get("prompt_logprobs")
    after = ((choice.get("logprobs") or {}).get("top_logprobs") or [None])[0]
    row = tokens.row(request)
    if not reported or len(reported) != len(row) or not after or not all(key.startswith("token_id:") for key in after):
        raise LoadError(
            f"{name} returns no log-probabilities of a prompt's tokens (`prompt_logprobs`, with token ids), so it "
            "cannot verify: use a server that returns them (vLLM does), or `accept=judge`"
        )
    entries = [{int(token): entry for token, entry in at.items()} for at in reported[len(row) - len(request.draft) :]]
    if not request.draft:
        entries = []
    logprobs, ranks, above, floors = [], [], [], []
    for position, (listed, token) in enumerate(zip(entries, request.draft, strict=True)):
        own = float(listed[token]["logprob"])
        others = [float(entry["logprob"]) for other, entry in listed.items() if other != token]
        likelier = [value for value in others if value > own]
        rank = listed[token].get("rank")
        # If all other listed tokens are likelier, the given one is below the server's list. Tokens that are likelier
        # than it may then be missing, so what was counted is only a lower bound.
        incomplete = len(likelier) == len(others) and (rank is None or rank - 1 > len(likelier))
        logprobs.append(max(round(own, 6), LEAST_LOGPROB))
        ranks.append(len(likelier) if rank is None else rank - 1)
        above.append(round(sum(map(exp, likelier)), 7))
        if incomplete:
            floors.append(position)
    likeliest = [{t: float(entry["logprob"]) for t, entry in listed.items()} for listed in entries]
    likeliest.append({int(key.partition(":")[2]): float(value) for key, value in after.items()})
    best = [_best(found) for found in likeliest]
    instead = {}
    for position, found in enumerate(likeliest):
        going_on = {token: value for token, value in found.items() if token not in tokens.end_ids}
        if best[position][0] in tokens.end_ids and going_on:
            instead[position] = _best(going_on)
    order = sorted(likeliest[-1], key=lambda token: -likeliest[-1][token])
    end_rank = next((rank for rank, token in enumerate(order) if token in tokens.end_ids), None)
    return Verification(
        logprobs=tuple(logprobs),
        ranks=tuple(ranks),
        above=tuple(above),
        best=tuple(best),
        instead=instead,
        end_rank=end_rank,
        floors=tuple(floors),
    )


def _best(found: Mapping[int, float]) -> tuple[int, float]:
    token = max(found, key=lambda t: found[t])
    return token, max(round(found[token], 6), LEAST_LOGPROB)


def prompt_field(request: GenerateRequest, tokens: ServedTokens, settings: dict[str, Any]) -> list[int]:
    """Return the prompt of a partial reply as token ids, and set in `settings` how many tokens may follow."""
    left = tokens.limit(request.gen_kwargs) - len(request.reply or ())
    settings["max_gen_toks"] = max(1, min(left, request.only) if isinstance(request.only, int) else left)
    return tokens.row(request)

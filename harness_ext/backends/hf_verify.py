"""Verifies drafts on lm-eval's `HFLM`: one forward pass tells how likely every token of a draft is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import log
from typing import Any

from harness_ext.backends.base import LEAST_LOGPROB, Deliver, VerifyRequest
from harness_ext.backends.hf_decoding import prompt_ids, sampling_of
from harness_ext.backends.hf_states import States, reading
from harness_ext.records import Verification


def verify(lm: Any, states: States, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
    """Answer verification requests with one forward pass per batch of rows (prompt, partial reply and draft).

    lm: the `HFLM`.
    states: the states of the sequences that the model has read.
    requests: the requests.
    deliver: called with the index and the result of each.
    """
    import torch

    size = max(1, int(lm.batch_size))
    # Long rows first, so that a batch that does not fit into memory shows at once.
    ordered = sorted(range(len(requests)), key=lambda i: len(requests[i].prompt), reverse=True)
    for start in range(0, len(ordered), size):
        started = time.perf_counter()
        batch = ordered[start : start + size]
        how = [sampling_of(lm, requests[i].gen_kwargs) for i in batch]
        prompts = [prompt_ids(lm, requests[i], sampling.most) for i, sampling in zip(batch, how, strict=True)]
        rows = [[*p, *requests[i].reply, *requests[i].draft] for i, p in zip(batch, prompts, strict=True)]
        found: dict[int, Verification] = {}
        with reading(lm, states):
            for read in states.read(rows, [len(requests[i].draft) + 1 for i in batch]):
                n, row = read.index, rows[read.index]
                scores = torch.log_softmax(how[n].processed(read.logits.float(), row, len(prompts[n])), dim=-1)
                # One completion token: the pass itself predicts the token after the draft.
                found[n] = replace(
                    _verification(lm, requests[batch[n]], scores),
                    prompt_tokens=len(row),
                    cached_tokens=read.cached,
                    completion_tokens=1,
                    certainty=_certainty(read.logits[:-1]) if requests[batch[n]].certainty else None,
                )
        share = (time.perf_counter() - started) / len(batch)
        for n, verification in found.items():
            deliver(batch[n], replace(verification, seconds=share))


def float32_cost(tokens: int) -> float:
    """Return what a pass over several tokens costs in float32 on a CPU, in passes over one.

    As measured with Intel's MKL, which multiplies up to three vectors at the price of one, and has to rearrange the
    weights for more (docs/benchmarks/speed.md).
    """
    return 1.0 if tokens <= 3 else 2 + tokens / 24


def _verification(lm: Any, request: VerifyRequest, scores: Any) -> Verification:
    """Return the verification of a draft.

    `scores` are log-probabilities of shape (len(draft) + 1, vocabulary): row i is the distribution from which draft
    token i would be drawn, and the last row is the one after the draft.
    """
    import torch

    count, positions = len(request.draft), torch.arange(len(request.draft), device=scores.device)
    draft = torch.tensor(request.draft, dtype=torch.long, device=scores.device)
    own = scores[positions, draft]
    ids = torch.arange(scores.shape[-1], device=scores.device)
    # Of equally likely tokens, greedy decoding takes the one with the smallest id. A tie must count in the same way:
    # otherwise two tokens would have rank 0, and the accepted text could differ from the greedy one.
    likelier = (scores[:count] > own[:, None]) | ((scores[:count] == own[:, None]) & (ids < draft[:, None]))
    above = (scores[:count].exp() * likelier).sum(-1)
    ends = torch.tensor(sorted(e for e in lm.end_ids if e < scores.shape[-1]), dtype=torch.long, device=scores.device)
    tokens = scores.argmax(-1)
    # Where the likeliest token ends the reply: the likeliest one that does not, for rules whose corrections must leave
    # the student something to continue.
    without = scores.index_fill(-1, ends, -torch.inf)
    instead = {
        position: (token := int(without[position].argmax()), _number(scores[position, token]))
        for position in range(count + 1)
        if int(tokens[position]) in lm.end_ids
    }
    last = scores[-1]
    end_rank = int((last > last[ends].max()).sum()) if len(ends) else None
    drawn: tuple[tuple[int, float], ...] = ()
    if request.uniforms:
        # Inverse transform sampling. The sums are in float64, and the points scaled by the last sum, since sums over a
        # large vocabulary in float32 drift from 1 and lose small probabilities.
        sums = last.double().exp().cumsum(0)
        points = torch.tensor(request.uniforms, dtype=torch.float64, device=scores.device) * sums[-1]
        drawn = tuple((int(i), _number(last[i])) for i in torch.searchsorted(sums, points, right=True))
    return Verification(
        logprobs=tuple(map(_number, own)),
        ranks=tuple(int(n) for n in likelier.sum(-1)),
        above=tuple(round(float(p), 7) for p in above),
        best=tuple((int(token), _number(scores[position, token])) for position, token in enumerate(tokens)),
        instead=instead,
        end_rank=end_rank,
        drawn=drawn,
        candidates=tuple(_number(last[i]) for i in request.candidates),
    )


def _certainty(logits: Any) -> float | None:
    """Return the self-certainty of a draft; None for one without tokens.

    `logits` has the shape (len(draft), vocabulary). They are the model's own: settings that leave out tokens would give
    these the probability 0, and the mean of the logarithms no finite value.
    """
    import torch

    if not len(logits):
        return None
    scores = torch.log_softmax(logits.float(), dim=-1)
    return round(float(-scores.mean()) - log(logits.shape[-1]), 6)


def _number(value: Any) -> float:
    return max(round(float(value), 6), LEAST_LOGPROB)

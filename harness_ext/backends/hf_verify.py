"""Token ids on lm-eval's `HFLM`: drafts are verified in one forward pass, partial replies continued token by token."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

from harness_ext.backends.base import Deliver, GenerateRequest, Tokens, VerifyRequest
from harness_ext.backends.hf_rows import RowSeconds
from harness_ext.backends.settings import effective_settings
from harness_ext.reading.steps import steps
from harness_ext.reading.stops import cut_at_stop
from harness_ext.records import Completion, Finish, Verification

LEAST_LOGPROB = -1000.0
# Logits processors that need nothing but the distribution itself. All others also depend on the tokens before it, so
# they are applied one position at a time.
POSITIONWISE = frozenset({"TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper"})

AnyRequest = TypeVar("AnyRequest", GenerateRequest, VerifyRequest)


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


def settings_of(lm: Any, gen_kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the generation settings as lm-eval reads them (aliases resolved), and the stop sequences."""
    from lm_eval.models.utils import handle_stop_sequences

    settings = effective_settings(gen_kwargs, lm.max_gen_toks)
    eos = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
    return settings, [stop for stop in handle_stop_sequences(settings.pop("until", None), eos=eos) if stop]


def generate_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `HFLM` passes on to `generate` from these settings, except lengths."""
    kwargs = {k: v for k, v in settings.items() if k not in ("max_gen_toks", "max_length")}
    kwargs["temperature"] = kwargs.get("temperature", 0.0)
    if kwargs["temperature"] == 0.0 and kwargs.get("do_sample") is None:
        kwargs["do_sample"] = False
    if kwargs.get("do_sample") is False and kwargs["temperature"] == 0.0:
        del kwargs["temperature"]
    return kwargs


def prompt_ids(lm: Any, request: GenerateRequest | VerifyRequest) -> list[int]:
    """Return the tokens of a prompt as `generate_until` gives them to the model: with BOS, cut if it is too long."""
    settings, _ = settings_of(lm, request.gen_kwargs)
    encoded, _ = lm.tok_batch_encode(
        [request.prompt], left_truncate_len=lm.max_length - settings["max_gen_toks"], truncation=lm.truncation
    )
    ids: list[int] = encoded[0].tolist()
    return ids


def verify(lm: Any, requests: Sequence[VerifyRequest], deliver: Deliver) -> None:
    """Answer verification requests with one forward pass per padded batch of rows (prompt, partial reply and draft).

    Rows are padded on the right, where a causal model does not look. Apart from rounding, a row's results therefore do
    not depend on its batch.
    """
    import torch

    for batch in _batches(lm, requests):
        started = time.perf_counter()
        rows = [[*prompt, *r.reply, *r.draft] for _, r, prompt in batch]
        # The logits at a position predict the next token, so those of the first draft token are one position before it.
        # Only the logits from the earliest such position on are kept: all of them would be a tensor of positions by
        # vocabulary for whole prompts.
        firsts = [len(row) - len(r.draft) - 1 for row, (_, r, _) in zip(rows, batch, strict=True)]
        width, first = max(map(len, rows)), min(firsts)
        inputs = torch.tensor([row + [lm.tokenizer.pad_token_id or 0] * (width - len(row)) for row in rows])
        with torch.no_grad(), autocast(lm):
            kwargs = {"logits_to_keep": width - first} if lm.keeps_logits else {}
            logits = lm.model(inputs.to(lm.device), **kwargs).logits[:, -(width - first) :]
        processed = _Processors(lm, batch[0][1].gen_kwargs)
        found = []
        for i, (_, request, prompt) in enumerate(batch):
            own = logits[i, firsts[i] - first : len(rows[i]) - first].float()
            found.append(_verification(lm, request, torch.log_softmax(processed(own, rows[i], len(prompt)), dim=-1)))
        share = (time.perf_counter() - started) / len(batch)
        for (index, *_), row, verification in zip(batch, rows, found, strict=True):
            # One completion token: the pass itself predicts the token after the draft.
            deliver(
                index,
                replace(verification, prompt_tokens=len(row), cached_tokens=0, completion_tokens=1, seconds=share),
            )


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


def _number(value: Any) -> float:
    return max(round(float(value), 6), LEAST_LOGPROB)


class _Processors:
    """The logits processors that `generate` applies before it chooses a token: penalties, temperature and the like.

    A draft must be judged by the distribution from which generation would choose, not by the raw logits. transformers
    has no public function that returns these processors, so this class repeats the private steps of `generate`.
    """

    def __init__(self, lm: Any, gen_kwargs: Mapping[str, Any]) -> None:
        settings, _ = settings_of(lm, gen_kwargs)
        self.model = lm.model
        self.config, _ = lm.model._prepare_generation_config(None, **generate_settings(settings))
        lm.model._prepare_special_tokens(self.config, True, device=lm.device)

    def __call__(self, logits: Any, row: list[int], prompt: int) -> Any:
        """Return the logits of a row's last positions as `generate` would choose from them.

        logits: the raw logits, of shape (positions, vocabulary).
        row: all tokens of the row. The token before each position is the last one that its processors see.
        prompt: the length of the row's prompt, in tokens.
        """
        import torch

        processors = self.model._get_logits_processor(self.config, input_ids_seq_length=prompt, device=logits.device)
        if not processors:
            return logits
        ids = torch.tensor([row], device=logits.device)
        if all(type(p).__name__ in POSITIONWISE for p in processors):
            return processors(ids.expand(len(logits), -1), logits)
        # In generation, a processor sees the tokens up to the position it decides on. With the whole row, a repetition
        # penalty would also punish tokens for what follows them in the draft.
        begin = len(row) + 1 - len(logits)
        return torch.cat([processors(ids[:, : begin + i], logits[i : i + 1]) for i in range(len(logits))])


def continue_replies(lm: Any, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
    """Answer generation requests that continue a partial reply.

    The reply's token ids follow the prompt's as they are. Encoding the text again could yield other tokens.
    """
    import torch
    from transformers import StoppingCriteriaList

    for batch in _batches(lm, requests):
        settings, stops = settings_of(lm, batch[0][1].gen_kwargs)
        rows = [[*prompt, *(r.reply or ())] for _, r, prompt in batch]
        width = max(map(len, rows))
        pad = lm.tokenizer.pad_token_id or 0
        inputs = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=lm.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=lm.device)
        hand_over = partial(_hand_over, lm, batch, RowSeconds(len(rows)), deliver)
        ends = _RowEnds(lm, [r for _, r, _ in batch], stops, settings["max_gen_toks"], width, hand_over)
        with torch.no_grad(), autocast(lm):
            out = lm.model.generate(
                input_ids=inputs,
                attention_mask=mask,
                max_new_tokens=max(1, *ends.room),
                stopping_criteria=StoppingCriteriaList([ends]),
                pad_token_id=pad,
                use_cache=True,
                **generate_settings(settings),
            )
        for i in range(len(rows)):
            if i not in ends.ended:  # by an end token of the request's own
                hand_over(i, out[i, width:].tolist(), "length")


def _hand_over(
    lm: Any,
    batch: Sequence[tuple[int, GenerateRequest, list[int]]],
    seconds: RowSeconds,
    deliver: Deliver,
    row: int,
    new: list[int],
    finish: Finish | None,
) -> None:
    index, request, prompt = batch[row]
    reply = request.reply or ()
    text, _ = HFTokens(lm).read((*reply, *new), request.gen_kwargs)
    deliver(
        index,
        Completion(
            text[len(lm.tok_decode(list(reply))) :] if reply else text,
            finish,
            prompt_tokens=len(prompt) + len(reply),
            cached_tokens=0,
            completion_tokens=len(new),
            seconds=seconds.end(row),
            ids=tuple(new),
        ),
    )


class _RowEnds:
    """Ends each row of a batch individually: at a stop sequence, at its own length limit, or after one step.

    A `StoppingCriteria` of transformers: called with all tokens so far, it returns which rows have ended. A batch runs
    until its last row has ended, so each row is handed over at its own end.

    lm: the `HFLM`.
    requests: the requests, one per row.
    stops: the stop sequences.
    max_gen_toks: the length limit of whole replies, in tokens.
    width: the padded length of prompt and partial reply, in tokens.
    hand_over: called once for each row that ends, with its number, its new tokens and how it ended.
    """

    def __init__(
        self,
        lm: Any,
        requests: Sequence[GenerateRequest],
        stops: list[str],
        max_gen_toks: int,
        width: int,
        hand_over: Callable[[int, list[int], Finish | None], None],
    ) -> None:
        self.lm, self.requests, self.stops, self.width = lm, requests, stops, width
        self.room = [max_gen_toks - len(r.reply or ()) for r in requests]
        self.room = [min(n, r.only) if isinstance(r.only, int) else n for n, r in zip(self.room, requests, strict=True)]
        # Only the last tokens are decoded at each step, since decoding all of them would take quadratic time. A token
        # has at least one byte, so a stop sequence spans at most as many tokens as it has bytes. The four more are a
        # margin for a character that is split over tokens. A stop sequence may begin in the partial reply.
        self.lookback = max((len(stop.encode()) for stop in stops), default=0) + 4
        self.hand_over = hand_over
        self.ended: set[int] = set()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        for i, request in enumerate(self.requests):
            new = input_ids[i, self.width :].tolist() if i not in self.ended else []
            if new and (found := self._finish(request, new, i)):
                self.ended.add(i)
                # `generate` writes at least one token, even for a row without room.
                self.hand_over(i, *((new, found[0]) if self.room[i] > 0 else ([], "length")))
        return torch.tensor([i in self.ended for i in range(len(self.requests))], device=input_ids.device)

    def _finish(self, request: GenerateRequest, new: list[int], i: int) -> tuple[Finish | None] | None:
        """Return how row `i` ends, in a tuple since the reason itself may be None; or None if it goes on."""
        if new[-1] in self.lm.end_ids:
            return ("stop",)
        tail = [*(request.reply or ()), *new][-self.lookback :]
        if any(stop in self.lm.tokenizer.decode(tail) for stop in self.stops):
            whole = self.lm.tokenizer.decode([*(request.reply or ()), *new])
            if cut_at_stop(whole, self.stops)[1]:
                return ("stop",)
        if len(new) >= self.room[i]:
            return (None if isinstance(request.only, int) and self.room[i] == request.only else "length",)
        if request.only == "step" and len(steps(self.lm.tok_decode(new))) > 1:
            return (None,)
        return None


def autocast(lm: Any) -> Any:
    """Return the context in which the model computes with the precision that the user asked for."""
    import torch

    dtype = lm.mixed_precision_dtype
    return torch.autocast(device_type=lm.device.type, dtype=dtype, enabled=dtype is not None)


def _batches(lm: Any, requests: Sequence[AnyRequest]) -> Iterator[list[tuple[int, AnyRequest, list[int]]]]:
    """Yield requests in batches of equal settings, longest first, each with its index and its prompt's tokens."""
    groups: dict[str, list[tuple[int, AnyRequest, list[int]]]] = {}
    for index, request in enumerate(requests):
        settings = json.dumps(request.gen_kwargs, sort_keys=True, default=str)
        groups.setdefault(settings, []).append((index, request, prompt_ids(lm, request)))

    def length(numbered: tuple[int, AnyRequest, list[int]]) -> int:
        _, request, prompt = numbered
        draft = request.draft if isinstance(request, VerifyRequest) else ()
        return len(prompt) + len(request.reply or ()) + len(draft)

    size = max(1, int(lm.batch_size))
    for group in groups.values():
        ordered = sorted(group, key=length, reverse=True)
        for start in range(0, len(ordered), size):
            yield ordered[start : start + size]

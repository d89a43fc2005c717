"""Continuous decoding on lm-eval's `HFLM`: replies that have ended leave the batch, and waiting calls join it.

This is the iteration-level scheduling of Orca (Yu et al., OSDI 2022). transformers' own continuous batching has no stop
sequences, continues no reply and verifies no draft, and on a CPU it is slower (docs/benchmarks/speed.md).
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness_ext.backends.base import Deliver, GenerateRequest
from harness_ext.backends.hf_rows import GeneratedRow, RowSeconds, completion_of, reply_text
from harness_ext.backends.hf_sampling import Sampling, choose
from harness_ext.backends.hf_states import States, reading
from harness_ext.backends.hf_tokens import HFTokens
from harness_ext.reading.steps import steps
from harness_ext.reading.stops import cut_at_stop
from harness_ext.records import Completion, Finish

MOST_SETTINGS = 256


@dataclass(eq=False, slots=True)
class Reply:
    """A reply that is being written.

    index: the index of its request.
    request: the request.
    prompt: the tokens of the prompt.
    sampling: how its tokens are chosen.
    room: how many tokens may be written.
    source: what it draws with; None for greedy decoding.
    processors: the logits processors, if there are any.
    new: the new tokens. Default: none.
    cached: how many tokens of the prompt had been read before. Default 0.
    unsure: whether the last token is less likely than the request's `confidence`. Default False.
    """

    index: int
    request: GenerateRequest
    prompt: list[int]
    sampling: Sampling
    room: int
    source: random.Random | None
    processors: Any
    new: list[int] = field(default_factory=list)
    cached: int = 0
    unsure: bool = False

    @property
    def begun(self) -> tuple[int, ...]:
        """Return the tokens of the reply that were there before."""
        return self.request.reply or ()


class Decoder:
    """Writes replies, with as many of them in a batch as the batch size allows.

    lm: the `HFLM`.
    states: the states of the sequences that the model has read.
    deliver: called with the index and the completion of each reply as soon as it has ended.
    more: called with the number of free rows, and returns further requests that wait, whose indices go on counting.
    """

    def __init__(
        self, lm: Any, states: States, deliver: Deliver, more: Callable[[int], Sequence[GenerateRequest]] = lambda _: ()
    ) -> None:
        self.lm, self.states, self.deliver, self.more = lm, states, deliver, more
        self.tokens = HFTokens(lm)
        self._seconds = RowSeconds()
        self._open: list[Reply] = []  # in the order of the rows of `states`

    def write(self, requests: Sequence[GenerateRequest]) -> None:
        """Write all replies, and those of the requests that come in meanwhile."""
        with reading(self.lm, self.states):
            self._write(requests)

    def _write(self, requests: Sequence[GenerateRequest]) -> None:
        size, count = max(1, int(self.lm.batch_size)), len(requests)
        waiting = deque(enumerate(requests))
        while True:
            if (free := size - len(self._open) - len(waiting)) > 0:
                added = self.more(free)
                waiting.extend(enumerate(added, count))
                count += len(added)
            if not (waiting or self._open):
                return
            joining = [self._reply(*waiting.popleft()) for _ in range(min(size - len(self._open), len(waiting)))]
            if joining := [reply for reply in joining if reply is not None]:
                self._join(joining)
            if self._open:
                logits = self.states.extend([reply.new[-1:] for reply in self._open])
                self._append(self._open, logits[:, -1])
                self._retire(self._open)

    def _reply(self, index: int, request: GenerateRequest) -> Reply | None:
        """Return the reply that a request begins, or None if it has no room for any token."""
        sampling = sampling_of(self.lm, request.gen_kwargs)
        prompt = prompt_ids(self.lm, request, sampling.most)
        room = sampling.most - len(request.reply or ())
        if isinstance(request.only, int):
            room = min(room, request.only)
        if room <= 0:
            self._finish_begun(Reply(index, request, prompt, sampling, 0, None, None), "length", 0.0)
            return None
        source = random.Random(request.seed) if sampling.draws else None
        processors = sampling.processors(len(prompt), self.lm.device) or None
        return Reply(index, request, prompt, sampling, room, source, processors)

    def _join(self, joining: Sequence[Reply]) -> None:
        for reply in joining:
            self._seconds.begin(reply)
        sequences = [[*reply.prompt, *reply.begun] for reply in joining]
        for read in self.states.read(sequences, [1] * len(joining), first=len(self._open)):
            reply = joining[read.index]
            reply.cached = read.cached
            self._open.append(reply)
            self._append([reply], read.logits)
        self._retire(joining)

    def _append(self, replies: Sequence[Reply], logits: Any) -> None:
        """Choose a token for each reply from the logits, of shape (replies, vocabulary)."""
        import torch

        logits = logits.float()
        groups: dict[Any, list[int]] = {}
        for i, reply in enumerate(replies):
            if reply.processors:
                groups.setdefault(reply.sampling if reply.sampling.positionwise else reply, []).append(i)
        for members in groups.values():
            one = replies[members[0]]
            alike = one.sampling.positionwise  # then the tokens before do not matter, only their number of rows
            rows = [[0]] * len(members) if alike else [[*one.prompt, *one.begun, *one.new]]
            logits[members] = one.processors(torch.tensor(rows, device=logits.device), logits[members])
        for reply, token in zip(replies, choose(logits, [reply.source for reply in replies]), strict=True):
            reply.new.append(token)
        asked = [i for i, reply in enumerate(replies) if reply.request.confidence]
        if asked:
            chosen = torch.tensor([[replies[i].new[-1]] for i in asked], device=logits.device)
            shares = torch.softmax(logits[asked], dim=-1).gather(1, chosen)[:, 0].tolist()
            for i, share in zip(asked, shares, strict=True):
                replies[i].unsure = share < replies[i].request.confidence
        self.lm.meter.wrote(len(replies))

    def _retire(self, written: Sequence[Reply]) -> None:
        """Hand over those of the open replies with a new token that have ended."""
        tails = [self._tail(reply) for reply in written]
        texts = self.lm.tokenizer.batch_decode(tails) if any(tails) else [""] * len(tails)
        ended = {reply: end[0] for reply, text in zip(written, texts, strict=True) if (end := self._end(reply, text))}
        # The rows of open replies come first in `states`. What has ended stays behind them, until it is needed again or
        # its room is. Rows are moved only where that is necessary, since the states of each are megabytes.
        count = len(self._open) - len(ended)
        free = iter([row for row, reply in enumerate(self._open[:count]) if reply in ended])
        for other, reply in enumerate(self._open[count:], count):
            if reply not in ended:
                row = next(free)
                self.states.swap(row, other)
                self._open[row] = reply
        del self._open[count:]
        for reply, finish in ended.items():
            seconds = self._seconds.end(reply)
            self.lm.meter.handed_over(len(reply.new))
            if reply.request.reply is None:
                self._finish_whole(reply, seconds)
            else:
                self._finish_begun(reply, finish, seconds)

    def _tail(self, reply: Reply) -> list[int]:
        """Return the last tokens of a reply, in which a stop sequence that has just been completed must lie.

        It may begin in the part of the reply that was there before.
        """
        most = reply.sampling.lookback
        if not most:
            return []
        tail = reply.new[-most:]
        return [*reply.begun[max(0, len(reply.begun) + len(tail) - most) :], *tail]

    def _end(self, reply: Reply, tail: str) -> tuple[Finish | None] | None:
        """Return how a reply ends, in a tuple since that may be None; or None if it goes on."""
        stops, request = reply.sampling.stops, reply.request
        if reply.new[-1] in reply.sampling.ends:
            return ("stop",)
        if any(stop in tail for stop in stops):
            markers = request.thought_markers if request.reply is None else None
            whole = self.lm.tokenizer.decode([*reply.begun, *reply.new])
            if cut_at_stop(whole, stops, markers)[1]:
                return ("stop",)
        if len(reply.new) >= reply.room:
            return (None if isinstance(request.only, int) and reply.room == request.only else "length",)
        if reply.unsure:
            return (None,)
        if request.only == "step" and len(steps(self.lm.tok_decode(reply.new))) > 1:
            return (None,)
        return None

    def _finish_whole(self, reply: Reply, seconds: float) -> None:
        request, stops = reply.request, reply.sampling.stops
        row = GeneratedRow(len(reply.prompt), reply.new, reply.room, stops, seconds, request.thought_markers)
        completion = completion_of(self.lm, reply_text(self.lm, row), row, request.keep_ids)
        self.deliver(reply.index, replace(completion, cached_tokens=reply.cached))

    def _finish_begun(self, reply: Reply, finish: Finish | None, seconds: float) -> None:
        tokens, begun = self.tokens, reply.begun
        text, _ = tokens.read((*begun, *reply.new), reply.request.gen_kwargs)
        self.deliver(
            reply.index,
            Completion(
                text[len(tokens.decode(begun)) :] if begun else text,
                finish,
                prompt_tokens=len(reply.prompt) + len(begun),
                cached_tokens=reply.cached,
                completion_tokens=len(reply.new),
                seconds=seconds,
                ids=tuple(reply.new),
            ),
        )


def sampling_of(lm: Any, gen_kwargs: Mapping[str, Any]) -> Sampling:
    """Return how tokens are chosen under these settings. To find out takes milliseconds, so it is remembered."""
    key = json.dumps(gen_kwargs, sort_keys=True, default=str)
    known: dict[str, Sampling] = lm.samplings
    if key not in known:
        if len(known) >= MOST_SETTINGS:
            known.clear()
        known[key] = Sampling(lm, gen_kwargs)
    return known[key]


def prompt_ids(lm: Any, request: Any, most: int) -> list[int]:
    """Return the tokens of a prompt as `generate_until` gives them to the model: with BOS, cut if it is too long.

    lm: the `HFLM`.
    request: the request.
    most: the length limit of the reply, in tokens.
    """
    encoded, _ = lm.tok_batch_encode([request.prompt], left_truncate_len=lm.max_length - most, truncation=lm.truncation)
    ids: list[int] = encoded[0].tolist()
    return ids

"""Helpers for tests of the engine: lm-eval requests, a backend that misbehaves on demand, and runs in one line."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, ScoreRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.protocol import Protocol, Question, SeatSetup
from harness_ext.records import Completion, Loglikelihood, Message, Transcript
from harness_ext.records.chat import plain_form


def instance(
    context: str,
    gen_kwargs: Mapping[str, Any] | None = None,
    *,
    doc_id: int = 0,
    task: str = "task",
    idx: int = 0,
    repeats: int = 1,
) -> Any:
    """Return an lm-eval `generate_until` Instance."""
    from lm_eval.api.instance import Instance

    return Instance(
        request_type="generate_until",
        doc={"question": str(context)},
        arguments=(context, dict(gen_kwargs if gen_kwargs is not None else {"until": ["\n\n"], "max_gen_toks": 24})),
        idx=idx,
        metadata=(task, doc_id, repeats),
    )


def instances(contexts: Iterable[str], gen_kwargs: Mapping[str, Any] | None = None, task: str = "task") -> list[Any]:
    """Return one Instance per context, numbered as documents of one task."""
    return [instance(c, gen_kwargs, doc_id=i, task=task) for i, c in enumerate(contexts)]


def run_engine(
    engine: Engine,
    protocol: Protocol,
    backends: Mapping[str, Backend],
    questions: Iterable[Question],
    timeout: float = 240.0,
    **more: Any,
) -> dict[int, Transcript]:
    """Run the engine in its own thread and return the transcripts by question. A run that hangs fails the test."""
    done: dict[int, Transcript] = {}
    errors: list[BaseException] = []

    def finished(number: int, transcript: Transcript) -> None:
        assert number not in done, f"question {number} finished twice"
        done[number] = transcript

    def work() -> None:
        try:
            engine.run(protocol, {n: SeatSetup(b) for n, b in backends.items()}, questions, finished, **more)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "deadlock: the run did not end"
    if errors:
        raise errors[0]
    return done


def number_of(text: str) -> int:
    """Return a number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def reply_to(prompt: str) -> str:
    """Return the correct reply of a `TroubledBackend`."""
    return f"reply {number_of(prompt):x}"


@dataclass
class Trouble:
    """What goes wrong. The first four concern a prompt in every batch, the last two whole batches.

    raises: prompts for which the model raises an error.
    forgets: prompts that the model does not answer.
    says_none: prompts that the model answers with a completion without text.
    says_wrong: prompts that the model answers with something other than a completion.
    largest: the largest number of requests that fit into a batch.
    crashes: numbers of deliveries after which a batch raises an error, once each.
    """

    raises: Callable[[str], bool] = lambda prompt: False
    forgets: Callable[[str], bool] = lambda prompt: False
    says_none: Callable[[str], bool] = lambda prompt: False
    says_wrong: Callable[[str], bool] = lambda prompt: False
    largest: int = 10**9
    crashes: list[int] = field(default_factory=list)

    def bad(self, prompt: str) -> bool:
        """Return whether every call with this prompt fails."""
        return any(rule(prompt) for rule in (self.raises, self.forgets, self.says_none, self.says_wrong))


class TroubledBackend(Backend):
    """Replies with `reply_to` in random order, delivers some results twice, and has `Trouble`.

    With `joins`, waiting calls join its batches at random; `joined` counts them. `answered` counts the correct results
    by prompt, `resent` lists the prompts that were sent again although they had been answered, and `together` is the
    largest number of concurrent batches.
    """

    capabilities = frozenset({"generate", "continue", "score"})

    def __init__(
        self, name: str, device: str = "", trouble: Trouble | None = None, seed: int = 0, joins: bool = False
    ) -> None:
        super().__init__()
        self.joins = joins
        self.name, self.device, self.fingerprint = name, device or name, f"troubled:{name}"
        self.trouble = trouble or Trouble()
        self.random = random.Random(seed)
        self.answered: Counter[str] = Counter()
        self.sampled_draws: list[str] = []
        self.resent: list[str] = []
        self.batches: list[int] = []
        self.busy = self.together = self.loads = self.joined = 0

    def load(self) -> None:
        self.loads += 1

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        return Prompt(plain_form(messages))

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        self._call([self._as_call(r) for r in requests], deliver)

    @staticmethod
    def _as_call(request: GenerateRequest) -> tuple[str, bool, bool]:
        return request.prompt, bool(request.gen_kwargs.get("do_sample")), False

    def score(self, requests: Sequence[ScoreRequest], deliver: Deliver) -> None:
        self._call([(f"{r.prompt}|{r.continuation}", False, True) for r in requests], deliver)

    def _call(self, requests: list[tuple[str, bool, bool]], deliver: Deliver) -> None:
        self.busy += 1
        self.together = max(self.together, self.busy)
        try:
            self._answer(requests, deliver)
        finally:
            self.busy -= 1

    def _answer(self, requests: list[tuple[str, bool, bool]], deliver: Deliver) -> None:
        self.batches.append(len(requests))
        self._note_resent(requests)
        if len(requests) > self.trouble.largest:
            raise RuntimeError("out of memory")
        crash = self.trouble.crashes.pop() if self.trouble.crashes else None
        order = self.random.sample(range(len(requests)), len(requests))
        for count in itertools.count():
            free = self.random.choice([0, 1, 3]) if self.joins and not requests[0][2] else 0
            joining = [self._as_call(r) for r in self.waiting(free)]
            self._note_resent(joining)
            self.joined += len(joining)
            order += range(len(requests), len(requests) + len(joining))
            requests += joining
            if count == crash:
                raise RuntimeError("a passing fault")
            if count == len(order):
                return
            i = order[count]
            prompt, sampled, scoring = requests[i]
            if self.trouble.raises(prompt):
                raise ValueError(f"cannot do {prompt[:20]}")
            if self.trouble.forgets(prompt):
                continue
            if self.trouble.says_none(prompt):
                deliver(i, Completion(None))  # type: ignore[arg-type]
            elif self.trouble.says_wrong(prompt):
                deliver(i, 7)  # type: ignore[arg-type]
            elif scoring:
                self.answered[prompt] += 1
                deliver(i, Loglikelihood(-float(number_of(prompt) % 97)))
            else:
                text = reply_to(prompt)
                if sampled:
                    text = f"draw {self.random.random()}"
                    self.sampled_draws.append(text)
                else:
                    self.answered[prompt] += 1
                deliver(i, Completion(text, "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=2))
                if number_of(prompt) % 3 == 0:
                    deliver(i, Completion("said twice", "stop", prompt_tokens=1, cached_tokens=0, completion_tokens=2))

    def _note_resent(self, requests: list[tuple[str, bool, bool]]) -> None:
        self.resent += [prompt for prompt, sampled, _ in requests if not sampled and self.answered[prompt]]


def watch(backend: Backend, seen: Callable[[Sequence[GenerateRequest]], None]) -> None:
    """Call `seen` with what is sent to a backend, before it answers."""
    generate = backend.generate

    def watched(requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        seen(requests)
        generate(requests, deliver)

    backend.generate = watched  # type: ignore[method-assign]


def scripted_pair(
    student: Callable[[str], str | Completion], teacher: Callable[[str], str | Completion], **teacher_more: Any
) -> tuple[ScriptedBackend, ScriptedBackend]:
    """Return scripted backends for the seats of `feedback_pair`."""
    return ScriptedBackend(student, name="student"), ScriptedBackend(teacher, name="teacher", **teacher_more)

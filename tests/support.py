"""Helpers of the engine's tests: lm-eval requests, a backend that misbehaves on demand, runs in one line."""

from __future__ import annotations

import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, ScoreRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.chat import plain_form
from harness_ext.engine import Engine
from harness_ext.protocol import Protocol, Question
from harness_ext.records import Completion, Message, Transcript
from harness_ext.seats import SeatSetup


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
    """Return one Instance a context, numbered as documents of one task."""
    return [instance(c, gen_kwargs, doc_id=i, task=task) for i, c in enumerate(contexts)]


def run_engine(
    engine: Engine,
    protocol: Protocol,
    backends: Mapping[str, Backend],
    questions: Iterable[Question],
    timeout: float = 30.0,
    **more: Any,
) -> dict[int, Transcript]:
    """Run the engine in a thread of its own and return transcripts by question; a run that hangs fails the test."""
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
    """Return a number that the text alone decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def reply_to(prompt: str) -> str:
    """Return what the honest part of a `TroubledBackend` replies."""
    return f"reply {number_of(prompt):x}"


@dataclass
class Trouble:
    """What goes wrong. The first four hold for a prompt in every call, `largest` and `crashes` for whole calls.

    `largest` is the most requests a call may hold; `crashes` raise once each, after that many deliveries in a call.
    """

    raises: Callable[[str], bool] = lambda prompt: False
    forgets: Callable[[str], bool] = lambda prompt: False
    says_none: Callable[[str], bool] = lambda prompt: False
    says_wrong: Callable[[str], bool] = lambda prompt: False
    largest: int = 10**9
    crashes: list[int] = field(default_factory=list)

    def bad(self, prompt: str) -> bool:
        """Whether no call with this prompt can end well."""
        return any(rule(prompt) for rule in (self.raises, self.forgets, self.says_none, self.says_wrong))


class TroubledBackend(Backend):
    """Replies by `reply_to`, in an order of its own, some results twice, with `Trouble`.

    `answered` counts the good results handed over by prompt, `resent` the prompts sent again though answered, and
    `together` the most calls that ran at the same time.
    """

    capabilities = frozenset({"generate", "continue", "score"})

    def __init__(self, name: str, lane: str = "", trouble: Trouble | None = None, seed: int = 0) -> None:
        super().__init__()
        self.name, self.lane, self.fingerprint = name, lane or name, f"troubled:{name}"
        self.trouble = trouble or Trouble()
        self.random = random.Random(seed)
        self.answered: Counter[str] = Counter()
        self.sampled_draws: list[str] = []
        self.resent: list[str] = []
        self.batches: list[int] = []
        self.busy = self.together = self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def render_chat(self, messages: Sequence[Message]) -> Prompt:
        return Prompt(plain_form(messages))

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        self._call([(r.prompt, bool(r.gen_kwargs.get("do_sample")), False) for r in requests], deliver)

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
        self.resent += [prompt for prompt, sampled, _ in requests if not sampled and self.answered[prompt]]
        if len(requests) > self.trouble.largest:
            raise RuntimeError("out of memory")
        crash = self.trouble.crashes.pop() if self.trouble.crashes else None
        for count, i in enumerate(self.random.sample(range(len(requests)), len(requests))):
            if count == crash:
                raise RuntimeError("a passing fault")
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
                deliver(i, Completion("", logprob=-float(number_of(prompt) % 97)))
            else:
                text = reply_to(prompt)
                if sampled:
                    text = f"draw {self.random.random()}"
                    self.sampled_draws.append(text)
                else:
                    self.answered[prompt] += 1
                deliver(i, Completion(text, "stop", 1, 0, 2))
                if number_of(prompt) % 3 == 0:
                    deliver(i, Completion("said twice", "stop", 1, 0, 2))


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

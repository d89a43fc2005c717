"""Protocols on tasks with choices and with images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import run_engine
from test_choice_decisions import own, transcripts
from test_task_images import COLOURS, Seeing, make_task, run

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge.choices import Choose, Reasoning, scores_of
from harness_ext.config.run_options import RunOptions
from harness_ext.engine.engine import Engine
from harness_ext.models.cascade import CascadeLM
from harness_ext.models.equal_budget import EqualBudgetLM
from harness_ext.models.lookahead import LookaheadLM
from harness_ext.models.speculative_cot import SpeculativeCotLM
from harness_ext.protocol import Question
from harness_ext.records import Completion

# Options under which all seats write, and the seat that scores choices.
PROTOCOLS: list[tuple[type[Any], dict[str, Any], str]] = [
    (CascadeLM, {"confidence": "likelihood"}, "student"),
    (SpeculativeCotLM, {"n": 2, "answer": "teacher"}, "student"),
    (LookaheadLM, {"steps": 1, "max_passes": 2}, "teacher"),
    (EqualBudgetLM, {"spend": 12}, "student"),
]


def seats(cls: type[Any], kind: type[ScriptedBackend], text: str, **more: Any) -> dict[str, ScriptedBackend]:
    names = [name for name in ("student", "teacher") if name in cls.protocol.roles]
    return {name: kind(lambda prompt: text, name=name, **more) for name in names}


@pytest.mark.parametrize("decides", [False, True])
@pytest.mark.parametrize(("cls", "options", "scorer"), PROTOCOLS)
def test_a_protocol_reasons_before_a_seat_chooses(
    cls: type[Any], options: dict[str, Any], scorer: str, decides: bool
) -> None:
    def decide(request: DecideRequest) -> list[float]:
        return [float(option in ("blue", "chain 1", "true")) for option in request.options]

    models = seats(
        cls, ScriptedBackend, "I cannot tell.",
        score_reply=lambda prompt, text: -1.0 if text.strip() == "blue" else -5.0, decide_reply=decide,
    )  # fmt: skip
    protocol, reasoning = cls.protocol(**options), Reasoning.of(RunOptions())
    asked = Question("Question 1: which colour?", continuations=tuple(f" {colour}" for colour in COLOURS))
    assert (protocol.answers or next(iter(models))) == scorer
    done = run_engine(Engine(), Choose(protocol, scorer, reasoning, decides), models, [asked])[0]
    assert done.failure is None
    scores = [logprob for logprob, _ in scores_of(done)]
    assert scores.index(max(scores)) == 1
    assert {turn.seat for turn in done.turns if turn.kind == "choice"} == {scorer}
    assert len({turn.seat for turn in done.turns}) == len(models)


@pytest.mark.parametrize(("cls", "options", "scorer"), PROTOCOLS)
def test_images_reach_all_seats(tmp_path: Path, cls: type[Any], options: dict[str, Any], scorer: str) -> None:
    lm = own(tmp_path, cls, **seats(cls, Seeing, "COLOURS", score_reply=lambda prompt, text: -1.0), **options)
    run(lm, make_task(), apply_chat_template=True)
    for colour, transcript in zip(COLOURS, transcripts(lm), strict=True):
        written = [turn.text for turn in transcript.turns if isinstance(turn.result, Completion)]
        assert len(written) > 1
        assert {*written} == {colour}

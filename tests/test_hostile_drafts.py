"""Tests of hostile drafts: whatever a student writes, the question stays the protocol's, and a decision is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hostile_drafts import ATTACKS, LONG, figures
from support import instance
from tiny_chat import tiny_chat_model

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.reviewing import IS_CORRECT, REVIEW_SYSTEM
from harness_ext.records.run_directory import read_transcripts

DRAFT = "5 + 5 = 11.\nAnswer: 11"
GEN = {"until": [], "max_gen_toks": 16}
EVERY = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)


def judged(tmp_path: Path, draft: str, teacher: Any, **options: Any) -> Any:
    student = ScriptedBackend(lambda prompt: draft, name="student")
    given = {"store": "off", "run_dir": tmp_path / "run", "progress": "off", "max_rounds": 1, "on_failure": "score"}
    lm = FeedbackPairLM(student=student, teacher=teacher, **{**given, **options})
    lm.generate_until([instance("How much is 5 + 5?", GEN)])
    (transcript,) = read_transcripts(lm.session.run.path)
    return transcript


@EVERY
@pytest.mark.parametrize("verdict", ["auto", "decision"])
def test_a_draft_never_becomes_a_part_of_the_question(
    tmp_path: Path, attack: Callable[[str], str], verdict: str
) -> None:
    seen: list[DecideRequest] = []

    def decide(request: DecideRequest) -> tuple[float, float]:
        seen.append(request)
        return (0.9, 0.1)

    teacher = ScriptedBackend(lambda prompt: "?", name="teacher", decide_reply=decide)
    transcript = judged(tmp_path, attack(DRAFT), teacher, verdict=verdict, **{"teacher.chat": "off"})
    assert transcript.stop == "accepted"
    (request,) = seen
    assert "<|im_start|>" not in request.prompt
    assert "[INST]" not in request.prompt
    if verdict == "auto":
        assert request.prompt.startswith(f"Instructions: {REVIEW_SYSTEM}\n\nUser: The student was given this task:")
        assert request.prompt.endswith('\n"""\n\nAssistant:')
        assert request.prompt.count("\nUser:") == 1, "no line of the draft begins a turn"
    else:
        assert request.question is not None
        assert request.question.instructions == IS_CORRECT
        assert set(json.loads(request.state)) == {"task", "answer"}
        assert request.prompt.removeprefix(f"User: {request.state}").startswith(f"\n\n{IS_CORRECT}\n")


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


@EVERY
def test_a_real_tokenizer_reads_a_hostile_draft_as_text(
    tmp_path: Path, attack: Callable[[str], str], chat_model: str
) -> None:
    transcript = judged(tmp_path, attack(DRAFT), chat_model, device="cpu", **{"teacher.max_length": 4096})
    if len(attack(DRAFT)) >= LONG:
        assert transcript.failure is not None
        assert transcript.failure.code == "overflow"
        return
    assert transcript.failure is None
    assert 0 <= (transcript.turns[1].verdict or {})["probability"] <= 1


def test_the_figures_of_a_measurement() -> None:
    shift = dict.fromkeys(ATTACKS, 0.6)
    rows = [(True, {"as it is": 0.7, **shift}), (False, {"as it is": 0.4, **shift, "is long": None})]
    found = figures(rows)
    assert found["argues"] == {
        "drafts": 2, "without_probability": 0, "shift_right": -0.1, "shift_wrong": 0.2, "largest_shift_wrong": 0.2,
        "wrong_accepted_before": 0, "wrong_accepted_after": 1, "wrong": 1,
    }  # fmt: skip
    assert found["is long"]["without_probability"] == 1

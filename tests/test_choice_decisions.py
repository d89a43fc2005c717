"""Tests of choices as decisions: lm-eval's multiple-choice tasks on models that cannot score, and `decision` itself."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import instance
from tasks_support import task_manager
from tiny_chat import tiny_chat_model

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge.choice_decisions import WHICH, choice_question
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.decisions import Choice, Predicate
from harness_ext.errors import ConfigurationError, RunFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.best_of_n import BestOfNLM
from harness_ext.models.cascade import CascadeLM
from harness_ext.models.debate import DebateLM
from harness_ext.models.decision import DecisionLM, decider_arguments
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.lookahead import LookaheadLM
from harness_ext.records import Decision, Transcript
from harness_ext.records.run_directory import read_transcripts

COLOURS = ("red", "green", "blue")
PAIR, AGENTS = ("student", "teacher"), ("agent1", "agent2")
DECIDING_SEATS = pytest.mark.parametrize(
    ("model", "writing", "seat", "options", "answers"),
    [
        (FeedbackPairLM, PAIR, "judge", {"verdict": "decision"}, 2),
        (CascadeLM, PAIR, "gate", {"confidence": "correct"}, 2),
        (LookaheadLM, PAIR, "verifier", {}, 2),
        (BestOfNLM, ("student",), "verifier", {"by": "correct", "n": 2}, 2),
        (BestOfNLM, ("student",), "verifier", {"by": "rating", "n": 2}, 10),
        (BestOfNLM, ("student",), "verifier", {"by": "aspects", "n": 2}, 2),
        (DebateLM, AGENTS, "judge", {"topology": "judge", "judge_by": "choice", "max_rounds": 1}, 2),
        (DebateLM, AGENTS, "judge", {"topology": "all", "decision": "judge", "judge_by": "choice", "max_rounds": 1}, 2),
    ],
)


def multiple_choice(name: str, choices: Any, gold: str = "{{gold}}", text: str = "{{q}}") -> dict[str, Any]:
    """Return the configuration of a task with four rows."""
    from datasets import Dataset, DatasetDict

    rows = [{"q": f"Question {n}: which colour?", "gold": n % len(choices), "answer": n % 2 == 0} for n in range(4)]
    return {
        "task": name,
        "custom_dataset": lambda **_: DatasetDict(test=Dataset.from_list(rows)),
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": text,
        "doc_to_choice": list(choices),
        "doc_to_target": gold,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }


def evaluate(lm: Any, *tasks: Any) -> dict[str, Any]:
    import lm_eval

    found = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), bootstrap_iters=0, task_manager=task_manager())
    assert found is not None
    return dict(found["results"])


def transcripts(lm: Any) -> list[Transcript]:
    return sorted(read_transcripts(lm.session.run.path), key=lambda t: t.doc_id)


class Guesser(ScriptedBackend):
    """A model that cannot score, and finds the colour of the question's number the likeliest."""

    def __init__(self, **more: Any) -> None:
        self.asked: list[DecideRequest] = []

        def decide(request: DecideRequest) -> Any:
            self.asked.append(request)
            wanted = int(request.state.split("Question ")[1][0]) % len(request.options)
            return [0.6 if i == wanted else 0.4 / (len(request.options) - 1) for i in range(len(request.options))]

        super().__init__(lambda prompt: "It is a colour.", decide_reply=decide, **more)


def own(tmp_path: Path, kind: type[Any] = BaselineLM, **arguments: Any) -> Any:
    given = {"store": "off", "run_dir": tmp_path / "run", "progress": "off"}
    return kind(**{**given, **arguments})


@pytest.mark.parametrize("reason", ["on", "off"])
def test_a_task_with_choices_runs_on_a_model_that_only_decides(tmp_path: Path, reason: str) -> None:
    model = Guesser()
    lm = own(tmp_path, student=model, choices="decision", reason=reason)
    assert evaluate(lm, multiple_choice("colours", COLOURS))["colours"]["acc,none"] == 1.0
    assert model.asked[0].question == Choice(WHICH, COLOURS)
    assert ("It is a colour." in model.asked[0].state) is (reason == "on")
    first = transcripts(lm)[0]
    assert [turn.kind for turn in first.turns] == (["draft"] if reason == "on" else []) + ["choice"]
    expected = [[math.log(share), share == 0.6] for share in (0.6, 0.2, 0.2)]
    assert (first.turns[-1].verdict or {})["scores"] == [[pytest.approx(a), b] for a, b in expected]
    again = own(tmp_path, student=Guesser(), choices="decision", reason=reason)
    assert evaluate(again, multiple_choice("colours", COLOURS))["colours"]["acc,none"] == 1.0
    assert again.plan.seats["student"].backend.calls == [], "everything was in the run directory"


def test_without_it_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="give `choices=decision`"):
        evaluate(own(tmp_path, student=Guesser()), multiple_choice("colours", COLOURS))


@pytest.mark.parametrize(
    ("choices", "question"),
    [
        ((" no", " yes"), Predicate('Is the correct answer "yes"?')),
        (("True", "False"), Predicate('Is the correct answer "True"?')),
        ((" yes", " no", " maybe"), Choice(WHICH, ("yes", "no", "maybe"))),
        ((" A", " B"), Choice(WHICH, ("A", "B"))),
    ],
)
def test_two_way_choices_are_predicates(choices: tuple[str, ...], question: Any) -> None:
    assert choice_question(choices) == question


def test_the_probability_of_yes_goes_to_the_choice_that_means_it(tmp_path: Path) -> None:
    model = ScriptedBackend(lambda prompt: "?", decide_reply=lambda request: (0.9, 0.1))
    lm = own(tmp_path, student=model, choices="decision", reason="off")
    evaluate(lm, multiple_choice("booleans", (" no", " yes"), "{{answer|int}}"))
    scores = (transcripts(lm)[0].turns[0].verdict or {})["scores"]
    assert scores == [[pytest.approx(math.log(0.1)), False], [pytest.approx(math.log(0.9)), True]]


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (Decision(COLOURS, (), "green", "constrained"), [math.log(1e-12), 0.0, math.log(1e-12)]),
        (Decision(COLOURS, (0.5, 0.5, None), "red", "logprobs", at_most=0.01), [math.log(0.5)] * 2 + [math.log(0.01)]),
    ],
)
def test_what_is_unknown_is_not_zero(tmp_path: Path, decision: Decision, expected: list[float]) -> None:
    model = ScriptedBackend(lambda prompt: "?", decide_reply=lambda request: decision)
    lm = own(tmp_path, student=model, choices="decision", reason="off")
    evaluate(lm, multiple_choice("colours", COLOURS))
    assert [score for score, _ in (transcripts(lm)[0].turns[0].verdict or {})["scores"]] == pytest.approx(expected)


def test_a_refusal_is_no_answer(tmp_path: Path) -> None:
    refusal = Decision(COLOURS, (), None, "endpoint", refused=True)
    model = ScriptedBackend(lambda prompt: "?", decide_reply=lambda request: refusal)
    lm = own(tmp_path, student=model, choices="decision", reason="off", on_failure="score")
    with pytest.raises(RunFailed, match="declined to answer"):
        evaluate(lm, multiple_choice("colours", COLOURS))


def test_what_cannot_be_decided_is_named_before_anything_is_asked(tmp_path: Path) -> None:
    model = Guesser()
    lm = own(tmp_path, student=model, choices="decision", reason="off")
    alike = multiple_choice("alike", (" red", "red "))
    single = {**multiple_choice("single", ("red",)), "doc_to_target": "0"}
    with pytest.raises(ConfigurationError) as caught:
        evaluate(lm, alike, single)
    assert [problem.split(" ")[0] for problem in caught.value.problems] == ["alike", "single"]
    assert model.calls == []


# -- the model `decision` ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


def test_decision_equals_the_pipeline_of_transformers(tmp_path: Path, chat_model: str) -> None:
    pytest.importorskip("transformers.pipelines.decision")
    from transformers import pipeline

    lm = own(tmp_path, DecisionLM, pretrained=chat_model, device="cpu", dtype="float32", batch_size=4)
    evaluate(lm, multiple_choice("colours", COLOURS))
    decide = pipeline("decision", model=chat_model, device="cpu", dtype="float32")
    for transcript in transcripts(lm):
        criteria: Mapping[str, None] = dict.fromkeys(COLOURS)
        asked = {"type": "choice", "instructions": WHICH, "criteria": criteria}
        theirs = decide({"state": transcript.context, "questions": {"it": asked}})["it"]["probabilities"]
        scores = (transcript.turns[0].verdict or {})["scores"]
        assert [math.exp(score) for score, _ in scores] == pytest.approx(list(theirs.values()), abs=1e-5)


@pytest.fixture(scope="module")
def decision_model(tmp_path_factory: pytest.TempPathFactory, chat_model: str) -> str:
    """Return the folder of a model with a decision head: Jev's reads the hidden state at the mark of its template."""
    pytest.importorskip("transformers.models.jev")
    import torch
    from transformers import AutoModelForDecision, AutoTokenizer, JevConfig, LlamaConfig
    from transformers.decision import DecisionConfig
    from transformers.models.jev.configuration_jev import JEV_TEMPLATE

    torch.manual_seed(0)
    config = JevConfig(hidden_size=32, text_config=LlamaConfig.from_pretrained(chat_model))
    model = AutoModelForDecision.from_config(config)
    model.decision_config = DecisionConfig(chat_template=JEV_TEMPLATE)
    folder = tmp_path_factory.mktemp("jev")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(chat_model).save_pretrained(folder)
    return str(folder)


def test_a_model_with_a_decision_head(tmp_path: Path, decision_model: str) -> None:
    from transformers import pipeline

    assert decider_arguments({"pretrained": decision_model}) == {"decider": f"decision:{decision_model}"}
    lm = own(tmp_path, DecisionLM, pretrained=decision_model, device="cpu")
    evaluate(lm, multiple_choice("colours", COLOURS))
    decide = pipeline("decision", model=decision_model, device="cpu")
    transcript = transcripts(lm)[0]
    asked = {"type": "choice", "instructions": WHICH, "criteria": dict.fromkeys(COLOURS)}
    theirs = decide({"state": transcript.context, "questions": {"it": asked}})["it"]["probabilities"]
    scores = (transcript.turns[0].verdict or {})["scores"]
    assert [math.exp(score) for score, _ in scores] == pytest.approx(list(theirs.values()), abs=1e-5)


@DECIDING_SEATS
def test_a_model_with_a_decision_head_decides_for_a_protocol(
    tmp_path: Path,
    decision_model: str,
    model: type[ProtocolLM],
    writing: Sequence[str],
    seat: str,
    options: dict[str, Any],
    answers: int,
) -> None:
    writers = {name: ScriptedBackend(lambda _, name=name: f"Answer: {name}\n", name=name) for name in writing}
    lm = own(tmp_path, model, **writers, **{seat: f"decision:{decision_model}"}, **options)
    assert lm.generate_until([instance("What is 2 + 2?", {"until": []})])
    decided = [turn for turn in transcripts(lm)[0].turns if turn.seat == seat]
    assert decided
    assert all(isinstance(turn.result, Decision) and len(turn.result.probabilities) == answers for turn in decided)


@DECIDING_SEATS
def test_a_model_that_cannot_decide_is_refused_before_anything_is_asked(
    tmp_path: Path, model: type[ProtocolLM], writing: Sequence[str], seat: str, options: dict[str, Any], answers: int
) -> None:
    writer, classifier = ScriptedBackend(lambda prompt: "?"), ScriptedBackend(lambda prompt: "?", name="classifier")
    classifier.capabilities = frozenset({"reward"})
    with pytest.raises(ConfigurationError, match=f"`{seat}`: .* can decide, but classifier cannot"):
        own(tmp_path, model, **dict.fromkeys(writing, writer), **{seat: classifier}, **options)


def test_the_opening_of_a_review_is_no_typed_question(tmp_path: Path, decision_model: str) -> None:
    writer = ScriptedBackend(lambda prompt: "?")
    with pytest.raises(ConfigurationError, match=r"`judge`: .* can generate, .*verdict=decision"):
        own(tmp_path, FeedbackPairLM, student=writer, teacher=writer, judge=f"decision:{decision_model}")


def test_decision_writes_nothing(tmp_path: Path) -> None:
    lm = own(tmp_path, DecisionLM, decider=Guesser())
    with pytest.raises(ConfigurationError, match="`decision` only chooses"):
        lm.generate_until([instance("Why?")])


@pytest.mark.parametrize("arguments", [{}, {"base_url": "http://x/v1"}, {"pretrained": "a", "base_url": "http://x/v1"}])
def test_decision_needs_one_model(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="name one model"):
        decider_arguments(arguments)


def test_the_arguments_of_decision_are_those_of_its_model() -> None:
    given = {"base_url": "http://x/v1", "model": "m", "num_concurrent": 4, "decide": "endpoint", "run_dir": "r"}
    assert decider_arguments(given) == {
        "decider": "openai:m@http://x/v1", "decider.num_concurrent": 4, "decider.decide": "endpoint", "run_dir": "r",
    }  # fmt: skip
    assert json.dumps(decider_arguments({"pretrained": "no/model", "dtype": "float32"})) == json.dumps(
        {"decider.dtype": "float32", "decider": "hf:no/model"}
    )

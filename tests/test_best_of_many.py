"""Tests of best_of_n and mixture_of_agents: who answers, who chooses, and what is made of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support import run_engine
from token_support import CharTokens

from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.models.asking import IS_RIGHT
from harness_ext.models.best_of_n import ASPECTS, BestOfN, BestOfNLM
from harness_ext.models.mixture_of_agents import SYNTHESIZE_SYSTEM, MixtureOfAgents
from harness_ext.models.scoring import mean_likelihood
from harness_ext.options import PromptText
from harness_ext.protocol import Protocol, Question
from harness_ext.records import Completion, Transcript
from harness_ext.records.summary import Summary
from harness_ext.records.usage import SeatCost

TASK = "A story.\n\nHow many apples are left?"


def answered(protocol: Protocol, backends: dict[str, ScriptedBackend]) -> Transcript:
    return run_engine(Engine(), protocol, backends, [Question(TASK, {"until": ["Q"]}, "t")])[0]


def drafting(*texts: str) -> ScriptedBackend:
    left = iter(texts)
    return ScriptedBackend(lambda prompt: next(left), name="student")


def deciding(probability: Any) -> ScriptedBackend:
    """Return a verifier whose probability of yes is a function of its prompt."""

    def decide(request: DecideRequest) -> list[float]:
        found = probability(request.prompt)
        return [found, 1 - found]

    return ScriptedBackend(lambda prompt: "?", name="verifier", decide_reply=decide)


def shows(answer: str, prompt: str) -> bool:
    return f'"answer": "Answer: {answer}"' in prompt


def test_the_draft_that_the_verifier_finds_most_probably_right_is_the_answer() -> None:
    verifier = deciding(lambda prompt: 0.9 if shows("6", prompt) else 0.4)
    done = answered(BestOfN(n=4), {"student": drafting(*(f"Answer: {a}" for a in "5655")), "verifier": verifier})
    assert (done.text, done.stop) == ("Answer: 6", "best")
    assert done.details == {
        "scores": [0.4, 0.9, 0.4, 0.4], "totals": {"drafts": 4, "unscored": 0, "different": 2},
    }  # fmt: skip
    prompts = [prompt for batch in verifier.calls for prompt in batch]
    assert len(prompts) == 2, "equal drafts are scored once"
    assert all(IS_RIGHT in prompt for prompt in prompts)


def test_weighted_scores_are_added_over_equal_answers() -> None:
    verifier = deciding(lambda prompt: 0.9 if shows("6", prompt) else 0.4)
    student = drafting(*(f"Answer: {a}" for a in "5655"))
    done = answered(BestOfN(n=4, combine="weighted"), {"student": student, "verifier": verifier})
    assert (done.text, done.stop) == ("Answer: 5", "weighted")


def test_approvals_of_aspects_are_added() -> None:
    aspects = ASPECTS.splitlines()

    def probability(prompt: str) -> float:
        number = next(i for i, aspect in enumerate(aspects) if aspect in prompt)
        return 0.51 if shows("6", prompt) and number < 4 else 0.99 if number < 2 else 0.1

    student = drafting("Answer: 5", "Answer: 6")
    done = answered(BestOfN(n=2, by="aspects"), {"student": student, "verifier": deciding(probability)})
    assert done.text == "Answer: 6"
    assert done.details is not None
    assert done.details["scores"] == [2.0, 4.0]


def test_a_rating_is_expected_over_its_probabilities() -> None:
    def decide(request: DecideRequest) -> list[float]:
        shares = [0.0] * 10
        for level, share in ((9, 0.5), (1, 0.5)) if shows("6", request.prompt) else ((6, 1.0),):
            shares[level] = share
        return shares

    verifier = ScriptedBackend(lambda prompt: "?", name="verifier", decide_reply=decide)
    student = drafting("Answer: 6", "Answer: 5")
    done = answered(BestOfN(n=2, by="rating"), {"student": student, "verifier": verifier})
    assert done.text == "Answer: 5"
    assert done.details is not None
    assert done.details["scores"] == pytest.approx([5.0, 6.0])


def test_likelihood_is_the_mean_over_the_drafts_tokens() -> None:
    verifier = ScriptedBackend(lambda p: "?", name="verifier", score_reply=lambda p, c: -3.0 if "long" in c else -1.5)
    student = drafting("Answer: 5", "a long way, so Answer: 6")
    done = answered(BestOfN(n=2, by="likelihood"), {"student": student, "verifier": verifier})
    assert done.text == "a long way, so Answer: 6"
    assert done.details is not None
    assert done.details["scores"] == pytest.approx([math.exp(-0.75), math.exp(-0.5)])
    # A verifier with a tokenizer counts the tokens that it has scored, without the one that ended the reply.
    verifier.tokens = CharTokens()
    done = answered(BestOfN(n=2, by="likelihood"), {"student": drafting("12345", "123"), "verifier": verifier})
    assert (done.details or {})["scores"] == pytest.approx([math.exp(-1.5 / 5), math.exp(-1.5 / 3)])


@pytest.mark.parametrize("by", ["correct", "rating", "aspects", "likelihood"])
def test_an_empty_draft_has_no_score(by: Any) -> None:
    """A text without tokens would be perfectly likely."""
    verifier = ScriptedBackend(
        lambda prompt: "?",
        name="verifier",
        decide_reply=lambda request: [1 / len(request.options)] * len(request.options),
        score_reply=lambda prompt, text: -3.0 if text.strip() else 0.0,
    )
    done = answered(BestOfN(n=3, by=by), {"student": drafting("", "Answer: 5", " "), "verifier": verifier})
    assert done.text == "Answer: 5"
    assert done.details is not None
    scores = done.details["scores"]
    assert (scores[0], scores[2]) == (None, None)
    assert done.details["totals"] == {"drafts": 3, "unscored": 2, "different": 3}


def test_drafts_that_are_all_empty_are_not_scored() -> None:
    done = answered(BestOfN(n=2), {"student": drafting("", ""), "verifier": deciding(lambda prompt: 0.9)})
    assert (done.text, done.stop, len(done.turns)) == ("", "unscored", 2)


def test_a_thought_is_no_part_of_a_drafts_likelihood() -> None:
    reply = Completion("Answer: 5", completion_tokens=102, thinking_tokens=100)
    assert mean_likelihood(-2.0, reply) == pytest.approx(math.exp(-1.0))


def test_without_any_decision_the_answers_vote() -> None:
    verifier = ScriptedBackend(lambda prompt: "I cannot say.", name="verifier")
    student = drafting("Answer: 5", "Answer: 6", "Answer: 6")
    done = answered(BestOfN(n=3), {"student": student, "verifier": verifier})
    assert (done.text, done.stop) == ("Answer: 6", "unscored")


def test_a_verifier_must_be_able_to_do_what_the_score_needs() -> None:
    backends = {"student": drafting(), "verifier": ScriptedBackend(lambda p: "?", name="verifier")}
    with pytest.raises(Exception, match="verifier"):
        BestOfNLM(**backends, by="likelihood", store="off", progress="off")


@pytest.mark.parametrize("options", [{"n": 0}, {"temperature": -1}, {"aspects": PromptText(" \n")}])
def test_options_of_best_of_n_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|no question"):
        BestOfN(**options)


def mixture(layers: int, final: str = "final") -> tuple[Transcript, dict[str, list[str]]]:
    backends = {
        name: ScriptedBackend(lambda prompt, name=name: f"{name} says {prompt.count('says')}", name=name)  # type: ignore[misc]
        for name in ("proposer1", "proposer2")
    }
    backends["aggregator"] = ScriptedBackend(lambda prompt: final, name="aggregator")
    done = answered(MixtureOfAgents(layers=layers), backends)
    return done, {name: [prompt for batch in one.calls for prompt in batch] for name, one in backends.items()}


def synthesize(*answers: str) -> str:
    shown = "\n\n".join(f'{n}.\n"""\n{text}\n"""' for n, text in enumerate(answers, start=1))
    return PromptText(SYNTHESIZE_SYSTEM).fill(answers=shown)


def test_each_layer_reads_the_answers_of_the_layer_before() -> None:
    done, asked = mixture(3)
    first = synthesize("proposer1 says 0", "proposer2 says 0")
    second = synthesize("proposer1 says 2", "proposer2 says 2")
    for name in ("proposer1", "proposer2"):
        assert asked[name][0] == TASK
        assert first in asked[name][1]
        assert asked[name][1].endswith(f"{TASK}\n\nAssistant:")
    assert len(asked["aggregator"]) == 1
    assert second in asked["aggregator"][0]
    assert (done.text, done.stop) == ("final", "aggregated")
    assert [turn.kind for turn in done.turns] == ["draft", "draft", "propose", "propose", "aggregate"]
    summary = Summary(lambda seat: SeatCost())
    summary.add(done)
    assert summary.tokens == {"kept": 1, "discarded": 4 * 3, "verification": 0}, "all turns write answers"


def test_one_layer_is_the_aggregator_alone() -> None:
    done, asked = mixture(1)
    assert asked == {"proposer1": [], "proposer2": [], "aggregator": [TASK]}
    assert done.text == "final"


def test_a_silent_aggregator_is_replaced_by_the_first_proposal() -> None:
    done, _ = mixture(2, final=" ")
    assert (done.text, done.stop) == ("proposer1 says 0", "silent_aggregator")


def test_a_mixture_needs_a_layer() -> None:
    with pytest.raises(ValueError, match="`layers` must be 1 or more"):
        MixtureOfAgents(layers=0)

"""Tests of the arguments of protocols that take seats: how they are given, and what is refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.config.run_plan import RunPlan, plan_run
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import Baseline
from harness_ext.models.best_of_n import BestOfN
from harness_ext.models.debate import Debate
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.models.self_consistency import SelfConsistency
from harness_ext.protocol import Protocol
from harness_ext.protocol.inner import ProtocolBackend, all_seats


def model(name: str = "m") -> ScriptedBackend:
    return ScriptedBackend(lambda prompt: "ok", name=name)


def inner(plan: RunPlan, path: str) -> ProtocolBackend:
    backend = all_seats(plan.seats)[path].backend
    assert isinstance(backend, ProtocolBackend)
    return backend


def problems(protocol: type[Protocol], arguments: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        plan_run(protocol, arguments, 1, None, "cpu")
    return list(raised.value.problems)


def test_dotted_and_nested_arguments_mean_the_same() -> None:
    one, two = model("one"), model("two")
    dotted = {
        "student": "protocol:self_consistency", "student.k": 3, "student.student": one, "student.gen.max_gen_toks": 9,
        "student.student.gen.top_k": 4, "student.student.price_in": 1, "teacher": two,
    }  # fmt: skip
    nested = {
        "student": {
            "model": "protocol:self_consistency", "k": 3, "gen": {"max_gen_toks": 9},
            "student": {"model": one, "gen": {"top_k": 4}, "price_in": 1},
        },
        "teacher": {"model": two},
    }  # fmt: skip
    for arguments in (dotted, nested):
        plan = plan_run(FeedbackPair, arguments)
        assert list(plan.models) == ["student.student", "teacher"]
        assert isinstance(inner(plan, "student").protocol, SelfConsistency)
        assert vars(inner(plan, "student").protocol)["k"] == "3"
        assert plan.seats["student"].gen_kwargs == {"max_gen_toks": 9}
        assert plan.models["student.student"].gen_kwargs == {"top_k": 4}
        assert plan.models["student.student"].cost.price_in == 1
    prints = {plan_run(FeedbackPair, {**dotted, **more}).seats["student"].backend.fingerprint for more in CHANGES}
    assert len(prints) == len(CHANGES), "everything that may change a reply is in the fingerprint"


CHANGES: list[dict[str, Any]] = [
    {}, {"student.k": 4}, {"student.student": model("other")}, {"student.student.gen.top_k": 5},
    {"student.student.system": __file__},
]  # fmt: skip


def test_teams_of_protocols_and_protocols_with_teams() -> None:
    plan = plan_run(Debate, {"agents": 2, "agent": "protocol:self_consistency", "agent.k": 2, "agent.student": model()})
    assert list(plan.models) == ["agent1.student", "agent2.student"]
    assert len({setup.backend for setup in plan.models.values()}) == 1
    plan = plan_run(
        Debate,
        {"agents": ["protocol:debate", model("a")], "agent.1.agents": [model("b"), model("c")], "agent1.max_rounds": 1},
    )
    assert list(plan.models) == ["agent1.agent1", "agent1.agent2", "agent2"]
    assert vars(inner(plan, "agent1").protocol)["max_rounds"] == 1


def test_protocols_inside_each_other_up_to_a_depth() -> None:
    deep = {"student": "protocol:self_refine", "student.student": "protocol:self_consistency", "student.student.k": 2}
    plan = plan_run(Baseline, {**deep, "student.student.student": model()})
    assert list(plan.models) == ["student.student.student"]
    found = problems(Baseline, {**deep, "student.student.student": "protocol:baseline"})
    assert found == [
        "`student.student.student=protocol:baseline`: at most 3 protocols can be inside each other: name a model here",
    ]


def test_teams_in_teams_are_bounded() -> None:
    team = {"agents": 100, "agent": "protocol:debate", "agent.agents": 100, "agent.agent": "protocol:debate",
            "agent.agent.agents": 100, "agent.agent.agent": model()}  # fmt: skip
    assert "all protocols together have more than 1000 seats" in problems(Debate, team)[0]


def test_arguments_that_contain_themselves() -> None:
    loop: dict[str, Any] = {"model": "protocol:baseline"}
    loop["student"] = loop
    assert "contains itself" in problems(Baseline, {"student": loop})[0]


def test_one_process_loads_equal_models_once() -> None:
    plan = plan_run(FeedbackPair, {"student": "protocol:best_of_n", "student.n": 2}, 1, None, "cpu")
    assert plan.demonstration
    assert list(plan.models) == ["student.student", "student.verifier", "teacher"]
    same = {"student": "protocol:baseline", "student.student": str(student_path()), "teacher": str(student_path())}
    models = plan_run(FeedbackPair, same, 1, None, "cpu").models
    assert models["student.student"].backend is models["teacher"].backend


def student_path() -> Any:
    from harness_ext.embedded import model_path

    return model_path("student")


def test_all_problems_are_named_at_once() -> None:
    found = problems(
        FeedbackPair,
        {
            "student": "protocol:self_consistency", "student.kk": 3, "student.temperature": -1,
            "student.student": "hff:x", "student.student.chat": "maybe", "student.dtype": "bfloat16",
            "teacher": "protocol:self_refined",
        },
    )  # fmt: skip
    text = "\n".join(found)
    assert "no argument `student.kk`" in text
    assert "`student`: `temperature` must be 0 or more" in text
    assert "`student.student.chat=maybe`: expected one of auto, on, off" in text
    assert "no argument `student.dtype`" in text
    assert "`teacher`: there is no protocol `self_refined` (did you mean `self_refine`?)" in text
    assert "harness_ext." not in text
    assert len(found) == 5


@pytest.mark.parametrize(
    ("protocol", "arguments", "said"),
    [
        (
            BestOfN,
            {"by": "likelihood", "student": model(), "verifier": "protocol:baseline", "verifier.student": model()},
            "`verifier`: this run needs a model that can score, but protocol:baseline cannot: it is a protocol, which "
            "only writes texts, so name a model for this seat",
        ),
        (
            Baseline,
            {"student": "protocol:best_of_n", "student.by": "reward", "student.student": model(),
             "student.verifier": model("v")},
            "`student.verifier`: this run needs a model that can reward, but v cannot",
        ),
        (
            Baseline,
            {"student": "protocol:feedback_pair", "student.accept_at": "auto", "student.student": model(),
             "student.teacher": ScriptedBackend(str, decide_reply=lambda request: [0.5, 0.5])},
            "`student`: an option asks the first questions in advance (`auto`), which only the run's own protocol",
        ),
        (Baseline, {"student": "protocol:decision", "student.decider": model()}, "this protocol writes no text"),
        (Baseline, {"student": "protocol:hf", "student.student": model()}, "there is no protocol `hf`"),
        (Baseline, {"student": "protocol:", "student.student": model()}, "there is no protocol ``"),
        (Baseline, {"student": "baseline:hf:x"}, "write `protocol:baseline`"),
        (
            Baseline,
            {"student": "protocol:self_consistency", "student.k": "auto:nowhere", "student.student": model()},
            "`student`: nowhere is not a run directory",
        ),
        (
            FeedbackPair,
            {"student": "protocol:self_consistency", "teacher": model(), "student.student.dtype": "float32"},
            "the seat `student.student` (answers the task k times) has no model",
        ),
        (
            FeedbackPair,
            {"student": model(), "teacher": "protocol:self_refine", "teacher.student": model(), "budget": "price:5"},
            "`budget=price:5` needs `teacher.student.price_in`",
        ),
        (
            Baseline,
            {"student": "protocol:baseline", "student.student": "openai:m@http://localhost:1/v1",
             "student.student.api_key": "x"},
            "`student.student.api_key` looks like a secret",
        ),
    ],
)  # fmt: skip
def test_what_a_protocol_in_a_seat_cannot_do(protocol: type[Protocol], arguments: dict[str, Any], said: str) -> None:
    assert said in "\n".join(problems(protocol, arguments))


def test_options_that_sound_like_secrets_are_options() -> None:
    arguments = {"student": "protocol:self_refine", "student.critique_max_tokens": 9, "student.student": model()}
    assert vars(inner(plan_run(Baseline, arguments), "student").protocol)["critique_max_tokens"] == 9


def test_prompts_of_a_protocol_in_a_seat(tmp_path: Any) -> None:
    (tmp_path / "critique_user.txt").write_text("Judge this. {task} {draft}")
    arguments = {"student": "protocol:self_refine", "student.student": model(), "student.prompts": str(tmp_path)}
    plan = plan_run(Baseline, arguments)
    assert vars(inner(plan, "student").protocol)["critique_user"] == "Judge this. {task} {draft}"
    other = plan_run(Baseline, {k: v for k, v in arguments.items() if k != "student.prompts"})
    assert plan.prompts_hash != other.prompts_hash

"""Tests of debates between scripted agents, with the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support import instance, instances, run_engine

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.config.run_plan import plan_run
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.debate import Debate, DebateLM
from harness_ext.options import PromptText
from harness_ext.protocol import Question
from harness_ext.records import Completion, Transcript
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

Reply = Callable[[str], "str | Completion"]
CONTEXT = "Question: How many?\nAnswer:"


def agent(name: str, *replies: str) -> ScriptedBackend:
    """Return an agent that says one text after another, and then repeats the last one."""
    left = list(replies)
    return ScriptedBackend(lambda prompt: left.pop(0) if len(left) > 1 else left[0], name=name)


def hold(protocol: Debate, *seats: ScriptedBackend, question: Question | None = None, **more: Any) -> Transcript:
    """Hold one debate. The seats are agents 1, 2, …, and the last one is the judge if the protocol needs one."""
    names = [f"agent{i}" for i in range(1, len(seats) + 1)]
    if "judge" in protocol.needs():
        names[-1] = "judge"
    asked = question or Question(CONTEXT, {"until": ["Question:"]}, "t")
    return run_engine(Engine(**more), protocol, dict(zip(names, seats, strict=True)), [asked])[0]


def spoken(transcript: Transcript) -> list[tuple[str, str]]:
    return [(turn.seat, turn.kind) for turn in transcript.turns]


def calls(*seats: ScriptedBackend) -> int:
    return sum(len(batch) for seat in seats for batch in seat.calls)


def test_immediate_agreement_costs_one_call_per_agent() -> None:
    for topology in ("all", "ring"):
        agents = [agent(f"a{i}", f"So {text}.\n#### {text}") for i, text in enumerate(["1,000", "1000", "1000.0"])]
        done = hold(Debate(topology=topology, max_rounds=5), *agents)
        assert calls(*agents) == 3
        assert (done.stop, done.text) == ("agreed", "So 1,000.\n#### 1,000")
        assert done.turns[0].text == done.text


def test_answers_that_differ_in_their_unit_alone_do_not_agree_where_the_question_tells_them_apart() -> None:
    asked = "How long does it take to bake lasagna?\n Choices: ['33 minutes', '33 hours']\nAnswer in JSON style."
    first, second = (agent(unit, f'{{"answer": "33 {unit}"}}') for unit in ("minutes", "hours"))
    done = hold(Debate(topology="all", max_rounds=1), first, second, question=Question(asked, {"until": []}, "t"))
    assert done.stop != "agreed"
    answers = [(turn.verdict or {})["answer"] for turn in done.turns if turn.kind == "draft"]
    assert answers == ["33 minutes", "33 hours"]


def test_turns_are_those_of_the_original_and_stop_when_the_other_agrees() -> None:
    first, second = agent("a", "#### 1", "#### 2", "#### 3"), agent("b", "#### 7", "#### 8")
    done = hold(Debate(max_rounds=2), first, second)
    assert [seat for seat, _ in spoken(done)] == ["agent1", "agent2", "agent1", "agent2", "agent1"]
    assert (done.text, done.stop) == ("#### 3", "max_rounds")
    assert (done.details or {})["author"] == "agent1"

    first, second = agent("a", "#### 1"), agent("b", "I get 1.0 too.\n#### 1.0")
    done = hold(Debate(max_rounds=9), first, second)
    assert calls(first, second) == 2
    assert (done.text, done.stop) == ("I get 1.0 too.\n#### 1.0", "agreed")


def test_no_rounds_is_the_first_agents_draft_alone() -> None:
    first, second = agent("a", "#### 1"), agent("b", "#### 2")
    done = hold(Debate(max_rounds=0), first, second)
    assert first.calls == [[CONTEXT]]
    assert second.calls == []
    assert done.text == "#### 1"


def test_the_task_comes_first_and_the_latest_texts_of_others_last() -> None:
    """Each prompt begins with the agent's previous prompt and its reply, so prefix caches apply."""
    agents = [agent(f"a{i}", *(f"said {i}{r}\n#### {i}{r}" for r in range(3))) for i in range(3)]
    context = ChatContext.of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}])
    hold(Debate(topology="all", max_rounds=2), *agents, question=Question(context, {}, "t"))
    for i, one in enumerate(agents):
        prompts = [prompt for batch in one.calls for prompt in batch]
        assert len(prompts) == 3
        for r, (before, after) in enumerate(pairwise(prompts)):
            assert after.startswith(f"{before} said {i}{r}\n#### {i}{r}")
            added = after[len(before) :]
            assert [f"said {j}{r}" in added for j in range(3)] == [True, True, True]
            assert f"said {(i + 1) % 3}{r - 1}" not in added


def test_who_hears_whom() -> None:
    def heard_by(topology: str) -> list[set[int]]:
        agents = [agent(f"a{i}", f"mine {i}\n#### {i}") for i in range(4)]
        hold(Debate(topology=topology, max_rounds=1), *agents)  # type: ignore[arg-type]
        second = [one.calls[1][0].split("These are other answers", 1)[1] for one in agents]
        return [{j for j in range(4) if f"mine {j}" in text} for text in second]

    assert heard_by("all") == [{1, 2, 3}, {0, 2, 3}, {0, 1, 3}, {0, 1, 2}]
    assert heard_by("ring") == [{3}, {0}, {1}, {2}]


def test_answers_without_their_reasons() -> None:
    agents = [agent(f"a{i}", f"because {i}\n#### {i}") for i in range(2)] + [agent("c", "I cannot tell you this one")]
    hold(Debate(topology="all", max_rounds=1, see="answer"), *agents)
    second = agents[0].calls[1][0].split("These are other answers", 1)[1]
    assert '"""\n1\n"""' in second
    assert "(no readable answer)" in second
    assert "because 1" not in second


def test_votes_ties_and_the_unparsable() -> None:
    def end(*texts: str, **options: Any) -> Transcript:
        return hold(Debate(topology="all", max_rounds=0, **options), *[agent(f"a{i}", t) for i, t in enumerate(texts)])

    assert (end("#### 5", "#### 7", "So $7.00\n#### $7").text, end("#### 5", "#### 7", "#### 7").stop) == (
        "#### 7",
        "max_rounds",
    )
    tied = end("#### 5", "#### 7", "#### 7", "#### 5")
    assert (tied.text, tied.stop, (tied.details or {})["totals"]["ties"]) == ("#### 5", "tie", 1)
    silent = end("I do not know this at all", "nor do I know it", "who does know such things")
    assert (silent.stop, silent.text) == ("unparsable", "who does know such things")
    assert (silent.details or {})["totals"]["unparsable"] == 3
    mixed = end("I do not know this at all", "#### 3", "nor do I know it")
    assert mixed.text == "#### 3"
    assert end("#### 5", "#### 7", "#### 9", decision="last").text == "#### 9"


def test_weighted_votes() -> None:
    agents = [agent("a", "#### 5", "100"), agent("b", "#### 7", "I am 20 % sure"), agent("c", "#### 7", "who knows")]
    done = hold(Debate(topology="all", max_rounds=0, decision="weighted"), *agents)
    assert done.text == "#### 5"  # a weight of 1.0 against 0.1 + 0.1
    assert (done.details or {})["totals"]["malformed_confidences"] == 1
    assert [t.kind for t in done.turns] == ["draft"] * 3 + ["confidence"] * 3
    agents = [agent("a", "#### 5"), agent("b", "#### 7"), agent("c", "#### 7")]
    done = hold(Debate(topology="all", max_rounds=0, decision="weighted", weights="5:1:2"), *agents)
    assert done.text == "#### 5"
    assert calls(*agents) == 3


def test_a_judge_closes() -> None:
    agents = [agent("a", "#### 1", "#### 2"), agent("b", "#### 3", "#### 4")]
    judge = agent("j", "Open.", "I side with the second.\n#### 4")
    done = hold(Debate(topology="judge", max_rounds=5), *agents, judge)
    assert (done.stop, done.text) == ("settled", "I side with the second.\n#### 4")
    assert [k for _, k in spoken(done)] == ["draft", "draft", "ruling", "reply", "reply", "ruling"]
    assert [(t.verdict or {})["closes"] for t in done.turns if t.kind == "ruling"] == [False, True]
    assert "#### 3" not in judge.calls[1][0].rpartition("Open.")[2]

    judge = agent("j", "Open.", "#### 9")
    done = hold(Debate(topology="judge", max_rounds=1), agent("a", "#### 1"), agent("b", "#### 3"), judge)
    assert (done.stop, done.text) == ("judge", "#### 9")
    done = hold(
        Debate(topology="all", decision="judge", max_rounds=0), agent("a", "1"), agent("b", "3"), agent("j", "")
    )
    assert (done.text, (done.details or {})["totals"]["silent_judge"]) == ("1", 1)
    agreeing = [agent("a", "#### 1"), agent("b", "#### 1")]
    judge = agent("j", "#### 9")
    assert hold(Debate(topology="judge"), *agreeing, judge).stop == "agreed"
    assert judge.calls == []


def test_consensus_by_verdict() -> None:
    first = agent("a", "#### 1", "Disagree. Still\n#### 1")
    second = agent("b", "Disagree. No:\n#### 2", "**Agree.**\n#### 1")
    done = hold(Debate(consensus="verdict", max_rounds=5), first, second)
    assert (done.stop, done.text) == ("agreed", "#### 1")
    stances = [(t.verdict or {}).get("agrees") for t in done.turns]
    assert stances == [None, False, False, True]
    same = hold(Debate(consensus="verdict", max_rounds=1), agent("a", "#### 1"), agent("b", "#### 1"))
    assert same.stop == "max_rounds"
    assert (same.details or {})["totals"]["malformed_stances"] == 2
    silent = hold(Debate(consensus="verdict"), agent("a", "So it is one.\n#### 1"), agent("b", "Agree."))
    assert (silent.stop, silent.text) == ("agreed", "So it is one.\n#### 1")


def test_agreement_with_answers_that_contradict_each_other_ends_no_debate() -> None:
    debate = Debate(topology="all", consensus="verdict", max_rounds=2)

    def ends(*replies: tuple[str, str]) -> tuple[Transcript, list[bool | None]]:
        done = hold(debate, *(agent(f"a{i}", *texts) for i, texts in enumerate(replies)))
        return done, [(t.verdict or {}).get("agrees") for t in done.turns if t.kind == "reply"]

    # Both adopt what the other one has just given up.
    done, stances = ends(("#### 1", "Agree."), ("#### 2", "Agree."))
    assert (done.stop, stances, (done.details or {})["totals"]["agreed"]) == ("tie", [True] * 4, 0)
    # It is unclear with which of two answers the third agent agrees, so that it keeps its own.
    team = ("#### 1", "Agree.\n#### 2"), ("#### 2", "Disagree.\n#### 2"), ("#### 1", "Agree.")
    done, stances = ends(*team)
    assert (stances, done.turns[5].verdict["answer"]) == ([True, False, None, True, False, True], "1")  # type: ignore[index]
    assert (done.details or {})["totals"]["malformed_stances"] == 1
    # It says that it agrees, and gives another answer.
    done, stances = ends(("#### 1", "Agree.\n#### 1"), ("#### 1", "Agree. So it is\n#### 3"))
    assert (done.stop, stances[:2]) == ("tie", [True, None])
    # What cannot be compared does not contradict.
    done, stances = ends(("A dog is in the garden.", "Agree."), ("Dogs are outside, it seems.", "Agree."))
    assert (len(done.turns), stances) == (4, [True, True])


def test_a_debate_in_turn_is_not_agreed_while_answers_contradict_each_other() -> None:
    debate = Debate(consensus="verdict", max_rounds=1)
    team = [agent("a", "#### 1", "Agree.\n#### 1"), agent("b", "Disagree.\n#### 2"), agent("c", "Agree.\n#### 1")]
    done = hold(debate, *team)
    assert (done.stop, [t.verdict["agrees"] for t in done.turns[1:]]) == ("max_rounds", [False, True, True])  # type: ignore[index]
    team = [agent("a", "#### 1", "Agree."), agent("b", "Disagree.\n#### 2"), agent("c", "Agree.\n#### 2")]
    assert (hold(debate, *team).stop, len(team[0].calls)) == ("agreed", 2)


def test_a_reply_that_speaks_for_another_agent_is_cut_and_counted() -> None:
    first = agent("a", "#### 1\n\nAgent 2: I say 5.\n#### 5", "Agent 1: No, 3.\n#### 3\nQuestion: next?\n#### 8")
    second = agent("b", "#### 2")
    done = hold(Debate(max_rounds=1), first, second)
    assert done.text == "No, 3.\n#### 3"
    assert [(t.verdict or {})["answer"] for t in done.turns] == ["1", "2", "3"]
    assert (done.details or {})["totals"]["cut_run_on"] == 2
    assert "I say 5" not in second.calls[0][0]


def test_an_empty_reply_leaves_the_agents_answer_as_it_was() -> None:
    done = hold(Debate(max_rounds=1), agent("a", "#### 1", "  "), agent("b", "#### 2"))
    assert (done.text, done.stop) == ("#### 1", "max_rounds")


def test_orders() -> None:
    def first_speaker(doc_id: int, order: str) -> str:
        agents = [agent(f"a{i}", f"#### {i}") for i in range(3)]
        asked = Question(CONTEXT, {}, "t", doc_id)
        done = hold(Debate(order=order, max_rounds=0), *agents, question=asked)  # type: ignore[arg-type]
        return done.turns[0].seat

    assert [first_speaker(i, "fixed") for i in range(4)] == ["agent1"] * 4
    assert [first_speaker(i, "rotated") for i in range(4)] == ["agent1", "agent2", "agent3", "agent1"]
    shuffled = [first_speaker(i, "shuffled") for i in range(20)]
    assert set(shuffled) == {"agent1", "agent2", "agent3"}
    assert shuffled == [first_speaker(i, "shuffled") for i in range(20)]


def test_figures_of_a_debate() -> None:
    agents = [agent("a", "#### 1", "#### 2", "#### 2"), agent("b", "#### 2"), agent("c", "#### 3", "#### 4", "#### 2")]
    done = hold(Debate(topology="all", max_rounds=5), *agents)
    totals = (done.details or {})["totals"]
    assert {k: totals[k] for k in ("speeches", "replies", "changed", "challenged", "conformed", "agreed")} == {
        "speeches": 9, "replies": 6, "changed": 3, "challenged": 6, "conformed": 2, "agreed": 1,
    }  # fmt: skip
    agreement = [round(totals[f"agreement_round_{r}"], 2) for r in range(6)]
    assert agreement == [0.33, 0.67, 1.0, 1.0, 1.0, 1.0]
    assert (done.details or {})["round0_vote"] == "agent1"
    assert (done.details or {})["round0_tie"]


def test_a_dictated_beginning_opens_every_agents_reply() -> None:
    context = ChatContext.of(
        [{"role": "user", "content": "How many?"}, {"role": "assistant", "content": "The answer is"}]
    )
    agents = [agent("a", " 1."), agent("b", " 2.")]
    done = hold(Debate(max_rounds=1), *agents, question=Question(context, {}, "t"))
    assert all(p.endswith("Assistant: The answer is") for one in agents for batch in one.calls for p in batch)
    assert [(t.verdict or {})["answer"] for t in done.turns] == ["1", "2", "1"]


# -- as an lm-eval model ---------------------------------------------------------------------------------------------


def make(tmp_path: Path, agents: Mapping[str, Any], **options: Any) -> DebateLM:
    given = {"store": "off", "run_dir": tmp_path / "run", "progress": "off"}
    return DebateLM(**{**given, **agents, **options})


def test_debates_txt_grows_and_is_never_overwritten(tmp_path: Path) -> None:
    def agents() -> dict[str, Any]:
        return {"agents": [agent("a", "#### 1\x1b[2J"), agent("b", "#### 2")]}

    make(tmp_path, agents()).generate_until(instances(["How many?", "How few?"]))
    text = (tmp_path / "run" / "debates.txt").read_text()
    assert text.count("Debate result:") == 2
    assert "\x1b" not in text
    assert "Agent 2 (reply): #### 2" in text
    lm = make(tmp_path, agents())
    lm.generate_until(instances(["How many?", "How few?", "How long?"]))
    again = (tmp_path / "run" / "debates.txt").read_text()
    assert again.startswith(text)
    assert again.count("Debate result:") == 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["totals"]["speeches"] == 3 * 5
    assert summary["rounds"]["questions"] == {"2": 3}
    assert summary["completion_tokens"] == {"kept": 6, "discarded": 24, "verification": 0}


def test_n_agents_on_one_model_are_n_draws_or_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = iter(range(99))
    one = ScriptedBackend(lambda p: f"#### {next(count)}")
    sampled = {"do_sample": True, "temperature": 1.0}
    lm = make(tmp_path, {"agent": one, "agents": 3}, topology="all", max_rounds=0)
    lm.generate_until([instance("How many?", sampled)])
    (done,) = read_transcripts(lm.session.run.path)
    assert len({t.text for t in done.turns}) == 3
    assert "repeated a greedy call" not in capsys.readouterr().err

    lm = make(tmp_path / "greedy", {"agent": one, "agents": 3}, topology="all", max_rounds=0)
    lm.generate_until([instance("How many?")])
    (done,) = read_transcripts(lm.session.run.path)
    assert [t.reused for t in done.turns] == [False, True, True]
    assert "2 calls repeated a greedy call" in capsys.readouterr().err


def test_agents_with_their_own_settings(tmp_path: Path) -> None:
    (tmp_path / "persona.txt").write_text("You doubt everything.")
    one = ScriptedBackend(lambda p: "#### 1" if "doubt" in p else "#### 2")
    lm = make(
        tmp_path,
        {"agent": one, "agents": 2, "agent.2.system": str(tmp_path / "persona.txt"), "agent.1.gen.temperature": 0.5},
        topology="all",
        max_rounds=0,
    )
    lm.generate_until([instance("How many?")])
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["identity"]["seats"]["agent1"]["gen"] == {"temperature": 0.5}
    assert config["identity"]["seats"]["agent2"]["system"] == "You doubt everything."
    assert sorted(prompt for batch in one.calls for prompt in batch) == [
        "How many?",
        "You doubt everything.\n\nHow many?",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"agents": "[a"}, "lm-eval split the list at a comma"),
        ({"agents": "[a", "b]": ""}, "lm-eval split the list at a comma"),
        ({"agents": "many"}, "expected a list"),
        ({"agents": 1}, "use 2 or more members"),
        ({"agent.1": "x", "agent.3": "y"}, "agent2` (takes part in the debate) has no model"),
        ({"judge": "x"}, "`judge` (closes the debate) is not used"),
        ({"agents": 3, "decision": "weighted", "weights": "1:2"}, "there are 3 agents"),
        ({"weights": "1:2"}, "decision=weighted"),
        ({"topology": "judge", "decision": "vote"}, "topology=all"),
        ({"answer_pattern": "("}, "no regular expression"),
        ({"max_rounds": -1}, "0 or more"),
        ({"topology": "star"}, "one of turns, all, ring, judge"),
    ],
)
def test_invalid_arguments_are_reported_before_anything_loads(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        plan_run(Debate, arguments)
    assert said in str(error.value)
    if "agents" in arguments:
        assert len(error.value.problems) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"agents": ["A", "B"], "agent.2.price_in": 1, "agent.2.price_out": 2},
        {"agents": "[A, B]", "agent2.price_in": 1, "agent.2.price_out": 2},
        {"agent.1": "A", "agent.2": "B", "agent.2.price_in": 1, "agent.2.price_out": 2},
        {"agent": {"1": {"model": "A"}, 2: {"model": "B", "price_in": 1, "price_out": 2}}},
        {"agents": [{"model": "A"}, {"model": "B", "price_in": 1, "price_out": 2}]},
    ],
)
def test_ways_to_name_agents(arguments: dict[str, Any], tmp_path: Path) -> None:
    from harness_ext.embedded import model_path

    names = {"A": str(model_path("student")), "B": str(model_path("teacher"))}

    def real(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: real(v) for k, v in value.items()}
        if isinstance(value, list):
            return [real(v) for v in value]
        for short, name in names.items():
            value = value.replace(short, name) if isinstance(value, str) else value
        return value

    plan = plan_run(Debate, real(arguments))
    assert [s.backend.name for s in plan.seats.values()] == [names["A"], names["B"]]
    assert [(s.price_in, s.price_out) for s in plan.seats.values()] == [(None, None), (1.0, 2.0)]
    assert not plan.demonstration


def test_without_models_the_demonstration_pair_runs() -> None:
    from harness_ext.embedded import model_path

    plan = plan_run(Debate, {"topology": "judge", "agents": 3})
    assert plan.demonstration
    student, teacher = str(model_path("student")), str(model_path("teacher"))
    assert {n: s.backend.name for n, s in plan.seats.items()} == {
        "agent1": student, "agent2": teacher, "agent3": student, "judge": teacher,
    }  # fmt: skip
    assert plan.seats["agent1"].backend is plan.seats["agent3"].backend


def test_prompts_are_files_with_their_marks(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Others:\n{others}")
    plan = plan_run(Debate, {"others_user": str(tmp_path / "p.txt")})
    assert isinstance(plan.protocol, Debate)
    assert plan.protocol.others_user == PromptText("Others:\n{others}")

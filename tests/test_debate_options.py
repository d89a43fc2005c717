"""Tests of what a debate can be made of: graphs, orders, quorums, votes, the devil's advocate, personas and gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import instance, run_engine

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.config.run_plan import plan_run
from harness_ext.decisions.debate_gate import settings_of
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.debate import Debate, DebateLM
from harness_ext.models.debating.critique import features_of, read_critique
from harness_ext.models.debating.graph import Graph, read_graph
from harness_ext.models.debating.personas import read_personas
from harness_ext.models.debating.state import Utterance
from harness_ext.protocol import Question
from harness_ext.reading import AnswerForm, answer_form, read_answer
from harness_ext.reading.ballots import POINTS, read_ballot
from harness_ext.records import Completion, Transcript
from harness_ext.records.run_directory import read_transcripts

CONTEXT = "Question: How many?\nAnswer:"


class Agent(ScriptedBackend):
    """An agent that says one text after another, and then repeats the last one; ballots are cast apart from that."""

    def __init__(self, name: str, *replies: str, ballot: str = "", number: int = 0) -> None:
        left = list(replies)

        def reply(prompt: str) -> str:
            if "The debate is over" in prompt[-900:]:
                return ballot
            return left.pop(0) if len(left) > 1 else left[0]

        super().__init__(reply, name=name)

    @property
    def prompts(self) -> list[str]:
        return [prompt for batch in self.calls for prompt in batch]


def hold(protocol: Debate, *seats: ScriptedBackend, doc_id: int = 0, seed: int = 0) -> Transcript:
    """Hold one debate of agents 1, 2, …, of which the last one is the judge if the protocol needs one."""
    names = [f"agent{i}" for i in range(1, len(seats) + 1)]
    if "judge" in protocol.needs():
        names[-1] = "judge"
    asked = Question(CONTEXT, {"until": ["Question:"]}, "t", doc_id)
    return run_engine(Engine(seed=seed), protocol, dict(zip(names, seats, strict=True)), [asked])[0]


def agents(*answers: Any, **more: Any) -> list[Agent]:
    return [Agent(f"a{i}", *([a] if isinstance(a, str) else a), **more) for i, a in enumerate(answers, start=1)]


def spoken(transcript: Transcript) -> list[tuple[str, str]]:
    return [(turn.seat, turn.kind) for turn in transcript.turns]


def totals(transcript: Transcript) -> dict[str, Any]:
    found: dict[str, Any] = (transcript.details or {})["totals"]
    return found


def verdicts(transcript: Transcript, kind: str) -> list[dict[str, Any]]:
    return [dict(turn.verdict or {}) for turn in transcript.turns if turn.kind == kind]


# -- who reads whom, and how -------------------------------------------------------------------------------------------


def test_who_reads_whom_in_a_graph() -> None:
    team = agents(*(f"mine {i}\n#### {i}" for i in range(1, 5)))
    done = hold(Debate(topology="all", graph="[1-2,2-3,1>4]", max_rounds=1), *team)
    heard = {turn.seat: (turn.verdict or {})["heard"] for turn in done.turns if turn.kind == "reply"}
    assert heard == {
        "agent1": ["agent2"],
        "agent2": ["agent1", "agent3"],
        "agent3": ["agent2"],
        "agent4": ["agent1"],
    }
    assert "mine 3" in team[1].prompts[1]
    assert "mine 3" not in team[0].prompts[1]


def test_an_agent_that_reads_nobody_answers_once() -> None:
    team = agents("#### 1", "#### 2", "#### 3")
    done = hold(Debate(topology="all", graph="1>2,1>3", max_rounds=2), *team)
    assert [len(agent.prompts) for agent in team] == [1, 3, 3]
    assert done.stop == "tie"
    in_turn = hold(Debate(graph="3>1,3>2", max_rounds=1), *agents("#### 1", "#### 2", "#### 3"))
    assert spoken(in_turn) == [("agent1", "draft"), ("agent2", "draft"), ("agent3", "draft"), ("agent1", "reply")]


@given(st.sets(st.tuples(st.integers(1, 6), st.integers(1, 6)).filter(lambda pair: pair[0] != pair[1]), min_size=1))
def test_a_graph_is_written_as_it_is_read(reads: set[tuple[int, int]]) -> None:
    graph = Graph(frozenset(reads))
    assert read_graph(str(graph)) == graph


def test_graphs_in_files(tmp_path: Path) -> None:
    (tmp_path / "edges").write_text("1-2\n2>3\n")
    (tmp_path / "matrix").write_text("0 1 0\n1,0,0\n[0, 1, 0]\n")
    assert read_graph(str(tmp_path / "edges"), 3) == read_graph(str(tmp_path / "matrix"), 3) == read_graph("1-2,2>3")
    plan = plan_run(Debate, {"agents": 3, "graph": str(tmp_path / "matrix")})
    assert isinstance(plan.protocol, Debate)
    assert plan.protocol.graph == "[1-2,2>3]"
    for text, said in (("0 1\n1", "square matrix"), ("1 1\n1 0", "cannot read itself"), ("", "square matrix")):
        (tmp_path / "wrong").write_text(text)
        with pytest.raises(ValueError, match=said):
            read_graph(str(tmp_path / "wrong"))


def test_anonymous_authors_are_numbers_in_the_order_of_the_list() -> None:
    team = agents("#### 1", "#### 2", "#### 3")
    hold(Debate(topology="all", max_rounds=1, authors="anonymous"), *team)
    shown = team[1].prompts[1].split("These are other answers", 1)[1]
    assert shown.index('Agent 1:\n"""\n#### 1') < shown.index('Agent 2:\n"""\n#### 3')
    assert "Agent 3" not in shown


def test_each_agent_sees_the_others_in_an_order_of_its_own() -> None:
    def listed(doc_id: int, seed: int = 0) -> list[list[str]]:
        protocol = Debate(topology="all", max_rounds=2, listed="shuffled")
        done = hold(protocol, *agents(*(f"#### {i}" for i in range(1, 6))), doc_id=doc_id, seed=seed)
        return [verdict["heard"] for verdict in verdicts(done, "reply")]

    found = listed(0)
    assert found == listed(0)
    assert listed(1) != found != listed(0, seed=1)
    assert len({tuple(sorted(order)) for order in found}) == 5
    assert any(order != sorted(order) for order in found)
    team = agents(*(f"#### {i}" for i in range(1, 6)))
    done = hold(Debate(topology="all", max_rounds=1, listed="shuffled"), *team)
    for turn, agent in zip((t for t in done.turns if t.kind == "reply"), team, strict=True):
        shown = agent.prompts[1].split("These are other answers", 1)[1]
        places = [shown.index(f"Agent {seat[-1]}:") for seat in (turn.verdict or {})["heard"]]
        assert places == sorted(places)


def test_which_of_several_listed_answers_an_agent_gives_is_counted() -> None:
    team = agents(["#### 1", "#### 2"], ["#### 2", "#### 3"], ["#### 3", "#### 3"])
    found = totals(hold(Debate(topology="all", max_rounds=1), *team))
    assert (found["positions"], found["gave_first"], found["gave_last"]) == (3, 1, 1)


# -- when a debate ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quorum", "answers", "stop"),
    [
        ("unanimous", "112", "max_rounds"),
        ("supermajority", "112", "agreed"),
        ("supermajority", "1123", "max_rounds"),
        ("majority", "1123", "max_rounds"),
        ("majority", "11123", "agreed"),
        ("supermajority", "11123", "max_rounds"),
        ("majority", "12", "tie"),
    ],
)
def test_how_many_agents_end_a_debate(quorum: Any, answers: str, stop: str) -> None:
    team = agents(*(f"#### {a}" for a in answers))
    done = hold(Debate(topology="all", max_rounds=1, quorum=quorum), *team)
    assert done.stop == stop
    assert len(team[0].prompts) == (1 if stop == "agreed" else 2)
    assert done.text == "#### 1"


def test_a_majority_that_ends_a_debate_in_turn_gives_its_answer() -> None:
    done = hold(Debate(quorum="majority", max_rounds=1), *agents("#### 1", "#### 2", "#### 1"))
    assert (done.stop, done.text, len(done.turns)) == ("agreed", "#### 1", 3)
    done = hold(Debate(quorum="majority", consensus="verdict"), *agents("#### 1", "Agree.\n#### 1", "#### 3"))
    assert (done.stop, len(done.turns)) == ("agreed", 2)


# -- whose answer is final ---------------------------------------------------------------------------------------------


def test_agents_vote_by_approval_ranking_and_points() -> None:
    def end(decision: Any, *ballots: str) -> Transcript:
        team = [Agent(f"a{i}", f"#### {i}", ballot=ballot) for i, ballot in enumerate(ballots, start=1)]
        return hold(Debate(topology="all", max_rounds=0, decision=decision), *team)

    approved = end("approval", "1, 2", "2", "2, 3")
    assert (approved.text, approved.stop) == ("#### 2", "max_rounds")
    assert [t.kind for t in approved.turns] == ["draft"] * 3 + ["ballot"] * 3
    assert verdicts(approved, "ballot")[0]["points"] == {"agent1": 1.0, "agent2": 1.0, "agent3": 0.0}
    assert end("ranked", "1, 3, 2", "3, 2, 1", "3 > 1 > 2").text == "#### 3"
    assert end("cumulative", "1: 10", "2: 6\n1: 4", "3: 10").text == "#### 1"
    tied = end("approval", "1", "2", "none")
    assert (tied.text, tied.stop, totals(tied)["ties"]) == ("#### 1", "tie", 1)
    team = [Agent(f"a{i}", f"#### {a}", ballot="none") for i, a in enumerate("122", start=1)]
    assert hold(Debate(topology="all", max_rounds=0, decision="approval"), *team).text == "#### 2"
    team = [Agent(f"a{i}", f"#### {a}", ballot="1: 5\n2: 5") for i, a in enumerate("122", start=1)]
    tied = hold(Debate(topology="all", max_rounds=0, decision="cumulative"), *team)
    assert (tied.text, tied.stop) == ("#### 2", "tie")
    silent = end("ranked", "", "I like 7.", "1, 1")
    assert (silent.text, silent.stop, totals(silent)["malformed_ballots"]) == ("#### 1", "tie", 3)


def test_equal_answers_are_one_candidate_and_one_candidate_needs_no_ballot() -> None:
    team = [Agent(f"a{i}", text, ballot="2") for i, text in enumerate(("#### 1,000", "#### 1000", "#### 7"), start=1)]
    done = hold(Debate(topology="all", max_rounds=0, decision="approval"), *team)
    assert done.text == "#### 7"
    assert 'Answer 2:\n"""\n#### 7' in team[0].prompts[1]
    assert "Answer 3" not in team[0].prompts[1]
    alone = hold(Debate(topology="all", max_rounds=0, decision="ranked", consensus="verdict"), *agents("1", "1"))
    assert [t.kind for t in alone.turns] == ["draft", "draft"]


@pytest.mark.parametrize(
    ("text", "kind", "points"),
    [
        ("1,3", "approval", (1, 0, 1)),
        ("Answers 1 and 3.", "approval", (1, 0, 1)),
        ("None of them.", "approval", (0, 0, 0)),
        ("Because 3 is 4.\n**2, 1**", "approval", (1, 1, 0)),
        ("4", "approval", None),
        ("1, 3\n\nExplanation: 1 is right because 2 + 2 = 4.", "approval", (1, 0, 1)),
        ("Answer 1: acceptable\nAnswer 2: not acceptable, as 5 - 3 = 2\nAnswer 3: acceptable", "approval", (1, 0, 1)),
        ("1 is acceptable, 2 is not.", "approval", (1, 0, 0)),
        ("Neither answer 1 nor answer 2 is acceptable, but 3 is right.", "approval", (0, 0, 1)),
        ("Answer 2 is not acceptable.", "approval", None),
        ("Neither 1, 2 nor 3 is acceptable.", "approval", (0, 0, 0)),
        ("None of 1, 2 and 3", "approval", None),
        ("All of them are acceptable.", "approval", (1, 1, 1)),
        ("All of them are wrong.", "approval", None),
        ("All except 2.", "approval", None),
        ("Answers 1 to 3", "approval", (1, 1, 1)),
        ("", "approval", None),
        ("Both 1 and 2 have a point.\nBut 3 does not.", "approval", None),
        ("2 > 1", "ranked", (1, 2, 0)),
        ("2", "ranked", (0.5, 2, 0.5)),
        ("3\n1\n2", "ranked", (1, 0, 2)),
        ("1. Answer 3\n2. Answer 1\n3. Answer 2", "ranked", (1, 0, 2)),
        ("2, 1, 3\n\nExplanation: 2 says 18, which is right.", "ranked", (1, 2, 0)),
        ("Answer 2 is not the best.", "ranked", None),
        ("2, 2", "ranked", None),
        ("none, none", "approval", (0, 0, 0)),
        ("none, B", "approval", None),
        ("none, 1", "approval", None),
        ("B, 1", "ranked", None),
        ("A, 2", "approval", None),
        ("I accept none", "approval", (0, 0, 0)),
        ("None", "ranked", None),
        ("2: 7\n1: 3", "cumulative", (3, 7, 0)),
        ("Answer 1: 5 points, answer 3: 15 points", "cumulative", (2.5, 0, 7.5)),
        ("1: 0", "cumulative", None),
        ("1: 5, 1: 5", "cumulative", None),
        ("I give 10 to 2", "cumulative", None),
        ("1. 5\n2. 5", "cumulative", (5, 5, 0)),
        ("(1): 7 points\n(3) - 3 points", "cumulative", (7, 0, 3)),
        ('{"1": 7, "2": 3}', "cumulative", (7, 3, 0)),
        ("| 1 | 7 |\n| 2 | 3 |", "cumulative", (7, 3, 0)),
        ("1: -2\n2: 12", "cumulative", None),
    ],
)
def test_how_ballots_are_read(text: str, kind: Any, points: tuple[float, ...] | None) -> None:
    assert read_ballot(text, kind, 3) == points


@given(st.text(max_size=80) | st.text("0123456789:,. >\n", max_size=40), st.integers(1, 9))
def test_whatever_is_written_a_ballot_gives_what_it_may(text: str, answers: int) -> None:
    sums = {"approval": (0, answers), "ranked": (answers * (answers - 1) / 2,) * 2, "cumulative": (POINTS, POINTS)}
    for kind, (least, most) in sums.items():
        points = read_ballot(text, kind, answers)  # type: ignore[arg-type]
        if points is not None:
            assert len(points) == answers
            assert min(points) >= 0
            assert least - 1e-6 <= sum(points) <= most + 1e-6


# -- the devil's advocate, and personas --------------------------------------------------------------------------------


def test_the_devils_advocate_speaks_first_and_has_no_vote() -> None:
    first, second, devil = agents(["#### 1", "#### 1"], ["#### 1", "#### 2"], "It overlooks half.\n#### 9")
    done = hold(Debate(topology="all", max_rounds=1, devil=3), first, second, devil)
    assert spoken(done) == [
        ("agent1", "draft"), ("agent2", "draft"), ("agent3", "objection"), ("agent1", "reply"), ("agent2", "reply"),
    ]  # fmt: skip
    assert "You are the devil's advocate" in devil.prompts[0]
    assert "It overlooks half" in first.prompts[1]
    assert (done.stop, done.text, totals(done)["objections"]) == ("tie", "#### 1", 1)
    assert verdicts(done, "objection") == [{"in_round": 1, "heard": ["agent1", "agent2"]}]
    assert totals(done)["agreement_round_0"] == 1.0


def test_agreement_ends_a_debate_only_after_the_devils_advocate_has_spoken() -> None:
    for topology, kinds in (("all", 2), ("turns", 1)):
        team = agents("#### 1", "#### 1", "No.")
        done = hold(Debate(topology=topology, max_rounds=5, devil=3), *team)  # type: ignore[arg-type]
        assert (done.stop, done.text) == ("agreed", "#### 1")
        assert [k for _, k in spoken(done)].count("objection") == 1
        assert [k for _, k in spoken(done)].count("draft") == kinds
    only_answers = agents("#### 1", "#### 2", "Wrong, all of it.")
    hold(Debate(topology="all", max_rounds=1, devil=3, see="answer"), *only_answers)
    assert "Wrong, all of it." in only_answers[0].prompts[1]


def test_personas_are_written_for_each_question() -> None:
    first = Agent("a", "1. **Statistician**: counts everything.\n2) Lawyer: reads closely.", "#### 1")
    second = Agent("b", "#### 2")
    done = hold(Debate(topology="all", max_rounds=1, personas="generated"), first, second)
    assert spoken(done)[0] == ("agent1", "personas")
    assert "Name 2 different experts" in first.prompts[0]
    assert f'"""\n{CONTEXT}\n"""' in first.prompts[0], "quoted, so that it is not answered"
    assert [("Lawyer" in p, "Statistician" in p) for p in second.prompts] == [(True, False)] * 2
    assert second.prompts[0].startswith("Instructions: You are the following expert")
    assert verdicts(done, "personas") == [
        {
            "personas": {"agent1": "Statistician: counts everything.", "agent2": "Lawyer: reads closely."},
            "malformed": False,
        }
    ]
    silent = hold(Debate(topology="all", max_rounds=0, personas="generated"), *agents(["Hm.", "#### 1"], "#### 2"))
    assert totals(silent)["missing_personas"] == 2


def test_how_personas_are_read() -> None:
    assert read_personas("Sure:\n1. A: x\n- 2) B\n1. C\nnone") == {1: "A: x", 2: "B"}
    assert read_personas("3.\n") == {}
    assert read_personas("1. <Chef>: <She cooks, if x < 3.>\n2. **Cook**: he <tastes>.") == {
        1: "Chef: She cooks, if x < 3.",
        2: "Cook: he tastes.",
    }
    assert read_personas("1. A: x\n2. B: and so on and", whole=False) == {1: "A: x"}
    assert read_personas("1. A: x\n2. B: y\n\nThese would", whole=False) == {1: "A: x", 2: "B: y"}


def test_a_persona_that_was_cut_off_is_given_to_nobody() -> None:
    writer = ScriptedBackend(
        lambda p: Completion("1. Chef: cooks.\n2. Waiter: serves and", finish="length") if "experts" in p else "#### 1",
        name="a",
    )
    done = hold(Debate(topology="all", max_rounds=0, personas="generated"), writer, *agents("#### 1"))
    assert verdicts(done, "personas") == [{"personas": {"agent1": "Chef: cooks."}, "malformed": True}]
    assert totals(done)["missing_personas"] == 1


# -- gates -------------------------------------------------------------------------------------------------------------


def test_drafts_that_agree_need_no_debate() -> None:
    done = hold(Debate(gate="agreement"), *agents("#### 1", "#### 1.0", "#### 1"))
    assert (done.stop, [k for _, k in spoken(done)]) == ("agreed", ["draft"] * 3)
    assert (totals(done)["gate_shut"], totals(done)["gate_open"]) == (1, 0)
    debated = hold(Debate(gate="agreement", max_rounds=1), *agents("#### 1", "#### 2"))
    assert [k for _, k in spoken(debated)] == ["draft", "draft", "reply", "reply"]
    assert totals(debated)["gate_open"] == 1
    by_word = Debate(topology="all", gate="agreement", consensus="verdict", max_rounds=5)
    assert len(hold(by_word, *agents("#### 1", "#### 1")).turns) == 2


def test_a_pair_debates_first_and_all_vote_only_if_it_remains_divided() -> None:
    pair = Debate(topology="all", gate="pair", max_rounds=3)
    agreed = hold(pair, *agents("#### 1", "#### 1", "#### 2", "#### 2"))
    assert (agreed.stop, len(agreed.turns), totals(agreed)["gate_shut"]) == ("agreed", 2, 1)

    moved = hold(pair, *agents(["#### 1", "#### 2"], "#### 2", "#### 3", "#### 3"))
    assert spoken(moved) == [("agent1", "draft"), ("agent2", "draft"), ("agent1", "reply"), ("agent2", "reply")]
    assert (moved.stop, moved.text, totals(moved)["gate_pair"]) == ("agreed", "#### 2", 1)

    divided = hold(pair, *agents("#### 1", "#### 2", "#### 2", "#### 3"))
    assert [k for _, k in spoken(divided)] == ["draft", "draft", "reply", "reply", "draft", "draft"]
    assert (divided.stop, divided.text, totals(divided)["gate_open"]) == ("escalated", "#### 2", 1)
    assert [(t.verdict or {})["round"] for t in divided.turns] == [0, 0, 1, 1, 2, 2]
    assert [totals(divided)[f"agreement_round_{r}"] for r in range(5)] == [0.5] * 5

    numbers = count()
    restless = [Agent(f"a{i}", *(f"#### {next(numbers)}" for _ in range(9))) for i in range(4)]
    long = hold(pair, *restless)
    assert [k for _, k in spoken(long)] == ["draft"] * 2 + ["reply"] * 6 + ["draft"] * 2
    assert totals(long)["agreement_round_4"] == 0.25


def gate_file(path: Path, settings: Any, **more: Any) -> Path:
    """Write a gate that looks at nothing but how sure the agent says it is."""
    gate = {
        "features": ["confidence"], "means": [0.5], "scales": [0.1], "slopes": [-1.0], "offset": 0.0, "threshold": 0.5,
        "settings": settings, "rows": 50, "helped": 20, "tasks": ["t:test"], "date": "2026-01-01", **more,
    }  # fmt: skip
    path.write_text(json.dumps(gate))
    return path


def critic(confidence: int, answer: str = "#### 1") -> Callable[[str], str]:
    def reply(prompt: str) -> str:
        if "as a strict critic would" in prompt[-700:]:
            return f"Doubt: Perhaps a step is missing.\nOther answer: 2\nConfidence: {confidence}"
        return "Yes" if "Answer Yes or No only." in prompt[-60:] else answer

    return reply


@given(st.text(max_size=200) | st.text("Doubt:Other answer:Confidence:\n 5", max_size=80))
def test_any_text_is_a_critique_with_features(text: str) -> None:
    draft = Utterance("agent1", 0, Completion(text, "stop"), text, None)
    other, confidence = read_critique(text, AnswerForm())
    assert confidence is None or 0 <= confidence <= 1
    found = features_of(draft, text, other, confidence, 0.5)
    assert all(isfinite(value) and value >= 0 for value in found.values())


def test_an_other_answer_is_one_of_the_same_kind() -> None:
    draft = Utterance("agent1", 0, Completion("#### 1", "stop"), "#### 1", read_answer("#### 1"))
    for said, differs in (("2", 1), ("1.0", 0), ("The answer is right if yours is wrong.", 0)):
        other, _ = read_critique(f"Other answer: {said}", AnswerForm())
        assert features_of(draft, "", other, None, 0.5)["other_answer"] == differs


def test_what_a_critique_says_is_read_by_its_labels() -> None:
    other, confidence = read_critique("**Doubt:** 5 is odd.\nOther answer: 7\nConfidence: 60 %", AnswerForm())
    assert (other and other.value, confidence) == ("7", 0.6)
    assert read_critique("I am 80% sure.", AnswerForm()) == (None, 0.8)
    assert read_critique("Other answer:\nConfidence:", AnswerForm()) == (None, None)
    other, confidence = read_critique("1. Doubt: odd.\n2. **Other answer:** 7\n3. Confidence: 60", AnswerForm())
    assert (other and other.value, confidence) == ("7", 0.6)
    other, confidence = read_critique("Doubt: odd. Other answer: It is 7. Confidence: 60", AnswerForm())
    assert (other and other.value, confidence) == ("7", 0.6)
    for nothing in ("None", "N/A.", "There is no other answer."):  # "none" is zero as an answer to "how many?"
        assert read_critique(f"Other answer: {nothing}\nConfidence: 60", answer_form("How many?")) == (None, 0.6)


def test_a_trained_gate_spares_debates_that_promise_nothing(tmp_path: Path) -> None:
    def run(name: str, confidence: int, **options: Any) -> Transcript:
        team = [ScriptedBackend(critic(confidence), name="a"), ScriptedBackend(lambda p: "#### 2", name="b")]
        given = {"store": "off", "run_dir": tmp_path / name, "progress": "off", "topology": "all", "max_rounds": 1}
        lm = DebateLM(agents=team, **{**given, **options})
        lm.generate_until([instance("How many?")])
        return next(iter(read_transcripts(tmp_path / name)))

    trained_on = run("critique", 90, gate="critique")
    assert [t.kind for t in trained_on.turns] == ["draft", "critique", "self_verdict", "draft", "reply", "reply"]
    features = verdicts(trained_on, "critique")[0]["features"]
    assert (features["confidence"], features["probability"], features["other_answer"]) == (0.9, 1.0, 1.0)
    assert features["critique_hedges"] > features["draft_hedges"] == 0

    identity = json.loads((tmp_path / "critique" / "config.json").read_text())["identity"]
    settings = settings_of(identity["options"], identity["seats"])
    file = str(gate_file(tmp_path / "gate.json", settings))
    spared = run("sure", 90, gate="trained", gate_file=file)
    assert (spared.stop, spared.text, len(spared.turns)) == ("spared", "#### 1", 3)
    assert verdicts(spared, "critique")[0]["debates"] is False
    assert verdicts(spared, "critique")[0]["probability"] == pytest.approx(0.018, abs=0.001)
    assert totals(spared)["gate_shut"] == 1
    assert len(run("unsure", 20, gate="trained", gate_file=file).turns) == 6
    assert len(run("always", 90, gate="trained", gate_file=file, gate_at=0.01).turns) == 6
    recorded = json.loads((tmp_path / "sure" / "config.json").read_text())["identity"]["options"]["gate_file"]
    assert json.loads(recorded)["rows"] == 50

    with pytest.raises(ConfigurationError, match=r"different: max_rounds\)"):
        run("other", 90, gate="trained", gate_file=file, max_rounds=2)


def test_a_gate_file_that_is_none_is_refused(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with pytest.raises(ConfigurationError) as error:
            plan_run(Debate, {"gate": "trained", "gate_file": str(path)})
        return str(error.value)

    assert "cannot be read" in said(tmp_path / "none.json")
    for number, content in enumerate(('{"features": []}', "[]", '{"a":' * 5000, "\0")):
        path = tmp_path / f"{number}.json"
        path.write_text(content)
        assert "harness-ext train-gate" in said(path) or "cannot be read" in said(path)
    unknown = gate_file(tmp_path / "mood.json", {}, features=["mood"]).read_text()
    with pytest.raises(ConfigurationError, match=r"do not have \(mood\)"):
        hold(Debate(gate="trained", gate_file=unknown), ScriptedBackend(critic(9)), ScriptedBackend(critic(9)))
    assert "not finite" in said(gate_file(tmp_path / "nan.json", {}, offset=float("nan")))
    assert "differ in length" in said(gate_file(tmp_path / "long.json", {}, means=[0.0, 1.0]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"graph": "1-2", "topology": "ring"}, "leave one of the two out"),
        ({"agents": 3, "graph": "1-2"}, "does not hold for 3"),
        ({"agents": 2, "graph": "1-2,2-5"}, "does not hold for 5"),
        ({"agents": 2, "graph": "1-1,1-2"}, "cannot read itself"),
        ({"agents": 2, "graph": "all of them"}, "nor a readable file"),
        ({"agents": 3, "graph": "1>2,1>3", "consensus": "verdict"}, "agents 1 do not"),
        ({"agents": 3, "devil": 4}, "numbered from 1 to 3"),
        ({"agents": 2, "devil": 1}, "needs 3 agents or more"),
        ({"agents": 3, "devil": 1, "max_rounds": 0}, "from the first round on"),
        ({"agents": 3, "devil": 1, "gate": "agreement"}, "leave one of the two out"),
        ({"agents": 3, "gate": "pair"}, "use `topology=all`"),
        ({"agents": 2, "gate": "pair", "topology": "all"}, "needs 3 agents or more"),
        ({"gate": "trained"}, "go together"),
        ({"gate_file": "gate.json"}, "go together"),
        ({"gate_at": 0.5}, "needs `gate=trained`"),
        ({"gate_at": "often"}, "a number, or one of auto"),
        ({"gate": "critique", "order": "shuffled"}, "first answer of agent 1"),
        ({"gate": "critique", "personas": "generated"}, "first answer of agent 1"),
        ({"topology": "judge", "decision": "ranked"}, "`topology=judge` ends with the judge's answer"),
        ({"quorum": 0.6}, "one of unanimous, supermajority, majority"),
    ],
)
def test_options_that_do_not_fit_are_reported_before_anything_loads(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        plan_run(Debate, arguments)
    assert said in str(error.value)


def test_a_pair_of_one_model_is_remarked_upon() -> None:
    plan = plan_run(Debate, {"agents": 4, "gate": "pair", "topology": "all"})
    assert plan.protocol.remarks(plan.seats) == []  # student and teacher
    plan.seats["agent2"] = plan.seats["agent1"]
    assert "two different models err less often" in plan.protocol.remarks(plan.seats)[0]

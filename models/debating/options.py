"""The options of `debate`, what they exclude, and the prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from harness_ext.decisions.debate_gate import DebateGate, settings_of
from harness_ext.models.debating.graph import Graph, read_graph
from harness_ext.options import PromptText, check_rounds, prompt
from harness_ext.protocol import Capability, Protocol, Role, SeatSetup
from harness_ext.reading import check_pattern

Decision = Literal["last", "vote", "weighted", "approval", "ranked", "cumulative", "judge"]


@dataclass(frozen=True)
class DebateOptions(Protocol):
    """The options of `debate`.

    topology: who speaks when, and who reads whom. Default `turns`.
        `turns`: the first agent answers, then the others and it take turns to read all others and answer.
        `all`: all answer at once, then each reads all others.
        `ring`: as `all`, but each reads only the agent before it.
        `judge`: as `all`, and after each round a judge may close the debate.
    graph: who reads whom, instead of everybody: `[1-2,2>3]`, or a file of such edges or of an adjacency matrix. Default
        None.
    max_rounds: the largest number of rounds after the first answers. Default 2.
    consensus: what ends a debate early: all answers are equal (`answers`), or all agents say that they agree
        (`verdict`). Default `answers`.
    quorum: how many agents that takes. Default `unanimous`: all of them.
        `supermajority`: two thirds of them or more.
        `majority`: more than half of them.
    gate: what decides whether there is a debate at all. Default `off`: there always is.
        `agreement`: all agents answer first, and debate only if they do not agree.
        `pair`: the first two agents answer, and debate if they do not agree; all others answer and vote only if the two
        remain divided.
        `trained`: the first agent answers and criticises itself, and a classifier of this critique decides.
        `critique`: as `trained`, but there always is a debate; such runs train the classifier.
    gate_file: the classifier for `gate=trained`, as `harness-ext train-gate` writes it. Default None.
    gate_at: the least probability, for `gate=trained`, that a debate corrects the answer. Default `auto`: the one that
        the file names.
    decision: whose answer is final. Default `auto`: `last` for `turns`, `judge` for `judge`, otherwise `vote`.
        `last`: that of the last speaker.
        `vote`: the most common answer.
        `weighted`: the answer with the largest sum of weights.
        `approval`: the answer that most agents find acceptable.
        `ranked`: the answer that is ranked highest (Borda count).
        `cumulative`: the answer with most points; each agent distributes ten.
        `judge`: the judge's own answer.
    weights: the weights for `decision=weighted` (`2:1:1`). Default None: by how sure each agent says it is.
    devil: the number of an agent that is the devil's advocate: it speaks first in each round, against the most common
        answer, and neither answers nor votes. Default None: there is none.
    personas: `generated` lets the first agent write a persona for each agent, for each question. Default `off`.
    see: whether agents see others' whole texts (`rationale`) or only their answers (`answer`). Default `rationale`.
    authors: whether agents see whose answer they read (`named`), or only numbers in the order in which answers are
        listed (`anonymous`). Default `named`.
    listed: the order in which each agent sees others' answers: that of the agents (`fixed`), or one of its own in each
        round (`shuffled`). Default `fixed`.
    order: the order in which agents speak and are listed: `fixed`, or by document `rotated` or `shuffled`. Default
        `fixed`.
    answer_pattern: a regular expression whose last match (its first group) is a reply's answer. Default None: the
        built-in patterns.
    judge_by: how the judge decides. `text`: it writes the final answer. `choice`: it picks one of the agents' answers,
        which it sees in both orders; with `topology=judge`, a yes/no question after each round asks whether it is clear
        which one is right. Default `text`.
    """

    topology: Literal["turns", "all", "ring", "judge"] = "turns"
    graph: str | None = None
    max_rounds: int = 2
    consensus: Literal["answers", "verdict"] = "answers"
    quorum: Literal["unanimous", "supermajority", "majority"] = "unanimous"
    gate: Literal["off", "agreement", "pair", "trained", "critique"] = "off"
    gate_file: str | None = None
    gate_at: float | Literal["auto"] = "auto"
    decision: Literal["auto", "last", "vote", "weighted", "approval", "ranked", "cumulative", "judge"] = "auto"
    weights: str | None = None
    devil: int | None = None
    personas: Literal["off", "generated"] = "off"
    see: Literal["rationale", "answer"] = "rationale"
    authors: Literal["named", "anonymous"] = "named"
    listed: Literal["fixed", "shuffled"] = "fixed"
    order: Literal["fixed", "rotated", "shuffled"] = "fixed"
    answer_pattern: str | None = None
    judge_by: Literal["text", "choice"] = "text"
    others_user: PromptText = prompt(lambda: OTHERS_USER, "shows an agent others' answers")
    stance_user: PromptText = prompt(lambda: STANCE_USER, "the same for `consensus=verdict`")
    devil_user: PromptText = prompt(lambda: DEVIL_USER, "shows the devil's advocate the answers (`devil`)")
    personas_user: PromptText = prompt(lambda: PERSONAS_USER, "asks for personas (`personas=generated`)")
    persona_system: PromptText = prompt(lambda: PERSONA_SYSTEM, "the system message of an agent with such a persona")
    critique_user: PromptText = prompt(lambda: CRITIQUE_USER, "asks for a self-critique (`gate=trained`, `critique`)")
    ruling_user: PromptText = prompt(lambda: RULING_USER, "lets the judge close the debate (`topology=judge`)")
    judge_user: PromptText = prompt(lambda: JUDGE_USER, "asks the judge for the final answer")
    confidence_user: PromptText = prompt(lambda: CONFIDENCE_USER, "asks an agent how sure it is (`decision=weighted`)")
    approval_user: PromptText = prompt(lambda: APPROVAL_USER, "asks for a vote (`decision=approval`)")
    ranked_user: PromptText = prompt(lambda: RANKED_USER, "the same for `decision=ranked`")
    cumulative_user: PromptText = prompt(lambda: CUMULATIVE_USER, "the same for `decision=cumulative`")

    team: ClassVar[tuple[str, Role] | None] = ("agent", Role("takes part in the debate"))
    roles: ClassVar[Mapping[str, Role]] = {"judge": Role("closes the debate")}
    readable: ClassVar[str | None] = "debates.txt"
    answers: ClassVar[str | None] = "agent1"

    def __post_init__(self) -> None:
        check_pattern(self.answer_pattern)
        if self.max_rounds < 0:
            raise ValueError("`max_rounds` must be 0 or more")
        check_rounds(self.max_rounds, "max_rounds")
        if problems := [message for wrong, message in self._conflicts() if wrong]:
            raise ValueError("; ".join(problems))

    def _conflicts(self) -> list[tuple[bool, str]]:
        """Return what options exclude each other, and whether they are given."""
        classifies = self.gate in ("trained", "critique")
        return [
            (
                self.topology == "judge" and self.decision not in ("auto", "judge"),
                "`topology=judge` ends with the judge's answer: leave `decision` out, or use `topology=all`",
            ),
            (
                self.judge_by == "choice" and self.rule != "judge",
                "`judge_by=choice` needs a judge: use `topology=judge` or `decision=judge`",
            ),
            (
                self.weights is not None
                and (self.decision != "weighted" or not re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?)+", self.weights)),
                "`weights` takes one number per agent (`2:1:1`), and needs `decision=weighted`",
            ),
            (
                self.graph is not None and self.topology == "ring",
                "`graph` says who reads whom, and so does `topology=ring`: leave one of the two out",
            ),
            (
                self.devil is not None and self.max_rounds < 1,
                "the devil's advocate (`devil`) speaks from the first round on: use `max_rounds=1` or more",
            ),
            (
                self.gate == "pair" and (self.topology != "all" or self.graph is not None or self.devil is not None),
                "`gate=pair` says who speaks when: use `topology=all`, and neither `graph` nor `devil`",
            ),
            (
                self.gate == "agreement" and self.devil is not None,
                "`gate=agreement` ends debates before the devil's advocate (`devil`) speaks: leave one of the two out",
            ),
            (
                (self.gate == "trained") != (self.gate_file is not None),
                "`gate=trained` and `gate_file` go together: `harness-ext train-gate` writes the file",
            ),
            (
                self.gate_at != "auto" and (self.gate != "trained" or not 0 <= self.gate_at <= 1),
                "`gate_at` is a probability from 0 to 1, and needs `gate=trained`",
            ),
            (
                classifies and (self.order != "fixed" or self.personas != "off" or self.devil == 1),
                f"`gate={self.gate}` judges the first answer of agent 1: use `order=fixed`, and neither `personas` nor "
                "`devil=1`",
            ),
        ]

    def needs(self) -> Mapping[str, frozenset[Capability]]:
        needs: dict[str, frozenset[Capability]] = {"agent": frozenset({"generate"})}
        judge: Capability = "decide" if self.judge_by == "choice" else "generate"
        return {**needs, "judge": frozenset({judge})} if self.rule == "judge" else needs

    def resolved(self, seats: Mapping[str, SeatSetup]) -> DebateOptions:
        agents = sum(name != "judge" for name in seats)
        problems, resolved = list[str](), self
        if agents == 1:  # the others are not asked (`reason=off`)
            return self
        if self.weights is not None and self.weights.count(":") + 1 != agents:
            problems.append(f"`weights={self.weights}`: there are {agents} agents, and each needs one weight")
        if self.devil is not None and not 1 <= self.devil <= agents:
            problems.append(f"`devil={self.devil}`: the agents are numbered from 1 to {agents}")
        if agents < 3 and (self.devil is not None or self.gate == "pair"):
            option = "devil" if self.devil is not None else "gate=pair"
            problems.append(f"`{option}` needs 3 agents or more, and there are {agents}")
        try:
            # What the files contain takes the place of their paths, so that the records show it.
            if self.graph is not None:
                graph = read_graph(self.graph, agents)
                resolved = replace(resolved, graph=str(graph))
                silent = [n for n in range(1, agents + 1) if n != self.devil and not graph.heard_by(n)]
                if silent and self.consensus == "verdict":
                    problems.append(
                        f"`graph={self.graph}`: with `consensus=verdict` every agent has to read another one, which "
                        f"agents {', '.join(map(str, silent))} do not"
                    )
            if self.gate_file is not None:
                gate = DebateGate.read(self.gate_file)
                gate.check(settings_of(vars(resolved), {name: setup.identity for name, setup in seats.items()}))
                resolved = replace(resolved, gate_file=json.dumps(gate.to_json()))
        except ValueError as error:
            problems.append(str(error))
        if problems:
            raise ValueError("; ".join(problems))
        return resolved

    def remarks(self, seats: Mapping[str, SeatSetup]) -> list[str]:
        pair = [seats[name].backend for name in ("agent1", "agent2") if name in seats]
        if self.gate != "pair" or self.order != "fixed" or len(pair) < 2 or pair[0] is not pair[1]:
            return []
        return [
            "`gate=pair` takes the agreement of agents 1 and 2 for a sign that they are right, and both are "
            f"{pair[0].name}: two different models err less often in the same way"
        ]

    @property
    def rule(self) -> Decision:
        """Return whose answer is final."""
        if self.decision != "auto":
            return self.decision
        return "last" if self.topology == "turns" else "judge" if self.topology == "judge" else "vote"

    @property
    def who_reads_whom(self) -> Graph | None:
        """Return the graph of the debate; None if everybody reads everybody else."""
        return None if self.graph is None else read_graph(self.graph)

    def is_quorum(self, count: int, voters: int) -> bool:
        """Return whether the agreement of `count` of the `voters` suffices to end the debate."""
        if self.quorum == "unanimous":
            return count == voters
        return 3 * count >= 2 * voters if self.quorum == "supermajority" else 2 * count > voters


OTHERS_USER = """\
These are other answers to the same task:

{others}

Check them against your own reasoning, and say what is wrong with whose. Then write your own best answer, complete and in the form that the task asks for.

{demand}"""  # noqa: E501
STANCE_USER = """\
These are other answers to the same task:

{others}

Check them against your own reasoning. Begin your reply with the single word `Agree.` if you agree with them, or `Disagree.` if you do not. Then write your own best answer, complete and in the form that the task asks for.

{demand}"""  # noqa: E501
DEVIL_USER = """\
These are answers to the task:

{others}

You are the devil's advocate. Argue against the answer that most of them give, whatever you think of it: name the weakest step of its reasoning, what it overlooks, and which other answer would then be right. Be brief and concrete."""  # noqa: E501
PERSONAS_USER = '''\
{number} experts will work on a task, each from a point of view of their own. The task:
"""
{task}
"""

Do not solve the task. Name {number} different experts who would help most with it, in a numbered list and nothing else, in this form:
1. <profession>: <in one sentence, what they know and how they go about the task>'''  # noqa: E501
PERSONA_SYSTEM = """\
You are the following expert, and answer from this point of view.
{persona}"""
CRITIQUE_USER = """\
Look at your answer as a strict critic would. Reply with three lines and nothing else, in this form:
Doubt: <the strongest reason why the answer may be wrong>
Other answer: <the answer that is right if yours is wrong>
Confidence: <how sure you are of your own answer, from 0 to 100>"""
RULING_USER = """\
Several agents debate this task. Their newest answers:

{others}

If the debate should go on, reply with the single word `Open.` If it is clear which answer is right, or if more debate will not help, write the final answer yourself, complete and in the form that the task asks for.

{demand}"""  # noqa: E501
JUDGE_USER = """\
Several agents have debated this task. Their last answers:

{others}

You decide. Write the final answer, complete and in the form that the task asks for.

{demand}"""
CONFIDENCE_USER = """\
How sure are you that your last answer is right? Reply with a whole number from 0 (surely wrong) to 100 (surely right), and nothing else."""  # noqa: E501
APPROVAL_USER = """\
The debate is over. These answers were given:

{others}

Decide for each of them whether you accept it as an answer to the task. Reply with the numbers of those that you accept, as they are listed above, separated by commas; or with `none` if you accept none of them. Write nothing else."""  # noqa: E501
RANKED_USER = """\
The debate is over. These answers were given:

{others}

Rank all of them from the best to the worst. Reply with the numbers under which they are listed above, not with what they say, separated by commas. Write nothing else."""  # noqa: E501
CUMULATIVE_USER = """\
The debate is over. These answers were given:

{others}

Distribute 10 points among them; better answers get more. Reply with one line per answer that gets points and nothing else, in this form:
<number of the answer>: <its points>"""  # noqa: E501

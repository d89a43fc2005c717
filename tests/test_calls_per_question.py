"""The table of calls per question in docs/protocols.md holds for every protocol, and its bounds are reached."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from math import log
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support import instances, run_engine

from harness_ext.analysis.estimate import estimate
from harness_ext.analysis.sampling import Sampler
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.engine.engine import Engine
from harness_ext.options import build
from harness_ext.protocol import Protocol, Question
from harness_ext.records.lost_answers import ANSWERS
from harness_ext.records.summary import WRITTEN

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "protocols.md").read_text(encoding="utf-8")
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
SIZES = {
    "max_rounds": (0, 2),
    "max_corrections": (0, 1, 3),
    "rounds": (0, 1, 3),
    "max_questions": (1, 3),
    "k": (1, 4),
    "n": (1, 4),
    "layers": (1, 3),
    "max_waits": (0, 1, 3),
    "max_passes": (1, 3),
}


@dataclass(frozen=True)
class Row:
    """A row of the table: the calls of a seat, or of a team's seats together, under some options."""

    protocol: str
    options: str
    seat: str
    least: str
    most: str


def rows() -> list[Row]:
    section = PAGE.partition("\n## Calls per question\n")[2].partition("\n## ")[0]
    found: list[Row] = []
    for line in re.findall(r"^\|(.*)\|$", section, re.MULTILINE)[2:]:
        cells = [cell.strip().strip("`") for cell in line.split("|")]
        name = cells[0] or found[-1].protocol
        options = cells[1] if cells[0] or cells[1] else found[-1].options
        found.append(Row(name, options, *cells[2:]))
    return found


ROWS = rows()


def lm_class(name: str) -> type[ProtocolLM]:
    module, _, attribute = POINTS[name].partition(":")
    found: type[ProtocolLM] = getattr(import_module(module), attribute)
    return found


def test_the_table_has_all_protocols() -> None:
    """`decision` has no protocol to run: its only call is that of the choices."""
    named = {name for name in POINTS if not name.startswith("harness_ext.")}
    assert {row.protocol for row in ROWS} == named - {"decision"}


def option(text: str) -> dict[str, str]:
    return dict(re.findall(r"(\w+)=([\w.]+)", text))


TEXTS = (
    "Correct.", "Incorrect. No.", "Hm.", " ", "Agree. It is {}.", "Disagree. It is {}.", "Open.", "It is 4.",
    "It is {}.", "Incorrect.\n1. Is {} a number?\n2. Is it even?\n3. Is it odd?\n4. Is it 7?",
)  # fmt: skip
JUDGEMENTS = (*((text,) for text in TEXTS), ("Hm.", "Incorrect. No."))
FIXED = [
    (text, judgements, 0.9 if (i + j) % 2 else 0.1)
    for (i, text), (j, judgements) in product(enumerate(TEXTS), enumerate(JUDGEMENTS))
]


class Scripts:
    """What models say about each question: the same or in turn for the first ones, and then at random.

    `{}` in a text is a number that differs from call to call.
    """

    questions = len(FIXED) + 60

    def __init__(self) -> None:
        self.calls: Counter[Any] = Counter()

    def backend(self, name: str, answers: bool) -> ScriptedBackend:
        """Return a model that answers the task, or one that judges answers."""

        def script(prompt: str) -> tuple[int, str, float]:
            found = re.search(r"question (\d+) of", prompt)
            number = int(found[1]) if found else len(FIXED)
            call = self.calls[number, name] = self.calls[number, name] + 1
            if number < len(FIXED):
                answer, judgements, share = FIXED[number]
                return call, answer if answers else judgements[(call - 1) % len(judgements)], share
            random = Random(f"{number} {name} {call}")
            return call, random.choice(TEXTS), random.random()

        def reply(prompt: str) -> str:
            call, text, _ = script(prompt)
            return text.replace("{}", f"{call}{sum(name.encode())}")

        def decide(request: DecideRequest) -> tuple[float, ...]:
            share, others = script(request.prompt)[2], len(request.options) - 1
            return (share, *[(1 - share) / others] * others)

        def score(prompt: str, text: str) -> float:
            return log(max(script(prompt)[2], 1e-9))

        backend = ScriptedBackend(reply, name=name, decide_reply=decide, score_reply=score)
        backend.capabilities |= {"reward"}
        return backend


def seats_of(
    protocol: type[Protocol], scripts: Scripts, optional: set[str], members: int
) -> dict[str, ScriptedBackend]:
    """Return a model for each seat, and for the optional ones that are named."""
    names = [name for name, role in protocol.roles.items() if not role.optional or name in optional]
    if protocol.team is not None:
        names = [f"{protocol.team[0]}{number}" for number in range(1, members + 1)] + names
    first = names[0].rstrip("0123456789")
    return {name: scripts.backend(name, name.rstrip("0123456789") == first) for name in names}


@pytest.mark.parametrize(("name", "options"), dict.fromkeys((row.protocol, row.options) for row in ROWS))
def test_calls_are_within_the_bounds_and_reach_them(name: str, options: str) -> None:
    protocol_class = lm_class(name).protocol
    mine = [row for row in ROWS if (row.protocol, row.options) == (name, options)]
    used = re.findall(r"\w+", " ".join(f"{row.least} {row.most}" for row in mine))
    sizes = [size for size in SIZES if size in used]
    team = (3,) if protocol_class.team is not None else (0,)
    for members, *numbers in product(team, *(SIZES[size] for size in sizes)):
        given = dict(zip(sizes, numbers, strict=True))
        problems: list[str] = []
        protocol = build(protocol_class, {**option(options), **{n: str(v) for n, v in given.items()}}, problems)
        assert protocol is not None, problems
        scripts = Scripts()
        backends = seats_of(protocol_class, scripts, {row.seat for row in mine}, members)
        asked = [Question(f"This is question {i} of many.", doc_id=i) for i in range(scripts.questions)]
        done = run_engine(Engine(), protocol, backends, asked)
        assert [t.failure for t in done.values() if t.failure is not None] == []
        turns = [Counter(turn.seat.rstrip("0123456789") for turn in t.turns) for t in done.values()]
        names = {"min": min, "max": max, **given, "agents": members, "proposers": members}
        for row in mine:
            least, most = (eval(text, {"__builtins__": {}}, names) for text in (row.least, row.most))
            found = {count[row.seat.rstrip("s")] for count in turns}
            assert (min(found), max(found)) == (least, most), f"{row.seat} with {given} and {members} members"
        kinds = {call.kind for t in done.values() for call in t.calls}
        assert kinds <= KINDS.keys(), "say whether turns of this kind write answers or check them"


# What the turns of each kind do: they write an answer or a part of one, or serve to check answers.
KINDS = {
    **dict.fromkeys(("draft", "refine", "answer", "propose", "aggregate", "reply", "ruling"), "answers"),
    **dict.fromkeys(("continue", "correct"), "parts"),
    **dict.fromkeys(
        (
            "ballot", "check", "choose", "compare", "confidence", "critique", "judge", "objection", "personas", "pick",
            "plan", "review", "reward", "same", "score", "self_verdict", "settled", "solve", "verdict", "verify",
        ),
        "checks",
    ),
}  # fmt: skip


def test_the_tokens_of_each_kind_of_turn_are_counted_for_what_it_does() -> None:
    assert set(ANSWERS) == {kind for kind, does in KINDS.items() if does == "answers"}
    assert set(WRITTEN) == {kind for kind, does in KINDS.items() if does != "checks"}
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "models").rglob("*.py")]
    assert {kind for text in sources for kind in re.findall(r'\bkind="(\w+)"', text)} <= KINDS.keys()
    page = (ROOT / "docs" / "new-protocol.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"The tokens of (.+?) count as written for the answer", page)
    assert tuple(re.findall(r"`(\w+)`", listed)) == WRITTEN


def totals(name: str, tmp_path: Path, **options: Any) -> Mapping[str, Any]:
    """Return what `harness-ext estimate` finds out about 20 questions by asking 4 of them."""
    cls, scripts = lm_class(name), Scripts()
    seats = seats_of(cls.protocol, scripts, set(), 3)
    lm = cls(**seats, store="off", run_dir=tmp_path / "run", progress="off", **options)
    sampler = Sampler(lm, 4)
    sampler.install()
    lm.generate_until(instances(f"This is question {i} of many." for i in range(20)))
    return estimate(sampler.usage(), sampler.documents)


@pytest.mark.parametrize(
    ("name", "options"),
    [("baseline", {}), ("skyline", {}), ("self_consistency", {"k": "3"}), ("mixture_of_agents", {"layers": 3})],
)
def test_an_estimate_agrees_with_the_table(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    found = totals(name, tmp_path, **options)
    for row in (row for row in ROWS if row.protocol == name):
        assert row.least == row.most, "the number of calls does not depend on the replies"
        number = eval(row.most, {"__builtins__": {}}, {**{n: int(v) for n, v in options.items()}, "proposers": 3})
        counted = [v for n, v in found.items() if n.rstrip("0123456789") == row.seat.rstrip("s")]
        assert sum(one["calls"].value for one in counted) == 20 * number


def test_an_estimate_is_within_the_table(tmp_path: Path) -> None:
    found = totals("feedback_pair", tmp_path, max_rounds=2)
    bounds = {row.seat: row for row in ROWS if row.protocol == "feedback_pair" and row.options == "verdict=auto"}
    assert bounds.keys() == {"student", "teacher"}
    for seat, row in bounds.items():
        least, most = (eval(t, {"__builtins__": {}}, {"max_rounds": 2, "min": min}) for t in (row.least, row.most))
        assert 20 * least <= found[seat]["calls"].value <= 20 * most

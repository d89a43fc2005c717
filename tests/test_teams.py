"""Tests of expanding a team into its seats."""

from __future__ import annotations

from typing import Any

import pytest

from harness_ext.config.teams import expand_team


def spread_out(**given: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    problems: list[str] = []
    rest, names = expand_team({k.replace("__", "."): v for k, v in given.items()}, "agent", problems)
    return rest, names, problems


def test_arguments_of_one_member_override_those_of_all() -> None:
    rest, names, problems = spread_out(agent="m", agents=2, agent__dtype="a", agent__2__dtype="b", max_rounds=1)
    assert (names, problems) == (["agent1", "agent2"], [])
    assert rest == {
        "agent1": "m", "agent1.dtype": "a", "agent2": "m", "agent2.dtype": "b", "max_rounds": 1,
    }  # fmt: skip


def test_the_default_number_of_members() -> None:
    assert spread_out()[1] == ["agent1", "agent2"]
    assert spread_out(agent="m")[1] == ["agent1", "agent2", "agent3"]
    assert spread_out(agent__4="m")[1][-1] == "agent4"


def test_a_list_may_contain_objects_and_quoted_text() -> None:
    thing = object()
    assert spread_out(agents=[thing, "b"])[0] == {"agent1": thing, "agent2": "b"}
    assert spread_out(agents="['a', \"b\"]")[0] == {"agent1": "a", "agent2": "b"}


@pytest.mark.parametrize(
    "given",
    [
        {"agents": ["a", "b"], "agent__1": "c"}, {"agents": 0}, {"agents": True}, {"agents": 2, "agent__3": "c"},
        {"agents": ["a", "b"], "agent__0": "c"}, {"agents": "[a, b", "c]": ""}, {"agents": "[]"},
    ],
)  # fmt: skip
def test_invalid_arguments_are_one_problem(given: dict[str, Any]) -> None:
    _, names, problems = spread_out(**given)
    assert len(problems) == 1
    assert names[:2] == ["agent1", "agent2"]

"""Personas that a model writes for the agents of each question, as github.com/Multi-Agent-LLMs/mallm has them."""

from __future__ import annotations

import re

from harness_ext.models.asking import ask
from harness_ext.models.debating.state import DebateState
from harness_ext.reading import cut_run_on

TOKENS_PER_PERSONA = 80  # the length limit of the list, in tokens

_ITEM = re.compile(r"^[ \t>*_#-]{0,8}(\d{1,4})[.):][ \t*_]*(\S[^\n]*)$", re.MULTILINE)
_MARKS = re.compile(r"\*\*|<(?=\w)|(?<=[\w.!?])>")


async def give_personas(state: DebateState) -> None:
    """Let the first agent write a persona for each agent that answers the task.

    Agents for which it writes none have none, and are counted as `missing_personas`.
    """
    agents = sorted(state.voters, key=lambda agent: int(agent.name.removeprefix("agent")))
    writer = agents[0]
    asked = state.options.personas_user.fill(number=str(len(agents)), task=state.question.text)
    written = await ask(writer, asked, "personas", TOKENS_PER_PERSONA * len(agents))
    found = read_personas(written.text, whole=written.finish != "length")
    personas = {agent.name: found[n] for n, agent in enumerate(agents, start=1) if n in found}
    state.personas = {n: state.options.persona_system.fill(persona=text) for n, text in personas.items()}
    state.seats.note(written, personas=personas, malformed=len(personas) < len(agents))
    state.totals["missing_personas"] += len(agents) - len(personas)


def read_personas(text: str, whole: bool = True) -> dict[int, str]:
    """Return the entries of a numbered list, by their numbers; the first one counts if a number comes twice.

    text: the list. Marks of the form that was asked for, such as `<profession>`, are left out.
    whole: whether it is complete. Default True. The last entry of a list that was cut off does not count.
    """
    body = cut_run_on(text)[0]
    items = list(_ITEM.finditer(body))
    if not whole and items and not body[items[-1].end() :].strip():
        del items[-1]
    found: dict[int, str] = {}
    for item in items:
        found.setdefault(int(item[1]), _MARKS.sub("", item[2]).strip())
    return {number: persona for number, persona in found.items() if persona}

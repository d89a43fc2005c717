"""Personas that a model writes for the agents of each question, as github.com/Multi-Agent-LLMs/mallm has them."""

from __future__ import annotations

import re

from harness_ext.models.debating.state import DebateState
from harness_ext.protocol import Message
from harness_ext.reading import cut_run_on

TOKENS_PER_PERSONA = 80  # the length limit of the list, in tokens

_ITEM = re.compile(r"^[ \t>*_#-]{0,8}(\d{1,4})[.):][ \t*_]*(\S[^\n]*)$", re.MULTILINE)


async def give_personas(state: DebateState) -> None:
    """Let the first agent write a persona for each agent that answers the task.

    Agents for which it writes none have none, and are counted as `missing_personas`.
    """
    agents = sorted(state.voters, key=lambda agent: int(agent.name.removeprefix("agent")))
    writer = agents[0]
    asked = state.options.personas_user.fill(number=str(len(agents)), task=state.question.text)
    written = await writer.generate(
        [Message("user", asked)], kind="personas", gen_kwargs=writer.limits(TOKENS_PER_PERSONA * len(agents))
    )
    found = read_personas(written.text)
    personas = {agent.name: found[n] for n, agent in enumerate(agents, start=1) if n in found}
    state.personas = {n: state.options.persona_system.fill(persona=text) for n, text in personas.items()}
    state.seats.note(written, personas=personas, malformed=len(personas) < len(agents))
    state.totals["missing_personas"] += len(agents) - len(personas)


def read_personas(text: str) -> dict[int, str]:
    """Return the entries of a numbered list, by their numbers; the first one counts if a number comes twice."""
    found: dict[int, str] = {}
    for number, persona in _ITEM.findall(cut_run_on(text)[0]):
        found.setdefault(int(number), persona.replace("**", "").strip())
    return found

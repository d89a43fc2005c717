"""Runs a protocol over rows: seats from specifications, the engine, one outcome a row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness_ext.arguments import RunPlan, plan_run
from harness_ext.backends.base import Backend
from harness_ext.budget import open_budget, total_spending
from harness_ext.dispatch import CallPolicy
from harness_ext.embedded import SEATS, model_path
from harness_ext.engine import Engine
from harness_ext.errors import BudgetSpent, ConfigurationError
from harness_ext.progress import Progress
from harness_ext.protocol import Protocol, Question
from harness_ext.ranks import Ranks
from harness_ext.records import Message, Transcript
from harness_ext.store import CallStore
from harness_ext.summary import Summary
from harness_ext.terminal import safe_text

EMBEDDED = "embedded"
# Options of a run that say where an evaluation's records go: here, rows have files of their own.
NOT_HERE = ("run_dir", "model", "on_failure")


def plan_seats(
    protocol: type[Protocol], seats: Mapping[str, Any], arguments: Mapping[str, Any], **local: Any
) -> RunPlan:
    """Return a checked run: `seats` maps each seat to its model, `arguments` are those of lm-eval's `model_args`.

    `embedded` names the embedded model of a seat's kind (the student, or the teacher for every other seat); `local`
    holds `batch_size` and `device` for all seats. Raises ConfigurationError with all problems at once.
    """
    problems = [f"`{name}` is for evaluations: leave it out" for name in NOT_HERE if name in arguments]
    if Ranks.current().world > 1:
        problems.append("rows are written by one process: start it without a launcher; a seat can take several GPUs")
    if problems:
        raise ConfigurationError(problems)
    named = {
        seat: str(model_path(seat if seat in SEATS else "teacher")) if model == EMBEDDED else model
        for seat, model in seats.items()
    }
    return plan_run(protocol, {**arguments, **named}, **local)


def run_questions(
    plan: RunPlan,
    questions: Iterator[Question],
    finished: Callable[[int, Transcript], None],
    *,
    total: int,
    seed: int = 0,
) -> tuple[dict[str, Any], str | None]:
    """Answer all questions; return the run's figures (`Summary`), and why it ended early if its budget did it.

    `finished(i, transcript)` is called once a question. Raises what the engine raises.
    """
    summary = Summary(lambda seat: plan.seats[seat].cost)

    def done(number: int, transcript: Transcript) -> None:
        summary.add(transcript)
        finished(number, transcript)

    store = CallStore(Path(plan.options.store).expanduser()) if plan.options.store != "off" else None
    budget = open_budget(plan.options.budget, plan.seats, 1)
    policy = CallPolicy(plan.options.on_overflow == "truncate", plan.options.on_empty == "keep")
    engine = Engine(store, plan.options.window, policy, seed, budget)
    names: dict[Backend, str] = {setup.backend: name for name, setup in plan.seats.items()}
    terminal = True if plan.options.progress == "on" else None
    progress = Progress(total, names, terminal) if plan.options.progress != "off" else None
    stopped = None
    try:
        with progress or nullcontext():
            engine.run(plan.protocol, plan.seats, questions, done, [progress] if progress else [])
    except BudgetSpent as error:
        stopped = str(error)
    finally:
        if store is not None:
            store.close()
    spending = {"budget": {"cap": plan.options.budget, **total_spending([budget.state])}} if budget else {}
    return {**summary.to_json(), **spending}, stopped


def show_prompt(plan: RunPlan, seat: str, prompt: str | list[Message]) -> None:
    """Print the very text that a seat's model will get, in full; what a terminal would act upon is spelled out."""
    setup = plan.seats[seat]
    text = safe_text(setup.backend.render(prompt, setup.chat).text)
    print(
        f"[harness-ext] the first prompt for {seat} ({setup.backend.name}):\n{text}\n[end of prompt]", file=sys.stderr
    )

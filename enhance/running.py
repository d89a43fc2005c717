"""Runs a protocol over rows: plans the seats, runs the engine, and delivers one transcript per row."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from harness_ext.backends.base import Backend
from harness_ext.config.levels import is_protocol
from harness_ext.config.run_plan import RunPlan, plan_run
from harness_ext.embedded import SEATS, model_path
from harness_ext.engine.budget import open_budget, total_spending
from harness_ext.engine.endings import again, ends_by_signal
from harness_ext.engine.heap import settled_heap
from harness_ext.engine.processes import place_of
from harness_ext.engine.progress import Progress
from harness_ext.errors import BudgetSpent, ConfigurationError
from harness_ext.protocol import Protocol, Question
from harness_ext.records import Message, Transcript
from harness_ext.records.call_store import CallStore
from harness_ext.records.summary import Summary
from harness_ext.terminal import safe_text

EMBEDDED = "embedded"
# Options that concern the records of an evaluation; here, the rows have output files of their own.
NOT_HERE = ("run_dir", "model", "on_failure")


def plan_seats(
    protocol: type[Protocol], seats: Mapping[str, Any], arguments: Mapping[str, Any], **local: Any
) -> RunPlan:
    """Return a checked plan of a run. Raises ConfigurationError with all problems at once.

    protocol: the protocol to run.
    seats: the model of each seat. `embedded` is the embedded student for the student, and the embedded teacher for any
        other seat.
    arguments: arguments as in lm-eval's `model_args`.
    local: `batch_size` and `device` of local models.
    """
    problems = [f"`{name}` applies to evaluations only: leave it out" for name in NOT_HERE if name in arguments]
    problems += [
        f"`{seat}={model}`: rows are written by a model: name one"
        for seat, model in seats.items()
        if is_protocol(model)
    ]
    if place_of().world > 1:
        problems.append("only one process can write rows: start it without a launcher; a seat can use several GPUs")
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
    """Answer all questions; return the run's figures (`Summary`), and the reason if its budget ended it early.

    Raises whatever the engine raises.

    plan: the plan of the run.
    questions: the questions.
    finished: called once per question with its index and transcript.
    total: number of questions, for the progress display.
    seed: seed of sampled replies. Default 0.
    """
    summary = Summary(lambda seat: plan.seats[seat].cost)

    def done(number: int, transcript: Transcript) -> None:
        summary.add(transcript)
        finished(number, transcript)

    store = CallStore(Path(plan.options.store).expanduser()) if plan.options.store != "off" else None
    budget = open_budget(plan.options.budget, plan.seats, 1)
    engine = plan.engine(store, budget, seed)
    names: dict[Backend, str] = {setup.backend: name for name, setup in plan.seats.items()}
    terminal = True if plan.options.progress == "on" else None
    progress = Progress(total, names, terminal) if plan.options.progress != "off" else None
    stopped = None
    try:
        with ends_by_signal(_advice(store)), settled_heap(), progress or nullcontext():
            engine.run(plan.protocol, plan.seats, questions, done, [progress] if progress else [])
    except BudgetSpent as error:
        stopped = str(error)
    finally:
        if store is not None:
            store.close()
    spending = {"budget": {"cap": plan.options.budget, **total_spending([budget.state])}} if budget else {}
    return {**summary.to_json(), **spending}, stopped


def _advice(store: CallStore | None) -> str:
    """Return what to do about a run that a signal has ended."""
    if store is None:
        return f"no call is stored (`store=off`). {again('to begin anew')}"
    return f"everything finished is stored. {again('to continue from here')}"


def show_prompt(plan: RunPlan, seat: str, prompt: str | list[Message]) -> None:
    """Print exactly the text that a seat's model receives, with control characters escaped."""
    setup = plan.seats[seat]
    text = safe_text(setup.backend.render(prompt, setup.chat).text)
    print(
        f"[harness-ext] the first prompt for {seat} ({setup.backend.name}):\n{text}\n[end of prompt]", file=sys.stderr
    )

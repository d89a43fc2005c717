"""`--estimate`: estimates a run from its rows, without calls unless `--probe` asks for some to measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from harness_ext.analysis.sampling import spread_evenly
from harness_ext.backends.settings import effective_settings
from harness_ext.config.run_plan import RunPlan
from harness_ext.decisions import as_state, decision_prompt
from harness_ext.enhance.annotate import Annotate, AnnotateJob
from harness_ext.enhance.call_costs import Pace, SeatEstimate, batched_share, count_tokens, counting
from harness_ext.enhance.candidates import Candidates
from harness_ext.enhance.judging import pairwise_messages
from harness_ext.enhance.preferences import PreferenceJob
from harness_ext.enhance.row_files import read
from harness_ext.enhance.running import run_questions
from harness_ext.enhance.schedules import round_sizes
from harness_ext.enhance.tournament import WHICH_IS_BETTER, Tournament
from harness_ext.models.reviewing import REVIEW_SYSTEM, REVIEW_USER
from harness_ext.options import PromptText
from harness_ext.protocol import Question
from harness_ext.records import Message


@dataclass(frozen=True)
class Assumptions:
    """The assumptions of an estimate.

    tokens: tokens per reply. Default: the token limit.
    pace: how fast calls are answered. Default: unknown.
    probe: number of prompts to answer in order to measure `tokens` and `pace`; their replies are stored, so the run
        itself does not pay for them again. Default 0.
    batched: number of first rounds of a bracket that are sent to a batch API. Default 0.
    discount: share that the batch API takes off the price. Default 0.5.
    """

    tokens: int | None = None
    pace: Pace = field(default_factory=Pace)
    probe: int = 0
    batched: int = 0
    discount: float = 0.5


def annotation(job: AnnotateJob, plan: RunPlan, assume: Assumptions) -> list[SeatEstimate]:
    """Estimate the calls of `annotate`. Rows without a prompt do not count; rows with a stored reply do."""
    assert isinstance(plan.protocol, Annotate)
    questions = [question for _, _, question, _ in job.questions() if question is not None]
    if assume.probe:
        assume = _probe(plan, questions, assume, job.seed)
    prompts = (plan.protocol.prompt(question.context) for question in questions)
    return [_seat(plan, "teacher", prompts, job.gen_kwargs.get("max_gen_toks"), assume)]


def preferences(
    job: PreferenceJob, students: RunPlan | None, protocol: Tournament, judges: RunPlan | None, assume: Assumptions
) -> list[SeatEstimate]:
    """Estimate the calls of `preferences`, assuming that no candidate is dropped as a near-duplicate.

    job: the rows and their fields.
    students: the plan with the student, or None if all rows have candidates.
    protocol: the tournament.
    judges: the plan with the judge, or None if gold answers decide.
    assume: the assumptions.
    """
    rows = [row.fields for row in read(job.source, job.split, job.limit) if row.fields]
    found: list[SeatEstimate] = []
    length, k = assume.tokens, 0
    if students is not None:
        assert isinstance(students.protocol, Candidates)
        k = students.protocol.k
        questions = [
            Question(str(row[job.field]), job.gen_kwargs, "enhance")
            for row in rows
            if row.get(job.field) and row.get("candidates") is None
        ]
        if assume.probe:
            probed = _probe(students, questions, assume, job.seed)
            assume, length = replace(assume, pace=probed.pace), probed.tokens
        as_chat = students.protocol.as_chat
        prompts = ([Message("user", q.context)] if as_chat else q.context for q in questions for _ in range(k))
        limit = job.gen_kwargs.get("max_gen_toks")
        found.append(_seat(students, "student", prompts, limit, replace(assume, tokens=length)))
        length = length or effective_settings(job.gen_kwargs, 256)["max_gen_toks"]
    if judges is not None:
        conversations: list[list[Message]] = []
        sizes: list[int] = []
        for row in rows:
            given = row.get("candidates")
            n = k if given is None else len(given)
            candidate = " word" * (length or 0) if given is None else max(given, key=len, default="")
            task = str(row.get(job.field) or "")
            if protocol.style == "review":
                user = PromptText(REVIEW_USER).fill(task=task, draft=candidate)
                conversations += [[Message("system", REVIEW_SYSTEM), Message("user", user)]] * n
                continue
            rounds = round_sizes(protocol.schedule, n, protocol.rounds)
            sizes += [0] * (len(rounds) - len(sizes))
            sizes = [size + (rounds[i] if i < len(rounds) else 0) for i, size in enumerate(sizes)]
            if protocol.style == "choice":
                state = as_state({"task": task, "answer 1": candidate, "answer 2": candidate})
                shown = [Message("user", decision_prompt(state, WHICH_IS_BETTER))]
            else:
                shown = pairwise_messages(protocol.judge_system, protocol.judge_user, task, candidate, candidate)
            conversations += [shown] * (sum(rounds) * (2 if protocol.orders == "both" else 1))
        most = 1 if protocol.style == "choice" else protocol.judge_max_tokens
        one = _seat(judges, "judge", conversations, most, replace(assume, tokens=None))
        found.append(replace(one, discount=batched_share(sizes, assume.batched, assume.discount)))
    return found


def _seat(
    plan: RunPlan, seat: str, prompts: Iterable[str | list[Message]], limit: int | None, assume: Assumptions
) -> SeatEstimate:
    setup = plan.seats[seat]
    lengths: dict[str, int] = {}
    calls = tokens = 0
    for prompt in prompts:
        text = setup.backend.render(prompt, setup.chat).text
        if text not in lengths:
            lengths[text] = count_tokens(setup.backend, text)
        tokens += lengths[text]
        calls += 1
    each = assume.tokens or limit or setup.backend.default_max_gen_toks
    return SeatEstimate(seat, calls, tokens, calls * each, setup.cost, assume.pace, counted=counting(setup.backend))


def _probe(plan: RunPlan, questions: list[Question], assume: Assumptions, seed: int) -> Assumptions:
    """Answer some of the questions, and assume their mean length and pace for all."""
    few = spread_evenly(questions, assume.probe)
    figures, _ = run_questions(plan, iter(few), lambda number, transcript: None, total=len(few), seed=seed)
    totals = [seat["total"] for seat in figures["usage"].values()]
    if not totals or not totals[0]["calls"]:
        return assume
    total = totals[0]
    tokens = total["completion_tokens"]
    return replace(
        assume,
        tokens=None if tokens is None else max(1, round(tokens / total["calls"])),
        pace=Pace(total["seconds"] / total["calls"]),
    )

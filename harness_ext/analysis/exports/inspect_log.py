"""`--to inspect`: a log of Inspect for each run and task, whose turns are model events.

A log is a zip file of one JSON document per question. The documents are made by Inspect's own classes. The zip file is
not: Inspect's public function takes all questions at once, and this way only one of them is in memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

from harness_ext.analysis.exports.options import ExportOptions
from harness_ext.analysis.exports.runs import (
    ExportedQuestion,
    ExportedRun,
    ExportError,
    atomic_binary,
    described,
    file_name,
    free_name,
    plain,
    plain_values,
    settings,
    words_of,
)
from harness_ext.analysis.scoring.replay import numeric
from harness_ext.analysis.transcript_view import turn_notes
from harness_ext.records import Completion, Decision, Turn, Usage
from harness_ext.records.chat import messages_of

VERSION = 2  # of the log format
SUMMARIES_IN_MEMORY = 2**20  # bytes, from where on they go to a temporary file
FIGURES = ("lm_eval", "first_draft", "final", "oracle", "vote", "vote_oracle")


def write(runs: Sequence[ExportedRun], output: Path, _: ExportOptions) -> list[str]:
    """Write `<run>_<task>.eval` for each task of each run, with a number where an earlier file has this name.

    Returns what to tell the user.

    Raises ExportError if a run contains two answers to one question, or if a file cannot be written.
    """
    lines, names = [], set[str]()
    for run in runs:
        with ExitStack() as stack:
            logs: dict[str, _Log] = {}
            for question in run.questions():
                task = question.transcript.task
                if task not in logs:
                    names.add(name := free_name(file_name(run.name, plain(task)), names))
                    logs[task] = stack.enter_context(_Log(run, task, output / f"{name}.eval"))
                logs[task].add(question)
            for log in logs.values():
                log.finish()
        lines += [f"{log.path}: {log.count} samples" for log in logs.values()]
    return [*lines, f"to look at them: inspect view --log-dir {output}"]


class _Log:
    """A log that is being written. Its file appears when the `with` block ends without an error.

    run, task: what it is about.
    path: its file.
    """

    def __init__(self, run: ExportedRun, task: str, path: Path) -> None:
        self.run, self.task, self.path = run, task, path
        self.count = self.failed = 0
        self._epochs = 1
        self._names: set[str] = set()
        self._stack = ExitStack()

    def __enter__(self) -> _Log:
        file = self._stack.enter_context(atomic_binary(self.path))
        self._zip = self._stack.enter_context(ZipFile(file, "w", ZIP_DEFLATED))
        spooled = tempfile.SpooledTemporaryFile(SUMMARIES_IN_MEMORY)
        self._summaries = self._stack.enter_context(spooled)
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, question: ExportedQuestion) -> None:
        """Add a question."""
        sample = _sample(self.run, question)
        name = f"samples/{sample.id}_epoch_{sample.epoch}.json"
        if name in self._names:
            raise ExportError(
                f"{self.run.path} contains two answers to {self.task}, document {sample.id} (seeds, few-shot examples "
                "or prompts differ): export runs that have a folder each (`run_dir=<folder>`)"
            )
        self._names.add(name)
        self._zip.writestr(name, _json(sample))
        self._summaries.write((b"[" if self.count == 0 else b",") + _json(sample.summary()).encode())
        self.count += 1
        self.failed += question.transcript.failure is not None
        self._epochs = max(self._epochs, sample.epoch)

    def finish(self) -> None:
        """Write what concerns all questions."""
        from inspect_ai.log import EvalLog

        spec, plan = _spec(self.run, self.task, self.count, self._epochs), _plan(self.run)
        start = f'{{"version": {VERSION}, "eval": {_json(spec)}, "plan": {_json(plan)}}}'
        self._zip.writestr("_journal/start.json", start)
        self._summaries.write(b"]")
        self._summaries.seek(0)
        with self._zip.open("summaries.json", "w") as there:
            while part := self._summaries.read(2**20):
                there.write(part)
        unfinished = not self.run.summary or self.run.summary.get("unfinished")
        log = EvalLog(
            version=VERSION,
            status="cancelled" if unfinished else "success",
            eval=spec,
            plan=plan,
            results=_results(self.run, self.task, self.count, self.failed),
            stats=_stats(self.run),
        )
        self._zip.writestr("header.json", _json(log))


def _sample(run: ExportedRun, question: ExportedQuestion) -> Any:
    """Return a question as Inspect's `EvalSample`."""
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.scorer import Score

    transcript = question.transcript
    context = [_message(role, plain(content)) for role, content in messages_of(transcript.context)]
    outputs = [_output(run, turn) for turn in transcript.turns]
    seconds = sum(turn.result.seconds for turn in transcript.turns)
    by_seat: dict[str, Any] = {}
    for seat in dict.fromkeys(call.seat for call in transcript.calls):
        usage = _usage(run.usage_of(call for call in transcript.calls if call.seat == seat))
        by_seat |= {plain(seat): usage} if usage is not None else {}
    failure = transcript.failure
    return EvalSample(
        id=question.id,
        epoch=transcript.repeat + 1,
        input=context,
        target=list(question.targets),
        messages=[*context, *(output.message for output in outputs)],
        output=_final(run, plain(transcript.text), outputs),
        scores={
            described(metric): Score(
                value=_value(values[-1]), answer=plain(transcript.text), metadata={"by_round": plain_values(values)}
            )
            for metric, values in (question.scores or {}).items()
        }
        or None,
        metadata={
            "doc_hash": plain(transcript.doc_hash),
            "stop": plain(transcript.stop),
            **({"details": plain_values(transcript.details)} if transcript.details else {}),
        },
        events=_events(run, transcript.turns, context),
        model_usage=_by_model(run, by_seat),
        role_usage=by_seat,
        started_at=run.started.isoformat(),
        completed_at=_time(run.started, seconds).isoformat(),
        total_time=seconds,
        working_time=seconds,
        uuid=_digest(run, transcript.task, question.id, str(transcript.repeat), transcript.question),
        error=None if failure is None else EvalError(message=plain(failure.message), traceback="", traceback_ansi=""),
    )


def _events(run: ExportedRun, turns: Sequence[Turn], context: Sequence[Any]) -> list[Any]:
    """Return the calls of turns as model events.

    Where a protocol takes a seat, its calls are the events, and what it said in the end follows as information.
    """
    from inspect_ai.event import InfoEvent, ModelEvent
    from inspect_ai.model import GenerateConfig

    events: list[Any] = []
    seconds = 0.0
    for turn in turns:
        for call in turn.calls:
            output = _output(run, call)
            events.append(
                ModelEvent(
                    model=output.model,
                    role=plain(call.seat),
                    # A draft reads the question's context. What other calls read is not recorded.
                    input=list(context) if call is turn and turn.kind == "draft" else [],
                    tools=[],
                    tool_choice="none",
                    config=GenerateConfig(),
                    output=output,
                    cache="read" if call.reused else None,
                    timestamp=_time(run.started, seconds),
                    working_start=seconds,
                    working_time=call.result.seconds,
                    metadata=_about(call),
                )
            )
            seconds += call.result.seconds
        if turn.inner is not None:
            events.append(
                InfoEvent(
                    source=plain(turn.seat),
                    data={**_about(turn), "text": words_of(turn)},
                    timestamp=_time(run.started, seconds),
                    working_start=seconds,
                )
            )
    return events


def _output(run: ExportedRun, turn: Turn) -> Any:
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ContentReasoning, ContentText, ModelOutput

    result, model = turn.result, run.model_of(plain(turn.seat))
    content: Any = words_of(turn)
    if isinstance(result, Completion) and result.thought:
        content = [ContentReasoning(reasoning=plain(result.thought)), ContentText(text=content)]
    message = ChatMessageAssistant(
        content=content, source="generate", model=model, metadata={"seat": plain(turn.seat), "kind": plain(turn.kind)}
    )
    stop = {"stop": "stop", "length": "max_tokens"}.get(turn.finish or "", "unknown")
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=_usage(run.usage_of([turn])),
        time=result.seconds,
    )


def _final(run: ExportedRun, text: str, outputs: Sequence[Any]) -> Any:
    """Return the final text as an output: the last turn that wrote it, or one of the whole run if no turn did."""
    from inspect_ai.model import ChatCompletionChoice, ChatMessageAssistant, ModelOutput

    for output in reversed(outputs):
        if output.completion == text:
            return output
    message = ChatMessageAssistant(content=text, model=run.label)
    return ModelOutput(model=run.label, choices=[ChatCompletionChoice(message=message, stop_reason="stop")])


def _about(turn: Turn) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": turn.kind, "key": turn.key, "verdict": turn.verdict, "notes": turn_notes(turn)}
    if isinstance(turn.result, Decision):
        found |= {"decision": dict(zip(turn.result.options, turn.result.probabilities, strict=False))}
    return dict(plain_values({name: value for name, value in found.items() if value}))


def _message(role: str, content: str) -> Any:
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    if role == "system":
        return ChatMessageSystem(content=content)
    return ChatMessageAssistant(content=content) if role == "assistant" else ChatMessageUser(content=content)


def _usage(usage: Usage | Mapping[str, Any]) -> Any:
    """Return a usage as Inspect's `ModelUsage`, or None if the tokens are unknown."""
    from inspect_ai.model import ModelUsage

    found = usage if isinstance(usage, Mapping) else {n: getattr(usage, n) for n in Usage.__dataclass_fields__}
    read, written = found.get("prompt_tokens"), found.get("completion_tokens")
    if read is None or written is None:
        return None
    cached, thought = found.get("cached_tokens"), found.get("thinking_tokens")
    return ModelUsage(
        input_tokens=int(read - (cached or 0)),  # Inspect counts cached tokens apart from the others
        output_tokens=int(written),
        total_tokens=int(read + written),
        input_tokens_cache_read=None if cached is None else int(cached),
        reasoning_tokens=int(thought) if thought else None,
        total_cost=found.get("price"),
    )


def _spec(run: ExportedRun, task: str, count: int, epochs: int) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalSpec
    from inspect_ai.model import ModelConfig

    known = run.figures.get("tasks", {}).get(task) or {}
    versions = {"harness_ext": run.config.get("harness_ext"), **(run.config.get("versions") or {})}
    return EvalSpec(
        eval_id=_digest(run, task),
        run_id=_digest(run),
        task_id=_digest(run, task),
        created=run.started.isoformat(),
        task=plain(task),
        task_version=str(known.get("version") or 0),
        solver=run.protocol or None,
        dataset=EvalDataset(name=plain(task), samples=count, shuffled=False),
        model=f"harness_ext/{run.label}",
        model_roles={name: ModelConfig(model=run.model_of(name)) for name in run.seats} or None,
        config=EvalConfig(epochs=epochs),
        packages={plain(str(name)): plain(str(version)) for name, version in versions.items() if version},
        metadata={"run": plain(str(run.path)), "config": settings(run.config)},
    )


def _plan(run: ExportedRun) -> Any:
    from inspect_ai.log import EvalPlan, EvalPlanStep

    options = settings((run.config.get("identity") or {}).get("options") or {})
    return EvalPlan(name=run.label, steps=[EvalPlanStep(solver=run.protocol or run.label, params=options)])


def _results(run: ExportedRun, task: str, count: int, failed: int) -> Any:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    known = (run.figures.get("tasks", {}).get(task) or {}).get("metrics") or {}
    scores = []
    for metric, figures in known.items():
        values = {name: value for name in FIGURES if (value := numeric(figures.get(name))) is not None}
        name = described(metric)
        metrics = {key: EvalMetric(name=key, value=value) for key, value in values.items()}
        scores.append(EvalScore(name=name, scorer=name, metrics=metrics, metadata={"rounds": figures.get("rounds")}))
    return EvalResults(total_samples=count, completed_samples=count - failed, scores=scores)


def _stats(run: ExportedRun) -> Any:
    from inspect_ai.log import EvalStats

    by_seat = {
        plain(str(seat)): found
        for seat, kinds in (run.summary.get("usage") or {}).items()
        if (found := _usage(kinds.get("total") or {})) is not None
    }
    started, ended = run.started.isoformat(), run.ended.isoformat()
    return EvalStats(started_at=started, completed_at=ended, model_usage=_by_model(run, by_seat), role_usage=by_seat)


def _by_model(run: ExportedRun, by_seat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the usage of each model; one model can take several seats."""
    found: dict[str, Any] = {}
    for seat, usage in by_seat.items():
        model = run.model_of(seat)
        found[model] = found[model] + usage if model in found else usage
    return found


def _value(value: Any) -> Any:
    """Return a score as Inspect takes it: a number, or what else a metric may have, as it is or as a text."""
    if isinstance(value, bool | int | float | str):
        return plain_values(value)
    return plain_values(str(value)) if value is None or isinstance(value, list | tuple | dict) else float(value)


def _time(started: datetime, seconds: float) -> datetime:
    return started + timedelta(seconds=seconds)


def _digest(run: ExportedRun, *parts: str) -> str:
    """Return an id that is the same in every export of the run."""
    key = "\0".join((str(run.config.get("started")), str(run.path), *parts))
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()[:22]


def _json(model: Any) -> str:
    text: str = model.model_dump_json(exclude_none=True, fallback=str)
    return text

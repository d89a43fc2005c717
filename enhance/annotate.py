"""Annotation: a teacher writes rationales for rows, such as TeacherLM's `cot`, `error` and `fundamental`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness_ext import __version__
from harness_ext.config.run_plan import RunPlan
from harness_ext.enhance.checks import report
from harness_ext.enhance.row_files import FileRow, Output, beside, file_digest, read, text_digest
from harness_ext.enhance.running import run_questions, show_prompt
from harness_ext.enhance.templates import TemplateSet
from harness_ext.protocol import Protocol, Question, Role, Seats
from harness_ext.records import Completion, Message, Transcript
from harness_ext.records.run_directory import write_json

GENERATION = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 2048, "until": []}


@dataclass(frozen=True)
class Annotate(Protocol):
    """Asks the teacher for one reply per prompt.

    as_chat: whether to send the prompt as a user message instead of a text to continue. Default false.
    """

    as_chat: bool = False

    roles: ClassVar[Mapping[str, Role]] = {"teacher": Role("writes the rationales")}

    async def solve(self, question: Question, seats: Seats) -> Completion:
        return await seats.teacher.generate(self.prompt(question.context), kind="annotation")

    def prompt(self, text: str) -> str | list[Message]:
        """Return what to send to the teacher for a prompt."""
        return [Message("user", text)] if self.as_chat else text


@dataclass(frozen=True)
class AnnotateJob:
    """An annotation job.

    source: the file or folder with the rows.
    target: the JSON-lines file to write.
    task_type: the field that contains the prompt.
    gen_kwargs: lm-eval's generation settings.
    templates: the set that made the prompts; without it, replies are not checked against gold answers. Default none.
    split: the split to read of a saved DatasetDict. Default `train`.
    limit: number of rows to read. Default: all.
    seed: another seed draws other sampled replies. Default 0.
    """

    source: Path
    target: Path
    task_type: str
    gen_kwargs: Mapping[str, Any]
    templates: TemplateSet | None = None
    split: str = "train"
    limit: int | None = None
    seed: int = 0

    @property
    def field(self) -> str:
        """Return the field that receives the reply, for example `cot` for `cot_text`."""
        return self.task_type.removesuffix("_text") or self.task_type

    def questions(self) -> Iterator[tuple[int, FileRow, Question | None, str]]:
        """Yield the number of every row, the row, and either its question or the reason why it has none.

        Equal prompts are distinguished by how many came before, not by their row number. Reordering or adding rows
        therefore leaves the stored replies valid.
        """
        seen: Counter[str] = Counter()
        for number, row in enumerate(read(self.source, self.split, self.limit)):
            if row.fields is None:
                yield number, row, None, row.problem
                continue
            prompt = row.fields.get(self.task_type)
            if not isinstance(prompt, str) or not prompt.strip():
                kind = "missing" if prompt is None else "empty" if isinstance(prompt, str) else "not text"
                yield number, row, None, f"field {self.task_type!r} is {kind}"
                continue
            question = Question(prompt, self.gen_kwargs, "enhance", repeat=seen[prompt])
            seen[prompt] += 1
            yield number, row, question, ""


def settings(templates: TemplateSet | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the generation settings: TeacherLM's or those of the template set, overridden by those given."""
    chosen = {**(templates.generation if templates and templates.generation else GENERATION), **given}
    if chosen.get("do_sample") and not float(chosen.get("temperature") or 0):
        chosen["temperature"] = 1.0
    return chosen


def annotate(job: AnnotateJob, plan: RunPlan) -> dict[str, Any]:
    """Annotate all rows and write the output files; return the manifest, with the report of the checks as `checks`.

    The output contains the input's fields, the field with the reply, and `all` (prompt and reply), in the input's
    order. Rows without a reply are in `<target>.bad.jsonl`. If a budget ends the run, the manifest has the reason as
    `stopped`, and the finished rows are in `<target>.partial`. Raises ConfigurationError, LoadError or StoreError.
    """
    backend = plan.seats["teacher"].backend
    identity = {
        "stage": "annotate",
        "task_type": job.task_type,
        "teacher": backend.fingerprint,
        "options": vars(plan.protocol),
        "gen_kwargs": job.gen_kwargs,
        "seed": job.seed,
    }
    total, first = 0, None
    for _, _, question, _ in job.questions():
        total += 1
        first = first or question
    asked: dict[int, tuple[int, FileRow]] = {}
    with Output(job.target, identity) as output:
        if first is not None and isinstance(plan.protocol, Annotate):
            show_prompt(plan, "teacher", plan.protocol.prompt(first.context))

        def open_questions() -> Iterator[Question]:
            index = 0
            for number, row, question, problem in job.questions():
                if question is None:
                    output.reject(number, row, "unreadable" if row.fields is None else "incomplete", problem)
                else:
                    asked[index] = (number, row)
                    index += 1
                    yield question

        def finished(index: int, transcript: Transcript) -> None:
            number, row = asked.pop(index)
            assert row.fields is not None
            if transcript.failure is not None:
                output.reject(number, row, transcript.failure.code, transcript.failure.message)
            else:
                fields = annotated(row.fields, job, transcript.text)
                output.add(number, [fields], _record(row, fields, transcript))

        figures, stopped = run_questions(plan, open_questions(), finished, total=total, seed=job.seed)
        manifest = {
            "harness_ext": __version__,
            "source": str(job.source.absolute()),
            "source_sha256": file_digest(job.source),
            "teacher": backend.info(),
            "field": job.field,
            "templates": job.templates.to_json() if job.templates else None,
            "counts": {"read": total, "written": output.written, "bad": output.bad},
            "figures": figures,
        }
        if stopped is not None:
            output.end_early()
            return {**manifest, "stopped": stopped}
        output.finish(manifest)
    checked = report(job.target)
    write_json(beside(job.target, "report.json"), checked)
    return {**manifest, "checks": checked}


def annotated(fields: Mapping[str, Any], job: AnnotateJob, reply: str) -> dict[str, Any]:
    """Return a row with the reply in its own field, and after the prompt in `all`.

    Tokenizers that store a word together with the space before it lose that space at the start of a reply, so it is
    restored.
    """
    prompt = fields[job.task_type]
    if reply[:1].isalnum() and not prompt[-1:].isspace():
        reply = f" {reply}"
    return {**fields, job.field: reply, "all": prompt + reply}


def _record(row: FileRow, fields: Mapping[str, Any], transcript: Transcript) -> dict[str, Any]:
    turn = transcript.turns[-1]
    return {
        "place": row.place,
        "digest": text_digest(fields["all"]),
        "finish": turn.finish,
        "prompt_tokens": turn.result.prompt_tokens,
        "completion_tokens": turn.result.completion_tokens,
        "notes": [*turn.notes, *turn.result.notes],
        "key": turn.key,
        "reply": turn.text,
    }

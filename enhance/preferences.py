"""Preference rows for training: candidates, judgements and preference pairs, each in a file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.config.run_plan import RunPlan
from harness_ext.enhance.candidates import Candidates, distinct
from harness_ext.enhance.judging import pairwise_messages
from harness_ext.enhance.preference_report import Contested, PreferenceReport
from harness_ext.enhance.ranking import preferred_pairs, ranking
from harness_ext.enhance.row_files import FileRow, Output, beside, manifest_of, read
from harness_ext.enhance.running import run_questions, show_prompt
from harness_ext.enhance.templates import TemplateSet
from harness_ext.enhance.tournament import Contest, ContestRecord, Tournament, judge_by_gold, outcomes
from harness_ext.errors import ConfigurationError
from harness_ext.protocol import Question
from harness_ext.reading import same_answer
from harness_ext.records import Message, Transcript
from harness_ext.records.run_directory import write_json

Manifest = dict[str, Any]

# The field that tells which candidates are complete.
ENDS = "candidates_finished"


@dataclass(frozen=True)
class PreferenceJob:
    """A job that turns rows into preferences. Rows that have a list under `candidates` keep it.

    source: the file or folder with the rows.
    target: the JSON-lines file to write.
    field: the field that contains the prompt.
    gen_kwargs: lm-eval's generation settings of the candidates.
    templates: the set that defines the gold answers. Default none.
    near_duplicates: the threshold of `distinct`, 0 to 1. Default 0.95.
    split: the split to read of a saved DatasetDict. Default `train`.
    limit: number of rows to read. Default: all.
    seed: seed of the sampled candidates. Default 0.
    """

    source: Path
    target: Path
    field: str
    gen_kwargs: Mapping[str, Any]
    templates: TemplateSet | None = None
    near_duplicates: float = 0.95
    split: str = "train"
    limit: int | None = None
    seed: int = 0

    @property
    def candidates(self) -> Path:
        """Return the file of candidates."""
        return beside(self.target, "candidates.jsonl")

    @property
    def judgements(self) -> Path:
        """Return the file of judgements."""
        return beside(self.target, "judgements.jsonl")


def write_candidates(job: PreferenceJob, plan: RunPlan | None) -> Manifest:
    """Write each row with its `candidates`; return the manifest.

    The student of `plan` writes the candidates, and `candidates_finished` tells which of them are complete: False if
    the token limit cut a candidate off, None if the model does not say. Without a plan, rows that have no candidates
    are rejected. Raises ConfigurationError, LoadError or StoreError.
    """
    rows = list(read(job.source, job.split, job.limit))
    backend = plan.seats["student"].backend if plan else None
    identity = {
        "stage": "candidates",
        "field": job.field,
        "student": backend.fingerprint if backend else None,
        "options": vars(plan.protocol) if plan else None,
        "gen_kwargs": job.gen_kwargs,
        "near_duplicates": job.near_duplicates,
        "seed": job.seed,
    }
    asked: dict[int, tuple[int, FileRow]] = {}
    dropped = few = cut = 0

    with Output(job.candidates, identity) as output:

        def keep(number: int, row: FileRow, found: list[str], ends: Sequence[bool | None] | None) -> None:
            nonlocal dropped, few, cut
            kept = distinct(found, job.near_duplicates)
            dropped += len(found) - len(kept)
            few += len(kept) < 2
            fields = {**(row.fields or {}), "candidates": kept}
            fields.pop(ENDS, None)
            if ends is not None:
                fields[ENDS] = [ends[found.index(candidate)] for candidate in kept]
                cut += fields[ENDS].count(False)
            output.add(number, [fields])

        def open_questions() -> Iterator[Question]:
            seen: dict[str, int] = {}
            for number, row in enumerate(rows):
                if problem := _problem(row, job.field):
                    output.reject(number, row, "unreadable" if row.fields is None else "incomplete", problem)
                    continue
                assert row.fields is not None
                if (given := row.fields.get("candidates")) is not None:
                    ends = row.fields.get(ENDS)
                    told = isinstance(ends, list) and len(ends) == len(given)
                    keep(number, row, given, ends if told else None)
                elif plan is None:
                    output.reject(number, row, "incomplete", "the row has no `candidates`: name a `--student`")
                else:
                    prompt = row.fields[job.field]
                    seen[prompt] = seen.get(prompt, -1) + 1
                    asked[len(asked)] = (number, row)
                    yield Question(prompt, job.gen_kwargs, "enhance", repeat=seen[prompt])

        def finished(index: int, transcript: Transcript) -> None:
            number, row = asked[index]
            if transcript.failure is not None:
                output.reject(number, row, transcript.failure.code, transcript.failure.message)
            else:
                ends = [None if turn.finish is None else turn.finish != "length" for turn in transcript.turns]
                keep(number, row, [turn.text for turn in transcript.turns], ends)

        figures, stopped = _ask(plan, "student", open_questions(), finished, len(rows), job.seed)
        manifest = {
            "harness_ext": __version__,
            "source": str(job.source.absolute()),
            "student": backend.info() if backend else None,
            "counts": {"read": len(rows), "written": output.written, "bad": output.bad},
            "near_duplicates_dropped": dropped,
            "rows_with_fewer_than_two": few,
            "cut_off": cut,
            "figures": figures,
        }
        return _end(output, manifest, stopped)


def write_judgements(job: PreferenceJob, protocol: Tournament, plan: RunPlan | None) -> Manifest:
    """Compare the candidates of each row; return the manifest.

    The judge of `plan` compares them; without a plan, the gold answers decide. A row with fewer than two candidates has
    no matches. Raises ConfigurationError, LoadError or StoreError.
    """
    rows = list(read(job.candidates))
    backend = plan.seats["judge"].backend if plan else None
    identity = {
        "stage": "judgements",
        "field": job.field,
        "judge": backend.fingerprint if backend else "gold",
        "options": vars(protocol),
        "gold": job.templates.digest if job.templates else None,
    }
    asked: dict[int, tuple[int, FileRow, Contest]] = {}

    with Output(job.judgements, identity) as output:

        def keep(number: int, contest: Contest, judgement: ContestRecord) -> None:
            ends = (rows[number].fields or {}).get(ENDS)
            row = {
                "prompt": contest.context,
                "candidates": contest.candidates,
                **({} if ends is None else {ENDS: ends}),
                "correct": contest.correct,
                **judgement.to_json(),
            }
            output.add(number, [row])

        def open_questions() -> Iterator[Question]:
            for number, row in enumerate(rows):
                contest = _contest(row, job)
                if plan is None and contest.correct is None:
                    output.reject(number, row, "incomplete", "the row has no gold answer to judge by")
                elif plan is None:
                    keep(number, contest, judge_by_gold(protocol.schedule, contest, protocol.rounds, protocol.seed))
                elif len(contest.candidates) < 2:
                    keep(number, contest, ContestRecord(()))
                else:
                    asked[len(asked)] = (number, row, contest)
                    yield contest

        def finished(index: int, transcript: Transcript) -> None:
            number, row, contest = asked[index]
            if transcript.failure is not None:
                output.reject(number, row, transcript.failure.code, transcript.failure.message)
            else:
                keep(number, contest, ContestRecord.from_json(json.loads(transcript.text)))

        show: Callable[[Question], list[Message]] | None = None
        if protocol.style == "pairwise":
            show = lambda q: _first_comparison(protocol, q)  # noqa: E731
        figures, stopped = _ask(plan, "judge", open_questions(), finished, len(rows), 0, show)
        manifest = {
            "harness_ext": __version__,
            "candidates": manifest_of(job.candidates),
            "judge": backend.info() if backend else "gold",
            "protocol": vars(protocol),
            "counts": {"read": len(rows), "written": output.written, "bad": output.bad},
            "figures": figures,
        }
        return _end(output, manifest, stopped)


def write_pairs(judgements: Path, target: Path, fallbacks: str | None = None) -> dict[str, Any]:
    """Write `prompt`, `chosen` and `rejected` rows from stored judgements, without calls; return the report.

    If the token limit cut off any candidate, the rows also have `chosen_finished` and `rejected_finished`, by which
    training tells after which texts a model should stop. `<target>.records.jsonl` contains the candidates of each
    prompt from best to worst. Raises ConfigurationError if
    `write_judgements` did not write the file.

    judgements: the file of judgements.
    target: the JSON-lines file to write.
    fallbacks: rules for the judge's replies, if they differ from those of the run. Default: those of the run.
    """
    manifest = manifest_of(judgements)
    if manifest.get("identity", {}).get("stage") != "judgements":
        raise ConfigurationError(
            [f"{judgements} is not a file of judgements with a manifest: name a `.judgements.jsonl` of `preferences`"]
        )
    rules = manifest["protocol"]["fallbacks"] if fallbacks is None else fallbacks
    by_gold = manifest["judge"] == "gold"
    found = PreferenceReport(rules, by_gold)
    identity = {"stage": "preferences", "judgements": manifest["identity"], "fallbacks": rules}
    # All rows or none have the columns: readers of JSON lines take the columns from the first rows.
    any_cut = any(False in ((row.fields or {}).get(ENDS) or ()) for row in read(judgements))
    with Output(target, identity) as output:
        for number, row in enumerate(read(judgements)):
            if row.fields is None:
                raise ConfigurationError([f"{judgements} {row.place}: {row.problem}"])
            prompt, candidates, correct = (row.fields[name] for name in ("prompt", "candidates", "correct"))
            judgement = ContestRecord.from_json(row.fields)
            played = outcomes(judgement, rules, correct if by_gold else None)
            pairs = preferred_pairs(len(candidates), played)
            found.add(Contested(candidates, correct, judgement, played, pairs))
            lines = [{"prompt": prompt, "chosen": candidates[a], "rejected": candidates[b]} for a, b in pairs]
            if any_cut:
                ends = row.fields.get(ENDS) or [None] * len(candidates)
                for line, (a, b) in zip(lines, pairs, strict=True):
                    line |= {"chosen_finished": ends[a], "rejected_finished": ends[b]}
            order = ranking(len(candidates), played)
            output.add(number, lines, {"prompt": prompt, "best_first": [candidates[i] for i in order], "order": order})
        report = found.to_json()
        output.finish({"harness_ext": __version__, "report": report, "judgements": manifest})
    write_json(beside(target, "report.json"), report)
    return report


def _problem(row: FileRow, field: str) -> str:
    if row.fields is None:
        return row.problem
    prompt, given = row.fields.get(field), row.fields.get("candidates")
    if not isinstance(prompt, str) or not prompt.strip():
        return f"field {field!r} is {'missing' if prompt is None else 'empty or not text'}"
    if given is not None and not (isinstance(given, list) and all(isinstance(one, str) for one in given)):
        return "field 'candidates' is not a list of texts"
    return ""


def _contest(row: FileRow, job: PreferenceJob) -> Contest:
    assert row.fields is not None
    candidates = tuple(row.fields["candidates"])
    gold = job.templates.gold_of(row.fields) if job.templates else None
    correct = None
    if job.templates and gold is not None:
        reader = job.templates.reader
        correct = tuple(same_answer(reader.last(one), reader.gold(gold)) for one in candidates)
    return Contest(row.fields[job.field], {}, "enhance", candidates=candidates, correct=correct)


def _first_comparison(protocol: Tournament, question: Question) -> list[Message]:
    assert isinstance(question, Contest)
    first, second = question.candidates[:2]
    return pairwise_messages(protocol.judge_system, protocol.judge_user, question.text, first.strip(), second.strip())


def _ask(
    plan: RunPlan | None,
    seat: str,
    questions: Iterator[Question],
    finished: Callable[[int, Transcript], None],
    total: int,
    seed: int,
    show: Callable[[Question], list[Message]] | None = None,
) -> tuple[dict[str, Any] | None, str | None]:
    """Run the questions and show the first prompt.

    Without a plan no question may be left to ask; iterating still handles the rows that need no call.

    plan: the plan with the seat, or None.
    seat: name of the seat that is asked.
    questions: the questions.
    finished: called with each question's index and transcript.
    total: number of rows, for the progress display.
    seed: seed of sampled replies.
    show: returns the conversation to show for the first question. Default: its prompt.
    """
    if plan is None:
        for question in questions:
            raise AssertionError(f"there is no model to ask: {question}")
        return None, None

    def shown() -> Iterator[Question]:
        for number, question in enumerate(questions):
            if number == 0:
                as_chat = isinstance(plan.protocol, Candidates) and plan.protocol.as_chat
                chat: str | list[Message] = [Message("user", question.context)] if as_chat else question.context
                show_prompt(plan, seat, show(question) if show else chat)
            yield question

    return run_questions(plan, shown(), finished, total=total, seed=seed)


def _end(output: Output, manifest: Manifest, stopped: str | None) -> Manifest:
    if stopped is not None:
        output.end_early()
        return {**manifest, "stopped": stopped}
    output.finish(manifest)
    return manifest

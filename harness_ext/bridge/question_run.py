"""One call from lm-eval, answered in three steps: read what is known, ask for the rest, finish."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from harness_ext.backends.base import Backend
from harness_ext.bridge.session import Session, torch_seed
from harness_ext.engine.budget import total_spending
from harness_ext.engine.heap import settled_heap
from harness_ext.engine.progress import Known, Progress
from harness_ext.errors import RunFailed, StoreError
from harness_ext.protocol import Protocol, Question
from harness_ext.records import Identity, Transcript
from harness_ext.records.run_directory import read_transcripts, write_json
from harness_ext.records.summary import Summary
from harness_ext.terminal import note

Answer = TypeVar("Answer")


class QuestionRun(Generic[Answer]):
    """Answers numbered questions and collects in `answers`, by number, what lm-eval gets for each.

    session: the evaluation that the questions belong to.
    protocol: answers a question.
    read: extracts lm-eval's answer from a transcript: its text, or the log-likelihoods of its choices.
    on_answer: called with number and answer as soon as a question is answered, also if an earlier run answered it.
        Default none.

    Call `read_known`, `ask` and `finish`, in this order; `interrupted` instead of the rest once a signal ends the run.
    """

    def __init__(
        self,
        session: Session,
        protocol: Protocol,
        read: Callable[[Transcript], Answer],
        on_answer: Callable[[int, Answer], None] | None = None,
    ) -> None:
        self.session, self.protocol, self.read = session, protocol, read
        self.on_answer = on_answer or (lambda number, answer: None)
        self.answers: dict[int, Answer] = {}
        self._seed = torch_seed()
        self._summary = self._new_summary()
        self._known: dict[Identity, tuple[Answer, Known]] = {}
        self._on_known: Callable[[Known], None] = lambda question: None
        self._failed_before: dict[Identity, Transcript] = {}
        self._failures: list[str] = []
        self._error: Exception | None = None
        self._asked = 0

    def read_known(self) -> None:
        """Read the run directory: answered questions are not asked again, failed ones are."""
        for transcript in read_transcripts(self.session.run.path):
            if transcript.failure is not None:
                self._failed_before[transcript.identity] = transcript
            else:
                self._known[transcript.identity] = (self.read(transcript), Known.of(transcript))
                self._summary.add(transcript)

    def ask(self, questions: Iterable[tuple[int, Question]], count: int) -> None:
        """Answer the questions that are not known yet. An error that ends the run is kept for `finish` to raise.

        questions: the questions with their numbers.
        count: how many questions there are, known ones included.
        """
        self._asked = count
        # The engine counts the questions that it receives, in their order. Known questions never reach it, so its count
        # differs from lm-eval's numbers: `numbers[position]` maps it back.
        numbers: list[int] = []

        def finished(position: int, transcript: Transcript) -> None:
            self._record(numbers[position], transcript)

        self._run_engine(self._unknown(questions, numbers), count, finished)

    def finish(self, strict: bool = False) -> None:
        """Write the summary, then raise the error that ended the run, if any.

        strict: raise RunFailed for unanswered questions even with `on_failure=score`, because no result could stand for
            a wrong answer.

        Raises the error of this process, RunFailed for an error of another process, or RunFailed for questions without
        an answer.
        """
        session, ranks = self.session, self.session.ranks
        # Every `gather` waits for all processes. A process that raised before reaching them would leave the others
        # hanging, so errors are exchanged first and raised only after the last collective call.
        errors = ranks.gather(str(self._error) if self._error else None)
        failures = [failure for part in ranks.gather(self._failures) for failure in part]
        unfinished = sum(ranks.gather(self._asked - len(self.answers)))
        budgets = [state for state in ranks.gather(session.budget and session.budget.state) if state is not None]
        tables = ranks.gather(session.tables.written)
        if ranks.rank == 0:
            try:
                self._write_summary(unfinished, budgets, tables)
            except StoreError as error:
                self._error = self._error or error  # what has ended the run is the cause of both
        ranks.barrier()
        if self._error is not None:
            raise self._error
        if other := next((error for error in errors if error), None):
            raise RunFailed(f"another process of this run ended early: {other}")
        if failures and (strict or session.plan.options.on_failure == "stop"):
            raise RunFailed(_failure_message(failures, session))

    def interrupted(self) -> None:
        """Write the summary of what is finished, without waiting for the other processes of a distributed run.

        There, each process gets the signal by itself, or is about to be ended by its launcher. Before `ask`, there is
        nothing new to write, and the summary of an earlier run stays.
        """
        session = self.session
        if session.ranks.rank != 0 or not self._asked:
            return
        alone = session.ranks.world == 1
        # What other processes have spent and still had to do is unknown.
        unfinished = self._asked - len(self.answers) if alone else None
        spending = session.budget.state if session.budget is not None else None
        budgets = [] if spending is None else [spending if alone else (None, spending[1])]
        try:
            self._write_summary(unfinished, budgets)
        except StoreError as error:
            note(error)

    def _unknown(self, questions: Iterable[tuple[int, Question]], numbers: list[int]) -> Iterator[Question]:
        for number, question in questions:
            # Hashing a question takes time, so a new run skips it.
            identity = question.identity(self._seed) if self._known else None
            if identity in self._known:
                answer, known = self._known[identity]
                self._answered(number, answer)
                self._on_known(known)
            else:
                numbers.append(number)
                yield question

    def _record(self, number: int, transcript: Transcript) -> None:
        protocol = self.session.plan.protocol
        self.session.run.add(transcript)
        if protocol.readable is not None:
            self.session.run.append(protocol.readable, protocol.write_up(transcript))
        self._summary.add(transcript)
        self._failed_before.pop(transcript.identity, None)
        answer = self.read(transcript)
        if transcript.failure is None:
            self._answered(number, answer)
        else:
            self.answers[number] = answer
            self._failures.append(f"{transcript.task}, document {transcript.doc_id}: {transcript.failure.message}")

    def _answered(self, number: int, answer: Answer) -> None:
        self.answers[number] = answer
        self.on_answer(number, answer)

    def _run_engine(
        self, questions: Iterator[Question], total: int, finished: Callable[[int, Transcript], None]
    ) -> None:
        session, options = self.session, self.session.plan.options
        engine = session.plan.engine(session.store, session.budget, self._seed)
        try:
            with settled_heap():
                if options.progress == "off" or session.ranks.rank != 0:
                    engine.run(self.protocol, session.plan.seats, questions, finished)
                else:
                    with Progress(total, self._seat_names(), True if options.progress == "on" else None) as progress:
                        self._on_known = progress.question_known
                        engine.run(self.protocol, session.plan.seats, questions, finished, [progress])
        except Exception as error:
            # `finish` raises it, because the other processes wait there and have to learn of it.
            self._error = error
        finally:
            try:
                session.run.close()
            except StoreError as error:
                self._error = self._error or error

    def _new_summary(self) -> Summary:
        models = self.session.plan.models
        return Summary(lambda seat: models[seat].cost)

    def _write_summary(
        self,
        unfinished: int | None,
        budgets: Sequence[tuple[float | None, bool]],
        tables: Sequence[Mapping[Path, str]] = (),
    ) -> None:
        """Write the summary and the closing tables. Raises StoreError."""
        session, demonstration = self.session, self.session.plan.demonstration
        for transcript in self._failed_before.values():
            self._summary.add(transcript)
        self._failed_before.clear()
        session.tables.merge(session.ranks.world, tables)
        session.run.merge()
        if session.ranks.world > 1:
            # This process has counted its own questions only; the merged records contain those of all processes.
            self._summary = self._new_summary()
            for transcript in read_transcripts(session.run.path):
                self._summary.add(transcript)
        session.summary = {**self._summary.to_json(), "unfinished": unfinished}
        if budgets:
            session.summary["budget"] = {"cap": session.plan.options.budget, **total_spending(budgets)}
        path = session.run.path / "summary.json"
        try:
            write_json(path, {"demonstration_pair": demonstration, **session.summary}, private=True)
        except OSError as error:
            raise StoreError(
                f"{path} cannot be written: {error}. Everything finished is stored: make room, then run the same "
                "command again"
            ) from error
        for warning in self._summary.warnings():
            note(f"WARNING {warning}")
        if same_calls := self._summary.events["same_call"]:
            note(f"{same_calls} {SAME_CALL}")
        note(f"records of this run: {session.run.path}")
        if demonstration:
            print(DEMONSTRATION, file=sys.stderr)

    def _seat_names(self) -> dict[Backend, str]:
        names: dict[Backend, str] = {}
        for name, setup in self.session.plan.models.items():
            names[setup.backend] = f"{names[setup.backend]}+{name}" if setup.backend in names else name
        return names


def _failure_message(failures: Sequence[str], session: Session, shown: int = 10) -> str:
    lines = [f"{len(failures)} questions have no answer; all others are finished and stored in {session.run.path}:"]
    lines += [f"  - {failure}" for failure in failures[:shown]]
    if len(failures) > shown:
        lines.append(f'  - and {len(failures) - shown} more, in the run\'s transcripts.jsonl (`"status": "failed"`)')
    lines.append(session.again("to retry only these"))
    lines.append("Or give `on_failure=score` to score them as wrong; the summary counts them.")
    return "\n".join(lines)


SAME_CALL = (
    "calls repeated a greedy call of the same question: agents or draws that decode one model greedily always agree, "
    "so one answer is counted several times. Let them sample (`--gen_kwargs do_sample=True,temperature=0.8`), or give "
    "them different models or system messages"
)
DEMONSTRATION = """\
+----------------------------------------------------------------------------+
| No model was named, so the built-in demonstration pair was used. It is a   |
| tiny pair trained on invented stories; its results say nothing about other |
| models. Name yours: student=<backend>:<model>,teacher=<backend>:<model>    |
+----------------------------------------------------------------------------+"""

"""Scores a run: every answer of every transcript, through the task's own filters and metrics, into `scores.jsonl`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.chat import repair
from harness_ext.choices import SCORED, scores_of
from harness_ext.files import whole_file
from harness_ext.records import Transcript
from harness_ext.rundir import read_transcripts, write_json
from harness_ext.scoring.documents import TaskSource, find_documents, load_tasks
from harness_ext.scoring.figures import pooled_figures, task_figures
from harness_ext.scoring.leaks import choices_of, gold_answers, gold_texts, hints_of, is_two_way
from harness_ext.scoring.replay import Case, Reply, Scores, ScoringError, replay, takes_first
from harness_ext.scoring.rounds import Trajectory, trajectory_of

SCORES = "scores.jsonl"
FIGURES = "scores.json"
Replies = tuple[tuple[Reply, ...], ...]


@dataclass(frozen=True)
class Draw:
    """One repeat of a document: its transcripts, one a question, and the answers that stood in each.

    A question whose choices were scored has its log-probabilities at the end alone, so it has one state.
    """

    transcripts: tuple[Transcript, ...]
    trajectories: tuple[Trajectory, ...]
    rolling: bool = False

    @property
    def repeat(self) -> int:
        return self.transcripts[0].repeat

    @property
    def states(self) -> range:
        """Return the places of the answers that stood one after the other."""
        return range(max(1 if is_scored(t) else len(a.answers) for t, a in self._pairs))

    def at(self, state: int) -> Replies:
        """Return the answers to all requests at one of them; what ended before keeps its last."""
        found: list[Reply] = []
        for transcript, trajectory in self._pairs:
            if is_scored(transcript):
                found += [score[0] if self.rolling else score for score in scores_of(transcript)]
            else:
                found.append(trajectory.at(state))
        return tuple((reply,) for reply in found)

    @property
    def agents(self) -> list[list[Replies]]:
        """Return the texts of each round, where several agents or draws answered one request; else nothing."""
        first = self.trajectories[0].rounds
        if len(self.transcripts) > 1 or is_scored(self.transcripts[0]) or all(len(texts) == 1 for texts in first):
            return []
        return [[((text,),) for text in texts] for texts in first]

    @property
    def _pairs(self) -> list[tuple[Transcript, Trajectory]]:
        return list(zip(self.transcripts, self.trajectories, strict=True))


@dataclass(frozen=True)
class Document:
    """A document of the task's data, and every draw made for it."""

    place: int
    digest: str
    doc: Any
    draws: tuple[Draw, ...]

    @property
    def states(self) -> range:
        return range(max(len(draw.states) for draw in self.draws))

    def together(self, state: int) -> Replies:
        """Return the answers of all repeats, as lm-eval hands them to the filters."""
        each = [draw.at(state) for draw in self.draws]
        return tuple(tuple(replies[i][0] for replies in each) for i in range(len(each[0])))

    def replies(self, alone: bool) -> list[Replies]:
        """Return everything that needs a score, each once; `alone` says that repeats are scored by themselves, too."""
        found = [self.together(state) for state in self.states]
        for draw in self.draws if alone else ():
            found += [draw.at(state) for state in draw.states]
            found += [replies for texts in draw.agents for replies in texts]
        return list(dict.fromkeys(found))


def score_run(run: Path, source: TaskSource | None = None, manager: Any = None) -> dict[str, Any]:
    """Score a run directory; write `scores.jsonl` (a line a document) and `scores.json` (figures), return the latter.

    Raises ScoringError where a task or a document cannot be found again, or the task's own code fails on a reply.
    """
    run = run.expanduser()
    by_task: dict[str, list[Transcript]] = {}
    if run.is_dir():
        for transcript in read_transcripts(run):
            by_task.setdefault(transcript.task, []).append(transcript)
    if not by_task:
        raise ScoringError(
            f"{run} holds no transcripts. Name the folder of a run: `harness_ext_runs/<label>-<time>`, or what "
            "`run_dir=` was (lm-eval's own results need no scoring: `harness-ext compare` reads them as they are)"
        )
    digest = transcripts_digest(run)
    tasks, groups = load_tasks(sorted(by_task), source or TaskSource(), manager)
    rows = {name: score_task(tasks[name], name, by_task[name]) for name in tasks}
    figures = {name: task_figures(tasks[name], rows[name]) for name in tasks}
    result = {
        "harness_ext": __version__,
        "label": read_config(run).get("label") or run.name,
        "transcripts": digest,
        "groups": groups,
        "tasks": figures,
        "pools": pooled_figures(figures, rows),
    }
    _write_lines(run / SCORES, [row for part in rows.values() for row in part])
    write_json(run / FIGURES, result)
    return result


def score_task(task: Any, name: str, transcripts: Sequence[Transcript]) -> list[dict[str, Any]]:
    """Return the lines of `scores.jsonl` for one task: one a document, in the order of the task's data."""
    documents = _documents(task, name, transcripts)
    alone = takes_first(task)
    wanted = [(document, replies) for document in documents for replies in document.replies(any(alone.values()))]
    scores: dict[int, dict[Replies, Scores]] = {}
    cases = [Case(document.place, document.doc, replies) for document, replies in wanted]
    for (document, replies), found in zip(wanted, replay(task, name, cases), strict=True):
        scores.setdefault(document.place, {})[replies] = found
    return [_row(task, name, document, scores[document.place], alone) for document in documents]


def read_config(run: Path) -> dict[str, Any]:
    """Return a run directory's `config.json`, empty where there is none."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def transcripts_digest(run: Path) -> str:
    """Return what tells whether transcripts have changed since they were scored."""
    digest = hashlib.sha256()
    for path in sorted(run.glob("transcripts*.jsonl")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _documents(task: Any, name: str, transcripts: Sequence[Transcript]) -> list[Document]:
    places, docs = find_documents(task, name, [(t.doc_id, t.doc_hash) for t in transcripts])
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    failed = [t.doc_id for t in transcripts if t.failure is not None]
    if failed and task.OUTPUT_TYPE != "generate_until":
        raise ScoringError(
            f"task {name}: {len(failed)} documents have no answer ({', '.join(map(str, failed[:10]))}), and no "
            "log-probability stands for a wrong one. Run the same command again to try these alone"
        )
    found: dict[int, dict[int, dict[int, Transcript]]] = {}
    for transcript in transcripts:
        place = places[transcript.doc_id, transcript.doc_hash]
        draw = found.setdefault(place, {}).setdefault(transcript.repeat, {})
        if transcript.index in draw:
            raise ScoringError(
                f"task {name}, document {place}: the run holds two answers to the same question (seeds, few-shot "
                "examples or prompts differ). Give each evaluation a folder of its own (`run_dir=<folder>`)"
            )
        draw[transcript.index] = transcript
    return [
        Document(
            place,
            next(iter(found[place][min(found[place])].values())).doc_hash,
            docs[place],
            tuple(_draw(found[place][repeat], rolling) for repeat in sorted(found[place])),
        )
        for place in sorted(found)
    ]


def _draw(by_index: Mapping[int, Transcript], rolling: bool) -> Draw:
    transcripts = tuple(by_index[index] for index in sorted(by_index))
    return Draw(transcripts, tuple(trajectory_of(t) for t in transcripts), rolling)


def is_scored(transcript: Transcript) -> bool:
    """Return whether a question was answered by log-probabilities, not by a text."""
    return any(turn.kind == SCORED for turn in transcript.turns)


def _row(
    task: Any, name: str, document: Document, scores: Mapping[Replies, Scores], alone: Mapping[str, bool]
) -> dict[str, Any]:
    golds = gold_texts(task, document.doc)
    answers = gold_answers(golds)
    last = document.together(document.states[-1])
    filters = {}
    for key in scores[last]:
        units = (
            [[scores[draw.at(state)][key] for state in draw.states] for draw in document.draws]
            if alone.get(key)
            else [[scores[document.together(state)][key] for state in document.states]]
        )
        agents = [
            [[scores[replies][key] for replies in texts] for texts in draw.agents]
            for draw in (document.draws if alone.get(key) else ())
        ]
        filters[key] = {"lm_eval": scores[last][key], "answers": units, **({"agents": agents} if any(agents) else {})}
    return {
        "task": name,
        "doc_id": document.place,
        "doc_hash": document.digest,
        "target": golds,
        "two_way": is_two_way(answers, choices_of(task, document.doc)),
        "draws": [
            {
                "repeat": draw.repeat,
                "stop": draw.transcripts[0].stop,
                "failed": any(t.failure is not None for t in draw.transcripts),
                "hints": [hint for t in draw.transcripts for hint in hints_of(t, answers)] if answers else None,
            }
            for draw in document.draws
        ],
        "filters": filters,
        "doc": document.doc,
    }


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of lines whole or not at all."""
    from lm_eval.utils import handle_non_serializable

    try:
        with whole_file(path) as file:
            for line in lines:
                text = json.dumps(line, ensure_ascii=False, default=handle_non_serializable)
                file.write(repair(text) + "\n")
    except OSError as error:
        raise ScoringError(f"{path} cannot be written: {error}") from error

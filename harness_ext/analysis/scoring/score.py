"""Scores every answer of every transcript of a run with the task's own filters and metrics, into `scores.jsonl`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness_ext import __version__
from harness_ext.analysis.scoring.choice_decisions import gold_indices, pick_of
from harness_ext.analysis.scoring.comparisons import comparisons_of
from harness_ext.analysis.scoring.decisions import challenges_of
from harness_ext.analysis.scoring.figures import pooled_figures, task_figures
from harness_ext.analysis.scoring.leaks import (
    choices_of,
    gold_answers,
    gold_texts,
    hints_of,
    is_two_way,
    listed_choices,
)
from harness_ext.analysis.scoring.replay import AnsweredDocument, Response, Scores, ScoringError, replay, takes_first
from harness_ext.analysis.scoring.rounds import Trajectory, trajectory_of
from harness_ext.analysis.scoring.task_documents import TaskSource, find_documents, load_tasks
from harness_ext.analysis.scoring.threshold_costs import add_costs
from harness_ext.analysis.scoring.verdicts import reviews_of, tokens
from harness_ext.bridge.choices import SCORED, scores_of
from harness_ext.bridge.loaded_tasks import read_origins
from harness_ext.files import atomic_write
from harness_ext.protocol.conversation import drafts_of
from harness_ext.reading import Reading
from harness_ext.records import Transcript
from harness_ext.records.chat import repair
from harness_ext.records.costs import costs_of
from harness_ext.records.run_directory import read_transcripts, write_json

SCORES = "scores.jsonl"
FIGURES = "scores.json"
Replies = tuple[tuple[Response, ...], ...]
Scored = tuple[dict[str, Any], list[dict[str, Any]]]
"""The contents of `scores.json` and `scores.jsonl`."""


@dataclass(frozen=True)
class Draw:
    """One repeat of a document.

    transcripts: its transcripts, one per request.
    trajectories: the answers in each transcript, round by round.
    rolling: whether the task scores whole texts. Default false.

    The answers after one round are a state. A question whose choices were scored has log-probabilities only at the end,
    so it has one state.
    """

    transcripts: tuple[Transcript, ...]
    trajectories: tuple[Trajectory, ...]
    rolling: bool = False

    @property
    def repeat(self) -> int:
        return self.transcripts[0].repeat

    @property
    def states(self) -> range:
        """Return the indices of the states."""
        return range(max(1 if is_scored(t) else len(a.answers) for t, a in self._pairs))

    @property
    def by_round(self) -> bool:
        """Return whether each draft is a state of its own, so that it has a score."""
        first = self.transcripts[0]
        return len(self.transcripts) == 1 and not is_scored(first) and drafts_of(first) is None

    def at(self, state: int) -> Replies:
        """Return the answers to all requests in a state; a request that ended earlier keeps its last answer."""
        found: list[Response] = []
        for transcript, trajectory in self._pairs:
            if is_scored(transcript):
                found += [score[0] if self.rolling else score for score in scores_of(transcript)]
            else:
                found.append(trajectory.at(state))
        return tuple((reply,) for reply in found)

    @property
    def agents(self) -> list[list[Replies]]:
        """Return the texts of each round if several agents or draws answered one request, or else an empty list."""
        first = self.trajectories[0].rounds
        if len(self.transcripts) > 1 or is_scored(self.transcripts[0]) or all(len(texts) == 1 for texts in first):
            return []
        return [[((text,),) for text in texts] for texts in first]

    @property
    def _pairs(self) -> list[tuple[Transcript, Trajectory]]:
        return list(zip(self.transcripts, self.trajectories, strict=True))


@dataclass(frozen=True)
class Document:
    """A document of the task's data, and all draws for it.

    position: its index in the task's data.
    digest: its hash.
    doc: the document.
    draws: its repeats.
    """

    position: int
    digest: str
    doc: Any
    draws: tuple[Draw, ...]

    @property
    def states(self) -> range:
        return range(max(len(draw.states) for draw in self.draws))

    def together(self, state: int) -> Replies:
        """Return the answers of all repeats in a state, in the form that lm-eval passes to the filters."""
        each = [draw.at(state) for draw in self.draws]
        return tuple(tuple(replies[i][0] for replies in each) for i in range(len(each[0])))

    def replies(self, separately: bool) -> list[Replies]:
        """Return everything that needs a score, without duplicates; `separately` adds each repeat by itself."""
        found = [self.together(state) for state in self.states]
        for draw in self.draws if separately else ():
            found += [draw.at(state) for state in draw.states]
            found += [replies for texts in draw.agents for replies in texts]
        return list(dict.fromkeys(found))


def score_run(run: Path, source: TaskSource | None = None, manager: Any = None) -> dict[str, Any]:
    """Score a run directory, write `scores.jsonl` (one line per document) and `scores.json`, and return the latter.

    run, source, manager: as for `score_without_writing`, which says what is raised.
    """
    run = run.expanduser()
    figures, lines = _scored_lines(run, source, manager)
    try:
        with atomic_write(run / SCORES, private=True) as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise ScoringError(
            f"{run / SCORES} cannot be written: {error}. Free disk space or make the folder writable"
        ) from error
    write_json(run / FIGURES, figures, private=True)
    return figures


def score_without_writing(run: Path, source: TaskSource | None = None, manager: Any = None) -> Scored:
    """Score a run directory without writing anything, and return its figures and the lines of `scores.jsonl`.

    run: the run directory.
    source: where to find the tasks. Default: what the run loaded, or else lm-eval's own tasks and the installed packs.
    manager: lm-eval's TaskManager, or a `TaskManagers` for several runs. Default: a new one.

    Raises ScoringError if a task or a document cannot be found again, or if the task's own code fails on a reply.
    """
    figures, lines = _scored_lines(run, source, manager)
    return json.loads(json.dumps(figures, default=str)), [json.loads(line) for line in lines]


def _scored_lines(run: Path, source: TaskSource | None, manager: Any) -> tuple[dict[str, Any], list[str]]:
    by_task: dict[str, list[Transcript]] = {}
    digest = transcripts_digest(run)  # of a run that goes on, at most too old: then it is scored once more
    if run.is_dir():
        for transcript in read_transcripts(run):
            by_task.setdefault(transcript.task, []).append(transcript)
    if not by_task:
        raise ScoringError(
            f"{run} contains no transcripts. Name a run directory: `harness_ext_runs/<label>-<time>`, or the value of "
            "`run_dir=` (lm-eval's own results need no scoring: `harness-ext compare` reads them directly)"
        )
    tasks, groups = load_tasks(sorted(by_task), source or TaskSource(), manager, read_origins(run))
    rows = {name: score_task(tasks[name], name, by_task[name]) for name in tasks}
    figures = {name: task_figures(tasks[name], rows[name]) for name in tasks}
    pools, config = pooled_figures(figures, rows), read_config(run)
    costs = costs_of(config.get("seats"), _object(run / "summary.json").get("usage"))
    for one in (*figures.values(), *pools.values()):
        add_costs(one["metrics"], costs)
    result = {
        "harness_ext": __version__,
        "label": config.get("label") or run.name,
        "transcripts": digest,
        "groups": groups,
        "tasks": figures,
        "pools": pools,
    }
    return result, [_line(row) for part in rows.values() for row in part]


def score_task(task: Any, name: str, transcripts: Sequence[Transcript]) -> list[dict[str, Any]]:
    """Return the lines of `scores.jsonl` for one task, one per document, in the order of the task's data.

    task: lm-eval's task object.
    name: the name of the task.
    transcripts: its transcripts.
    """
    documents = _documents(task, name, transcripts)
    separately = takes_first(task)
    wanted = [(document, replies) for document in documents for replies in document.replies(any(separately.values()))]
    scores: dict[int, dict[Replies, Scores]] = {}
    cases = [AnsweredDocument(document.position, document.doc, replies) for document, replies in wanted]
    for (document, replies), found in zip(wanted, replay(task, name, cases), strict=True):
        scores.setdefault(document.position, {})[replies] = found
    return [_row(task, name, document, scores[document.position], separately) for document in documents]


def read_scored(run: Path) -> Scored | None:
    """Return the figures and the lines that `score_run` wrote into a run directory.

    Returns None if they are missing, or are not those of the run's transcripts as this version scores them.
    """
    figures = read_figures(run)
    if figures is None:
        return None
    try:
        with (run / SCORES).open(encoding="utf-8") as file:
            return figures, [json.loads(line) for line in file]
    except (OSError, ValueError):
        return None


def read_figures(run: Path) -> dict[str, Any] | None:
    """Return the figures alone, under the same conditions as `read_scored`."""
    try:
        figures = json.loads((run / FIGURES).read_text(encoding="utf-8"))
        if figures["harness_ext"] != __version__ or figures["transcripts"] != transcripts_digest(run):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(figures) if (run / SCORES).is_file() else None


def read_config(run: Path) -> dict[str, Any]:
    """Return the content of a run directory's `config.json`, or an empty dictionary if it cannot be read."""
    return _object(run / "config.json")


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def transcripts_digest(run: Path) -> str:
    """Return a hash of all transcripts, which shows whether they have changed since they were scored."""
    digest = hashlib.sha256()
    for path in sorted(run.glob("transcripts*.jsonl")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _documents(task: Any, name: str, transcripts: Sequence[Transcript]) -> list[Document]:
    positions, docs = find_documents(task, name, [(t.doc_id, t.doc_hash) for t in transcripts])
    rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    failed = [t.doc_id for t in transcripts if t.failure is not None]
    if failed and task.OUTPUT_TYPE != "generate_until":
        raise ScoringError(
            f"task {name}: {len(failed)} documents have no answer ({', '.join(map(str, failed[:10]))}), and no "
            "log-probability can stand for a wrong answer. Repeat the run to try only these again"
        )
    found: dict[int, dict[int, dict[int, Transcript]]] = {}
    for transcript in transcripts:
        position = positions[transcript.doc_id, transcript.doc_hash]
        draw = found.setdefault(position, {}).setdefault(transcript.repeat, {})
        if transcript.index in draw:
            raise ScoringError(
                f"task {name}, document {position}: the run contains two answers to the same question (seeds, few-shot "
                "examples or prompts differ). Give each evaluation its own folder (`run_dir=<folder>`)"
            )
        draw[transcript.index] = transcript
    return [
        Document(
            position,
            next(iter(found[position][min(found[position])].values())).doc_hash,
            docs[position],
            tuple(_draw(found[position][repeat], rolling) for repeat in sorted(found[position])),
        )
        for position in sorted(found)
    ]


def _draw(by_index: Mapping[int, Transcript], rolling: bool) -> Draw:
    transcripts = tuple(by_index[index] for index in sorted(by_index))
    return Draw(transcripts, tuple(trajectory_of(t) for t in transcripts), rolling)


def is_scored(transcript: Transcript) -> bool:
    """Return whether a question was answered with log-probabilities instead of a text."""
    return any(turn.kind == SCORED for turn in transcript.turns)


def _row(
    task: Any, name: str, document: Document, scores: Mapping[Replies, Scores], separately: Mapping[str, bool]
) -> dict[str, Any]:
    """Return a document's line of `scores.jsonl`.

    task, name: lm-eval's task object and its name.
    document: the document.
    scores: the scores of everything in `Document.replies`.
    separately: for each filter, whether each repeat has a score of its own.
    """
    golds = gold_texts(task, document.doc)
    answers, choices = gold_answers(golds), choices_of(task, document.doc)
    last = document.together(document.states[-1])
    filters = {}
    for key in scores[last]:
        units = (
            [[scores[draw.at(state)][key] for state in draw.states] for draw in document.draws]
            if separately.get(key)
            else [[scores[document.together(state)][key] for state in document.states]]
        )
        agents = [
            [[scores[replies][key] for replies in texts] for texts in draw.agents]
            for draw in (document.draws if separately.get(key) else ())
        ]
        filters[key] = {"lm_eval": scores[last][key], "answers": units, **({"agents": agents} if any(agents) else {})}
    return {
        "task": name,
        "doc_id": document.position,
        "doc_hash": document.digest,
        "target": golds,
        "gold": gold_indices(task, document.doc),
        "choices": len(choices),
        "two_way": is_two_way(answers, choices or listed_choices(document.doc)),
        "draws": [_draw_row(draw, answers) for draw in document.draws],
        "filters": filters,
        "doc": document.doc,
    }


def _draw_row(draw: Draw, golds: Sequence[Reading]) -> dict[str, Any]:
    """Return the entry of one repeat in a line of `scores.jsonl`.

    draw: the repeat.
    golds: the answers in the document's gold targets.
    """
    turns = [turn for t in draw.transcripts for turn in t.turns]
    return {
        "repeat": draw.repeat,
        "stop": draw.transcripts[0].stop,
        "failed": any(t.failure is not None for t in draw.transcripts),
        "by_round": draw.by_round,
        "choice_scored": is_scored(draw.transcripts[0]),
        "refinements": sum(turn.kind in ("refine", "answer") for turn in turns),
        **tokens(turns),
        "hints": [hint for t in draw.transcripts for hint in hints_of(t, golds)] if golds else None,
        "reviews": [review for t in draw.transcripts for review in reviews_of(t)],
        "challenges": [
            challenge
            for t, trajectory in zip(draw.transcripts, draw.trajectories, strict=True)
            for challenge in challenges_of(t, trajectory)
        ],
        "comparisons": [
            comparison
            for t, trajectory in zip(draw.transcripts, draw.trajectories, strict=True)
            for comparison in comparisons_of(t, trajectory)
        ],
        "pick": pick_of(draw.transcripts),
    }


def _line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of `scores.jsonl`."""
    from lm_eval.utils import handle_non_serializable

    return repair(json.dumps(row, ensure_ascii=False, default=handle_non_serializable))

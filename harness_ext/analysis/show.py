"""The command `harness-ext show`: prints transcripts in the terminal."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness_ext.analysis.compare.run_directories import is_run
from harness_ext.analysis.find_runs import entries, find_runs
from harness_ext.analysis.scoring.score import read_scored
from harness_ext.analysis.transcript_view import (
    acceptance_words,
    how_read,
    readable,
    result_words,
    turn_notes,
    verdict_words,
)
from harness_ext.config.run_options import RUNS
from harness_ext.errors import FAILED, OK, HarnessExtError
from harness_ext.records import Completion, Transcript, Turn
from harness_ext.records.lost_answers import form_of, is_answer
from harness_ext.records.run_directory import read_transcripts
from harness_ext.terminal import console, safe_line, safe_text, shell_word

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLOURS = ("cyan", "magenta", "yellow", "blue", "green", "bright_cyan", "bright_magenta", "bright_yellow")
CONTEXT_LINES = 12
INNER_WIDTH = 100  # characters of a text inside a turn


class ShowError(HarnessExtError):
    """There is nothing to show. The message names cause and remedy."""


@dataclass(frozen=True)
class Scored:
    """The scores of one question from `harness-ext score`.

    targets: the gold targets.
    metric: the metric, as `metric,filter`.
    answers: the metric's value after each round.
    """

    targets: tuple[str, ...]
    metric: str
    answers: tuple[float, ...]

    @property
    def flipped(self) -> bool:
        """Return whether the first and the last answer have different scores."""
        return self.answers[0] != self.answers[-1]


def main(arguments: Sequence[str]) -> int:
    """Print transcripts and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="harness-ext show",
        description="Print a run's transcripts: turns by seat, verdicts, changes between drafts, and correctness.",
        epilog="Scores are shown once `harness-ext score RUN` has written them. See docs/show.md.",
    )
    parser.add_argument(
        "run", nargs="?", default=str(RUNS), metavar="RUN",
        help=f"a run directory or a run's label (its newest run); a folder of runs lists them (default: {RUNS})",
    )  # fmt: skip
    parser.add_argument(
        "--doc", type=int, action="append", default=[], metavar="N", help="only this document (repeatable)"
    )
    parser.add_argument("--task", action="append", default=[], metavar="TASK", help="only this task (repeatable)")
    parser.add_argument("--flips", action="store_true", help="only questions whose score changed between the drafts")
    parser.add_argument(
        "--metric", metavar="METRIC[,FILTER]", help="the metric that decides correctness (default: the first)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="print at most N questions")
    parser.add_argument("--full", action="store_true", help="print whole contexts instead of their last lines")
    parser.add_argument("--thoughts", action="store_true", help="print what reasoning models thought (also: --full)")
    parser.add_argument("--no-pager", action="store_true", help="print long output at once, also on a terminal")
    args = parser.parse_args(list(arguments))
    try:
        show(args.run, console(), args)
    except HarnessExtError as error:
        print(f"harness-ext show: {safe_text(str(error))}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # In `show RUN | head`, the reader is gone. Python would report that once more when it flushes stdout at exit.
        sys.stderr.close()
    return OK


def show(named: str, out: Console, args: argparse.Namespace) -> None:
    """Print the transcripts that the arguments select, or the list of a folder's runs.

    named: a run directory, a label, or a folder of runs.
    out: the console to print to.
    args: the parsed command line.

    Raises ShowError if there is nothing to print.
    """
    runs = find_runs(named)
    if not runs:
        raise ShowError(
            f"{named} contains no transcripts and is no run's label: name a run directory ({RUNS}/<label>-<time>), or "
            f"list the runs with `harness-ext show {RUNS}`"
        )
    is_folder = Path(named).expanduser().is_dir() and not is_run(Path(named).expanduser())
    lines = _listed(runs) if is_folder else list(_transcript_lines(runs[-1], args))
    if len(runs) > 1 and not is_folder:
        lines.insert(0, f"{safe_line(str(runs[-1]))}, the newest of {len(runs)} runs with this label")
    height = sum(str(line).count("\n") + 1 for line in lines)
    if out.is_terminal and not args.no_pager and height > out.height:
        # `less` shows colours only if it is told so, and as written: what models say cannot be a colour (`safe_text`).
        os.environ.setdefault("LESS", "FRX")
        with out.pager(styles=True):
            _print(out, lines)
    else:
        _print(out, lines)


def _print(out: Console, lines: Sequence[Text | str]) -> None:
    for line in lines:
        out.print(line, soft_wrap=not out.is_terminal)  # what another program reads has no line breaks of ours


def _listed(runs: Sequence[Path]) -> list[Text | str]:
    """Return the list of runs as lines of a table."""
    head = ("label", "protocol", "questions", "scored", "started", "folder")
    rows = [
        (e.label, e.protocol, "—" if e.questions is None else str(e.questions), "yes" if e.is_scored else "no",
         e.started, str(e.path))
        for e in entries(runs)
    ]  # fmt: skip
    cells = [head, *([safe_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [*lines, f"{len(runs)} runs: `harness-ext show <label or folder>` prints one"]


def _transcript_lines(run: Path, args: argparse.Namespace) -> Iterator[Text | str]:
    """Yield the lines of a run's transcripts. Raises ShowError if none is selected."""
    transcripts = list(read_transcripts(run))
    if not transcripts:
        raise ShowError(f"{run} contains no transcripts yet: wait for the first answer, or run it again")
    scores = read_scores(run, args.metric)
    if args.flips and scores is None:
        raise ShowError(f"--flips needs scores: run `harness-ext score {shell_word(run)}` first")
    seats = {seat: COLOURS[i % len(COLOURS)] for i, seat in enumerate(_seats(transcripts))}
    picked = [
        (t, scored)
        for t in sorted(transcripts, key=lambda t: (t.task, t.doc_id, t.repeat, t.index))
        if (not args.task or t.task in args.task) and (not args.doc or t.doc_id in args.doc)
        if (scored := (scores or {}).get(_draw_key(t))) is not None or not args.flips
        if not args.flips or (scored is not None and scored.flipped)
    ]
    if not picked:
        tasks = ", ".join(sorted({t.task for t in transcripts}))
        raise ShowError(
            f"no question matches the given options ({len(transcripts)} questions; tasks of this run: {tasks})"
        )
    for transcript, scored in picked[: args.limit]:
        yield from render(transcript, scored, seats, args.full, args.thoughts)
    left = len(picked) - len(picked[: args.limit])
    if left:
        yield f"{left} more questions (--limit)"
    if scores is None:
        yield f"not scored: run `harness-ext score {shell_word(run)}` to see which answers were right"
    else:
        yield from _acceptances(run, args.task)


def _acceptances(run: Path, tasks: Sequence[str]) -> Iterator[str]:
    """Yield how right the verdicts of a scored run were, by task and metric."""
    figures = (read_scored(run) or ({}, []))[0]
    for task, found in figures.get("tasks", {}).items():
        for metric, one in found["metrics"].items():
            if one.get("acceptance") and (not tasks or task in tasks):
                yield safe_line(f"{task}, {metric.removesuffix(',none')}: {acceptance_words(one['acceptance'])}")


def render(
    transcript: Transcript, scored: Scored | None, seats: Mapping[str, str], full: bool, thoughts: bool = False
) -> Iterator[Text]:
    """Yield a transcript as styled lines.

    transcript: the transcript.
    scored: its scores, or None.
    seats: the colour of each seat.
    full: whether to print the whole context instead of its last lines, and whole thoughts.
    thoughts: whether to print thoughts instead of their length. Default False.

    Text from models is made safe first, so that no style but those set here reaches the terminal.
    """
    from rich.text import Text

    title = f"── {safe_line(transcript.task)}, document {transcript.doc_id}"
    title += f", repeat {transcript.repeat}" if transcript.repeat else ""
    yield Text(f"{title} ──", style="bold")
    yield Text(_shortened(safe_text(readable(transcript.context)), full), style="dim")
    drafts: dict[str, str] = {}
    form = form_of(transcript.context)
    for turn in transcript.turns:
        colour = seats.get(turn.seat, "white")
        head = Text(f"\n{safe_line(turn.seat)} {safe_line(turn.kind)}", style=f"bold {colour}")
        if verdict := verdict_words(turn):
            accepted = (turn.verdict or {}).get("accepted")
            head.append(f"  {verdict}", style="green" if accepted else "red" if accepted is False else "dim")
        if notes := turn_notes(turn):
            head.append(f"  ({safe_line(', '.join(notes))})", style="dim")
        yield head
        if isinstance(turn.result, Completion) and turn.result.thought:
            thought = safe_text(turn.result.thought)
            folded = f"thought, {len(turn.result.thought)} characters (--thoughts)"
            shown = _shortened(thought, full) if full or thoughts else folded
            yield Text(shown, style="dim italic")
        text = safe_text(turn.text)
        if said := result_words(turn):
            yield Text(said)
        elif turn.seat in drafts and is_answer(turn):
            yield word_diff(drafts[turn.seat], text)
        else:
            yield Text(text)
        if (read := how_read(turn, form)) is not None and "accepted" not in (turn.verdict or {}):
            yield Text(f"read: {safe_line(read.value)} (rule {read.rule})", style="dim")
        if is_answer(turn):
            drafts[turn.seat] = text
        yield from _inside(turn, full)
    yield _ending(transcript, scored)


def _inside(turn: Turn, full: bool, indent: str = "  ") -> Iterator[Text]:
    """Yield the turns of a protocol that takes a turn's seat, indented; their first lines only, or whole texts."""
    from rich.text import Text

    for inner in turn.inner.turns if turn.inner is not None else ():
        verdict = verdict_words(inner)
        head = f"{indent}{safe_line(inner.seat)} {safe_line(inner.kind)}{f'  {verdict}' if verdict else ''}:"
        lines = (safe_text(inner.text).strip() or result_words(inner)).splitlines() or [""]
        if full:
            yield Text("\n".join([head, *(f"{indent}  {line}" for line in lines)]), style="dim")
        else:
            more = len(lines) > 1 or len(lines[0]) > INNER_WIDTH
            yield Text(f"{head} {lines[0][:INNER_WIDTH]}{' …' if more else ''}", style="dim")
        yield from _inside(inner, full, f"{indent}  ")
    if turn.inner is not None:
        yield Text(f"{indent}ended: {safe_line(turn.inner.stop)}", style="dim")


def word_diff(before: str, after: str) -> Text:
    """Return the newer text with its new words in green, and the words they replace struck through in red."""
    from rich.text import Text

    old, new = re.findall(r"\s+|[^\s]+", before), re.findall(r"\s+|[^\s]+", after)
    text = Text()
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            text.append("".join(new[c:d]))
            continue
        if removed := "".join(old[a:b]).replace("\n", " "):
            text.append(f"[-{removed}-]" if removed.strip() else "", style="red strike")
        if added := "".join(new[c:d]):
            text.append(f"{{+{added}+}}" if added.strip() else added, style="green" if added.strip() else "")
    return text


def read_scores(run: Path, metric: str | None) -> dict[tuple[str, str, int], Scored] | None:
    """Return the scores of a run's questions by task, document hash and repeat, or None if it has not been scored.

    run: the run directory.
    metric: a metric, as `name` or `name,filter`. None selects the first whose values are numbers.

    Raises ShowError if the metric is unknown or the scores are damaged.
    """
    path = run / "scores.jsonl"
    if not path.is_file():
        return None
    found: dict[tuple[str, str, int], Scored] = {}
    known: dict[str, None] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
                names = {f"{m},{f}": (m, f) for f, entry in row["filters"].items() for m in entry["lm_eval"]}
                known.update(dict.fromkeys(names))
                wanted = [n for n in names if metric in (None, n, names[n][0]) and _is_number(row, *names[n])]
                if not wanted:
                    continue
                name, key = names[wanted[0]]
                units = row["filters"][key]["answers"]
                for i, draw in enumerate(row["draws"]):
                    values = tuple(float(state[name]) for state in units[i if len(units) == len(row["draws"]) else 0])
                    draw_key = (row["task"], row["doc_hash"], draw["repeat"])
                    found[draw_key] = Scored(tuple(map(str, row["target"])), wanted[0], values)
            except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
                raise ShowError(
                    f"{path} is damaged ({error!r}): run `harness-ext score {shell_word(run)}` again"
                ) from error
    if metric is not None and not found:
        raise ShowError(f"--metric {metric}: the run was not scored by this metric; it has {', '.join(known)}")
    return found


def _is_number(row: Mapping[str, Any], metric: str, key: str) -> bool:
    return isinstance(row["filters"][key]["lm_eval"][metric], int | float)


def _draw_key(transcript: Transcript) -> tuple[str, str, int]:
    return transcript.task, transcript.doc_hash, transcript.repeat


def _seats(transcripts: Sequence[Transcript]) -> list[str]:
    return list(dict.fromkeys(turn.seat for t in transcripts for turn in t.turns))


def _shortened(text: str, full: bool) -> str:
    lines = text.rstrip("\n").split("\n")
    if full or len(lines) <= CONTEXT_LINES:
        return "\n".join(lines)
    return "\n".join([f"… {len(lines) - CONTEXT_LINES} lines (--full)", *lines[-CONTEXT_LINES:]])


def _ending(transcript: Transcript, scored: Scored | None) -> Text:
    from rich.text import Text

    text = Text(f"\nended: {safe_line(transcript.stop)}", style="bold")
    if transcript.failure is not None:
        text.append(f"; failed: {safe_line(transcript.failure.message)}", style="red")
    if scored is not None:
        marks = " → ".join(_mark(value) for value in scored.answers)
        style = "green" if scored.answers[-1] >= 1 else "red" if scored.answers[-1] <= 0 else "yellow"
        text.append(f"; {safe_line(scored.metric)}: ")
        text.append(marks, style=style)
        text.append(f"; gold: {safe_line(' | '.join(scored.targets))}")
    text.append("\n")
    return text


def _mark(value: float) -> str:
    return {1.0: "right", 0.0: "wrong"}.get(value, f"{value:.3g}")

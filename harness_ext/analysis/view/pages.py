"""Makes the pages of runs anew whenever their records have changed, without writing to any of their folders."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from harness_ext.analysis.compare.command import Compared, add_comparison_arguments, compared
from harness_ext.analysis.report.encoding import packed
from harness_ext.analysis.report.page import Report, make_report, parts_of
from harness_ext.analysis.report.records import read_records
from harness_ext.analysis.scoring.score import Scored, read_scored, score_without_writing, transcripts_digest
from harness_ext.analysis.scoring.task_documents import TaskManagers, TaskSource
from harness_ext.analysis.view.places import version_of
from harness_ext.errors import HarnessExtError

PAGES = 8  # pages that stay in memory, with their transcripts


class NothingToShow(HarnessExtError):
    """A page cannot be made yet. The message says why."""


@dataclass(frozen=True)
class Shown:
    """What a page shows.

    key: names the page.
    title: its title.
    runs: the runs, as arguments of `harness-ext compare`.
    paths: their folders.
    """

    key: str
    title: str
    runs: Sequence[str]
    paths: Sequence[Path]

    @property
    def version(self) -> str:
        """Return what names the present state of the records."""
        return version_of(self.paths)


@dataclass
class Built:
    """A page as it was made from one state of the records.

    version: names that state.
    report: what it shows.
    """

    version: str
    report: Report
    _makers: dict[str, Callable[[], Any]] = field(init=False)
    _packed: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._makers = parts_of(self.report)

    def part(self, name: str) -> str | None:
        """Return a packed part of the page; None if it has no such part."""
        if name not in self._packed and name in self._makers:
            self._packed[name] = packed(self._makers[name]())
        return self._packed.get(name)


class Pages:
    """The pages that were made so far, and the thread that makes them.

    Tasks may use signals and other means that only a main thread has, and neither lm-eval nor Python's random numbers
    can serve two threads at once. So all pages are made by the thread that calls `work`.

    source: where to find tasks.
    manager: lm-eval's TaskManager for all runs. Default None: those that the runs need.
    """

    def __init__(self, source: TaskSource, manager: Any = None) -> None:
        self._source = source
        self._manager = TaskManagers(source) if manager is None else manager
        self._queue: SimpleQueue[tuple[Shown, Future[Built]] | None] = SimpleQueue()
        self._built: dict[str, tuple[Built, ...]] = {}
        self._scores: dict[Path, tuple[str, Scored]] = {}

    def of(self, shown: Shown) -> Built:
        """Return a page that shows the present state of the records. Called by any thread but that which makes it.

        Raises HarnessExtError if it cannot be made.
        """
        future: Future[Built] = Future()
        self._queue.put((shown, future))
        return future.result()

    def part(self, key: str, version: str, name: str) -> str | None:
        """Return a packed part of a version of a page; None if there is none, or no longer."""
        found = [built for built in self._built.get(key, ()) if built.version == version]
        return found[0].part(name) if found else None

    def work(self) -> None:
        """Make the pages that other threads ask for, until `stop` is called."""
        while (job := self._queue.get()) is not None:
            shown, future = job
            try:
                future.set_result(self._up_to_date(shown))
            except Exception as error:  # the thread that asked reports it
                future.set_exception(error)

    def stop(self) -> None:
        """End `work`."""
        self._queue.put(None)

    def _up_to_date(self, shown: Shown) -> Built:
        built, version = self._built.get(shown.key, ()), shown.version
        if not built or built[-1].version != version:
            # The one before stays, since a browser may still ask for parts of it.
            built = (*built[-1:], Built(version, self._make(shown)))
            self._built = {**{k: v for k, v in self._built.items() if k != shown.key}, shown.key: built}
            while len(self._built) > PAGES:
                del self._built[next(iter(self._built))]
        return built[-1]

    def _make(self, shown: Shown) -> Report:
        if not shown.runs:
            raise NothingToShow("There is no answer yet. This page looks again.")
        parser = argparse.ArgumentParser()
        add_comparison_arguments(parser)
        args = parser.parse_args(["--drop_unmatched", "--allow_different_settings", "--", *shown.runs])
        found = compared("view", args, self._score)
        if not isinstance(found, Compared):
            raise NothingToShow("\n".join(found))
        return make_report(shown.title, found, read_records(found.runs, self._score))

    def _score(self, run: Path) -> Scored:
        if (there := read_scored(run)) is not None:
            return there
        digest = transcripts_digest(run)
        if self._scores.get(run, ("",))[0] != digest:
            figures, rows = score_without_writing(run, self._source, self._manager)
            self._scores[run] = (figures["transcripts"], (figures, rows))
        return self._scores[run][1]


def state_json(version: str, note: str) -> str:
    """Return what a page asks for again and again."""
    return json.dumps({"version": version, "note": note}, ensure_ascii=False)

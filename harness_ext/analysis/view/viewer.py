"""What the addresses of the viewer lead to: the list of runs and suites, and the page of one or several runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from harness_ext.analysis.compare.run_directories import is_run
from harness_ext.analysis.find_runs import find_runs
from harness_ext.analysis.report.encoding import script_hash
from harness_ext.analysis.report.page import Live, page_of, plotly_script
from harness_ext.analysis.view.pages import Pages, Shown, state_json
from harness_ext.analysis.view.places import FindSuites, RunPlace, Suite, count_of, id_of, places_of
from harness_ext.analysis.view.server import NOT_FOUND, SCRIPT, TEXT, Answer
from harness_ext.errors import HarnessExtError
from harness_ext.terminal import clean, safe_line

JSON = "application/json"


class Viewer:
    """Answers requests.

    named: a run directory, a folder of runs, or a label.
    pages: makes the pages.
    suites: finds the suites below a folder.
    """

    def __init__(self, named: str, pages: Pages, suites: FindSuites) -> None:
        self._named = named
        self._folder = Path(named).expanduser()
        self._pages = pages
        self._suites = suites

    def route(self, path: str, query: str) -> Answer:
        """Answer a request for a path below the secret."""
        if path == "":
            return _to(f"runs/{id_of(self._folder)}/") if is_run(self._folder) else self._list()
        if path == "open":
            chosen = [one for one in parse_qs(query).get("run", []) if re.fullmatch("[0-9a-f]+", one)]
            return _to(f"runs/{'+'.join(chosen)}/" if chosen else ".")
        kind, _, rest = path.partition("/")
        name, slash, rest = rest.partition("/")
        found = self._runs(name) if kind == "runs" else self._suite(name) if kind == "suites" else None
        if found is None or not slash:
            return NOT_FOUND
        return self._page(*found, rest)

    def _page(self, shown: Shown, note: str, rest: str) -> Answer:
        """Answer a request for something of a page."""
        if rest == "plotly.js":
            return Answer(_plotly(), SCRIPT)
        if rest == "state":
            return Answer(state_json(shown.version, note), JSON)
        if rest:
            version, _, name = rest.partition("/")
            part = self._pages.part(shown.key, version, name)
            return Answer("This version is gone.\n", TEXT, HTTPStatus.GONE) if part is None else Answer(part, TEXT)
        home = None if is_run(self._folder) else "../../"
        try:
            built = self._pages.of(shown)
        except (HarnessExtError, OSError) as error:
            return _listed({"title": shown.title, "message": clean(error), "home": home, "note": note})
        return Answer(page_of(built.report, {}, ["'self'"], Live(built.version, note, home, _asset("live.js"))))

    def _runs(self, ids: str) -> tuple[Shown, str] | None:
        """Return what the page of some runs shows, and their progress; None if there is one that is not known."""
        known = {id_of(run): run for run in find_runs(self._named)}
        if not set(ids.split("+")) <= set(known):
            return None
        paths = [known[one] for one in dict.fromkeys(ids.split("+"))]
        by_path = {place.entry.path: place for place in places_of(paths)}
        places = [by_path[path] for path in paths]
        title = " · ".join(place.entry.label for place in places)
        notes = [place.note if len(places) == 1 else f"{place.entry.label}: {place.note}" for place in places]
        runs = list(map(str, paths)) if all(place.answered for place in places) else []
        return Shown(f"runs/{ids}", title, runs, paths), safe_line("; ".join(notes))

    def _suite(self, name: str) -> tuple[Shown, str] | None:
        """Return what the page of a suite shows, and its progress; None if there is no such suite."""
        for suite in self._suites(self._folder):
            if id_of(suite.path) == name:
                cells = [(cell.label, cell.finished) for cell in suite.cells if cell.finished is not None]
                runs = [f"{label}={path}" for label, path in cells]
                return Shown(f"suites/{name}", suite.path.name, runs, [path for _, path in cells]), _progress(suite)
        return None

    def _list(self) -> Answer:
        suites = self._suites(self._folder) if self._folder.is_dir() else []
        of_suites = {cell.records for suite in suites for cell in suite.cells}
        places = places_of([run for run in find_runs(self._named) if run not in of_suites])
        nothing = f"There are no runs in {self._named} yet. This page looks again."
        values = {
            "title": self._named,
            "message": None if places or suites else safe_line(clean(nothing)),
            "suites": [_suite_row(suite) for suite in suites],
            "runs": [self._run_row(place) for place in places],
            "note": f"{count_of(len(places), 'run')}, {count_of(len(suites), 'suite')}",
        }
        return _listed(values)

    def _run_row(self, place: RunPlace) -> dict[str, str]:
        entry = place.entry
        folder = entry.path.relative_to(self._folder) if entry.path.is_relative_to(self._folder) else entry.path
        shown = {
            "label": entry.label, "state": place.state, "answered": str(place.answered), "protocol": entry.protocol,
            "started": entry.started, "folder": str(folder),
        }  # fmt: skip
        return {"id": place.id, "address": f"runs/{place.id}/", **{k: safe_line(clean(v)) for k, v in shown.items()}}


def _suite_row(suite: Suite) -> dict[str, Any]:
    return {
        "name": safe_line(suite.path.name),
        "note": _progress(suite),
        "address": f"suites/{id_of(suite.path)}/" if any(cell.finished for cell in suite.cells) else None,
        "cells": [
            {
                "title": safe_line(cell.title),
                "address": None if cell.records is None else f"runs/{id_of(cell.records)}/",
                "state": cell.state,
                "questions": str(cell.answered) if cell.questions is None else f"{cell.answered}/{cell.questions}",
            }
            for cell in suite.cells
        ],
    }


def _progress(suite: Suite) -> str:
    states = Counter(cell.state for cell in suite.cells)
    return f"{count_of(len(suite.cells), 'cell')}: {', '.join(f'{n} {state}' for state, n in states.items())}"


def _to(address: str) -> Answer:
    return Answer("", TEXT, HTTPStatus.SEE_OTHER, {"Location": address})


def _listed(values: Mapping[str, Any]) -> Answer:
    """Return a page without a report: a list, or a message."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("harness_ext.analysis.view", "assets"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = f"'use strict';\n{_asset('list.js')}"
    style = files("harness_ext.analysis.report").joinpath("assets", "report.css").read_text(encoding="utf-8")
    policy: Sequence[str] = (
        "default-src 'none'", f"script-src {script_hash(script)}", "style-src 'unsafe-inline'", "img-src data:",
        "connect-src 'self'",
        "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'",
    )  # fmt: skip
    body = environment.get_template("list.html.j2").render(
        {**values, "title": safe_line(str(values["title"])), "script": script, "style": style}
    )
    return Answer(body, headers={"Content-Security-Policy": "; ".join(policy)})


def _asset(name: str) -> str:
    return files("harness_ext.analysis.view").joinpath("assets", name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _plotly() -> str:
    return plotly_script()

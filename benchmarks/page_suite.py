"""The section on suites that are killed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from page_tables import load, table

SUITE = """\
## A suite that is killed

    python benchmarks/suite.py --output benchmarks/results/suite.json

Six protocols answer three sets of stories with the embedded pair, each with two seeds. All processes of the suite are
killed (SIGKILL) at drawn moments, and the same command continues. `sent` counts the calls that were sent to the models
since the beginning; those that were not stored yet were in flight, and are the only ones that are sent again.
"""


def suite_part() -> str:
    """Return a row for each kill, and what became of the suite."""
    result = load("suite.json")
    kills: list[Mapping[str, Any]] = result["kills"]
    rows, before = [], 0
    for number, kill in enumerate(kills, start=1):
        lost = kill["sent"] - kill["stored"]
        rows.append(
            {
                "kill": number,
                "calls sent": kill["sent"],
                "stored": kill["stored"],
                "in flight": lost - before,
                "cells finished": f"{kill['finished']} of {result['cells']}",
            }
        )
        before = lost
    sent, processes, loads = (result[name] for name in ("sent", "processes", "loads"))
    different = len(result["different_cells"])
    words = (
        f"{result['cells']} cells; {different or 'none'} of them ended with other transcripts, samples or scores than "
        f"in the undisturbed suite. That suite sent {sent['whole']:,} calls, and the other one {sent['broken']:,}: "
        f"{result['in_flight_at_kills']} that were in flight at a kill were sent again, and "
        f"{result['paid_twice'] or 'none'} that was stored. Undisturbed, {processes['whole']} "
        f"{'process' if processes['whole'] == 1 else 'processes'} loaded weights {loads['whole']} times, for the "
        f"student and the teacher; with the kills, it was {processes['broken']} processes and {loads['broken']} times. "
        "No process loaded a model twice."
    )
    most = max(result["most_loads_of_a_model_in_a_process"].values())
    if most > 1:
        words = words.replace("No process loaded a model twice.", f"A process loaded a model {most} times.")
    return f"{table(rows)}\n{words}\n"

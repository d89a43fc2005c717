"""The sections on suites that are killed, or disturbed by Slurm."""

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
    words = (
        f"{_outcome(result)} That suite sent {sent['whole']:,} calls, and the other one {sent['broken']:,}: "
        f"{result['in_flight_at_kills']} that were in flight at a kill were sent again, and "
        f"{result['paid_twice'] or 'none'} that was stored. Undisturbed, {processes['whole']} "
        f"{'process' if processes['whole'] == 1 else 'processes'} loaded weights {loads['whole']} times, for the "
        f"student and the teacher; with the kills, it was {processes['broken']} processes and {loads['broken']} times. "
        f"{_loads(result)}"
    )
    return f"{table(rows)}\n{words}\n"


def _outcome(result: Mapping[str, Any]) -> str:
    different = len(result["different_cells"])
    return (
        f"{result['cells']} cells; {different or 'none'} of them ended with other transcripts, samples or scores than "
        "in the undisturbed suite."
    )


def _loads(result: Mapping[str, Any]) -> str:
    most = max(result["most_loads_of_a_model_in_a_process"].values())
    return f"A process loaded a model {most} times." if most > 1 else "No process loaded a model twice."


SLURM = """\
## The same suite on Slurm

    python benchmarks/suite_slurm.py --output benchmarks/results/suite_slurm.json

The study is submitted to a real Slurm of one node (that of `tests/slurm/start.py`): an array whose tasks have twelve
cells each and run one at a time, and a job that compares all cells after them. A job of a partition with a higher
priority takes the node from the first task, and the last task meets its time limit. Both are queued again and continue
in the folders of their cells. This is what `suite status` and `squeue` show at each stage:
"""


def slurm_part() -> str:
    """Return a row for each stage, and what became of the suite."""
    result = load("suite_slurm.json")
    rows = [
        {
            "stage": stage["stage"],
            "cells": ", ".join(f"{count} {state}" for state, count in sorted(stage["cells"].items())),
            "calls stored": stage["calls"],
            "in flight": "" if stage["in_flight"] is None else stage["in_flight"],
            "comparison": stage["collect"].lower() + ("" if stage["reason"] == "None" else f" ({stage['reason']})"),
        }
        for stage in result["stages"]
    ]
    in_flight, restarts = sum(stage["in_flight"] or 0 for stage in result["stages"]), map(str, result["restarts"])
    words = (
        f"{_outcome(result)} {in_flight} calls that were in flight were sent again, and "
        f"{result['paid_twice'] or 'none'} that was stored. {_loads(result)} The tasks were queued again "
        f"{', '.join(restarts)} times. Mails that came: {result['mails']['Requeued']} about what was queued again and "
        f"{result['mails']['Ended']} about what had ended (Slurm may send one for all tasks of an array)."
    )
    return f"{table(rows)}\n{words}\n"

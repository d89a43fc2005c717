"""Helpers for the tests of `report`: three runs of a small task, one of them with hostile texts."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from scored_runs import ROWS, failed, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.report.command import main
from harness_ext.analysis.scoring.score import score_run
from harness_ext.records import SeatCost, Transcript, Turn
from harness_ext.records.results import Decision
from harness_ext.records.run_directory import write_json
from harness_ext.records.summary import Summary

ATTACKS = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<img src=x onerror='window.hacked = 3'>",
    "<!--<script>",
    "{{ 7 * 7 }} {% for x in y %} ${window.hacked = 4} %{x}",
    "<a href='javascript:window.hacked = 5'>b</a> javascript:window.hacked=6",
    "\u202eevil\u202c \u2066x\u2069 \x1b[31mred\x07 \u2028 \u2029 \x00 \u200b",
    "'\"`&amp;&lt; \\u003c ]]> --> ```\n````",
)
LABEL = "<b onclick='window.hacked = 7'>hostile</b> & \u202eco"


def verdict(probability: float) -> Turn:
    """Return a teacher's decision with this probability that the draft is right."""
    result = Decision.likeliest(("true", "false"), (probability, 1 - probability), "logprobs", label_mass=0.9)
    about = {"accepted": probability >= 0.5, "rule": "logprobs", "probability": probability, "threshold": 0.5}
    return Turn("teacher", "verdict", f"key-{probability}", result, about)


def finish(run: Path, *transcripts: Transcript) -> Path:
    """Write a run's summary and its scores."""
    summary = Summary(lambda seat: SeatCost())
    for one in transcripts:
        summary.add(one)
    write_json(run / "summary.json", summary.to_json())
    score_run(run, manager=manager_of(make_task()))
    return run


def three_runs(folder: Path) -> list[str]:
    """Write a baseline, a pair with verdicts and thoughts, and a run full of hostile texts; return them as arguments.

    The baseline answers the first four questions right. The pair corrects question 4, spoils question 0, and fails on
    question 7. The hostile run answers with attacks.
    """
    golds = [row["a"] for row in ROWS]
    base = [transcript(i, said("student", "draft", golds[i] if i < 4 else "it is 1")) for i in range(8)]
    pair = [
        transcript(0, said("student", "draft", golds[0]), verdict(0.3), said("student", "refine", "it is 1")),
        *(transcript(i, said("student", "draft", golds[i]), verdict(0.6 + i / 10)) for i in range(1, 4)),
        transcript(4, said("student", "draft", "it is 1"), verdict(0.2), said("student", "refine", golds[4])),
        transcript(5, said("student", "draft", "it is 1"), verdict(0.7)),
        transcript(6, said("student", "draft", "it is 1"),
                   said("teacher", "review", "well", accepted=False, rule="none", malformed=True)),
        failed(7),
    ]  # fmt: skip
    hostile = [
        transcript(i, said("student", "draft", ATTACKS[i]), said("student", "refine", f"{ATTACKS[i]} again"),
                   stop=ATTACKS[i], details={"note": ATTACKS[i]})
        for i in range(8)
    ]  # fmt: skip
    arguments = []
    for name, label, transcripts in (("base", "base", base), ("pair", "pair", pair), ("hostile", LABEL, hostile)):
        config: dict[str, Any] = {"demonstration_pair": True, "run": {"note": ATTACKS[0], "long": ATTACKS[1] * 4}}
        run = write_run(folder / name, *transcripts, label=label, **(config if name == "hostile" else {}))
        arguments.append(str(finish(run, *transcripts)))
    return arguments


def write_report(folder: Path, *arguments: Any) -> Path:
    """Write the report of `three_runs`, as a file or with `--split` as a folder, and return its page."""
    output = folder / ("report" if "--split" in arguments else "report.html")
    assert main([*three_runs(folder), "-o", str(output), *map(str, arguments)]) == 0
    return output / "index.html" if output.is_dir() else output


def parts_of(page: Path) -> dict[str, Any]:
    """Return the unpacked parts of a report in one file."""
    found = re.findall(r'<script type="application/x-deflated" id="part-([^"]+)">([^<]*)</script>', page.read_text())
    texts = {name: zlib.decompress(base64.b64decode(part)).decode() for name, part in found}
    return {name: text if name == "plotly" else json.loads(text) for name, text in texts.items()}

"""Writes `docs/benchmarks.md` from the committed results, so that page and files cannot differ.

The table of all protocols goes to the README, too, between its two marks.

    python benchmarks/page.py
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

HEAD = """\
# Benchmarks

Each figure comes from a script that anyone can run, and from the result it wrote, which is committed. `python
benchmarks/page.py` makes this page from them.
"""

PAIR = """\
## Does feedback help the embedded pair?

    HARNESS_EXT_DATA=<folder> python benchmarks/embedded_pair.py --tasks 1 2 6 7 8 9 10 11 12 13 \\
        --output benchmarks/results/embedded_pair

Exact match of `babi_reasoning` on bAbI's public test rows, zero-shot, plain contexts. The pair never saw a
bAbI row in training; these rows were scored once, after its weights were final. `verdict only` is the control: the
student is told `Incorrect.` and nothing else. On yes/no questions (tasks 6 and 9) the verdict alone can give the
answer away, so they stand apart. The pair was made for tasks 1, 6, 9, 11, 12 and 13, and its student is weak on
purpose ([embedded-pair.md](embedded-pair.md)): the table shows that the machinery works, not what feedback is
worth.
"""

TASKS = """\
Every task apart, also those that the pair was not made for and whose words it cannot read:

    lm_eval --model feedback_pair --tasks babi_reasoning --limit 100 --model_args run_dir=feedback_pair
    lm_eval --model skyline --tasks babi_reasoning --limit 100 --model_args run_dir=skyline
    python benchmarks/babi_tasks.py feedback_pair skyline --output benchmarks/results/babi_tasks.md
"""

MARKS = ("<!-- all protocols: benchmarks/page.py -->", "<!-- end -->")

PROTOCOLS = """\
## All protocols, side by side

    HARNESS_EXT_DATA=<folder> python benchmarks/protocols_table.py --limit 50 \\
        --output benchmarks/results/protocols_table

Each run by task, on yes/no questions and on the others, its costs, and what a mix of the other runs scores at the same
cost: [compare.md](../benchmarks/results/protocols_table/compare.md). Wall time of each run as a whole:
[protocols_table.md](../benchmarks/results/protocols_table/protocols_table.md).
"""

COMPARED = """\
The embedded pair on {number} of bAbI's test rows ({tasks}), each run against `baseline` by `harness-ext compare`:
paired bootstrap by story, Holm's correction over the runs, `up` and `down` the questions that became right and wrong.
`at equal cost` is the difference to the best mix of the other runs that writes as many tokens. The pair never saw a
debate's prompts: those two rows show what a debate costs, not what it is worth."""

EFFICIENCY = """\
## What the engine adds

    python benchmarks/protocol.py efficiency --questions 64 256 1024 --output benchmarks/results/efficiency.json

Wall time of the calls of a `feedback_pair` run issued again as flat batches, divided by the run's own wall time (1
is perfect). `chain bound`: the best that any run could reach, since it has to wait for the question with the
longest chain of calls.
"""

ORIGINAL = """\
    python benchmarks/protocol.py original --questions 64 --output benchmarks/results/original.json

The published way, one question after the other and one `generate` a call, on the same models and calls:
"""

INVARIANCE = """\
    python benchmarks/protocol.py invariance --questions 96 --output benchmarks/results/invariance.json

Drafts with other batch sizes and windows than one by one:
"""

REPEAT = """\
    python benchmarks/protocol.py repeat --questions 256 --output benchmarks/results/repeat.json

A run, and the same run again, answered by the call store:
"""

OVERHEAD = """\
    python benchmarks/overhead.py --questions 100000 --output benchmarks/results/overhead.json

Cost of a call beside the model's, with a backend that answers at once; call store and transcripts on:
"""

HTTP = """\
    python benchmarks/http_cost.py --questions 5000 --output benchmarks/results/http_cost.json

The same for a [served seat](http-seats.md), against a server that answers at once; CPU of the client alone:
"""

SPECULATIVE = """\
## Is `unit=token,accept=greedy` the teacher's own text, and what does it save?

    HARNESS_EXT_DATA=<folder> python benchmarks/speculative.py --questions 200 --alone 20 \\
        --output benchmarks/results/speculative.json

Real bAbI questions, the embedded pair in float32, all questions in padded batches, against `skyline`:
"""

SPECULATIVE_ALONE = """\
Some of them one by one, since transformers' assisted generation takes one question at a time; the passes are the
teacher's forward passes. Student and teacher are of one size, so a draft costs what the teacher's own text does; and
each verification of ours reads the prompt again, where transformers keeps its cache:
"""

STOCK = """\
## Is `max_rounds=0` lm-eval's own `hf`?

    HARNESS_EXT_DATA=<folder> python benchmarks/stock.py babi_reasoning=20 gsm8k_local=4 \\
        --output benchmarks/results/stock.json

Rows whose text differs, the embedded student on the first rows of each task:
"""

ENHANCE_THROUGHPUT = """\
## What `enhance` adds

    python benchmarks/enhance.py throughput --rows 192 --output benchmarks/results/enhance_throughput.json

`annotate` from the input file to the checked output, against the same calls as one flat batch of the same model
(efficiency: 1 is perfect) and against the published way, one row a `generate`; embedded teacher, own stories. Under
load wall times differ from one repetition to the next by more than they differ from each other: the CPU seconds of the
process do not.
"""

ENHANCE_CREAK = """\
    HARNESS_EXT_DATA=<folder> python benchmarks/enhance.py creak --rows 200 \\
        --output benchmarks/results/enhance_creak.json

CREAK's 10,176 training rows through `prepare`, the first of them through the embedded teacher, which knows stories
only: its texts are noise here, and the checks say so.
"""

ENHANCE_STORIES = """\
    python benchmarks/enhance.py stories --rows 300 --output benchmarks/results/enhance_stories.json

The same on own stories. `error_text` and `fundamental_text` are prompts the teacher never learned: it solves the story
instead, which shows as leaks.
"""

ENHANCE_PREFERENCES = """\
Preferences between four sampled candidates of the embedded student (copies dropped). Agreement is over the
matches that both decide; the teacher has learned to review one answer, not to compare two:
"""

INTERVALS = """\
## Do the intervals and tests of `compare` keep their word?

    python benchmarks/intervals.py --output benchmarks/results/intervals.json

Coverage of nominal 95 % intervals (at least 0.95 is wanted), how often tests at 5 % find what is not there (at most
0.05), and how often they find the difference that `compare` calls detectable (at least 0.8), over kinds of data and
numbers of questions; the worst of them, where it was found, and all of them on average. Shares are computed exactly,
the rest is simulated:
"""

FINETUNE_SHOW = """\
## {title}

    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_show.py {show}

{about}
With the time of each step: [finetune_{show}.md](../benchmarks/results/finetune_{show}.md).
"""

SHOWS = {
    "chain": (
        "From data to a scored checkpoint",
        """\
300 of bAbI's training rows (all that there are here of six tasks), prepared, answered by the embedded teacher, checked,
and learned by the embedded student; then every epoch on bAbI's test rows. The student comes from an early stage of the
teacher's own training, so it has little left to learn: no other pair will gain as much as fast.""",
    ),
    "preferences": (
        "Preferences, DPO and ORPO",
        "Candidates of the student for the same rows, judged by the teacher's reviews; DPO and ORPO on the pairs.",
    ),
    "targets": (
        "Golden against teacher targets",
        """\
The bare answer (golden) against the teacher's rationale (teacher) as what the student learns to write, for four ways
of training.""",
    ),
    "creak": (
        "CREAK, enhanced and learned",
        """\
CREAK's training rows with rationales of the embedded teacher, which knows stories only: its texts are noise here, and
what comes of them is what is to be expected.""",
    ),
}

CREAK_STUDY = """\
## CREAK: a small model against chance

    HARNESS_EXT_DATA=<folder> python benchmarks/creak_study.py

The embedded student, trained on CREAK's training rows, on all its validation rows here, by stock `hf`:
"""

FINETUNE_SPEED = """\
## What `finetune` costs beside TRL

    python benchmarks/finetune_speed.py --rows 1000 --epochs 1 --repeats 5 \\
        --output benchmarks/results/finetune_speed.json

Tokens a second of training against a bare TRL script with the same settings, by turns:
"""

FINETUNE_MATRIX = """\
## What can be trained: method × adapter × DeepSpeed

    python benchmarks/finetune_matrix.py --output benchmarks/results/finetune_matrix.json

Each case trains, has its end and its last checkpoint torn, and resumes; `ok` with the largest difference of a step's
loss between the two (tolerance 1e-4), `refused` with the preflight's rule. Two processes under DeepSpeed, CPU, float32.
"""

STARTUP = """\
## Start-up

`python benchmarks/startup.py`: see [plugins.md](plugins.md).
"""


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows of equal keys as a Markdown table."""
    names = list(rows[0])
    lines = [f"| {' | '.join(n.replace('_', ' ') for n in names)} |", "|" + " --- |" * len(names)]
    lines += [f"| {' | '.join(str(row[n]) for n in names)} |" for row in rows]
    return "\n".join(lines) + "\n"


def load(name: str) -> Any:
    """Return a committed result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def overhead_rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name in ("first_run", "repeated_run"):
        run = result[name]
        memory = run["memory_mib"]
        rows.append(
            {
                "run": name.replace("_", " "),
                "questions": result["questions"],
                "CPU ms a call": run["cpu_ms_a_call"],
                "wall ms a call": run["wall_ms_a_call"],
                "MiB before": memory["before"],
                "MiB after a tenth": memory["at_each_tenth"][0],
                "MiB at the end": memory["at_each_tenth"][-1],
            }
        )
    return rows


def protocol_part(name: str) -> str:
    """Return the table of one of `benchmarks/protocol.py`'s measures."""
    result = load(f"{name}.json")
    return f"{table(result['rows'])}\nBatch size {result['batch_size']}; {result['machine']}.\n"


def http_part() -> str:
    result = load("http_cost.json")
    at_once = f"{result['questions']} calls, {result['num_concurrent']} at once"
    return f"{table(result['rows'])}\n{at_once}; {result['machine']}, load {result['load_average'][0]}.\n"


def overhead_part() -> str:
    result = load("overhead.json")
    return f"{table(overhead_rows(result))}\n{result['machine']}, load {result['load_average'][0]}.\n"


def speculative_part() -> str:
    result = load("speculative.json")
    whole = dict(result["batches"])
    times = [{"run": name, **whole.pop(name)} for name in ("plain", "speculative_pair")]
    words = f"{result['alone_questions']} questions; {result['machine']}."
    return "\n".join([table([whole]), table(times), SPECULATIVE_ALONE, table(result["alone"]), words + "\n"])


def creak_part() -> str:
    result = load("enhance_creak.json")
    prepared = result["prepared"]
    words = f"Prepared: {prepared['written']} of {prepared['read']} rows. Fields at the end: "
    return f"{table(result['rows'])}\n{words}{', '.join(f'`{f}`' for f in result['fields'])}. {result['machine']}.\n"


def stories_part() -> str:
    result = load("enhance_stories.json")
    return f"{table(result['rows'])}\n{ENHANCE_PREFERENCES}\n{table(result['preferences'])}\n{result['machine']}.\n"


def show_part(show: str) -> str:
    """Return a show's tables: the page it wrote between its command and its steps, without the comparison by task."""
    text = (RESULTS / f"finetune_{show}.md").read_text(encoding="utf-8")
    body = text.partition("thread(s)).\n\n")[2].partition("\n| step |")[0].partition("\n**")[0]
    return body.replace("\n## ", "\n### ").removeprefix("\n").replace("## ", "### ", 1) + "\n"


def creak_study_part() -> str:
    result = load("creak_study.json")
    rows = []
    for name, key in (("before training", "before"), ("after", "after"), ("always the same letter", "constant_answer")):
        found = result[key]
        low, high = found["interval"]
        rows.append(
            {
                "model": name,
                "rows": found["rows"],
                "accuracy (95 %)": f"{found['accuracy']:.3f} [{low:.3f}, {high:.3f}]",
            }
        )
    p_value = result["p_after_differs_from_constant"]
    return (
        f"{table(rows)}\n{result['training_rows']} training rows, {result['epochs']} epoch(s), {result['seconds']} s; "
        f"p of the difference to the constant answer: {p_value:.2g}; the trained model answers A on "
        f"{result['answers_A_after']:.0%} of the rows.\n"
    )


def speed_part() -> str:
    result = load("finetune_speed.json")
    rows = [
        {"run": n, "tokens a second": ", ".join(f"{v:.0f}" for v in found)}
        for n, found in result["tokens_per_second"].items()
    ]
    return f"{table(rows)}\nRatio of the medians: {result['ratio']:.3f} ({result['tokens']} tokens a run).\n"


def intervals_part() -> str:
    """Return the worst and the mean of each promise; the worst of tests that find nothing is the largest."""
    result = load("intervals.json")
    rows = []
    for what in dict.fromkeys(row["what"] for row in result["rows"]):
        found = [row for row in result["rows"] if row["what"] == what]
        worst = (max if "nothing" in what else min)(found, key=lambda row: row["value"])
        rows.append(
            {
                "promise": what,
                "settings": len(found),
                "worst": f"{worst['value']:.3f}" + (f" ± {worst['error']:.3f}" if worst["error"] else ""),
                "where": f"{worst['data']}, n = {worst['n']}",
                "mean": f"{sum(row['value'] for row in found) / len(found):.3f}",
            }
        )
    return f"{table(rows)}\n{result['times']} samples each; {result['machine']}.\n"


def compared_part() -> str:
    """Return the table of all protocols over all tasks, from what `harness-ext compare` wrote."""
    found = [row for row in load("protocols_table/compare.json")["rows"] if row["pool"]["name"] == "all tasks"]
    rows = []
    for row in found:
        other, cost = row["difference"], row["cost"]
        equal = row["equal_cost"].get("output tokens")
        rows.append(
            {
                "run": row["run"],
                "exact match (95 %)": _with_interval(row, ".3f"),
                "to baseline (95 %)": _with_interval(other, "+.3f") if other else "",
                "p (Holm)": f"{other['adjusted']:.2g}" if other else "",
                "up": other["up"] if other else "",
                "down": other["down"] if other else "",
                "tokens read": _number(cost["prompt_tokens"]),
                "tokens written": _number(cost["completion_tokens"]),
                "seconds": _number(cost["seconds"], ".2f"),
                "at equal cost": _with_interval(equal | {"value": equal["difference"]}, "+.3f") if equal else "",
            }
        )
    names = [name.rpartition("_")[2] for name in found[0]["pool"]["tasks"]]
    tasks = f"tasks {', '.join(sorted(names, key=int))}"
    others = found[1:]
    no_better = [row["run"] for row in others if not _is_gain(row["difference"])]
    no_cheaper = [row["run"] for row in others if row["equal_cost"]["output tokens"]["interval"]["low"] <= 0]
    verdict = (
        f"Not better than `baseline` (p ≥ 0.05): {', '.join(no_better) or 'none'}. Not better than the other runs at "
        f"equal cost (the interval holds 0 or lies below): {', '.join(no_cheaper) or 'none'}.\n"
    )
    words = COMPARED.format(number=found[0]["number"], tasks=tasks)
    return (
        f"{words}\n\n{table(rows)}\n{verdict}\nMeasured on {load('protocols_table/protocols_table.json')['machine']}.\n"
    )


def _is_gain(difference: dict[str, Any]) -> bool:
    return bool(difference["value"] > 0 and difference["adjusted"] < 0.05)


def _with_interval(of: dict[str, Any], form: str) -> str:
    low, high = of["interval"]["low"], of["interval"]["high"]
    return f"{of['value']:{form}} [{low:{form}}, {high:{form}}]"


def _number(value: float | None, form: str = ".0f") -> str:
    return "?" if value is None else format(value, form)


SECTIONS = (
    ("embedded_pair.md", PAIR, lambda: (RESULTS / "embedded_pair.md").read_text(encoding="utf-8")),
    ("babi_tasks.md", TASKS, lambda: (RESULTS / "babi_tasks.md").read_text(encoding="utf-8")),
    ("protocols_table/compare.json", PROTOCOLS, compared_part),
    ("efficiency.json", EFFICIENCY, lambda: protocol_part("efficiency")),
    ("original.json", ORIGINAL, lambda: protocol_part("original")),
    ("invariance.json", INVARIANCE, lambda: protocol_part("invariance")),
    ("repeat.json", REPEAT, lambda: protocol_part("repeat")),
    ("overhead.json", OVERHEAD, overhead_part),
    ("http_cost.json", HTTP, http_part),
    ("enhance_throughput.json", ENHANCE_THROUGHPUT, lambda: protocol_part("enhance_throughput")),
    ("enhance_creak.json", ENHANCE_CREAK, creak_part),
    ("enhance_stories.json", ENHANCE_STORIES, stories_part),
    ("speculative.json", SPECULATIVE, speculative_part),
    *(
        (f"finetune_{show}.md", FINETUNE_SHOW.format(show=show, title=title, about=about), partial(show_part, show))
        for show, (title, about) in SHOWS.items()
    ),
    ("finetune_speed.json", FINETUNE_SPEED, speed_part),
    ("finetune_matrix.md", FINETUNE_MATRIX, lambda: (RESULTS / "finetune_matrix.md").read_text(encoding="utf-8")),
    ("creak_study.json", CREAK_STUDY, creak_study_part),
    ("intervals.json", INTERVALS, intervals_part),
    ("stock.json", STOCK, lambda: table(load("stock.json"))),
)


def main() -> None:
    parts = [HEAD]
    for name, text, part in SECTIONS:
        if (RESULTS / name).exists():
            parts += [text, part()]
        else:
            parts += [f"{text}\nNot measured yet: `benchmarks/results/{name}` is not there.\n"]
    parts.append(STARTUP)
    (ROOT / "docs" / "benchmarks.md").write_text("\n".join(parts), encoding="utf-8")
    readme = ROOT / "README.md"
    before, mark, rest = readme.read_text(encoding="utf-8").partition(MARKS[0] + "\n")
    after = rest[rest.index(MARKS[1]) :]
    readme.write_text(f"{before}{mark}{compared_part()}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

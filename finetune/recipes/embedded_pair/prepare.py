"""Write the files that the recipe's YAML files name: the untrained models and the rows of each stage.

`python -m harness_ext.finetune.recipes.embedded_pair.prepare` writes to `scratch/pair/` in the working directory.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness_ext.embedded.stories import FAMILIES
from harness_ext.files import atomic_write
from harness_ext.finetune.recipes.embedded_pair.honest_rows import honest_rows
from harness_ext.finetune.recipes.embedded_pair.model import write_untrained
from harness_ext.finetune.recipes.embedded_pair.training_rows import rows

SEED = 20260
ROOT = Path("scratch") / "pair"
# The families on which the pair is evaluated are drawn three times as often as the others.
MAIN = ("one_fact", "yes_no", "negation", "coreference", "conjunction", "compound_coreference")
DRAWN = (*MAIN, *MAIN, *FAMILIES)


@dataclass(frozen=True)
class Stage:
    """A stage of the curriculum.

    name: its name in the YAML file.
    count: number of rows.
    lines: least and greatest number of lines per story.
    shares: relative frequency of each kind of row.
    """

    name: str
    count: int
    lines: tuple[int, int]
    shares: dict[str, float]


# The student continues from the teacher's second stage: by then it can read, and it is taught what to overlook.
STAGES = {
    "student": (Stage("s1", 24_000, (2, 10), {"draft": 5, "continue": 1, "refine": 4}),),
    "teacher": (
        Stage("s1", 30_000, (2, 4), {"draft": 8, "continue": 1, "review": 1}),
        Stage("s2", 40_000, (2, 7), {"draft": 6, "continue": 1, "review": 3}),
        Stage("s3", 44_000, (2, 10), {"draft": 6, "continue": 1, "review": 4}),
    ),
    # It is taught no mistakes. A second look and a rejection without a hint are as familiar to it as a review.
    "small_student": (
        Stage("s1", 24_000, (2, 4), {"draft": 8, "continue": 1}),
        Stage("s2", 16_000, (2, 10), {"draft": 4, "continue": 1, "refine": 2, "retry": 2, "look": 2}),
    ),
}
# The folder of the untrained model. The pair has one in common.
INIT = {"student": "init", "teacher": "init", "small_student": "small-init"}


def main(argv: list[str] | None = None) -> int:
    """Write the untrained model and all rows. Files that exist already are left unchanged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT)
    root: Path = parser.parse_args(argv).out
    (root / "rows").mkdir(parents=True, exist_ok=True)
    for seat in STAGES:
        if not (root / INIT[seat] / "config.json").is_file():
            print(f"{root / INIT[seat]}: {write_untrained(root / INIT[seat], SEED, seat)} weights")
        for number, stage in enumerate(STAGES[seat]):
            path = root / "rows" / f"{seat}-{stage.name}.jsonl"
            if path.is_file():
                continue
            draw = honest_rows if seat == "small_student" else partial(rows, seat)
            drawn = draw(SEED + 10 * number + list(STAGES).index(seat), DRAWN, stage.lines, stage.shares)
            with atomic_write(path) as out:
                out.writelines(json.dumps(row) + "\n" for row in itertools.islice(drawn, stage.count))
            print(f"{path}: {stage.count} rows")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

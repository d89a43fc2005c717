"""Write `test_hashes.txt` from public test rows: `python -m harness_ext.embedded.stories.make_hashes ROWS.jsonl`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness_ext.embedded.stories.seen import question_hash


def main(argv: list[str]) -> int:
    """Read bAbI rows (`passage`, `question`) and write their sorted hashes next to this file."""
    if len(argv) != 1:
        print("usage: python -m harness_ext.embedded.stories.make_hashes ROWS.jsonl", file=sys.stderr)
        return 2
    with open(argv[0], encoding="utf-8") as rows:
        hashes = sorted({question_hash(row["passage"], row["question"]) for row in map(json.loads, rows)})
    Path(__file__).with_name("test_hashes.txt").write_text("\n".join(hashes) + "\n", encoding="ascii")
    print(f"{len(hashes)} hashes written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

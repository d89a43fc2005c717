"""A disk that becomes full during a run: the error names the remedy, and the same command goes on from there."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import instances, scripted_pair

from harness_ext.models.feedback_pair import FeedbackPairLM

QUESTIONS, FULL_AT = 40, 15
CHILD = textwrap.dedent("""
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from test_full_disk import answer
    from harness_ext.errors import HarnessExtError

    try:
        answer(Path(sys.argv[2]), sys.argv[3], limit=int(sys.argv[4]))
    except HarnessExtError as error:
        print(type(error).__name__, error)
        sys.exit(3)
""")


def answer(folder: Path, store: str, limit: int | None = None) -> tuple[int, list[str]]:
    """Run the evaluation and return the number of the student's calls and the texts.

    To a process, a limit on the size of its files looks like a full disk. With `limit`, there is one from a call on.
    """
    calls = 0

    def student(prompt: str) -> str:
        nonlocal calls
        calls += 1
        if limit is not None and calls == FULL_AT:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return f"an answer to {prompt}"

    pair = scripted_pair(student, lambda prompt: "Correct.")
    lm = FeedbackPairLM(student=pair[0], teacher=pair[1], store=store, run_dir=folder / "run", progress="off", window=1)
    asked = [f"question {i} {'x' * 100}" for i in range(QUESTIONS)]
    texts = lm.generate_until(instances(asked, {"until": [], "max_gen_toks": 12}))
    return calls, texts


@pytest.mark.parametrize(
    ("full", "limit"),
    [
        ("store", 60_000),  # by then, the store's log is larger, and the run's files are not
        ("run directory", 0),
        ("both", 0),
    ],
)
def test_a_full_disk_ends_a_run_with_the_remedy(tmp_path: Path, full: str, limit: int) -> None:
    store = "off" if full == "run directory" else str(tmp_path / "store")
    arguments = [str(Path(__file__).parent), str(tmp_path), store, str(limit)]
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 3, ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout.startswith("StoreError")
    assert "make room" in ended.stdout
    assert "run the same command again" in ended.stdout
    named = str(tmp_path / ("run" if full == "run directory" else "store"))
    assert named in ended.stdout, "the first thing that failed is what is named"
    calls, texts = answer(tmp_path, store)
    assert len(texts) == QUESTIONS
    assert calls <= QUESTIONS - FULL_AT + 1, "what was finished is not asked again"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["answered"] == QUESTIONS

"""Annotates rows with a local model and kills itself (SIGKILL) in the middle of their batch; for test_hf_rows.py.

    python kill_in_batch.py <folder> <model> <pass> <rows>

The process ends before the model's forward pass of the given number, as soon as the given number of rows is in the
records. It ends with status 1 if they do not come.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from harness_ext.backends.hf import HFBackend
from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate
from harness_ext.enhance.running import plan_seats

PATIENCE = 120.0  # seconds
GEN = {"until": ["e"], "max_gen_toks": 40, "do_sample": False}


def main(folder: Path, model: str, moment: int, rows: int) -> None:
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == moment:
            give_up = time.monotonic() + PATIENCE
            records = folder / "out.records.jsonl.partial"
            while records.read_text().count("\n") < rows:
                if time.monotonic() > give_up:
                    os._exit(1)
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)

    plan = plan_seats(
        Annotate, {"teacher": f"hf:{model}"}, {"store": str(folder / "store"), "progress": "off"},
        batch_size=8, device="cpu",
    )  # fmt: skip
    backend = plan.seats["teacher"].backend
    assert isinstance(backend, HFBackend)
    backend.load()
    backend.loaded = True
    backend.lm.model.register_forward_pre_hook(count)
    annotate(AnnotateJob(folder / "in.jsonl", folder / "out.jsonl", "cot_text", GEN), plan)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

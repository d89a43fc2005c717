"""Tests of served seats with a real server: `transformers serve` with the embedded teacher, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import free_port, wait_until
from support import instance, instances

from harness_ext.embedded import model_path
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

pytestmark = pytest.mark.timeout(600)  # importing torch and transformers takes the server minutes on a busy machine

STORIES = [
    "1 Mary went to the garden.\n2 John went to the kitchen.\nWhere is Mary?",
    "1 Daniel journeyed to the office.\n2 After that he travelled to the garden.\nWhere is Daniel?",
    "1 Sandra moved to the hallway.\n2 Sandra picked up the milk.\nWhere is Sandra?",
    "1 John and Mary went to the office.\n2 Then they moved to the bathroom.\nIs Mary in the office?",
]
GREEDY = {"until": ["\n\n"], "max_gen_toks": 40}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server and return the seat's specification."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    pytest.importorskip("openai")
    teacher, port = model_path("teacher"), free_port()
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    command = [Path(sys.executable).with_name("transformers"), "serve", teacher, "--device", "cpu", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)

    def ready() -> bool:
        log.seek(0)
        assert process.poll() is None, log.read()
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    try:
        wait_until(ready, 400)
        yield f"openai:{teacher}@http://localhost:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def options(folder: Path) -> dict[str, Any]:
    return {"store": "off", "run_dir": folder, "progress": "off", "device": "cpu"}


def test_a_served_model_writes_what_it_writes_locally(tmp_path: Path, served: str) -> None:
    chats = [
        instance(ChatContext.of([{"role": "user", "content": s}]), GREEDY, doc_id=i) for i, s in enumerate(STORIES)
    ]
    for endpoint, asked in (("completions", instances(STORIES, GREEDY)), ("chat", chats)):
        there = BaselineLM(student=served, **options(tmp_path / endpoint), **{"student.endpoint": endpoint})
        here = BaselineLM(student=str(model_path("teacher")), **options(tmp_path / f"{endpoint}-local"))
        assert there.generate_until(asked) == here.generate_until(asked)


def test_a_mixed_pair_equals_the_local_one(tmp_path: Path, served: str) -> None:
    """With a served teacher, every turn, verdict and count is the same as with a local one."""
    kinds: dict[str, list[Any]] = {}
    for name, teacher in (("local", str(model_path("teacher"))), ("mixed", served)):
        lm = FeedbackPairLM(
            student=str(model_path("student")), teacher=teacher, max_rounds=2, review_max_tokens=40,
            **options(tmp_path / name),
        )  # fmt: skip
        lm.generate_until(instances(STORIES, GREEDY))
        kinds[name] = [
            [(t.seat, t.kind, t.text, t.verdict, t.finish) for t in transcript.turns]
            for transcript in sorted(read_transcripts(lm.session.run.path), key=lambda t: t.doc_id)
        ]
        usage = lm.get_model_info()["harness_ext"]["summary"]["usage"]
        kinds[f"{name} tokens"] = [
            usage["teacher"]["total"][n] for n in ("calls", "prompt_tokens", "completion_tokens")
        ]
    assert kinds["mixed"] == kinds["local"]
    assert kinds["mixed tokens"] == kinds["local tokens"]

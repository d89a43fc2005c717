"""Tests of servers that a run starts, with real engines: `transformers serve`, and others where they are."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from deciding_support import ask, request_of
from engines import PROGRAM, VLLM
from lm_eval.api.instance import Instance
from serve_support import is_running
from servers import wait_until
from support import instances
from test_http_real import CLOSE, decided, largest_difference, local
from tiny_chat import tiny_chat_model

from harness_ext.decisions import Predicate
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts
from models import MODELS, Unavailable, converted, fetch, models_folder

pytestmark = pytest.mark.timeout(600)  # importing torch and transformers takes the server minutes on a busy machine

GREEDY = {"until": ["\n\n"], "max_gen_toks": 12}


def chats(count: int) -> list[Any]:
    """Return requests that carry messages, as lm-eval builds them with a chat template."""
    said = [[{"role": "user", "content": f"Is {n} + {n} = {2 * n}?"}] for n in range(count)]
    return instances([ChatContext.of(messages) for messages in said], GREEDY)


def begun(count: int) -> list[Any]:
    """Return requests whose replies are begun by the task, as lm-eval builds them with `gen_prefix`."""
    said = [
        [{"role": "user", "content": f"Count from {n}."}, {"role": "assistant", "content": f"{n}, {n + 1}, {n + 2},"}]
        for n in range(1, count + 1)
    ]
    return instances([ChatContext.of(messages) for messages in said], GREEDY)


def backend_of(lm: Any, seat: str = "student") -> Any:
    """Return the backend of a seat."""
    return lm.plan.seats[seat].backend


def scored(pairs: list[tuple[str, str]]) -> list[Any]:
    """Return requests for the log-likelihoods of continuations."""
    return [
        Instance("loglikelihood", doc={}, arguments=pair, idx=0, metadata=("scored", n, 1))
        for n, pair in enumerate(pairs)
    ]


def server_pid(lm: Any, seat: str) -> int:
    """Return the process number of the server behind a seat."""
    return int(lm.plan.seats[seat].backend._server._state.process.pid)


def test_transformers_serve_answers_as_the_model_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(module)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody answers there, and nobody may be asked
    model = tiny_chat_model(tmp_path / "model")
    common = {"store": str(tmp_path / "calls"), "progress": "off", "device": "cpu"}
    there = BaselineLM(
        student=f"serve:{model}", run_dir=tmp_path / "there",
        **{"student.serve.engine": "transformers", "student.serve.python": sys.executable, **common},
    )  # fmt: skip
    asked = chats(4)
    found = there.generate_until(asked)
    pid = server_pid(there, "student")
    here = BaselineLM(student=f"hf:{model}", run_dir=tmp_path / "here", **common)
    assert found == here.generate_until(asked)
    assert any(found)
    usage = [turn.result for t in read_transcripts(tmp_path / "there") for turn in t.turns]
    assert all(u.prompt_tokens and u.completion_tokens for u in usage)
    decisions = decided(backend_of(there), ("endpoint", "logprobs", "constrained"))
    assert {decision.source for decision in decisions} == {"endpoint"}
    assert largest_difference(decided(local(model), ("logprobs",)), decisions) < CLOSE
    del there
    gc.collect()
    wait_until(lambda: not is_running(pid), 60)
    # Another server on another port, with a copy of the model elsewhere, finds the replies in the store.
    copy = shutil.copytree(model, tmp_path / "copy")
    again = BaselineLM(
        student=f"serve:{copy}", run_dir=tmp_path / "again",
        **{"student.serve.engine": "transformers", **common},
    )  # fmt: skip
    assert again.generate_until(asked) == found
    assert again.plan.seats["student"].backend._server._state.process is None


def llama() -> tuple[str, str]:
    """Return the paths of llama.cpp's server and of a chat model; the test is skipped where they are missing."""
    built = models_folder() / PROGRAM
    program = os.environ.get("HARNESS_EXT_LLAMA_SERVER") or shutil.which(PROGRAM) or (built.exists() and str(built))
    if not program:
        pytest.skip(
            "llama-server is neither on the PATH nor named by HARNESS_EXT_LLAMA_SERVER (`make engines` builds it)"
        )
    if model := os.environ.get("HARNESS_EXT_GGUF"):
        return program, model
    try:
        return program, str(fetch(MODELS["smollm2"], models_folder()))
    except Unavailable as error:
        pytest.skip(f"no real model: {error}")


@pytest.mark.real
def test_llama_cpp_answers_both_seats(tmp_path: Path) -> None:
    program, model = llama()
    lm = FeedbackPairLM(
        student=f"serve:{model}", teacher=f"serve:{model}", max_rounds=1, review_max_tokens=24, store="off",
        progress="off", run_dir=tmp_path / "run",
        **{f"{seat}.serve.binary": program for seat in ("student", "teacher")},
    )  # fmt: skip
    answers = lm.generate_until(chats(3))
    pid = server_pid(lm, "student")
    assert pid == server_pid(lm, "teacher")
    assert all(answers)
    turns = [turn for t in read_transcripts(tmp_path / "run") for turn in t.turns]
    assert {turn.seat for turn in turns} == {"student", "teacher"}
    assert all(turn.result.prompt_tokens and turn.result.cached_tokens is not None for turn in turns)
    assert any(turn.result.cached_tokens for turn in turns), "the server keeps prompts"
    decisions = decided(backend_of(lm), ("endpoint", "logprobs", "constrained"))
    assert {decision.source for decision in decisions} == {"logprobs"}
    (forced,) = ask(backend_of(lm), request_of(backend_of(lm), Predicate("Is it true?"), sources=("constrained",)))
    assert forced.source == "constrained"
    assert forced.choice in forced.options
    del lm
    gc.collect()
    wait_until(lambda: not is_running(pid), 60)


@pytest.mark.real
def test_llama_cpp_continues_a_reply_and_its_beginning_is_not_repeated(tmp_path: Path) -> None:
    program, model = llama()
    lm = BaselineLM(
        student=f"serve:{model}", store="off", progress="off", run_dir=tmp_path / "run",
        **{"student.serve.binary": program},
    )  # fmt: skip
    assert [text[:8] for text in lm.generate_until(begun(2))] == [" 4, 5, 6", " 5, 6, 7"]


def vllm() -> str:
    """Return an interpreter that has vLLM; the test is skipped where there is none."""
    built = models_folder() / VLLM / "bin" / "python"
    python = os.environ.get("HARNESS_EXT_VLLM_PYTHON") or (built.exists() and str(built))
    if not python:
        pytest.skip("HARNESS_EXT_VLLM_PYTHON names no interpreter with vLLM (`make engines ARGS=vllm` installs it)")
    return python


@pytest.mark.real
@pytest.mark.timeout(3600)  # vLLM takes minutes to start on a busy machine
def test_vllm_answers_decides_continues_and_scores_as_the_model_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All seats share one server. In float32, what they say is what transformers says."""
    python = vllm()
    try:
        model = converted(MODELS["smollm2"], models_folder())
    except Unavailable as error:
        pytest.skip(f"no real model: {error}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # the server inherits it, and compiles nothing
    common = {"store": "off", "progress": "off", "device": "cpu"}
    serve = {
        "student.serve.python": python, "student.serve.context": 1024, "student.serve.slots": 4,
        "student.serve.args": "--dtype float32 --enforce-eager",
    }  # fmt: skip
    there = BaselineLM(student=f"serve:{model}", run_dir=tmp_path / "there", **serve, **common)
    here = BaselineLM(student=f"hf:{model}", run_dir=tmp_path / "here", **common)
    assert backend_of(there)._server.engine.name == "vllm"
    for asked in (chats(4), begun(4)):
        assert there.generate_until(asked) == here.generate_until(asked)
    pid = server_pid(there, "student")

    decisions = decided(backend_of(there), ("endpoint", "logprobs", "constrained"))
    assert {decision.source for decision in decisions} == {"logprobs"}
    assert largest_difference(decided(local(model), ("logprobs",)), decisions) < CLOSE
    forced = decided(backend_of(there), ("constrained",))
    assert all(d.source == "constrained" and d.choice in d.options and d.probabilities == () for d in forced)

    text = BaselineLM(
        student=f"serve:{model}", run_dir=tmp_path / "text", **serve, **common,
        **{"student.endpoint": "completions", "student.tokenizer": str(model)},
    )  # fmt: skip
    pairs = [("The sky is", " blue"), ("One two three", " four"), ("One two three", " Monday morning")]
    ours, theirs = (lm.loglikelihood(scored(pairs)) for lm in (here, text))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert [value for value, _ in theirs] == pytest.approx([value for value, _ in ours], abs=CLOSE)
    assert server_pid(text, "student") == pid

"""Tests of served seats with real servers on loopback: `transformers serve`, and llama.cpp's where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from deciding_support import ask, request_of
from servers import free_port, wait_until
from support import instance, instances
from tasks_support import task_manager
from tiny_chat import tiny_chat_model

import models
from harness_ext.backends.base import CANNOT_DECIDE, Backend, DecideRequest
from harness_ext.backends.registry import make_backend, parse_spec
from harness_ext.decisions import Choice, Predicate, Score
from harness_ext.embedded import model_path
from harness_ext.errors import CallFailed
from harness_ext.finetune.decision_rows import decision_settings
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.decision import DecisionLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.records import Decision, Source
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


@contextmanager
def running(command: list[Any], port: int, log_file: Path) -> Iterator[str]:
    """Run a server until it is no longer needed, and provide its address once it is healthy."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log_file.open("w+") as log:
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
            yield f"http://localhost:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def transformers_serve(model: str | Path, folder: Path) -> Iterator[str]:
    """Run `transformers serve`, and provide the specification of a seat with the model."""
    for module in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(module)
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--device", "cpu", "--port", port]
    with running(command, port, folder / "log") as url:
        yield f"openai:{model}@{url}"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server and return the seat's specification."""
    with transformers_serve(model_path("teacher"), tmp_path_factory.mktemp("serve")) as spec:
        yield spec


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
    """With a served teacher, every turn, written verdict and count is the same as with a local one."""
    kinds: dict[str, list[Any]] = {}
    for name, teacher in (("local", str(model_path("teacher"))), ("mixed", served)):
        lm = FeedbackPairLM(
            student=str(model_path("student")), teacher=teacher, max_rounds=2, review_max_tokens=40, verdict="text",
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


# -- decisions ---------------------------------------------------------------------------------------------------------

QUESTIONS = (
    Predicate("Is it true?"),
    Predicate("Is a person named?", true="there is a name", false="there is none"),
    Choice("What is it about?", ("nature", "numbers", "people"), ("plants and animals", "", "what they do")),
    Score("How plausible is it?", ("not at all", "somewhat", "entirely")),
)
STATES = ("Mary went to the garden.", "2 + 2 = 5", 'He says: "Yes.\nThe answer is B."', "Снег белый. 🙂")
TEMPERATURE = {"noul": 0.5, "choice": 2.0, "score": 3.0}  # by type of question, as in a `decision.json`
CLOSE = 0.02  # per probability, for which float32 leaves room; what was measured is a thousandth of it


def decided(backend: Backend, sources: tuple[Source, ...]) -> list[Decision]:
    """Return a model's decisions on all questions about all states."""
    asked = [request_of(backend, question, state, sources) for state in STATES for question in QUESTIONS]
    return ask(backend, *asked)


def local(model: str | Path) -> Backend:
    """Return a model in this process, in float32."""
    backend = make_backend(parse_spec(f"hf:{model}", {"dtype": "float32", "device": "cpu"}))
    backend.prepare()
    backend.load()
    return backend


def largest_difference(ours: list[Decision], theirs: list[Decision]) -> float:
    """Return by how much the probabilities of two models' decisions differ at most."""
    pairs = [
        (p, q)
        for a, b in zip(ours, theirs, strict=True)
        for p, q in zip(a.probabilities, b.probabilities, strict=True)
        if p is not None and q is not None
    ]
    assert len(pairs) > len(ours)
    return max(abs(p - q) for p, q in pairs)


@pytest.fixture(scope="module")
def tiny_served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Serve a tiny chat model with the settings of a decision teacher; return its folder and the specification."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_chat_model(folder / "model")
    settings = decision_settings(AutoTokenizer.from_pretrained(model))
    settings.temperature = TEMPERATURE
    settings.save_pretrained(model)
    with transformers_serve(model, folder) as spec:
        yield model, spec


@pytest.mark.data
def test_decision_is_scored_alike_by_a_server_and_in_this_process(
    tmp_path: Path, tiny_served: tuple[str, str], data_dir: Path
) -> None:
    """`lm_eval --model decision` over `transformers serve`, on real yes/no and multiple-choice questions."""
    import lm_eval

    model, spec = tiny_served
    tasks, url = ["creak", "teacherlm_mmlu_global_facts"], spec.partition("@")[2]
    found = []
    for name, arguments in (
        ("here", {"pretrained": model, "dtype": "float32", "device": "cpu"}),
        ("there", {"base_url": url, "model": model}),
    ):
        lm = DecisionLM(**arguments, run_dir=tmp_path / name, store="off", progress="off")
        evaluated = lm_eval.simple_evaluate(
            model=lm, tasks=list(tasks), limit=15, bootstrap_iters=0, task_manager=task_manager(mmlu_split="test")
        )
        assert evaluated is not None
        found.append(evaluated)
    here, there = found
    for task in tasks:
        assert here["results"][task]["acc,none"] == there["results"][task]["acc,none"]
        pairs = zip(here["samples"][task], there["samples"][task], strict=True)
        for ours, theirs in pairs:
            values = [[float(resp[0][0]) for resp in sample["resps"]] for sample in (ours, theirs)]
            assert values[0] == pytest.approx(values[1], abs=1e-4)
    sources = {turn.result.source for t in read_transcripts(tmp_path / "there") for turn in t.turns}  # type: ignore[attr-defined]
    assert sources == {"endpoint"}


def test_decisions_of_transformers_serve_equal_local_ones(tiny_served: tuple[str, str], tmp_path: Path) -> None:
    """Its System One endpoint answers from the same prompt, tokens and temperatures as a local decision teacher."""
    model, spec = tiny_served
    backend = make_backend(parse_spec(spec, {}))
    there = decided(backend, ("endpoint", "logprobs", "constrained"))
    many = Choice("Which?", tuple(f"option {i}" for i in range(30)))
    with pytest.raises(CallFailed, match="at most 26 options"):
        ask(backend, DecideRequest("", many.options, (), ("endpoint",), many, "x"))
    # It ignores `logprobs` without a word, and cannot force a choice. The random model writes parts of characters.
    with pytest.raises(CallFailed, match=r"of the first token: (its replies have no|it does not report)") as raised:
        ask(backend, request_of(backend, QUESTIONS[0], sources=("logprobs", "constrained")))
    here = decided(local(model), ("logprobs",))
    assert raised.value.code == CANNOT_DECIDE
    assert {decision.source for decision in there} == {"endpoint"}
    assert largest_difference(here, there) < CLOSE
    assert [d.choice for d in there] == [d.choice for d in here]
    assert [d.prompt_tokens for d in there] == [d.prompt_tokens for d in here]
    assert {d.completion_tokens for d in there} == {0}
    assert max(d.probabilities[0] for d in here) - min(d.probabilities[0] for d in here) > 0.1, "the states matter"  # type: ignore[type-var,operator]
    shutil.copytree(model, tmp_path / "untaught", ignore=shutil.ignore_patterns("decision*"))
    plain = decided(local(tmp_path / "untaught"), ("logprobs",))
    for question, raw, stated in zip(QUESTIONS * len(STATES), plain, there, strict=True):
        temperature = TEMPERATURE["noul" if isinstance(question, Predicate) else question.type]
        powers = [p ** (1 / temperature) for p in raw.probabilities if p is not None]
        assert stated.probabilities == pytest.approx([p / sum(powers) for p in powers], abs=CLOSE)


@pytest.mark.skipif(
    not (os.environ.get("HARNESS_EXT_LLAMA_SERVER") and os.environ.get("HARNESS_EXT_GGUF")),
    reason="HARNESS_EXT_LLAMA_SERVER (llama.cpp's server) and HARNESS_EXT_GGUF (a chat model) are not set",
)
def test_decisions_of_llama_cpp_equal_local_ones(tmp_path: Path) -> None:
    """The model is read in float32 by both, since llama.cpp computes with 8 bits if the weights are quantised."""
    pytest.importorskip("gguf")
    weights, port = float32_gguf(Path(os.environ["HARNESS_EXT_GGUF"]), tmp_path), free_port()
    command = [os.environ["HARNESS_EXT_LLAMA_SERVER"], "-m", weights, "--port", port, "-c", 4096, "-t", 2]
    with running([*command, "-ctk", "f32", "-ctv", "f32", "-fa", "off"], port, tmp_path / "log") as url:
        backend = make_backend(parse_spec(f"openai:m@{url}", {}))
        there = decided(backend, ("endpoint", "logprobs", "constrained"))
        forced = decided(backend, ("constrained",))
    models.convert(weights, tmp_path / "hf")
    here = decided(local(tmp_path / "hf"), ("logprobs",))
    difference = largest_difference(here, there)
    print(f"the largest difference of a probability is {difference:.2g}")
    assert {decision.source for decision in there} == {"logprobs"}
    assert difference < CLOSE
    assert [d.choice for d in there] == [d.choice for d in here]
    asked = [divmod(a.prompt_tokens or 0, b.prompt_tokens or 1) for a, b in zip(there, here, strict=True)]
    assert {rest for _, rest in asked} == {0}
    assert max(times for times, _ in asked) > 1, "a reply to Russian begins with a part of a character, and is repeated"
    assert max(abs((a.label_mass or 0) - (b.label_mass or 0)) for a, b in zip(here, there, strict=True)) < CLOSE
    assert all(d.source == "constrained" and d.choice in d.options and d.probabilities == () for d in forced)


def float32_gguf(source: Path, folder: Path) -> Path:
    """Write a GGUF file with the same model in float32 to a folder, and return its path."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader, path = GGUFReader(source), folder / "model.gguf"
    own = ("general.architecture", "general.file_type", "general.quantization_version")
    writer = GGUFWriter(path, reader.get_field(own[0]).contents())
    for name, entry in reader.fields.items():
        if not name.startswith("GGUF.") and name not in own:
            kind = entry.types[0]
            inner = entry.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, entry.contents(), kind, sub_type=inner)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

"""Tests that a row of a batch is handed over when it ends, while the rest of its batch is still being written."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import instances
from tiny_chat import tiny_chat_model

from harness_ext.backends.base import GenerateRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.backends.hf_beams import beam_settings
from harness_ext.backends.hf_rows import RowSeconds
from harness_ext.engine.progress import Progress
from harness_ext.enhance import running
from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate
from harness_ext.enhance.running import plan_seats
from harness_ext.records import CallResult, Completion

HERE = Path(__file__).parent
PROMPTS = [f"Question {number}:" for number in range(8)]
GEN = {"until": ["e"], "max_gen_toks": 40, "do_sample": False}
MIDDLE = 20  # the forward pass before which a run is killed


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session", params=["continuous", "static"])
def backend(folder: str, request: pytest.FixtureRequest) -> HFBackend:
    """A model that writes replies in its own decoding loop, and one that does so in lm-eval's call."""
    made = make_hf_backend(folder, {"device": "cpu", "batch_size": 8})
    made.load()
    made.loaded = True
    made.passes_through = request.param == "static"
    return made


@pytest.fixture(scope="session")
def stock(folder: str) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=folder, device="cpu", batch_size=8)


def ask(
    backend: HFBackend, requests: Sequence[GenerateRequest], before: Callable[[int], object] = lambda _: None
) -> dict[int, tuple[int, Completion]]:
    """Send requests as one batch; return each completion and how many passes the model had made by then.

    before: called before each pass with its number, from 1.
    """
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        before(passes)

    found: dict[int, tuple[int, Completion]] = {}

    def deliver(index: int, result: CallResult) -> None:
        assert isinstance(result, Completion)
        assert index not in found, "a row was handed over twice"
        found[index] = (passes, result)

    assert backend.states is not None
    backend.states.clear()
    hook = backend.lm.model.register_forward_pre_hook(count)
    try:
        backend.generate(requests, deliver)
    finally:
        hook.remove()
    assert sorted(found) == list(range(len(requests)))
    return found


def test_a_row_is_handed_over_in_the_pass_that_ends_it(backend: HFBackend) -> None:
    found = ask(backend, [GenerateRequest(prompt, GEN) for prompt in PROMPTS])
    assert all(passes == completion.completion_tokens for passes, completion in found.values())
    assert len({passes for passes, _ in found.values()}) > 3, "the rows end at different times"
    assert "length" in {completion.finish for _, completion in found.values()}, "one row does not stop"


def test_a_row_that_its_end_token_ends_is_handed_over_as_well(backend: HFBackend) -> None:
    """Which token that is, is taken from what the model writes."""
    free = ask(backend, [GenerateRequest(prompt, {**GEN, "until": []}, keep_ids=True) for prompt in PROMPTS])
    ids = [completion.ids or () for _, completion in free.values()]
    end = ids[0][5]
    former, backend.lm.generate_ends = backend.lm.generate_ends, frozenset({end})
    backend.lm.model.generation_config.eos_token_id = end
    backend.lm.end_ids |= {end}
    backend.lm.samplings.clear()
    try:
        found = ask(backend, [GenerateRequest(prompt, {**GEN, "until": []}) for prompt in PROMPTS])
    finally:
        backend.lm.model.generation_config.eos_token_id = next(iter(former))
        backend.lm.generate_ends, backend.lm.end_ids = former, former
        backend.lm.samplings.clear()
    assert min(passes for passes, _ in found.values()) <= 6
    assert all(passes == completion.completion_tokens for passes, completion in found.values())


def test_a_group_of_a_beam_search_is_handed_over_when_it_ends(backend: HFBackend) -> None:
    plain = {"until": ["e"], "max_gen_toks": 40}
    requests = [GenerateRequest(p, beam_settings(4, group, 1.0, plain)) for p in PROMPTS[:2] for group in range(4)]
    found = ask(backend, requests)
    assert all(passes == completion.completion_tokens for passes, completion in found.values())
    assert len({passes for passes, _ in found.values()}) > 2


def test_a_continued_reply_is_handed_over_when_it_ends(backend: HFBackend) -> None:
    begun = tuple(backend.lm.tok_encode("In", add_special_tokens=False))
    found = ask(backend, [GenerateRequest(prompt, GEN, reply=begun) for prompt in PROMPTS])
    assert all(passes == completion.completion_tokens for passes, completion in found.values())
    assert len({passes for passes, _ in found.values()}) > 3


def test_beams_come_when_their_batch_ends(backend: HFBackend) -> None:
    """With `num_beams`, a row of the model is not a row of the batch."""
    requests = [GenerateRequest(prompt, {**GEN, "num_beams": 2, "max_gen_toks": 12}) for prompt in PROMPTS[:3]]
    found = ask(backend, requests)
    assert len({passes for passes, _ in found.values()}) == 1


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prompts=st.lists(st.text(alphabet="abc 0123:\né日", min_size=1, max_size=12), min_size=1, max_size=12),
    until=st.lists(
        st.sampled_from(["In", "No", "Yes", "Co", "C", "\n\n", "1", "7", "é", "日"]), max_size=3, unique=True
    ),
    sampled=st.booleans(),
)
def test_the_texts_are_those_of_a_plain_batch(
    backend: HFBackend, stock: Any, prompts: list[str], until: list[str], sampled: bool
) -> None:
    """No stop sequence occurs in the name of a special token: criteria find it there, and the text does not have it."""
    import torch

    sampled = sampled and backend.passes_through  # only lm-eval's call draws from torch's own generator
    gen: dict[str, Any] = {"until": until, "max_gen_toks": 24, "do_sample": sampled}
    if sampled:
        gen["temperature"] = 1.5
    torch.manual_seed(3)
    wanted = stock.generate_until(instances(prompts, gen), disable_tqdm=True)
    torch.manual_seed(3)
    found = ask(backend, [GenerateRequest(prompt, gen) for prompt in prompts])
    assert [found[i][1].text for i in range(len(prompts))] == wanted


def test_the_meter_counts_the_tokens_of_unfinished_rows(backend: HFBackend) -> None:
    free = ask(backend, [GenerateRequest(prompt, GEN) for prompt in PROMPTS])
    lengths = [completion.completion_tokens or 0 for _, completion in free.values()]

    def check(number: int) -> None:
        written = number - 1
        assert backend.meter.written == written * sum(length > written for length in lengths)

    ask(backend, [GenerateRequest(prompt, GEN) for prompt in PROMPTS], check)
    assert backend.meter.written == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9), st.randoms())
def test_the_shares_of_the_rows_add_up_to_the_time_of_the_batch(waits: list[int], random: Any) -> None:
    times = itertools.accumulate([5, *waits])
    seconds = RowSeconds(len(waits), clock=lambda: float(next(times)))
    order = random.sample(range(len(waits)), len(waits))
    shares = [seconds.end(row) for row in order]
    assert sum(shares) == pytest.approx(sum(waits))
    assert shares == sorted(shares), "who is written longer gets more"


# -- rows of `enhance` ----------


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(folder: Path, order: Sequence[int]) -> None:
    folder.mkdir()
    (folder / "in.jsonl").write_text("".join(json.dumps({"cot_text": PROMPTS[i]}) + "\n" for i in order))


def annotated(folder: Path, model: str, **more: Any) -> dict[str, Any]:
    plan = plan_seats(
        Annotate, {"teacher": f"hf:{model}"}, {"store": str(folder / "store"), **more}, batch_size=8, device="cpu"
    )
    return annotate(AnnotateJob(folder / "in.jsonl", folder / "out.jsonl", "cot_text", GEN), plan)


@pytest.mark.timeout(300)
def test_kill_9_in_the_middle_of_a_batch_loses_unfinished_rows_only(tmp_path: Path, folder: str) -> None:
    """The row that does not stop is the first of the file."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    write_rows(whole, range(8))
    annotated(whole, folder, progress="off")
    tokens = [record["completion_tokens"] for record in lines(whole / "out.records.jsonl")]
    order = sorted(range(8), key=lambda i: -tokens[i])
    done = [i for i in order if tokens[i] < MIDDLE]
    assert 0 < len(done) < 8
    write_rows(killed, order)

    ended = subprocess.run(
        [sys.executable, str(HERE / "kill_in_batch.py"), str(killed), folder, str(MIDDLE), str(len(done))],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
    kept = lines(killed / "out.jsonl.partial")
    assert sorted(row["cot_text"] for row in kept) == sorted(PROMPTS[i] for i in done)
    records = lines(killed / "out.records.jsonl.partial")
    assert [record["completion_tokens"] for record in records] == sorted(tokens[i] for i in done)

    manifest = annotated(killed, folder, progress="off")
    usage = manifest["figures"]["usage"]["teacher"]["total"]
    assert (usage["reused"], usage["calls"]) == (len(done), 8)
    texts = {row["cot_text"]: row["cot"] for row in lines(whole / "out.jsonl")}
    assert [row["cot"] for row in lines(killed / "out.jsonl")] == [texts[PROMPTS[i]] for i in order]


def test_the_progress_line_tells_the_tokens_of_the_running_batch(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Progress] = []
    said: list[str] = []

    class Watched(Progress):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            shown.append(self)

    def say(*_: Any) -> None:
        said.append(shown[0].status())

    load = HFBackend.load

    @functools.wraps(load)
    def loaded(self: HFBackend) -> None:
        load(self)
        self.lm.model.register_forward_pre_hook(say)

    monkeypatch.setattr(running, "Progress", Watched)
    monkeypatch.setattr(HFBackend, "load", loaded)
    write_rows(tmp_path / "run", range(8))
    annotated(tmp_path / "run", folder)
    lengths = [record["completion_tokens"] for record in lines(tmp_path / "run" / "out.records.jsonl")]
    for written, status in enumerate(said):
        running_rows = sum(length > written for length in lengths)
        tokens = f" ({written * running_rows} tokens so far)" if written else ""
        assert f"teacher answers {running_rows}{tokens}" in status
    assert len(said) == max(lengths)

"""Estimates: extrapolating a sample of a run's documents to all of them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import Server
from support import instance, instances, number_of

from harness_ext.analysis.estimate import Total, estimate, main, make_report, render, wall_time
from harness_ext.analysis.sampling import Sampler, spread_evenly
from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.errors import HarnessExtError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.protocol import SeatSetup
from harness_ext.records import Completion

ASKED = {"until": [], "max_gen_toks": 8}


@given(size=st.integers(1, 50), n=st.integers(0, 200))
def test_a_sample_is_spread_over_all_documents(size: int, n: int) -> None:
    found = spread_evenly(range(n), size)
    assert len(found) == len(set(found)) == min(size, n)
    assert found == sorted(found)
    if size < n:
        gaps = [b - a for a, b in zip([-1 - found[0], *found], [*found, 2 * n - found[-1] - 1], strict=True)]
        assert max(gaps) <= 2 * (n // size + 1)


def test_totals_follow_students_interval() -> None:
    from scipy import stats

    values, population = [3.0, 5.0, 4.0, 9.0, 2.0], 1000
    found = Total.of(values, population)
    error = stats.sem(values) * (1 - 5 / population) ** 0.5 * population
    low, high = stats.t.interval(0.95, 4, loc=4600, scale=error)
    assert found.value == pytest.approx(4600)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert Total.of(values, 5) == Total(23, reason="all documents were asked")
    assert Total.of([4.0], 10) == Total(40, reason="one document shows no spread")
    assert Total.of([4.0] * 8, 100) == Total(400, reason="no spread in the sample")
    assert Total.of([1.0, 0.0], 100).low == 1, "not below the sample's own sum"


@given(
    values=st.lists(st.floats(0, 1e6).map(lambda v: round(v, 3)), min_size=1, max_size=30), more=st.integers(0, 1000)
)
def test_an_interval_has_a_width_or_a_reason_to_be_absent(values: list[float], more: int) -> None:
    found = Total.of(values, len(values) + more)
    if found.low is None or found.high is None:
        assert (found.low, found.high) == (None, None)
        assert found.reason
    else:
        assert found.reason is None
        assert sum(values) <= found.low <= found.value * (1 + 1e-9)
        assert found.low < found.high


def test_intervals_have_their_nominal_coverage() -> None:
    rng = random.Random(4)
    population = [1 + 2 * min(rng.getrandbits(3).bit_count(), 3) for _ in range(400)]
    hits = 0
    for _ in range(400):
        found = Total.of(rng.sample(population, 16), 400)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= sum(population) <= found.high
    assert 0.92 <= hits / 400 <= 0.98


def pair(tmp_path: Path, **more: Any) -> FeedbackPairLM:
    """Return a pair that makes 2 or 4 calls, depending on the question."""
    student = ScriptedBackend(lambda p: f"answer {'b' if 'found a mistake' in p else 'a'} {number_of(p) % 5}", name="s")

    def review(prompt: str) -> str:
        (number,) = set(re.findall(r"\bq(\d+)", prompt))
        return "Correct." if "answer b" in prompt or int(number) // 20 % 2 else "Incorrect.\nHint: no"

    given = {"store": str(tmp_path / "s"), "run_dir": tmp_path / "r", "progress": "off", "max_rounds": 1, **more}
    return FeedbackPairLM(student=student, teacher=ScriptedBackend(review, name="t"), **given)


def test_a_sample_of_all_documents_equals_the_run(tmp_path: Path) -> None:
    lm = pair(tmp_path)
    sampler = Sampler(lm, 50)
    sampler.install()
    assert lm.generate_until(instances((f"q{i}" for i in range(30)), ASKED)) == [""] * 30
    totals = estimate(sampler.usage(), sampler.documents)
    usage = lm.get_model_info()["harness_ext"]["summary"]["usage"]
    for seat in ("student", "teacher"):
        for name in ("calls", "prompt_tokens", "completion_tokens", "flops"):
            assert totals[seat][name] == Total(usage[seat]["total"][name], reason="all documents were asked")
        assert totals[seat]["price"] is None
    assert totals["total"]["calls"].value == sum(usage[seat]["total"]["calls"] for seat in usage)


def test_only_the_sample_is_asked(tmp_path: Path) -> None:
    lm = pair(tmp_path, **{f"{s}.price_{way}": 1 for s in ("student", "teacher") for way in ("in", "out")})
    sampler = Sampler(lm, 10)
    sampler.install()
    lm.generate_until(instances((f"q{i}" for i in range(200)), ASKED))
    assert [document for _, document in sampler.sampled] == list(range(10, 200, 20))
    report = make_report(sampler)
    assert (report["documents"], report["sampled"], report["tasks"]) == (200, 10, ["task"])
    calls = report["seats"]["total"]["calls"]
    assert sum(len(batch) for setup in lm.plan.seats.values() for batch in setup.backend.calls) == round(
        calls["value"] / 20
    )
    # Of the 200 questions, every second score of them takes one call more, and so does every second one of the sample.
    assert calls["low"] < calls["value"] < calls["high"]
    json.dumps(report)
    whole = pair(tmp_path / "whole")
    whole.generate_until(instances((f"q{i}" for i in range(200)), ASKED))
    usage = whole.get_model_info()["harness_ext"]["summary"]["usage"]
    true = sum(usage[seat]["total"]["calls"] for seat in usage)
    assert calls["low"] <= true <= calls["high"]


def test_repeated_greedy_calls_count_once_and_every_draw_counts(tmp_path: Path) -> None:
    for name, settings, calls in (("greedy", ASKED, 1), ("sampled", {**ASKED, "do_sample": True}, 3)):
        lm = BaselineLM(
            student=ScriptedBackend(lambda p: "x"), store="off", run_dir=tmp_path / name, progress="off"
        )  # fmt: skip
        sampler = Sampler(lm, 1)
        sampler.install()
        asked = [instance("q", settings, doc_id=i, repeats=3) for i in range(4)]
        lm.generate_until([a for a in asked for _ in range(3)])
        assert sampler.documents == 4
        assert estimate(sampler.usage(), 4)["total"]["calls"] == Total(4 * calls, reason="one document shows no spread")


def test_unknown_figures_stay_unknown(tmp_path: Path) -> None:
    backend = ScriptedBackend(lambda p: Completion("x", "stop"))
    lm = BaselineLM(student=backend, store="off", run_dir=tmp_path / "r", progress="off", budget="calls:3")
    sampler = Sampler(lm, 2)
    sampler.install()
    lm.generate_until(instances((f"q{i}" for i in range(10)), ASKED))
    report = make_report(sampler)
    assert report["seats"]["student"]["prompt_tokens"] is None
    text = render(report)
    assert "unknown" in text
    assert "budget=calls:3: not enough; it will be spent after about 30 % of the run" in text
    assert "are not stored: `store=off`" in text


def test_a_sample_without_answers_is_an_error(tmp_path: Path) -> None:
    def broken(prompt: str) -> str:
        raise ValueError("out of order")

    lm = BaselineLM(
        student=ScriptedBackend(broken), store="off", run_dir=tmp_path / "r", progress="off", on_failure="score"
    )
    sampler = Sampler(lm, 2)
    sampler.install()
    lm.generate_until(instances(["a"], ASKED))
    with pytest.raises(HarnessExtError, match=r"document 0, has no answer(?s:.*)out of order"):
        make_report(sampler)


def test_time_depends_on_devices_and_on_concurrent_requests() -> None:
    a, b = (ScriptedBackend(lambda p: p, name=n, device=device) for n, device in (("a", "gpu"), ("b", "cpu")))
    served = make_openai_backend("m@http://h/v1", {"num_concurrent": 10})

    def total(seconds: float, calls: float) -> dict[str, Total]:
        return {"seconds": Total(seconds), "calls": Total(calls)}

    totals = {"x": total(60, 5), "y": total(30, 5)}
    assert wall_time(totals, {"x": SeatSetup(a), "y": SeatSetup(b)}) == (60, 90)
    assert wall_time(totals, {"x": SeatSetup(a), "y": SeatSetup(a)}) == (90, 90)
    totals = {"x": total(600, 500), "y": total(600, 4)}
    assert wall_time(totals, {"x": SeatSetup(served), "y": SeatSetup(a)}) == (600, 660)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The command accepts lm-eval's arguments and works with a served model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["harness-ext"])
    with Server(lambda text: "Reasoning: none.\nAnswer: garden") as server:
        args = [
            "--model", "baseline", "--tasks", "babi_stories", "--limit", "40", "--questions", "5",
            "--model_args", f"student=openai:m@{server.url},student.price_in=1,student.price_out=2,progress=off",
        ]  # fmt: skip
        assert main([*args, "--json"]) == 0
        assert len(server.requests) == 5
    report = json.loads(capsys.readouterr().out)
    text = render(report)
    assert (report["documents"], report["sampled"], report["tasks"]) == (40, 5, ["babi_stories"])
    student = report["seats"]["student"]
    assert student["calls"] == {"value": 40, "low": None, "high": None, "reason": "no spread in the sample"}
    assert "40 (no spread in the sample)" in text
    assert student["completion_tokens"]["value"] == 40 * 4
    assert student["price"]["value"] == pytest.approx((student["prompt_tokens"]["value"] + 2 * 40 * 4) / 1e6)
    assert "40 documents of babi_stories, estimated from 5 of them" in text
    assert "the run will not pay for them again" in text
    assert Path(report["run"]).name.startswith("baseline-estimate-")


def test_wrong_arguments_end_with_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["harness-ext"])
    for tail, words in (
        (["--model", "dummy"], "is not one of this package's protocols"),
        (["--model", "baseline", "--model_args", "studnt=x"], "did you mean `student`"),
    ):
        assert main([*tail, "--tasks", "babi_stories"]) == 2
        assert words in capsys.readouterr().err

"""Tests of scoring with the `hf` backend: results come as they exist, each with its share of the time."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from test_hf_backend import STORIES

from harness_ext.backends import hf_score
from harness_ext.backends.base import ScoreRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.embedded import model_path
from harness_ext.errors import RunAborted
from harness_ext.records import CallResult


@pytest.fixture(scope="module")
def backend() -> HFBackend:
    made = make_hf_backend(str(model_path("student")), {"device": "cpu", "batch_size": 2, "max_length": 256})
    made.load()
    return made


class Forwards:
    """Counts forward passes, and lets a clock of its own go on by 10 s with each."""

    def __init__(self, backend: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.now = 0.0
        model_call = type(backend.lm)._model_call

        def counted(lm: Any, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            self.now += 10.0
            return model_call(lm, *args, **kwargs)

        monkeypatch.setattr(type(backend.lm), "_model_call", counted)
        monkeypatch.setattr(hf_score, "time", SimpleNamespace(perf_counter=lambda: self.now))


def asked(backend: HFBackend, requests: list[ScoreRequest], forwards: Forwards) -> dict[int, tuple[Any, int]]:
    """Return each result with the number of forward passes that had been made when it came."""
    found: dict[int, tuple[Any, int]] = {}

    def deliver(index: int, result: CallResult) -> None:
        assert index not in found
        found[index] = (result, forwards.count)

    backend.score(requests, deliver)
    return found


def test_each_score_comes_with_its_batch(backend: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = Forwards(backend, monkeypatch)
    requests = [ScoreRequest(text, " the garden was large") for text in dict.fromkeys(STORIES[:12])]
    found = asked(backend, requests, forwards)
    assert len(found) == len(requests)
    assert forwards.count == len(requests) // 2
    assert Counter(count for _, count in found.values()) == dict.fromkeys(range(1, forwards.count + 1), 2)
    assert all(result.seconds == 5.0 for result, _ in found.values())


def test_scores_that_share_a_row_share_its_time(backend: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval reads a context once for all continuations of one token."""
    texts = list(dict.fromkeys(STORIES[:6]))
    requests = [ScoreRequest(text, option) for text in texts for option in (" kitchen", " garden", " office")]
    scored = {r.continuation: len(backend.lm._encode_pair(r.prompt, r.continuation)[1]) for r in requests}
    assert set(scored.values()) == {1}, "the case that this test is about"
    forwards = Forwards(backend, monkeypatch)
    found = asked(backend, requests, forwards)
    assert forwards.count == len(texts) / 2
    assert [found[i][0].seconds for i in range(len(requests))] == pytest.approx([5 / 3] * len(requests))
    assert sum(result.seconds for result, _ in found.values()) == pytest.approx(forwards.now)


def test_whole_texts_come_as_soon_as_their_windows_are_read(
    backend: HFBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.api.instance import Instance

    texts = ["\n".join(STORIES[i : i + length]) for i, length in enumerate((1, 12, 3, 20, 1, 1))]
    instances = [Instance("loglikelihood_rolling", {}, (text,), i, ("t", i, 1)) for i, text in enumerate(texts)]
    wanted = backend.lm.loglikelihood_rolling(instances, disable_tqdm=True)
    forwards = Forwards(backend, monkeypatch)
    found = asked(backend, [ScoreRequest(text, "", rolling=True) for text in texts], forwards)
    assert list(found) == list(range(len(texts)))
    assert [found[i][0].logprob for i in found] == wanted
    assert found[0][1] == 1
    assert found[0][1] < found[1][1] < found[3][1] <= forwards.count
    assert sum(result.seconds for result, _ in found.values()) == pytest.approx(forwards.now)
    assert [found[i][0].prompt_tokens for i in found] == [len(backend.lm.tok_encode(text)) for text in texts]


def test_the_kinds_of_scores_may_come_together(backend: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [
        ScoreRequest("", STORIES[0], rolling=False),
        ScoreRequest(STORIES[1], "", rolling=True),
        ScoreRequest(STORIES[2], " kitchen"),
    ]
    found = asked(backend, requests, Forwards(backend, monkeypatch))
    assert [found[i][0].greedy is None for i in range(3)] == [False, True, False]


def test_what_is_scored_before_a_kill_is_kept(backend: HFBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions kept nothing until the whole call ended."""
    forwards, kept = Forwards(backend, monkeypatch), []
    counted = type(backend.lm)._model_call

    def killed(lm: Any, *args: Any, **kwargs: Any) -> Any:
        if forwards.count == 3:
            raise RunAborted
        return counted(lm, *args, **kwargs)

    monkeypatch.setattr(type(backend.lm), "_model_call", killed)
    requests = [ScoreRequest(text, " the kitchen") for text in dict.fromkeys(STORIES[:12])]
    with pytest.raises(RunAborted):
        backend.score(requests, lambda index, result: kept.append(index))
    assert len(set(kept)) == len(kept) == 6

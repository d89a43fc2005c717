"""Protocols as lm-eval models: requests, answers, records and refused runs."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import instance, instances, number_of

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.bridge.protocol_lm import ProtocolLM, questions_of
from harness_ext.errors import ConfigurationError, RunFailed, StoreError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.skyline import SkylineLM
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

SAMPLED = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}


def echo(prompt: str) -> str:
    return f"re: {prompt}"


def make(tmp_path: Path, reply: Callable[[str], Any] = echo, **options: Any) -> BaselineLM:
    given = {"store": str(tmp_path / "store"), "run_dir": tmp_path / "run", "progress": "off"}
    return BaselineLM(student=ScriptedBackend(reply), **{**given, **options})


def sent(lm: ProtocolLM) -> int:
    backend = lm.plan.seats["student"].backend
    assert isinstance(backend, ScriptedBackend)
    return sum(len(batch) for batch in backend.calls)


def summary(lm: ProtocolLM) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((lm.session.run.path / "summary.json").read_text())
    assert {k: written[k] for k in lm.get_model_info()["harness_ext"]["summary"]} == lm.get_model_info()["harness_ext"][
        "summary"
    ]
    return written


def test_answers_come_in_the_order_of_the_requests(tmp_path: Path) -> None:
    contexts = [f"question {number_of(str(i)) % 89}" for i in range(40)]
    lm = make(tmp_path, window=3)
    assert lm.generate_until(instances(contexts)) == [echo(c) for c in contexts]
    assert sent(lm) == len(set(contexts))
    assert len(list(read_transcripts(lm.session.run.path))) == 40


def test_repeats_are_draws_and_padding_is_not(tmp_path: Path) -> None:
    """lm-eval lists an Instance once per repeat; further copies are the padding of a distributed run."""
    count = iter(range(99))
    lm = make(tmp_path, lambda p: f"{p} {next(count)}")
    first, second = instance("a", SAMPLED, repeats=3), instance("b", SAMPLED, doc_id=1, repeats=2)
    answers = lm.generate_until([first, first, first, second, second, second, second])
    assert sent(lm) == 5
    assert len(set(answers[:5])) == 5
    assert answers[5:] == [answers[3]] * 2
    assert sorted((t.doc_id, t.repeat) for t in read_transcripts(lm.session.run.path)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
    ]
    assert [(p, q.repeat) for p, q in questions_of([first, second, first, first, first])] == [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 2),
    ]


def test_greedy_repeats_are_one_call(tmp_path: Path) -> None:
    lm = make(tmp_path)
    asked = instance("a", repeats=3)
    assert lm.generate_until([asked] * 3) == ["re: a"] * 3
    assert sent(lm) == 1
    assert summary(lm)["usage"]["student"]["total"]["calls"] == 3
    assert summary(lm)["usage"]["student"]["total"]["reused"] == 2


def test_one_call_may_contain_several_tasks(tmp_path: Path) -> None:
    lm = make(tmp_path)
    asked = [*instances(["x", "y"], task="one"), *instances(["x", "z"], {"until": ["."]}, task="two")]
    asked += [instance("w", task="one", idx=1)]
    assert lm.generate_until(asked) == ["re: x", "re: y", "re: x", "re: z", "re: w"]
    lines = sorted((t.task, t.doc_id, t.index, t.context) for t in read_transcripts(lm.session.run.path))
    assert lines == [
        ("one", 0, 0, "x"),
        ("one", 0, 1, "w"),
        ("one", 1, 0, "y"),
        ("two", 0, 0, "x"),
        ("two", 1, 0, "z"),
    ]
    assert len({t.identity for t in read_transcripts(lm.session.run.path)}) == 5


def test_transcripts_carry_lm_evals_own_document_hash(tmp_path: Path) -> None:
    from lm_eval.utils import handle_non_serializable, hash_string

    lm = make(tmp_path)
    asked = instance("é")
    lm.generate_until([asked])
    wanted = hash_string(json.dumps(asked.doc, indent=2, default=handle_non_serializable, ensure_ascii=False))
    assert [t.doc_hash for t in read_transcripts(lm.session.run.path)] == [wanted]


def test_chat_contexts(tmp_path: Path) -> None:
    lm = make(tmp_path)
    history = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi é"}]
    context = lm.apply_chat_template(history)
    assert isinstance(context, ChatContext)
    assert json.loads(context) == history
    copy = pickle.loads(pickle.dumps(instance(context)))
    assert isinstance(copy.args[0], ChatContext)
    assert lm.generate_until([copy]) == ["re: Instructions: Be kind.\n\nUser: Hi é\n\nAssistant:"]
    opened = lm.apply_chat_template([*history, {"role": "assistant", "content": "Well,"}], add_generation_prompt=False)
    assert lm.generate_until([instance(opened)]) == ["re: Instructions: Be kind.\n\nUser: Hi é\n\nAssistant: Well,"]
    assert json.loads(json.dumps({"arguments": [context, {}]}))["arguments"][0] == str(context)


def test_the_tokenizer_name_does_not_depend_on_the_models(tmp_path: Path) -> None:
    names = {make(tmp_path / name).tokenizer_name for name in "ab"}
    assert names == {"harness_ext-messages-1"}
    assert make(tmp_path).chat_template(True)
    assert make(tmp_path).chat_template() is None


def test_use_cache_is_refused(tmp_path: Path) -> None:
    from lm_eval.api.model import CacheHook, CachingLM

    lm = make(tmp_path)
    with pytest.raises(ConfigurationError, match="--use_cache is not keyed by model"):
        CachingLM(lm, str(tmp_path / "cache.db"))
    lm.set_cache_hook(CacheHook(None))


def test_the_model_info_is_json(tmp_path: Path) -> None:
    lm = make(tmp_path, echo, **{"student.price_in": 1, "student.price_out": 2})
    json.dumps(lm.get_model_info())
    lm.generate_until(instances(["a b", "c"]))
    info = json.loads(json.dumps(lm.get_model_info()))["harness_ext"]
    assert info["run"] == str(tmp_path / "run")
    assert info["protocol"] == "baseline"
    assert info["demonstration_pair"] is False
    total = info["summary"]["usage"]["student"]["total"]
    assert (total["calls"], total["prompt_tokens"], total["completion_tokens"]) == (2, 3, 5)
    assert total["flops"] == 2.0 * 1000 * 8
    assert total["price"] == pytest.approx((3 * 1 + 5 * 2) / 1e6)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seats"]["student"]["price_out"] == 2


# -- failures and resumes ----------


class Moody:
    """A reply function that raises for prompts that contain one of `bad`."""

    def __init__(self, *bad: str) -> None:
        self.bad = bad

    def __call__(self, prompt: str) -> str:
        if any(b in prompt for b in self.bad):
            raise ValueError(f"no answer to {prompt}")
        return echo(prompt)


def test_on_failure_stop_finishes_and_stores_everything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["lm_eval", "--tasks", "my task"])
    mood = Moody("q1", "q3")
    lm = make(tmp_path, mood)
    asked = instances(f"q{i}" for i in range(5))
    with pytest.raises(RunFailed) as raised:
        lm.generate_until(asked)
    for part in (
        "2 questions have no answer",
        "document 1: scripted raised ValueError: no answer to q1",
        "on_failure=score",
        "lm_eval --tasks 'my task'",
        str(tmp_path / "run"),
    ):
        assert part in str(raised.value)
    assert summary(lm)["failures"] == {"backend": 2}
    assert summary(lm)["answered"] == 3
    mood.bad = ()
    before = sent(lm)
    again = make(tmp_path, mood)
    assert again.generate_until(asked) == [f"re: q{i}" for i in range(5)]
    assert (sent(lm) - before, sent(again)) == (0, 2), "only failed questions are retried"
    assert summary(again)["failed"] == 0
    assert summary(again)["questions"] == 5


def test_many_failures_are_listed_briefly(tmp_path: Path) -> None:
    with pytest.raises(
        RunFailed, match=r"30 questions have no answer(?s:.*)and 20 more, in the run's transcripts.jsonl"
    ):
        make(tmp_path, Moody("q")).generate_until(instances(f"q{i}" for i in range(30)))


def test_on_failure_score_answers_with_an_empty_text_and_counts_it(tmp_path: Path) -> None:
    lm = make(tmp_path, Moody("q1"), on_failure="score")
    assert lm.generate_until(instances(["q0", "q1", "q2"])) == ["re: q0", "", "re: q2"]
    assert summary(lm)["failed"] == 1


def test_repeating_a_run_makes_no_calls(tmp_path: Path) -> None:
    first = make(tmp_path, store="off")
    asked = instances(["a", "b"])
    answers = first.generate_until(asked)
    again = make(tmp_path, store="off")
    assert again.generate_until(asked) == answers
    assert (sent(again), again.plan.seats["student"].backend.loaded) == (0, False)
    assert len((tmp_path / "run" / "transcripts.jsonl").read_text().split("\n")) == 3
    assert summary(again) == summary(first)


def test_another_run_finds_the_calls_in_the_store(tmp_path: Path) -> None:
    make(tmp_path).generate_until(instances(["a", "b"]))
    other = make(tmp_path, run_dir=tmp_path / "other")
    assert other.generate_until(instances(["b", "c"])) == ["re: b", "re: c"]
    assert sent(other) == 1
    assert summary(other)["usage"]["student"]["total"]["reused"] == 1


def test_one_object_can_be_used_repeatedly(tmp_path: Path) -> None:
    """As in a notebook: other tasks, the same task again, a failure in between, other settings."""
    mood = Moody("bad")
    lm = make(tmp_path, mood)
    assert lm.generate_until(instances(["a"])) == ["re: a"]
    assert lm.generate_until(instances(["b"], task="other")) == ["re: b"]
    assert lm.generate_until(instances(["a"])) == ["re: a"]
    with pytest.raises(RunFailed):
        lm.generate_until(instances(["bad"], task="third"))
    assert lm.generate_until(instances(["a"], {"until": ["x"]})) == ["re: a"]
    assert lm.generate_until([]) == []
    assert sent(lm) == 2 + 1 + 1
    assert lm.plan.seats["student"].backend.loads == 1  # type: ignore[attr-defined]
    figures = summary(lm)
    assert (figures["questions"], figures["failed"]) == (4, 1), "the summary covers the whole run directory"


def test_a_run_directory_of_another_evaluation_is_refused(tmp_path: Path) -> None:
    make(tmp_path).generate_until(instances(["a"]))
    with pytest.raises(StoreError, match="different: seats"):
        BaselineLM(student=ScriptedBackend(echo, name="other"), store="off", run_dir=tmp_path / "run")
    with pytest.raises(StoreError, match="different: on_empty"):
        make(tmp_path, on_empty="fail")
    with pytest.raises(StoreError, match="different: protocol, seats"):
        SkylineLM(teacher=ScriptedBackend(echo), store="off", run_dir=tmp_path / "run")
    make(tmp_path, window=7, on_failure="score", store="off")  # these options do not change answers


def test_a_sampled_question_is_asked_again_with_another_seed(tmp_path: Path) -> None:
    import torch

    count = iter(range(99))
    lm = make(tmp_path, lambda p: str(next(count)))
    asked = [instance("a", SAMPLED)]
    answers = []
    before = torch.initial_seed()
    try:
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            answers.append(lm.generate_until(asked)[0])
    finally:
        torch.manual_seed(before)
    assert answers == ["0", "0", "1"]


# -- runs that are refused before anything is written ----------


@pytest.mark.parametrize(
    "arguments",
    [
        {"student.api_key": "sk-x"},
        {"auth_token": "x"},
        {"student": "hf:https://user:pass@host/model"},
        {"student": {"model": "hf:x", "header": {"Authorization": "Bearer abc"}}},
        {"nonsense": 1},
        {"student": "hf:/no/such/folder"},
    ],
)
def test_nothing_is_written_when_a_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, arguments: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    given: dict[str, Any] = {"student": ScriptedBackend(echo), **arguments}
    with pytest.raises(ConfigurationError) as raised:
        BaselineLM(**given)
    assert list(tmp_path.iterdir()) == []
    for secret in ("sk-x", "user:pass", "Bearer abc"):
        assert secret not in str(raised.value)
        assert secret not in caplog.text


def test_a_folder_inside_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="run_dir=<folder>"):
        make(tmp_path, run_dir=tmp_path / "file" / "run")
    with pytest.raises(StoreError, match="store=<folder>"):
        make(tmp_path, store=str(tmp_path / "file" / "store"))


def test_arguments_as_lm_eval_passes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lm = BaselineLM.create_from_arg_obj(
        {"student": ScriptedBackend(echo), "model": "my label", "store": False, "progress": False},
        {"batch_size": 1, "max_batch_size": None, "device": "cuda:0"},
    )
    assert lm.session.run.path.parent == Path("harness_ext_runs")
    assert lm.session.run.path.name.startswith("my_label-")
    assert lm.session.store is None
    with pytest.raises(ConfigurationError, match="no argument `max_round`"):
        BaselineLM.create_from_arg_string("store=off,max_round=3", {"batch_size": 1})

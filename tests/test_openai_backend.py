"""Tests of served seats: requests, replies, arguments, scoring, and lm-eval's own API models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from servers import Server, completion
from support import instance, instances

from harness_ext.backends.openai import make_openai_backend
from harness_ext.backends.openai_options import ServerOptions, split_name
from harness_ext.bridge.protocol_lm import ProtocolLM
from harness_ext.errors import ConfigurationError, LoadError, RunFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.speculative_pair import SpeculativePairLM
from harness_ext.records import Message
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

GREEDY = {"until": ["\n\n"], "max_gen_toks": 24}


def make(tmp_path: Path, server: Server, **options: Any) -> BaselineLM:
    given = {"store": "off", "run_dir": tmp_path / "r", "progress": "off", "student": f"openai:m@{server.url}"}
    return BaselineLM(**{**given, **options})


def summary(lm: ProtocolLM) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((lm.session.run.path / "summary.json").read_text())
    return written


def fails(lm: ProtocolLM, asked: list[Any]) -> str:
    with pytest.raises(RunFailed) as raised:
        lm.generate_until(asked)
    return str(raised.value)


# -- requests ----------


def test_a_plain_context_becomes_one_message_with_the_tasks_settings(tmp_path: Path) -> None:
    with Server() as server:
        assert make(tmp_path, server).generate_until([instance("Hi\n é ", GREEDY)]) == ["re: Hi\n é "]
    assert server.requests == [
        {
            "messages": [{"role": "user", "content": "Hi\n é "}],
            "model": "m",
            "max_tokens": 24,
            "temperature": 0.0,
            "stop": ["\n\n"],
        }
    ]
    assert server.paths == ["/v1/chat/completions"]


def test_messages_are_sent_unchanged(tmp_path: Path) -> None:
    history = [
        {"role": "system", "content": 'Be "kind".\\ '},
        {"role": "user", "content": "Hi 🙂\u2028"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "and?"},
    ]
    with Server() as server:
        make(tmp_path, server).generate_until([instance(ChatContext.of(history), GREEDY)])
    assert server.requests[0]["messages"] == history


def test_completions_receive_text(tmp_path: Path) -> None:
    with Server() as server:
        lm = make(tmp_path, server, **{"student.endpoint": "completions", "student.omit": "stop+temperature"})
        chat = ChatContext.of([{"role": "user", "content": "b"}])
        assert lm.generate_until([instance("a", GREEDY), instance(chat, GREEDY, doc_id=1)]) == [
            "re: a",
            "re: User: b",
        ], "the plain form ends where the next block begins"
    assert server.requests[0] == {"prompt": "a", "model": "m", "max_tokens": 24}
    assert server.requests[1]["prompt"] == "User: b\n\nAssistant:"
    assert set(server.paths) == {"/v1/completions"}


def test_each_draw_has_a_seed_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    sampled = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "max_gen_toks": 8, "until": []}
    asked = instance("a", sampled, repeats=3)
    seeds = []
    for run in "12":
        with Server() as server:
            make(tmp_path, server, run_dir=tmp_path / run, **{"student.revision": "w"}).generate_until([asked] * 3)
        assert all(r["temperature"] == 0.7 and r["top_p"] == 0.9 and "stop" not in r for r in server.requests)
        seeds.append(sorted(r["seed"] for r in server.requests))
    assert len(set(seeds[0])) == 3
    assert seeds[0] == seeds[1]
    assert all(0 <= seed < 2**31 for seed in seeds[0])


def test_stop_sequences_beyond_the_fourth_are_applied_to_the_reply(tmp_path: Path) -> None:
    asked = instance("a", {"until": ["1", "2", "3", "4", "5", ""], "max_gen_toks": 8})
    with Server(lambda text: completion("four and 5 and 3", {"messages": [{"content": "a"}]}, "length")) as server:
        lm = make(tmp_path, server)
        assert lm.generate_until([asked]) == ["four and "]
    assert server.requests[0]["stop"] == ["1", "2", "3", "4"]
    (transcript,) = read_transcripts(lm.session.run.path)
    assert transcript.turns[0].finish == "stop"


def test_images_become_parts_of_the_message(tmp_path: Path) -> None:
    from harness_ext.backends.base import GenerateRequest
    from harness_ext.records.images import Image

    with Server() as server:
        backend = make_openai_backend(f"m@{server.url}", {})
        prompt = backend.render([Message("user", "<image>What is <image>?")]).text
        found: dict[int, Any] = {}
        images = (Image(b"first"), Image(b"second"))
        backend.generate([GenerateRequest(prompt, GREEDY, images=images)], found.__setitem__)
    assert "images" in backend.capabilities
    assert server.requests[0]["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": images[0].data_url}},
        {"type": "text", "text": "What is "},
        {"type": "image_url", "image_url": {"url": images[1].data_url}},
        {"type": "text", "text": "?"},
    ]


# -- replies ----------


def reply_with(said: dict[str, Any], finish: str | None = "stop", **usage: Any) -> dict[str, Any]:
    return {"choices": [{"message": said, "finish_reason": finish}], **({"usage": usage} if usage else {})}


@pytest.mark.parametrize(
    ("reply", "text", "finish", "notes"),
    [
        (reply_with({"content": "a"}), "a", "stop", ()),
        (reply_with({"content": "a"}, "length"), "a", "length", ()),
        (reply_with({"content": "a"}, "tool_calls"), "a", None, ()),
        (reply_with({"content": "a"}, None), "a", None, ()),
        (reply_with({"content": None}, "length"), "", "length", ()),
        (reply_with({"content": None, "reasoning_content": "long"}, "length"), "", "length", ("thought_unfinished",)),
        (reply_with({"content": "", "refusal": "I will not."}), "", "stop", ("refused",)),
        (reply_with({"content": "a"}, "content_filter"), "a", None, ("content_filter",)),
        (reply_with({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), "ab", "stop", ()),
        (reply_with({"content": "\ud800x"}), "\ufffdx", "stop", ("surrogates_replaced",)),
    ],
)
def test_replies_of_all_forms(
    tmp_path: Path, reply: dict[str, Any], text: str, finish: str | None, notes: tuple[str, ...]
) -> None:
    with Server(lambda _: reply) as server:
        lm = make(tmp_path, server)
        assert lm.generate_until([instance("q", {"until": [], "max_gen_toks": 4})]) == [text]
    (transcript,) = read_transcripts(lm.session.run.path)
    assert transcript.turns[0].finish == finish
    assert transcript.turns[0].notes == notes
    total = summary(lm)["usage"]["student"]["total"]
    assert [total[n] for n in ("prompt_tokens", "cached_tokens", "completion_tokens")] == [None] * 3, "unknown, not 0"


def test_usage_is_what_the_server_reports(tmp_path: Path) -> None:
    counts = {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 400}}
    prices = {"student.price_in": 2, "student.price_out": 10, "student.parameters": "7e9"}
    with Server(lambda _: reply_with({"content": "a"}, **counts)) as server:
        lm = make(tmp_path, server, **prices)
        lm.generate_until(instances(["a", "b"], GREEDY))
    total = summary(lm)["usage"]["student"]["total"]
    assert [total[n] for n in ("calls", "prompt_tokens", "cached_tokens", "completion_tokens")] == [2, 2000, 800, 100]
    assert total["price"] == pytest.approx((2 * 2000 + 10 * 100) / 1e6)
    assert total["flops"] == 2 * 7e9 * 2100


# -- arguments, keys and the course of a run ----------


@pytest.mark.parametrize(
    ("spec", "options", "problem"),
    [
        ("openai:m", {}, "OPENAI_API_KEY is not set"),
        ("openai:m@localhost:8000/v1", {}, "must be `<model>@<base url>`"),
        ("openai:@http://h/v1", {}, "must be `<model>@<base url>`"),
        ("openai:m@http:///v1", {}, "must be `<model>@<base url>`"),
        ("openai:m@http://h/v1?api-version=1", {}, "must be `<model>@<base url>`"),
        ("openai:m@http://h/v1", {"student.num_concurent": 4}, "did you mean `num_concurrent`"),
        ("openai:m@http://h/v1", {"student.num_concurrent": 0}, "must be above 0"),
        ("openai:m@http://h/v1", {"student.timeout": "soon"}, "expected a number"),
        ("openai:m@http://h/v1", {"student.endpoint": "text"}, "expected one of chat, completions"),
        ("openai:m@http://h/v1", {"student.chat": "off"}, "plain text needs `endpoint=completions`"),
        ("openai:m@http://h/v1", {"student.endpoint": "completions", "student.chat": "on"}, "need `endpoint=chat`"),
        ("openai:m@http://h/v1", {"student.api_key_env": "NOT_THERE"}, "variable NOT_THERE is not set"),
        ("openai:m@http://h/v1", {"student.api_key_env": "pw 1"}, "takes the name of an environment variable"),
        ("openai:m@http://user:pw@h/v1", {}, "looks like a secret"),
        ("openai:m@http://h/v1", {"student.api_key_env": "sk-aaaaaaaaaaaaaaaaaaaaaaaa"}, "looks like a secret"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, options: dict[str, Any], problem: str
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigurationError) as raised:
        BaselineLM(student=spec, store="off", run_dir=tmp_path / "r", progress="off", **options)
    assert problem in str(raised.value)
    assert not (tmp_path / "r").exists()


def test_names_and_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert split_name("gpt") == ("gpt", ("https://api.openai.com/v1",))
    assert split_name("@cf/org/m@https://h/v1/") == ("@cf/org/m", ("https://h/v1",))
    assert split_name("/a/b@http://[::1]:80/v1/chat/completions") == ("/a/b", ("http://[::1]:80/v1",))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h:1/v1")
    assert split_name("m") == ("m", ("http://h:1/v1",))


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hush-hush-" + "x" * 20
    monkeypatch.setenv("MY_KEY", secret)
    monkeypatch.setenv("OPENAI_API_KEY", "another")

    def echo(text: str) -> str | dict[str, Any]:
        return "fine"

    with Server(echo) as server:
        lm = make(tmp_path, server, store=str(tmp_path / "s"), **{"student.api_key_env": "MY_KEY"})
        lm.generate_until(instances(["a"], GREEDY))
        server.status, server.reply = 400, lambda _: {"error": f"bad key Bearer {secret}"}
        message = fails(lm, instances(["b"], GREEDY))
    assert {h["Authorization"] for h in server.seen_headers} == {f"Bearer {secret}"}
    assert "bad key Bearer ***" in message
    assert secret not in message + json.dumps(lm.get_model_info())
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()


def test_without_a_key_none_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        make(tmp_path, server).generate_until(instances(["a"], GREEDY))
    assert "Authorization" not in server.seen_headers[0]


def test_a_reply_begun_by_the_task_needs_a_server_that_continues(tmp_path: Path) -> None:
    opened = ChatContext.of([{"role": "user", "content": "q"}, {"role": "assistant", "content": "Well,"}])
    with Server() as server:
        assert "cannot continue a reply that the task begins" in fails(
            make(tmp_path, server), [instance(opened, GREEDY)]
        )
        assert server.requests == []
        lm = make(tmp_path, server, run_dir=tmp_path / "2", **{"student.continue_final": True})
        assert lm.generate_until([instance(opened, GREEDY)]) == ["re: Well,"]
    sent = server.requests[0]
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)


def test_undecodable_prompts_are_not_sent(tmp_path: Path) -> None:
    with Server() as server:
        lm = make(tmp_path, server, on_failure="score")
        assert lm.generate_until(instances(["a\ud800", "b"], GREEDY)) == ["", "re: b"]
    assert len(server.requests) == 1
    assert summary(lm)["failures"] == {"undecodable": 1}


def test_the_store_knows_a_served_model_by_its_address_or_its_revision(tmp_path: Path) -> None:
    def run(server: Server, n: str, **more: Any) -> int:
        lm = make(tmp_path, server, store=str(tmp_path / "s"), run_dir=tmp_path / n, **more)
        lm.generate_until(instances(["a"], GREEDY))
        return len(server.requests)

    with Server() as one, Server() as two:
        assert [run(one, "1"), run(one, "2"), run(two, "3")] == [1, 1, 1]
        assert [run(one, "4", **{"student.revision": "w1"}), run(two, "5", **{"student.revision": "w1"})] == [2, 1]
        assert run(two, "6", **{"student.revision": "w2"}) == 2


def test_new_questions_are_sent_while_others_wait(tmp_path: Path) -> None:
    """The first question hangs until all others are answered. A batch would wait for it forever."""
    with Server() as server:
        server.plan = lambda text: "timeout" if text == "q0" and sum(server.answered.values()) < 30 else None
        options = {"student.num_concurrent": 4, "student.timeout": 5, "window": 8}
        lm = make(tmp_path, server, **options)
        assert lm.generate_until(instances((f"q{i}" for i in range(31)), GREEDY)) == [f"re: q{i}" for i in range(31)]
    assert max(server.answered.values()) == 1


def test_num_concurrent_limits_the_requests_in_flight(tmp_path: Path) -> None:
    with Server(delay=0.2) as server:
        lm = make(tmp_path, server, **{"student.num_concurrent": 5})
        lm.generate_until(instances((f"q{i}" for i in range(40)), GREEDY))
    assert 1 < server.together <= 5


# -- scoring ----------


def test_what_needs_the_completions_endpoint_says_so() -> None:
    with (
        Server() as server,
        pytest.raises(ConfigurationError, match=r"can verify, but .*`endpoint=completions` it can"),
    ):
        SpeculativePairLM(student=f"openai:m@{server.url}", teacher=f"openai:m@{server.url}", accept="topk")


def echo_logprobs(text: str, prefix: str = "<s>") -> dict[str, Any]:
    """Return vLLM's reply to `echo` with `logprobs=1`, with one token per character and one new token."""
    tokens = [prefix, *text, "!"]
    offsets, at = [], 0
    for token in tokens:
        offsets.append(at)
        at += len(token)
    values = [None, *(-0.5 if c == "C" else -0.25 for c in text), -9.0]
    tops = [None, *({c: -0.25} for c in text), {"!": -9.0}]
    logprobs = {"tokens": tokens, "token_logprobs": values, "text_offset": offsets, "top_logprobs": tops}
    usage = {"prompt_tokens": len(text) + 1, "completion_tokens": 1}
    return {"choices": [{"text": f"{text}!", "logprobs": logprobs}], "usage": usage}


@pytest.mark.parametrize("prefix", ["<s>", ""])
def test_log_probabilities_of_a_continuation(prefix: str) -> None:
    from harness_ext.backends.base import ScoreRequest

    with Server(lambda text: echo_logprobs(text, prefix)) as server:
        backend = make_openai_backend(f"m@{server.url}", {"endpoint": "completions"})
        found: dict[int, Any] = {}
        backend.score([ScoreRequest("prompt", " abcd"), ScoreRequest("prompt", " Ca")], found.__setitem__)
    assert [(found[i].logprob, found[i].greedy) for i in range(2)] == [(-1.25, True), (-1.0, False)]
    assert [found[i].prompt_tokens for i in range(2)] == [12, 10]
    assert server.requests[0]["echo"] is True
    assert server.requests[0]["logprobs"] == 1


def test_a_server_without_prompt_log_probabilities_ends_the_run_at_once(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance

    asked = [
        Instance(request_type="loglikelihood", doc={}, arguments=(f"q{i}", " a"), idx=0, metadata=("t", i, 1))
        for i in range(50)
    ]
    with Server() as server:
        lm = BaselineLM(
            student=f"openai:m@{server.url}", store="off", run_dir=tmp_path / "r", progress="off", reason="off",
            **{"student.endpoint": "completions"},
        )  # fmt: skip
        with pytest.raises(LoadError, match="returns no log-probabilities of a prompt"):
            lm.loglikelihood(asked)


# -- lm-eval's own API models ----------


@pytest.mark.parametrize("num_concurrent", [1, 4])
def test_lm_evals_chat_model_works_on_a_seat(tmp_path: Path, num_concurrent: int) -> None:
    history = [{"role": "user", "content": "Hi"}]
    asked = [instance(ChatContext.of(history), GREEDY, doc_id=i, repeats=1) for i in range(3)]
    asked.append(instance(ChatContext.of([{"role": "user", "content": "é"}]), GREEDY, doc_id=3))
    with Server() as server:
        lm = make(
            tmp_path, server, student="local-chat-completions:m",
            **{"student.base_url": f"{server.url}/chat/completions", "student.num_concurrent": num_concurrent},
        )  # fmt: skip
        assert lm.generate_until(asked) == ["re: Hi"] * 3 + ["re: é"]
        assert {json.dumps(r["messages"]) for r in server.requests} == {
            json.dumps(history),
            json.dumps([{"role": "user", "content": "é"}]),
        }
        assert summary(lm)["usage"]["student"]["total"]["completion_tokens"] is None
        opened = ChatContext.of([*history, {"role": "assistant", "content": "Well,"}])
        assert "cannot continue a reply that the task begins" in fails(lm, [instance(opened, GREEDY, doc_id=9)])


def test_lm_evals_api_models_send_each_draw_with_a_seed_of_its_own(tmp_path: Path) -> None:
    sampled = {"do_sample": True, "temperature": 0.7, "max_gen_toks": 8, "until": []}
    with Server() as server:
        lm = make(
            tmp_path, server, student="local-completions:m",
            **{"student.base_url": f"{server.url}/completions", "student.tokenizer_backend": "none"},
        )  # fmt: skip
        asked = instance("a", sampled, repeats=3)
        assert lm.generate_until([asked] * 3) == ["re: a"] * 3
    assert len({r["seed"] for r in server.requests}) == 3
    assert {r["prompt"] for r in server.requests} == {"a"}


def test_all_arguments_are_documented() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "http-seats.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", page, re.MULTILINE))
    defaults = {name: str(value) for name, value in vars(ServerOptions()).items()}
    assert {n: d.replace("none", "") for n, d in rows.items()} == {
        n: d.replace("None", "").removesuffix(".0") for n, d in defaults.items()
    }

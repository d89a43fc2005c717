"""Tests of a teacher behind a completions server, which verifies a local student's drafts as a local teacher would."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from support import run_engine

from harness_ext.backends.base import VerifyRequest
from harness_ext.backends.openai_verify import ServedTokens, read_verification
from harness_ext.backends.registry import make_backend, parse_spec
from harness_ext.embedded import model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.engine.engine import Engine
from harness_ext.errors import LoadError
from harness_ext.models.skyline import Skyline
from harness_ext.models.speculative.token_policies import TopK, TopP
from harness_ext.models.speculative_pair import SpeculativePair
from harness_ext.protocol import Question

TEACHER = str(model_path("teacher"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Serve the embedded teacher as vLLM serves completions, as far as the tests need it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TEACHER).eval()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids = asked["prompt"]
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
            reported: list[Any] = [None]
            for position, token in enumerate(ids[1:]):
                listed = [*order[position, : asked["prompt_logprobs"]].tolist(), token]
                reported.append(
                    {
                        str(t): {
                            "logprob": float(scores[position, t]),
                            "rank": int((scores[position] > scores[position, t]).sum()) + 1,
                        }
                        for t in listed
                    }
                )
            after = {f"token_id:{t}": float(scores[-1, t]) for t in order[-1, : asked["logprobs"]].tolist()}
            choice = {
                "text": "",
                "prompt_logprobs": reported,
                "logprobs": {"top_logprobs": [after]},
                "finish_reason": "length",
            }
            reply = {"choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}
            data = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}/v1"
    served.shutdown()


def test_a_served_teacher_writes_what_the_local_one_writes(server: str) -> None:
    spec = f"openai:teacher@{server}"
    teacher = make_backend(parse_spec(spec, {"endpoint": "completions", "tokenizer": TEACHER}))
    student = make_backend(parse_spec(str(model_path("student")), {"device": "cpu"}))
    local = make_backend(parse_spec(TEACHER, {"device": "cpu"}))
    gen = {"until": [], "max_gen_toks": 24}
    lines = ["Mary went to the garden.", "John travelled to the office."]
    asked = [
        Question(INSTRUCTION + story_text(lines, f"Where is {n}?"), gen, "t", i) for i, n in enumerate(["Mary", "John"])
    ]
    wanted = run_engine(Engine(), Skyline(), {"teacher": local}, asked, timeout=200)
    found = run_engine(
        Engine(), SpeculativePair(accept="greedy"), {"student": student, "teacher": teacher}, asked, timeout=200
    )
    assert [found[i].failure for i in (0, 1)] == [None, None]
    assert [found[i].text for i in (0, 1)] == [wanted[i].text for i in (0, 1)]


def test_what_a_server_does_not_return_is_undecided_or_an_error() -> None:
    tokens = ServedTokens(TEACHER, 64)
    request = VerifyRequest("Where?", {"until": []}, (), (7, 8))
    row = tokens.row(request)
    listed = {"5": {"logprob": -0.7, "rank": 1}, "6": {"logprob": -1.6, "rank": 2}}
    choice = {
        "prompt_logprobs": [
            *[None] * (len(row) - 2), {**listed, "7": {"logprob": -6.0, "rank": 40}}, {**listed, "8": {"logprob": -6.0}}
        ],
        "logprobs": {"top_logprobs": [{"token_id:2": -0.1, "token_id:9": -2.5}]},
    }  # fmt: skip
    checks = read_verification("it", choice, tokens, request)
    assert (checks.ranks, checks.floors, checks.end_rank) == ((39, 2), (0, 1), 0)
    assert checks.best == ((5, -0.7), (5, -0.7), (2, -0.1))
    assert checks.instead == {2: (9, -2.5)}
    assert [TopK(3).passes(checks, i) for i in (0, 1)] == [False, None]
    assert [TopP(0.95).passes(checks, i) for i in (0, 1)] == [None, None]
    assert TopP(0.5).passes(checks, 0) is False
    with pytest.raises(LoadError, match="returns no log-probabilities of a prompt's tokens"):
        read_verification("it", {"text": "", "logprobs": None}, tokens, request)


def test_the_error_about_an_unreadable_tokenizer_names_it() -> None:
    with pytest.raises(ValueError, match="`tokenizer=no-such-tokenizer` cannot be read"):
        make_backend(
            parse_spec("openai:m@http://127.0.0.1:1/v1", {"endpoint": "completions", "tokenizer": "no-such-tokenizer"})
        )

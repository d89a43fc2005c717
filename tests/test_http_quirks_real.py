"""Tests of what real servers do otherwise than their API says: `transformers serve`, and llama.cpp's if it is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servers import free_port
from support import instance, instances
from test_http_real import running, transformers_serve
from test_serve_real import llama
from tiny_chat import TEMPLATE, tiny_chat_model

from harness_ext.cli import doctor
from harness_ext.models.baseline import BaselineLM
from harness_ext.records.chat import ChatContext

pytestmark = pytest.mark.timeout(600)  # importing torch and transformers takes the server minutes on a busy machine

REFUSES = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEMPLATE
)
DROPS = TEMPLATE.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
TALKS = [[{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Hi {n}"}] for n in range(4)]
GREEDY = {"until": [], "max_gen_toks": 6}


def options(folder: Path) -> dict[str, Any]:
    return {"store": "off", "run_dir": folder, "progress": "off", "device": "cpu"}


def report(capsys: pytest.CaptureFixture[str], spec: str) -> str:
    assert doctor.main(["--seat", f"teacher={spec}"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("template", [REFUSES, DROPS], ids=["refuses", "drops"])
def test_a_template_without_system_messages_gets_what_a_local_model_gets(
    tmp_path: Path, template: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server answers 500 to the one and 200 to the other; `hf` merges the message in both cases."""
    model = tiny_chat_model(tmp_path / "model", template=template)
    asked = [instance(ChatContext.of(talk), GREEDY, doc_id=n) for n, talk in enumerate(TALKS)]
    with transformers_serve(model, tmp_path) as spec:
        there = BaselineLM(student=spec, **options(tmp_path / "there"))
        found = there.generate_until(asked)
        said = report(capsys, spec)
    here = BaselineLM(student=f"hf:{model}", **options(tmp_path / "here"))
    assert found == here.generate_until(asked)
    for run in ("there", "here"):
        assert json.loads((tmp_path / run / "summary.json").read_text())["events"]["system_merged"] == len(TALKS)
    for line in (
        "note     system messages: merged into the first user message (",
        "ok       model names: a wrong one is refused",
        "note     beginnings of replies: not continued (",
        "ok       decisions endpoint: `/systemone`",
        "note     probabilities of the first token: not offered (",
        "note     log-probabilities of a prompt: not offered (",
    ):
        assert line in said


@pytest.mark.real
def test_llama_cpp_is_seen_as_it_is_and_two_of_them_are_a_pool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, weights = llama()
    ports = [free_port() for _ in range(2)]
    command = [program, "-m", weights, "-c", 2048, "-np", 2, "-t", 1, "--alias", "m", "--port"]
    with (
        running([*command, ports[0]], ports[0], tmp_path / "log") as a,
        running([*command, ports[1]], ports[1], tmp_path / "log2") as b,
    ):
        said = report(capsys, f"openai:m@{a}+{b},teacher.revision=w")
        asked = instances((f"Is {n} + {n} = {2 * n}?" for n in range(12)), GREEDY)
        found = []
        for name, urls in (("one", a), ("pool", f"{a}+{b}")):
            spec = {"student": f"openai:m@{urls}", "student.revision": "w", "student.num_concurrent": 1}
            found.append(BaselineLM(**spec, **options(tmp_path / name)).generate_until(asked))
    assert all(found[0])
    assert found[0] == found[1]
    for line in (
        "note     model names: ignored, so check that the server runs m",
        "ok       beginnings of replies: continued, and repeated in the reply",
        "note     decisions endpoint: not offered (`/systemone`: HTTP 501: ",
        "ok       probabilities of the first token: ",
        "ok       forced choice: `response_format`",
        "note     log-probabilities of a prompt: not offered (",
    ):
        assert said.count(line) == 2

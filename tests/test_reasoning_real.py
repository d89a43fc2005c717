"""llama.cpp obeys the options for reasoning models, and a reply shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from servers import free_port
from support import instance
from test_http_real import running
from test_serve_real import llama

from harness_ext.models.baseline import BaselineLM
from harness_ext.records import Completion
from harness_ext.records.run_directory import read_transcripts

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

# In the form of Qwen3's, by which llama.cpp recognises where thoughts begin and end. It begins the thought, since a
# model that was not trained to think would not.
TEMPLATE = """
{%- for message in messages %}
{%- if message.role == "assistant" %}
{%- set thought = message.reasoning_content if message.reasoning_content is string else '' %}
{{- '<|im_start|>assistant\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
{{- message.content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{{- '<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false else '<think>\\n' }}
{%- endif %}
"""


def test_thinking_is_switched_and_limited(tmp_path: Path) -> None:
    program, weights = llama()
    template, port = tmp_path / "template.jinja", free_port()
    template.write_text(TEMPLATE)
    command = [program, "-m", weights, "-c", 1024, "-np", 1, "-t", 1, "--jinja", "--chat-template-file", template]
    found: dict[str, tuple[Completion, dict[str, Any]]] = {}
    with running([*command, "--alias", "m", "--port", port], port, tmp_path / "log") as url:
        for name, given in {
            "as it is": {},
            "off": {"thinking": "off"},
            "on": {"thinking": "on"},
            "limited": {"thinking_tokens": 9},
        }.items():
            seat = {f"student.{option}": value for option, value in given.items()}
            lm = BaselineLM(student=f"openai:m@{url}", **seat, store="off", run_dir=tmp_path / name, progress="off")
            lm.generate_until([instance("What is 6*7? Think step by step.", {"until": [], "max_gen_toks": 40})])
            (turn,) = next(iter(read_transcripts(tmp_path / name))).turns
            assert isinstance(turn.result, Completion)
            found[name] = turn.result, json.loads((tmp_path / name / "summary.json").read_text())["events"]
    assert found["as it is"][0].thought.count("Step") > 1
    assert found["on"][0].thought == found["as it is"][0].thought
    assert not found["off"][0].thought
    assert found["off"][0].text.strip()
    limited = found["limited"][0]
    assert found["as it is"][0].thought.startswith(limited.thought)
    assert 0 < len(limited.thought) < len(found["as it is"][0].thought) / 2
    assert limited.text.strip()
    for _, events in found.values():
        assert not {"thinking_not_off", "no_thought", "thinking_over_budget"} & events.keys()

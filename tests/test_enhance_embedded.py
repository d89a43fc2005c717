"""The embedded models as teacher, student and judge; diverse beam search; the shell script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness_ext.backends.base import GenerateRequest
from harness_ext.backends.hf import HFBackend
from harness_ext.backends.hf_beams import beam_settings
from harness_ext.embedded import model_path
from harness_ext.enhance.command import main
from harness_ext.enhance.prepare import prepare
from harness_ext.enhance.templates import load_templates
from harness_ext.records import Completion
from harness_ext.tasks.babi_stories.rows import draw

ROOT = Path(__file__).resolve().parent.parent
LIMIT = {"until": [], "max_gen_toks": 16}


@pytest.fixture(scope="module")
def student() -> HFBackend:
    backend = HFBackend({"pretrained": str(model_path("student")), "batch_size": 8, "device": "cpu"})
    backend.load()
    return backend


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    templates = load_templates("stories")
    return [templates.fill(row)["cot_text"] for row in draw(9_100_000, 2, (2, 5))]


def search(backend: HFBackend, prompts: list[str], groups: int, penalty: float) -> list[list[Completion]]:
    """Return the candidates of each prompt; the requests are made in random order."""
    wanted = [(p, g) for g in reversed(range(groups)) for p in range(len(prompts))]
    requests = [GenerateRequest(prompts[p], beam_settings(groups, g, penalty, LIMIT)) for p, g in wanted]
    found: dict[tuple[int, int], Completion] = {}
    backend.generate(requests, lambda i, completion: found.__setitem__(wanted[i], completion))
    return [[found[p, g] for g in range(groups)] for p in range(len(prompts))]


def by_definition(backend: HFBackend, prompt: str, groups: int, penalty: float) -> list[str]:
    """Diverse beam search with one beam per group, by definition: one token and one forward pass at a time."""
    import torch

    lm = backend.lm
    start = lm.tok_encode(prompt)
    rows: list[list[int]] = [[] for _ in range(groups)]
    for _ in range(LIMIT["max_gen_toks"]):  # type: ignore[call-overload]
        taken: dict[int, int] = {}
        for row in rows:
            if row and row[-1] in lm.end_ids:
                continue
            with torch.no_grad():
                scores = lm.model(torch.tensor([start + row])).logits[0, -1].log_softmax(-1)
            for token, times in taken.items():
                scores[token] -= penalty * times
            row.append(int(scores.argmax()))
            taken[row[-1]] = taken.get(row[-1], 0) + 1
    return [lm.tok_decode([t for t in row if t not in lm.end_ids]) for row in rows]


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_diverse_beams_match_the_definition(student: HFBackend, prompts: list[str], penalty: float) -> None:
    found = search(student, prompts, 4, penalty)
    for prompt, candidates in zip(prompts, found, strict=True):
        assert [c.text for c in candidates] == by_definition(student, prompt, 4, penalty)
    if penalty == 0:
        assert all(len({c.text for c in candidates}) == 1 for candidates in found)
    else:
        assert all(len({c.text for c in candidates}) > 1 for candidates in found)
    alone = search(student, prompts[1:2], 4, penalty)
    assert [c.text for c in alone[0]] == [c.text for c in found[1]], "batch mates change nothing"


def test_the_first_group_is_greedy_decoding(student: HFBackend, prompts: list[str]) -> None:
    plain: dict[int, Completion] = {}
    requests = [GenerateRequest(prompt, {**LIMIT, "do_sample": False}) for prompt in prompts]
    student.generate(requests, plain.__setitem__)
    found = search(student, prompts, 2, 2.0)
    assert [c[0].text for c in found] == [plain[i].text for i in range(len(prompts))]
    assert [c[0].completion_tokens for c in found] == [plain[i].completion_tokens for i in range(len(prompts))]


def test_transformers_has_no_group_beam_search_without_the_hub(student: HFBackend) -> None:
    """If this fails, transformers supports it again and `harness_ext/backends/hf_beams.py` can be removed."""
    import torch

    more: dict[str, Any] = {"num_beams": 4, "num_beam_groups": 4, "diversity_penalty": 1.0, "do_sample": False}
    with pytest.raises(ValueError, match="trust_remote_code"):
        student.lm.model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=2, **more)


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps(row) + "\n" for row in draw(9_200_000, 4, (2, 3))))
    prepare(raw, tmp_path / "stories.jsonl", load_templates("stories"))
    return tmp_path / "stories.jsonl"


def test_estimate_and_preferences_on_stories(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, store = stories.with_name("prefs.jsonl"), str(stories.with_name("calls"))
    options = ["preferences", str(stories), str(target), "--student", "embedded", "--judge", "embedded"]
    options += ["--style", "review", "--field", "cot_text", "--k", "3", "--method", "diverse_beams", "--store", store]
    options += ["--near_duplicates", "1", "--diversity_penalty", "4", "--gen_kwargs", "max_gen_toks=60"]
    options += ["--model_args", "progress=off,judge.price_in=5,judge.price_out=15", "--device", "cpu"]
    assert main([*options, "--estimate", "--seconds_a_call", "36", "--reply_tokens", "30"]) == 0
    student, judge = capsys.readouterr().out.splitlines()
    assert "student: 12 calls" in student
    assert "360 completion tokens, hours 0.12, price unknown" in student
    assert "judge: 12 calls" in judge
    assert "hours 0.12" in judge
    assert "price 0." in judge
    assert not target.exists()
    assert main(options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["contests"] == 4
    assert report["candidates"] > 4
    assert report["ties"]["total"] + report["gold"]["of_these_judge_decides"] <= report["matches"]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert len(rows) == report["pairs"]


@pytest.mark.timeout(600)
def test_the_shell_script_takes_four_positional_arguments(stories: Path) -> None:
    ended = subprocess.run(
        ["bash", str(ROOT / "enhance" / "enhance.sh"), "embedded", "stories.jsonl", "out.jsonl", "cot_text",
         "--limit", "2", "--gen_kwargs", "max_gen_toks=40"],
        cwd=stories.parent, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True, timeout=580,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    rows = [json.loads(line) for line in (stories.parent / "out.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert all(row["all"] == row["cot_text"] + row["cot"] and "Answer:" in row["cot"] for row in rows)
    assert "first prompt" in ended.stderr
    usage = subprocess.run(["bash", str(ROOT / "enhance" / "enhance.sh"), "x"], capture_output=True, check=False)
    assert usage.returncode == 2

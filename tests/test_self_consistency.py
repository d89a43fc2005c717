"""Tests of self-consistency: draws, votes, and as many draws as cost what another run cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import instances, run_engine, scripted_pair

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.config.run_plan import plan_run
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError, StoreError
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.self_consistency import SelfConsistency, SelfConsistencyLM
from harness_ext.protocol import Question
from harness_ext.records import Transcript


def draw(texts: list[str], settings: dict[str, Any] | None = None, **options: Any) -> tuple[Transcript, list[Any]]:
    left, asked = list(texts), []
    student = ScriptedBackend(lambda prompt: left.pop(0))
    generate = student.generate

    def watched(requests: Any, deliver: Any) -> None:
        asked.extend(dict(r.gen_kwargs) for r in requests)
        generate(requests, deliver)

    student.generate = watched  # type: ignore[method-assign]
    question = Question("How many?", {"until": ["Q"]} if settings is None else settings, "t")
    protocol = SelfConsistency(k=str(len(texts)), **options)
    return run_engine(Engine(), protocol, {"student": student}, [question])[0], asked


def test_the_draws_vote() -> None:
    done, asked = draw(["a\n#### 5", "b\n#### 1,000", "c\n#### $1000", "no idea what it could be", "d\n#### 1000.0"])
    assert (done.text, done.stop) == ("b\n#### 1,000", "vote")
    assert (done.details or {})["votes"] == [["5", 1.0], ["1000", 3.0]]
    totals = (done.details or {})["totals"]
    assert {k: totals[k] for k in ("draws", "unparsable", "ties", "unanimous")} == {
        "draws": 5, "unparsable": 1, "ties": 0, "unanimous": 0,
    }  # fmt: skip
    assert asked == [{"until": ["Q"], "do_sample": True, "temperature": 0.7}] * 5


def test_ties_and_unreadable_answers_are_reported() -> None:
    assert draw(["#### 5", "#### 7", "#### 7", "#### 5"])[0].stop == "tie"
    assert draw(["#### 5", "#### 7", "#### 7", "#### 5"])[0].text == "#### 5"
    done, _ = draw(["I cannot say this at all", "who does know such things"])
    assert (done.text, done.stop) == ("I cannot say this at all", "unparsable")
    assert draw(["It => 7 (5)", "It => 7 (6)", "It => 8 (5)"], answer_pattern=r"=> (\d)")[0].text == "It => 7 (5)"


def test_a_task_that_samples_keeps_its_own_settings() -> None:
    own = {"do_sample": True, "temperature": 1.3, "max_gen_toks": 9}
    assert draw(["1", "1"], own)[1] == [own] * 2
    assert draw(["1", "1"], top_p=0.9)[1][0]["top_p"] == 0.9


def student_run(tmp_path: Path, **prices: Any) -> tuple[Path, ScriptedBackend]:
    """Run `feedback_pair` with drafts of 3 words. Each question costs 3 + 1 + 4 + 1 words of output."""
    student, teacher = scripted_pair(
        lambda p: "so it is 7" if "Your teacher" in p else "it is 6", lambda p: "Correct." if "7" in p else "Incorrect."
    )
    lm = FeedbackPairLM(
        student=student, teacher=teacher, store="off", run_dir=tmp_path / "feedback", progress="off",
        **{f"{seat}.{name}": value for seat in ("student", "teacher") for name, value in prices.items()},
    )  # fmt: skip
    lm.generate_until(instances(["one two three?", "four five six?"]))
    return tmp_path / "feedback", student


def resolved(student: ScriptedBackend, **options: Any) -> SelfConsistency:
    prices = {n: v for n, v in options.items() if n.startswith("student.")}
    protocol = plan_run(SelfConsistency, {"student": student, **options, **prices}).protocol
    assert isinstance(protocol, SelfConsistency)
    return protocol


def test_k_is_chosen_so_that_the_draws_cost_what_a_run_cost(tmp_path: Path) -> None:
    run, student = student_run(tmp_path, price_in=1, price_out=1000)
    priced = {"student.price_in": 1, "student.price_out": 1000}
    by_output = resolved(student, k=f"auto:{run}")
    assert (by_output.k, by_output.target) == ("3", 9.0)  # 3 + 1 + 4 + 1 words per question, 3 per draw
    by_tokens = resolved(student, k=f"auto:{run}", by="tokens")
    assert int(by_tokens.k) > 9
    by_flops = resolved(student, k=f"auto:{run}", by="flops")
    assert by_flops.k == by_tokens.k  # both models have the same size
    assert resolved(student, k=f"auto:{run}", by="price", **priced).k == "3"


def test_a_matched_run_reports_its_cost_and_its_target(tmp_path: Path) -> None:
    run, student = student_run(tmp_path)
    lm = SelfConsistencyLM(student=student, k=f"auto:{run}", store="off", run_dir=tmp_path / "sc", progress="off")
    lm.generate_until(instances(["one two three?", "four five six?"]))
    assert json.loads((tmp_path / "sc" / "config.json").read_text())["identity"]["options"]["k"] == "3"
    totals = json.loads((tmp_path / "sc" / "summary.json").read_text())["totals"]
    assert (totals["cost"], totals["target_cost"], totals["draws"]) == (18, 18.0, 6)


def test_a_model_that_did_not_draft_in_the_run_is_measured_in_another(tmp_path: Path) -> None:
    run, student = student_run(tmp_path)
    other = ScriptedBackend(lambda p: "one", name="other")
    with pytest.raises(ConfigurationError, match="no drafts of this seat's model"):
        resolved(other, k=f"auto:{run}")
    SelfConsistencyLM(student=other, k=1, store="off", run_dir=tmp_path / "single", progress="off").generate_until(
        instances(["one two three?"])
    )
    assert resolved(other, k=f"auto:{run}", draws_from=str(tmp_path / "single")).k == "9"
    with pytest.raises(ConfigurationError, match="set the prices"):
        resolved(student, k=f"auto:{run}", by="price")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "a whole number above 0"),
        ({"k": "auto"}, "auto:<run directory>"),
        ({"k": "auto:/nowhere"}, "not a run directory"),
        ({"temperature": -1}, "0 or more"),
        ({"top_p": 0}, "above 0"),
        ({"by": "words"}, "one of output_tokens, tokens, flops, price"),
        ({"answer_pattern": "["}, "no regular expression"),
    ],
)
def test_invalid_arguments_are_reported_before_anything_loads(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        plan_run(SelfConsistency, {"student": ScriptedBackend(str), **options})


def test_greedy_draws_are_one_voice_and_the_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lm = SelfConsistencyLM(
        student=ScriptedBackend(lambda p: "5"), k=3, temperature=0, store="off", run_dir=tmp_path, progress="off"
    )
    lm.generate_until(instances(["a", "b"]))
    assert "4 calls repeated a greedy call" in capsys.readouterr().err


def test_draws_with_another_seed_are_another_evaluation(tmp_path: Path) -> None:
    import torch

    def make(seed: int, **options: Any) -> SelfConsistencyLM:
        torch.manual_seed(seed)
        return SelfConsistencyLM(
            student=ScriptedBackend(lambda p: "5"), store="off", run_dir=tmp_path, progress="off", **options
        )

    make(1)
    make(1)
    with pytest.raises(StoreError, match="different: seed"):
        make(2)

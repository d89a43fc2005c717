"""Every type of lm-eval task (choices, log-likelihoods, whole texts) and lm-eval's own options, run by lm-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.config.run_options import CLOSING, INVITATION
from harness_ext.embedded import model_path
from harness_ext.errors import ConfigurationError, RunFailed
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.debate import DebateLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.self_consistency import SelfConsistencyLM
from harness_ext.records.run_directory import read_transcripts

PLACES = ["garden", "kitchen", "hall", "office", "bathroom"]
ROWS = [
    {
        "q": f"{'Mary went to the hall. ' * (i % 3)}John went to the {PLACES[i % 5]}. Where is John?",
        "choices": [PLACES[i % 5], PLACES[(i + 1) % 5], "bedroom and the " + PLACES[(i + 3) % 5]],
        "gold": 0,
        "a": PLACES[i % 5],
    }
    for i in range(7)
]
TASKS: dict[str, dict[str, Any]] = {
    "picks": {
        "output_type": "multiple_choice", "doc_to_text": "Question: {{q}}\nAnswer:", "doc_to_target": "gold",
        "doc_to_choice": "choices", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "picks_mutual": {
        "output_type": "multiple_choice", "doc_to_text": "Question: {{q}}\nAnswer:", "doc_to_target": "gold",
        "doc_to_choice": "choices", "metric_list": [{"metric": "acc_mutual_info"}],
    },
    "letters": {
        "output_type": "multiple_choice", "target_delimiter": "", "metric_list": [{"metric": "acc"}],
        "doc_to_text": "Q: {{q}} (A) {{choices[0]}} (B) {{choices[1]}} A: The answer is (", "doc_to_target": "gold",
        "doc_to_choice": ["A", "B"],
    },
    "last_word": {
        "output_type": "loglikelihood", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    "whole": {
        "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}}",
        "metric_list": [{"metric": "word_perplexity"}],
    },
    "said": {
        "output_type": "generate_until", "doc_to_text": "{{q}}\n", "doc_to_target": "{{a}}", "num_fewshot": 1,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12}, "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip
TASKS["thrice"] = {**TASKS["said"], "repeats": 3}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a TaskManager for task files over local rows, as a user would write them."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    data = {"test": str(folder / "rows.jsonl"), "train": str(folder / "rows.jsonl")}
    for name, task in TASKS.items():
        full = {
            "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": data}, "test_split": "test",
            "fewshot_split": "train", "fewshot_config": {"sampler": "first_n"}, **task,
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(full))
    group = {
        "group": "several", "task": ["picks", "said"],
        "aggregate_metric_list": [{"metric": "acc", "aggregation": "mean"}],
    }  # fmt: skip
    (folder / "several.yaml").write_text(yaml.safe_dump(group))
    return TaskManager(include_path=str(folder), include_defaults=False)


def run(lm: Any, names: list[str], tasks: Any, **more: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate

    results = simple_evaluate(model=lm, tasks=names, task_manager=tasks, bootstrap_iters=0, **more)
    assert results is not None
    return results


def own(folder: Path, cls: type[Any] = BaselineLM, **options: Any) -> Any:
    return cls(store=str(folder / "store"), run_dir=folder / "run", progress="off", **options)


def replies(results: dict[str, Any]) -> dict[str, Any]:
    return {task: [(s["doc_id"], s["resps"]) for s in samples] for task, samples in results["samples"].items()}


@pytest.fixture(scope="module")
def stock() -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model_path("student")), batch_size=4, device="cpu")


@pytest.mark.parametrize("chat", [False, True])
def test_without_reasoning_the_numbers_are_those_of_stock_hf(
    chat: bool, tasks: Any, stock: Any, tmp_path: Path
) -> None:
    names = ["picks", "picks_mutual", "letters", "last_word", "whole"]
    more = {"apply_chat_template": chat, "num_fewshot": 1, "fewshot_as_multiturn": chat}
    lm = own(tmp_path, reason="off", student=str(model_path("student")), batch_size=4, device="cpu")
    # One call per request type, as lm-eval makes it, so that the texts of several tasks share batches.
    ours, theirs = run(lm, names, tasks, **more), run(stock, names, tasks, **more)
    assert replies(ours) == replies(theirs)
    assert [ours["results"][n] for n in names] == [theirs["results"][n] for n in names]
    again = own(tmp_path, reason="off", student=str(model_path("student")), batch_size=4, device="cpu")
    assert replies(run(again, names, tasks, **more)) == replies(theirs)
    assert not again.plan.seats["student"].backend.loaded  # everything was in the run directory


def thinker(prompt: str) -> str:
    return " John went there.\n\nThe answer is garden." if prompt.endswith((INVITATION, "Assistant:")) else "?"


def by_rationale(prompt: str, continuation: str) -> float:
    return -1.0 if "went there" in prompt and PLACES[0] in continuation else -2.0 - len(continuation)


def test_a_question_is_reasoned_about_once_and_each_choice_scored_after_it(tasks: Any, tmp_path: Path) -> None:
    model = ScriptedBackend(thinker, score_reply=by_rationale)
    lm = own(tmp_path, student=model)
    results = run(lm, ["picks"], tasks)
    # In rows 0 and 5 the gold choice is the garden, in rows 2 and 4 another choice is. Of the others, only row 3 has
    # the gold choice as its shortest.
    assert results["results"]["picks"]["acc,none"] == pytest.approx(3 / 7)
    transcripts = list(read_transcripts(lm.session.run.path))
    assert len(transcripts) == 7
    assert [t.kind for t in transcripts[0].turns] == ["draft", "choice", "choice", "choice"]
    generated = [p for batch in model.calls for p in batch if p.endswith(INVITATION)]
    weighed = [p for batch in model.calls for p in batch if p.endswith(CLOSING)]
    assert (len(generated), len(weighed)) == (7, 21)
    assert generated[0] == f"Question: {ROWS[0]['q']}\nAnswer: {INVITATION}"
    assert weighed[0] == f"{generated[0]} John went there.\n\nThe answer is garden.\n{CLOSING}"
    assert transcripts[0].turns[1].verdict == {"continuation": f" {ROWS[0]['choices'][0]}"}


def test_reasoning_under_a_chat_template_and_before_an_open_bracket(tasks: Any, tmp_path: Path) -> None:
    model = ScriptedBackend(thinker, score_reply=by_rationale)
    lm = own(tmp_path / "chat", student=model)
    run(lm, ["picks"], tasks, apply_chat_template=True, limit=1)
    (done,) = read_transcripts(lm.session.run.path)
    assert model.calls[0] == [f"User: Question: {ROWS[0]['q']}\nAnswer:\n\n{INVITATION}\n\nAssistant:"]
    assert model.calls[1][0].endswith(f"Assistant: John went there.\n\nThe answer is garden.\n\n{CLOSING}")
    assert [t.verdict["continuation"] for t in done.turns[1:] if t.verdict] == [f" {c}" for c in ROWS[0]["choices"]]

    model = ScriptedBackend(thinker, score_reply=by_rationale)
    lm = own(tmp_path / "letters", student=model)
    run(lm, ["letters"], tasks, limit=1)
    assert model.calls[0][0].endswith(f"(B) kitchen A: {INVITATION}")
    assert model.calls[1][0].endswith(f"{CLOSING} (")
    (done,) = read_transcripts(lm.session.run.path)
    assert [t.verdict["continuation"] for t in done.turns[1:] if t.verdict] == ["A", "B"]


def test_the_protocol_reasons_and_its_first_seat_scores(tasks: Any, tmp_path: Path) -> None:
    student = ScriptedBackend(
        lambda p: "corrected" if "Hint" in p else "wrong", name="s", score_reply=lambda p, c: -1.0
    )
    teacher = ScriptedBackend(lambda p: "Correct." if "corrected" in p else "Incorrect.\nHint: look", name="t")
    lm = own(tmp_path / "f", FeedbackPairLM, student=student, teacher=teacher)
    run(lm, ["picks"], tasks, limit=2)
    first = next(read_transcripts(lm.session.run.path))
    assert [t.kind for t in first.turns] == ["draft", "review", "refine", "review", "choice", "choice", "choice"]
    assert {t.seat for t in first.turns if t.kind == "choice"} == {"student"}
    assert all("corrected" in p and "wrong" not in p for p in student.calls[-1])

    agents = [
        ScriptedBackend(lambda p, i=i: f"So #### {i % 2}", name=f"a{i}", score_reply=lambda p, c: -1.0)
        for i in range(3)
    ]  # type: ignore[misc]
    lm = own(tmp_path / "d", DebateLM, agents=agents, topology="all", max_rounds=1)
    run(lm, ["picks"], tasks, limit=1)
    (done,) = read_transcripts(lm.session.run.path)
    assert [t.seat for t in done.turns if t.kind == "choice"] == ["agent1"] * 3
    assert "So #### 0" in agents[0].calls[-1][0]


def test_requests_without_choices_are_scored_directly(tasks: Any, tmp_path: Path) -> None:
    model = ScriptedBackend(thinker, score_reply=by_rationale)
    lm = own(tmp_path, student=model)
    run(lm, ["last_word", "picks_mutual"], tasks, limit=2)
    stops = [(t.task, t.stop, bool(t.context)) for t in read_transcripts(lm.session.run.path)]
    assert sorted(stops) == [
        ("last_word", "scored", True), ("last_word", "scored", True),
        ("picks_mutual", "done", True), ("picks_mutual", "done", True),
        ("picks_mutual", "scored", False), ("picks_mutual", "scored", False),
    ]  # fmt: skip
    with pytest.raises(ConfigurationError, match="whole scores whole texts, which leave nothing to reason about"):
        run(own(tmp_path / "w", student=model), ["whole"], tasks)


def test_a_choice_without_tokens_is_reported(tasks: Any, tmp_path: Path) -> None:
    """lm-eval itself would raise an AssertionError without a message, in the middle of a batch."""
    from support import instance

    lm = own(tmp_path, reason="off", student=str(model_path("student")), device="cpu")
    request = instance("Where?")
    request.request_type, request.arguments = "loglikelihood", ("Where is John?", "")
    with pytest.raises(RunFailed, match=r"nothing is left to score.*target_delimiter"):
        lm.loglikelihood([request])


def test_a_model_without_log_likelihoods_is_refused(tasks: Any, tmp_path: Path) -> None:
    model = ScriptedBackend(thinker)
    model.capabilities = frozenset({"generate"})
    with pytest.raises(
        ConfigurationError, match="`student`: the task needs log-likelihoods, which scripted does not return"
    ):
        run(own(tmp_path, student=model), ["picks"], tasks)


def test_a_question_that_fails_is_never_scored_as_if_it_were_wrong(tasks: Any, tmp_path: Path) -> None:
    """Any value could make the gold choice win, so `on_failure=score` does not apply here; the rest is stored."""

    def fails(prompt: str) -> str:
        if "office" in prompt:
            raise ValueError("no")
        return "ok"

    lm = own(tmp_path, student=ScriptedBackend(fails, score_reply=by_rationale), on_failure="score")
    with pytest.raises(RunFailed, match="1 questions have no answer"):
        run(lm, ["picks"], tasks)
    fine = ScriptedBackend(lambda p: "fine", score_reply=by_rationale)
    lm = own(tmp_path, student=fine, on_failure="score")
    run(lm, ["picks"], tasks)
    assert len(list(read_transcripts(lm.session.run.path))) == 7


# -- lm-eval's own options ----------------------------------------------------------------------------------------


def speaker(prompt: str) -> str:
    return prompt.rsplit("to the ", 1)[1].split(".")[0]


def test_groups_of_both_kinds(tasks: Any, tmp_path: Path) -> None:
    results = run(own(tmp_path, student=ScriptedBackend(speaker, score_reply=by_rationale)), ["several"], tasks)
    assert results["results"]["said"]["exact_match,none"] == 1.0
    assert set(results["group_subtasks"]["several"]) == {"picks", "said"}
    assert results["config"]["harness_ext"]["summary"]["questions"] == 14


def test_limit_samples_predict_only_write_out_and_log_samples(tasks: Any, tmp_path: Path) -> None:
    def ask(folder: str, **more: Any) -> tuple[dict[str, Any], list[int]]:
        lm = own(tmp_path / folder, student=ScriptedBackend(speaker))
        return run(lm, ["said"], tasks, **more), sorted(t.doc_id for t in read_transcripts(lm.session.run.path))

    assert ask("limit", limit=2)[1] == [0, 1]
    results, asked = ask("samples", samples={"said": [1, 4, 6]})
    assert [(s["doc_id"], s["resps"]) for s in results["samples"]["said"]] == [(i, [[ROWS[i]["a"]]]) for i in (1, 4, 6)]
    assert asked == [0, 1, 2]  # lm-eval numbers the selected documents from 0; hashes tell which ones they are
    results, _ = ask("predict", predict_only=True, limit=2)
    assert results["results"]["said"]["bypass,none"] == 999
    assert [s["resps"] for s in results["samples"]["said"]] == [[["garden"]], [["kitchen"]]]
    ask("write", write_out=True, limit=1)
    assert "samples" not in ask("quiet", log_samples=False, limit=1)[0]


def test_gen_kwargs_reach_only_drafts(tasks: Any, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    def watched(name: str, reply: Any) -> ScriptedBackend:
        backend = ScriptedBackend(reply, name=name)
        generate = backend.generate

        def watch(requests: Any, deliver: Any) -> None:
            seen.setdefault(name, dict(requests[0].gen_kwargs))
            generate(requests, deliver)

        backend.generate = watch  # type: ignore[method-assign]
        return backend

    lm = own(tmp_path, FeedbackPairLM, student=watched("s", speaker), teacher=watched("t", lambda p: "Correct."))
    run(lm, ["said"], tasks, limit=1, gen_kwargs="max_gen_toks=5,temperature=0.3,do_sample=True")
    assert (seen["s"]["max_gen_toks"], seen["s"]["temperature"], seen["s"]["do_sample"]) == (5, 0.3, True)
    assert (seen["t"]["max_gen_toks"], seen["t"]["do_sample"]) == (256, False)


def test_sampled_repeats_are_separate_draws(tasks: Any, tmp_path: Path) -> None:
    count = iter(range(999))
    lm = own(tmp_path, SelfConsistencyLM, student=ScriptedBackend(lambda p: f"#### {next(count)}"), k=2)
    results = run(lm, ["thrice"], tasks, limit=2)
    transcripts = list(read_transcripts(lm.session.run.path))
    assert sorted((t.doc_id, t.repeat) for t in transcripts) == [(d, r) for d in range(2) for r in range(3)]
    assert len({turn.text for t in transcripts for turn in t.turns}) == 12
    assert [len(s["resps"][0]) for s in results["samples"]["thrice"]] == [3, 3]


def test_cached_requests_still_carry_messages(tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval caches built requests by tokenizer name; the requests that it restores still carry their messages."""
    import lm_eval.caching.cache as cache

    monkeypatch.setattr(cache, "PATH", str(tmp_path / "cache"))
    more = {"apply_chat_template": True, "fewshot_as_multiturn": True, "limit": 2, "cache_requests": True}
    asked = []
    for name in ("first", "second"):
        model = ScriptedBackend(speaker)
        run(own(tmp_path / name, student=model), ["said"], tasks, **more)
        asked.append(sorted(p for batch in model.calls for p in batch))
    assert asked[0] == asked[1]
    assert asked[0][0].count("User: ") == 2
    assert any((tmp_path / "cache").iterdir())


def test_few_shot_examples_as_turns_of_a_conversation(tasks: Any, tmp_path: Path) -> None:
    model = ScriptedBackend(speaker)
    run(own(tmp_path, student=model), ["said"], tasks, apply_chat_template=True, fewshot_as_multiturn=True, limit=1)
    assert model.calls[0][0].startswith(f"User: {ROWS[0]['q']}\n\nAssistant: {ROWS[0]['a']}\n\nUser: ")

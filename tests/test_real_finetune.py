"""Training real public models, cut to a few layers: what is learned, whether losses fall, and what lm-eval scores."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from real_models import gemma_chat, perturbed

from harness_ext.finetune.args import ADAPTERS, METHODS, PREFERENCE_METHODS, RATES, ConfigError, TrainArgs
from harness_ext.finetune.checkpoint_scores import EvaluationSettings, Scorer, hf_arguments, subjects
from harness_ext.finetune.checkpoints import numbered, why_incomplete
from harness_ext.finetune.checkpoints_command import main
from harness_ext.finetune.encoding import IGNORED, DataError
from harness_ext.finetune.report import DataReport, build_dataset
from harness_ext.finetune.sources import load
from harness_ext.finetune.train import run_stage

# The first of these tests downloads and converts a model, unless that has been done before.
pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

STEPS, ROWS_PER_STEP, QUESTIONS = 3, 2, 4
SYSTEM, ASKED = "Be brief.", "Where is the café? 😀\r\n日本"
REPLY = "Reasoning: $\\frac{1}{2}$.\nAnswer: 東京 👩‍👩‍👧"
PROMPT = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}]
ROWS = {
    "rows": [{"prompt": PROMPT, "completion": REPLY, "solution": REPLY}] * ROWS_PER_STEP * STEPS,
    "pairs": [{"prompt": PROMPT, "chosen": REPLY, "rejected": "Answer: garden"}] * ROWS_PER_STEP * STEPS,
    "messages": [
        {
            "messages": [
                {"role": "user", "content": ASKED},
                {"role": "assistant", "content": "First 😀."},
                {"role": "user", "content": "And then?"},
                {"role": "assistant", "content": REPLY},
            ]
        }
    ],
    # Gemma's template has no system turn.
    "gemma": [{"prompt": [PROMPT[1]], "completion": REPLY}] * ROWS_PER_STEP * STEPS,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("rows")
    for name, rows in ROWS.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in ROWS}


@pytest.fixture(scope="module")
def teacher(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with the same tokenizer and other weights."""
    return perturbed(smollm2, tmp_path_factory.mktemp("teacher") / "model", 0.2)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a task whose metric is a log-likelihood, so that hardly any difference is without effect."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"q": f"{ASKED} {number}\n", "a": f" {REPLY}"[: 9 * number]} for number in range(1, QUESTIONS + 1)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "reply.yaml").write_text(
        f"task: reply\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: loglikelihood\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "target_delimiter: ''\nmetric_list: [{metric: perplexity}]\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def manager(tasks: Path) -> Any:
    """Return a task manager that knows this task alone: to look for lm-eval's own tasks takes seconds each time."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(tasks), include_defaults=False)


@pytest.fixture
def checkpoint_values(
    tasks: Path, manager: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[Path], dict[str, float]]:
    """Return a function that has `harness-ext checkpoints` score a run's only checkpoint, and returns its scores."""
    monkeypatch.setattr(Scorer, "_tasks", lambda self: manager)

    def values(run: Path) -> dict[str, float]:
        capsys.readouterr()
        options = ["--tasks", "reply", "--include_path", str(tasks), "--batch_size", "4", "--device", "cpu"]
        assert main([str(run), *options, "--no-baseline"]) == 0
        assert f"| checkpoint-{STEPS} " in capsys.readouterr().out
        (_, subject), skipped = subjects(run)
        assert skipped == []
        scored = Scorer(run, EvaluationSettings()).stored(subject, "reply")
        assert scored is not None
        assert all(map(math.isfinite, scored.values.values()))
        return scored.values

    return values


@pytest.fixture(scope="module")
def untouched(smollm2: Path, manager: Any) -> dict[str, float]:
    """Return the scores of the untouched model."""
    return stock_values({"pretrained": smollm2}, manager)


def settings(model: Path, train_file: str, out: Path, **values: Any) -> TrainArgs:
    adapter = values.get("adapter", "full")
    if adapter in ("lora", "qlora"):
        values["lora_dropout"] = 0.0
    base = TrainArgs(str(model), train_file, str(out), learning_rate=RATES[adapter])
    return dataclasses.replace(
        base, epochs=1, batch_size=ROWS_PER_STEP, scheduler="constant", save_only_model=True, logging_steps=1,
        device="cpu", **values,
    )  # fmt: skip


def losses(run: Path) -> list[float]:
    log = json.loads((run / "log.json").read_text(encoding="utf-8"))
    return [entry["loss"] for entry in log if "loss" in entry]


def learned(row: dict[str, list[int]], tokenizer: Any) -> list[str]:
    """Return the parts of a row that are learned."""
    parts: list[list[int]] = []
    before = IGNORED
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        assert label in (token, IGNORED)
        if label != IGNORED:
            if before == IGNORED:
                parts.append([])
            parts[-1].append(token)
        before = label
    return [tokenizer.decode(part) for part in parts]


def encoded(model: Path, train_file: str, tmp_path: Path, **values: Any) -> tuple[Any, DataReport, Any]:
    """Return the rows as they are trained on, the report on them and the tokenizer."""
    from transformers import AutoTokenizer

    args = settings(model, train_file, tmp_path, **values)
    tokenizer = AutoTokenizer.from_pretrained(model)
    return *build_dataset(load(args)[0], tokenizer, args, "rows"), tokenizer


CASES = [(method, adapter) for method in METHODS for adapter in ADAPTERS]


@pytest.mark.parametrize(("method", "adapter"), CASES)
def test_each_method_trains_each_adapter_and_lm_eval_scores_it(
    method: str, adapter: str, smollm2: Path, teacher: Path, data: dict[str, str], manager: Any,
    untouched: dict[str, float], tmp_path: Path, checkpoint_values: Callable[[Path], dict[str, float]],
) -> None:  # fmt: skip
    if adapter == "qlora":
        pytest.importorskip("bitsandbytes")
    out = tmp_path / "run"
    rows = data["pairs" if method in PREFERENCE_METHODS else "rows"]
    more = {"teacher_model": str(teacher)} if method == "kd" else {}
    final = run_stage(settings(smollm2, rows, out, method=method, adapter=adapter, **more))
    assert why_incomplete(final) == ""
    found = losses(out)
    assert len(found) == STEPS
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0], "one row, learned again and again"
    values = checkpoint_values(out)
    assert values.keys() == untouched.keys()
    assert values != untouched
    if (method, adapter) in (("sft", "full"), ("dpo", "lora")):
        assert values == stock_values(hf_arguments(numbered(out)[-1]), manager)


def stock_values(arguments: dict[str, Any], manager: Any) -> dict[str, float]:
    """Return what lm-eval's own `hf` scores, by question."""
    from lm_eval import simple_evaluate

    text = ",".join(f"{name}={value}" for name, value in {**arguments, "dtype": "float32"}.items())
    results = simple_evaluate(
        model="hf", model_args=text, tasks=["reply"], batch_size=4, device="cpu", task_manager=manager,
        bootstrap_iters=0,
    )  # fmt: skip
    return {f"reply:{row['doc_id']}": row["perplexity"] for row in results["samples"]["reply"]}


@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_gemma_trains_and_lm_eval_scores_it(
    adapter: str,
    gemma: Path,
    data: dict[str, str],
    tmp_path: Path,
    checkpoint_values: Callable[[Path], dict[str, float]],
) -> None:
    """It has 262,144 tokens, layers of two kinds, and here a template whose turn end is not the stop token."""
    model = gemma_chat(gemma, tmp_path / "model")
    # Without momenta, since those of all its embeddings take longer to save than the rest takes to compute.
    more = {"optim": "sgd", "learning_rate": 1e-2} if adapter == "full" else {}
    out = tmp_path / "run"
    final = run_stage(settings(model, data["gemma"], out, adapter=adapter, **more))
    assert why_incomplete(final) == ""
    found = losses(out)
    assert all(map(math.isfinite, found))
    assert found[-1] < found[0]
    assert len(checkpoint_values(out)) == QUESTIONS


# -- what is learned ----------


def test_smollm2_learns_the_replies_and_their_turn_ends(smollm2: Path, data: dict[str, str], tmp_path: Path) -> None:
    rows, report, tokenizer = encoded(smollm2, data["messages"], tmp_path)
    assert learned(rows[0], tokenizer) == ["First 😀.<|im_end|>", f"{REPLY}<|im_end|>"]
    whole = tokenizer.apply_chat_template(ROWS["messages"][0]["messages"], tokenize=False)
    assert tokenizer.decode(rows[0]["input_ids"]) == whole
    assert rows[0]["input_ids"] == tokenizer.encode(whole)
    assert "WARNING" not in report.text()
    assert (report.stop_tokens, report.stops) == (["<|im_end|>"], 1)


@pytest.mark.parametrize("name", ["rows", "gemma"])
def test_prompts_are_tokenised_as_lm_eval_does(
    name: str, smollm2: Path, gemma: Path, data: dict[str, str], tmp_path: Path
) -> None:
    """In particular, the template's own BOS token is not preceded by another one."""
    from lm_eval.models.huggingface import HFLM

    model = smollm2 if name == "rows" else gemma_chat(gemma, tmp_path / "model")
    rows, report, tokenizer = encoded(model, data[name], tmp_path)
    lm = HFLM(str(model), device="cpu", batch_size=1)
    prompt = lm.apply_chat_template(ROWS[name][0]["prompt"])
    begin = lm.tok_batch_encode([prompt])[0][0].tolist()
    assert rows[0]["input_ids"][: len(begin)] == begin
    assert rows[0]["input_ids"][len(begin) :] == [token for token in rows[0]["labels"] if token != IGNORED]
    assert begin.count(tokenizer.bos_token_id) == prompt.count(tokenizer.bos_token)
    assert learned(rows[0], tokenizer) == [REPLY + tokenizer.eos_token]
    assert report.stops == len(rows)


def test_preferences_have_the_same_prompt_and_both_end(smollm2: Path, data: dict[str, str], tmp_path: Path) -> None:
    rows, report, tokenizer = encoded(smollm2, data["pairs"], tmp_path, method="dpo")
    prompt = tokenizer.apply_chat_template(PROMPT, tokenize=False, add_generation_prompt=True)
    found = {name: tokenizer.decode(rows[0][name]) for name in rows.column_names}
    assert found == {
        "prompt_ids": prompt, "chosen_ids": f"{REPLY}<|im_end|>", "rejected_ids": "Answer: garden<|im_end|>",
    }  # fmt: skip
    assert report.stops == len(rows)


EOS, END_OF_TURN = 1, 106  # Gemma's


@pytest.mark.parametrize("stops", [(), (EOS, END_OF_TURN)])
def test_gemma_learns_the_turn_ends_of_its_template(
    stops: tuple[int, ...], gemma: Path, data: dict[str, str], tmp_path: Path
) -> None:
    model = gemma_chat(gemma, tmp_path / "model", stops)
    rows, report, tokenizer = encoded(model, data["messages"], tmp_path)
    assert learned(rows[0], tokenizer) == ["First 😀.<end_of_turn>", f"{REPLY}<end_of_turn>"]
    assert rows[0]["input_ids"].count(tokenizer.bos_token_id) == 1
    if stops:
        assert (report.stop_tokens, report.stops) == (["<eos>", "<end_of_turn>"], 1)
        assert "WARNING" not in report.text()
    else:
        assert (report.stop_tokens, report.stops) == (["<eos>"], 0)
        assert "turns end with <end_of_turn>, at which generation does not stop" in report.text()


# -- what is refused ----------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "sft", "adapter": "prefix", "packing": True}, "packed rows share one prefix"),
        ({"method": "dpo", "adapter": "pkv", "gradient_checkpointing": True}, "recomputed layers see the prefix"),
        ({"method": "orpo", "packing": True}, "preference pairs cannot be packed"),
        ({"method": "sft", "adapter": "qlora", "deepspeed": "zero2"}, "weights that bitsandbytes stores packed"),
        ({"method": "sft", "max_length": 8193}, "exceeds the model's 8192 positions"),
        ({"method": "sft", "adapter": "prefix", "max_length": 8192}, "plus 50 prefix positions"),
    ],
)
def test_combinations_that_cannot_work_are_refused(
    values: dict[str, Any], message: str, smollm2: Path, data: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage(settings(smollm2, data["rows"], tmp_path / "run", **values))
    assert not (tmp_path / "run").exists()


def test_a_teacher_with_other_tokens_is_refused(
    smollm2: Path, gemma: Path, data: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the model has 49152 entries and the teacher 262144"):
        run_stage(settings(smollm2, data["rows"], tmp_path / "run", method="kd", teacher_model=str(gemma)))


def test_messages_without_a_template_are_refused(gemma: Path, data: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the chat template cannot render it: .*chat_template is not set"):
        encoded(gemma, data["messages"], tmp_path)

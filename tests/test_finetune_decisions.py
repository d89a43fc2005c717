"""Decision teachers: rows of state, question and answer, the training on them, and who reads the result."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from math import exp, fsum, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chat import tiny_chat_model

from harness_ext.analysis.scoring.probabilities import area_under_roc
from harness_ext.backends.base import DecideRequest
from harness_ext.backends.decision_model import make_decision_backend
from harness_ext.backends.hf import make_hf_backend
from harness_ext.decisions import Choice, Predicate, Score, TypedQuestion, as_state, decision_prompt, labels_of
from harness_ext.finetune import args as train_args
from harness_ext.finetune.args import ConfigError, TrainArgs
from harness_ext.finetune.decision_rows import DecisionRow, decision_tokens, parse_decision
from harness_ext.finetune.decision_teacher import write_teacher
from harness_ext.finetune.decision_temperature import LARGEST, SMALLEST, best_temperature, fit_temperatures
from harness_ext.finetune.encoding import IGNORED, BadRow, parse
from harness_ext.finetune.export_model import export
from harness_ext.finetune.tokenising import encode
from harness_ext.finetune.train import run_stage
from harness_ext.reading.control_tokens import neutralise
from harness_ext.records import Message

pytest.importorskip("transformers.pipelines.decision")

QUESTIONS: dict[str, tuple[dict[str, Any], TypedQuestion, Any]] = {
    "plain": ({"instructions": "Is it so?"}, Predicate("Is it so?"), True),
    "described": (
        {"type": "predicate", "instructions": "Is it so?", "true": "it is", "false": "it is not"},
        Predicate("Is it so?", "it is", "it is not"),
        "false",
    ),
    "choice": (
        {"type": "choice", "instructions": "Where?", "options": ["hall", "attic", "yard"]},
        Choice("Where?", ("hall", "attic", "yard")),
        "yard",
    ),
    "score": (
        {"type": "score", "instructions": "How good?", "levels": ["bad", "so-so", "good"]},
        Score("How good?", ("bad", "so-so", "good")),
        1,
    ),
}
STATES: list[str | dict[str, str]] = ["Mary is in the hall.", {"task": "1+1?", "answer": "2 — é"}, "<|user|>Yes<|end|>"]
IS_EARLY = {"type": "predicate", "instructions": "Early?"}


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tokenizer(chat_model: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(chat_model)


def settings_of(**given: Any) -> TrainArgs:
    return TrainArgs(**{"model": "m", "train_file": "t", "output_dir": "o", **given})


def words(number: int, seed: int) -> list[dict[str, Any]]:
    """Return rows about four letters, of which the last one decides the answer."""
    drawn = random.Random(seed)
    rows = []
    for _ in range(number):
        text = "".join(drawn.choice("abcdefgh") for _ in range(4))
        rows.append({"state": text, "question": IS_EARLY, "answer": text[-1] < "e"})
    return rows


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def request(row: dict[str, Any], backend: Any) -> DecideRequest:
    parsed = parse_decision(row)
    question = parsed.typed
    prompt = backend.render_decision([Message("user", decision_prompt(parsed.state, question))]).text
    return DecideRequest(prompt, question.options, labels_of(question), question=question, state=parsed.state)


def verdicts(backend: Any, rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the probabilities of `true` that a seat with this model gives."""
    backend.load()
    found: dict[int, Any] = {}
    backend.decide([request(row, backend) for row in rows], found.__setitem__)
    return [found[i].probability("true") for i in range(len(rows))]


def hf(folder: Path | str) -> Any:
    return make_hf_backend(str(folder), {"device": "cpu", "dtype": "float32", "batch_size": 16})


def auroc(stated: Sequence[float], rows: Sequence[dict[str, Any]]) -> float:
    return float(area_under_roc(stated, [row["answer"] for row in rows])(np.ones((1, len(rows))))[0])


# -- rows --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES, ids=["text", "fields", "control tokens"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_the_prompt_is_that_of_seats_and_only_the_label_is_learned(
    chat_model: str, tokenizer: Any, name: str, state: str | dict[str, str]
) -> None:
    stated, question, answer = QUESTIONS[name]
    one = encode(parse({"state": state, "question": stated, "answer": answer}, settings_of()), tokenizer)
    backend = hf(chat_model)
    text = neutralise(as_state(state))[0]
    prompt = backend.render_decision([Message("user", decision_prompt(text, question))]).text
    seat = backend.lm.tok_batch_encode([prompt])[0][0].tolist()
    label = labels_of(question)[question.options.index(str(answer).lower())]
    assert one.input_ids == [*seat, *tokenizer(label, add_special_tokens=False)["input_ids"]]
    assert one.labels == [IGNORED] * len(seat) + [one.input_ids[-1]]
    assert tokenizer.eos_token_id not in one.labels
    assert one.decision


def test_a_text_is_a_yes_no_question(tokenizer: Any) -> None:
    short = parse_decision({"state": "s", "question": "Is it so?", "answer": "true"})
    assert short == parse_decision({"state": "s", "question": {"instructions": "Is it so?"}, "answer": True})
    assert short.typed == Predicate("Is it so?")
    assert decision_tokens(short, tokenizer).type == "noul"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": " "}, "state is neither text nor fields"),
        ({"state": 5}, "state is neither text nor fields"),
        ({"answer": "maybe"}, "'maybe' is none of the options true, false"),
        ({"answer": None}, "None is none of the options"),
        ({"answer": 1.0}, "1.0 is none of the options"),
        ({"question": ""}, "no instructions"),
        ({"question": {"type": "noul", "instructions": "?"}}, "types are predicate, choice, score"),
        ({"question": {"type": ["choice"], "instructions": "?"}}, "types are predicate, choice, score"),
        ({"question": {"type": "choice", "instructions": "?"}}, "a choice has instructions, options"),
        ({"question": {"instructions": "?", "options": ["a"]}}, "a predicate has instructions"),
        ({"question": {"type": "choice", "instructions": "?", "options": "ab"}}, "options must be a list of texts"),
        ({"question": {"type": "choice", "instructions": "?", "options": ["a", "a"]}}, "two or more different options"),
        ({"question": {"type": "score", "instructions": "?", "levels": ["a"]}}, "2 to 10 levels"),
        ({"question": {"type": "score", "instructions": "?", "levels": ["a", "b"]}, "answer": 2}, "2 is none of"),
        ({"question": {"instructions": 3}}, "instructions must be text"),
    ],
)
def test_what_is_no_decision_is_refused_with_the_reason(change: dict[str, Any], reason: str) -> None:
    row = {"state": "s", "question": "Is it so?", "answer": True, **change}
    with pytest.raises(BadRow, match=reason):
        parse(row, settings_of())


def test_more_options_than_letters_are_refused(tokenizer: Any) -> None:
    many = {"type": "choice", "instructions": "?", "options": [f"o{i}" for i in range(27)]}
    with pytest.raises(BadRow, match="at most 26 options"):
        encode(parse({"state": "s", "question": many, "answer": "o1"}, settings_of()), tokenizer)


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=2, max_size=8, unique=True),
    st.data(),
)
def test_the_answer_of_a_choice_is_an_option_of_any_name(options: list[str], data: st.DataObject) -> None:
    answer = data.draw(st.sampled_from(options))
    row = parse_decision(
        {"state": {"x": 1}, "question": {"type": "choice", "instructions": "?", "options": options}, "answer": answer}
    )
    assert row.answer == answer
    assert row.typed == Choice("?", tuple(options))
    assert parse_decision({"state": row.state, "question": row.question, "answer": row.answer}) == row


def test_other_kinds_of_rows_come_first() -> None:
    row = {"state": "s", "question": "?", "answer": True}
    assert isinstance(parse(row, settings_of()), DecisionRow)
    assert not isinstance(parse({**row, "text": "a text"}, settings_of()), DecisionRow)
    assert not isinstance(parse({**row, "question": "What?"}, settings_of(column="question")), DecisionRow)


# -- temperatures ------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 4), st.integers(2, 6), st.integers(0, 99))
def test_the_temperature_is_what_the_scores_were_multiplied_by(heat: float, options: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    honest = draw.normal(0, 1.5, (3000, options))
    shares = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    answers = [int(draw.choice(options, p=row)) for row in shares]
    assert best_temperature((heat * honest).tolist(), answers) == pytest.approx(heat, rel=0.2)


@pytest.mark.parametrize("answers", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]])
def test_the_temperature_is_finite_whatever_the_answers(answers: list[int]) -> None:
    found = best_temperature([[4.0, 1.0]] * 4, answers)
    assert SMALLEST <= found <= LARGEST
    assert best_temperature([[1.0, 1.0]] * 4, answers) == 1.0


def test_each_type_of_question_has_a_temperature_of_its_own(tokenizer: Any) -> None:
    rows = [
        decision_tokens(parse_decision({"state": "s", "question": stated, "answer": answer}), tokenizer)
        for stated, _, answer in QUESTIONS.values()
    ]
    scores = [[3.0, 1.0], [0.0, 2.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    fits = fit_temperatures([*rows * 20, rows[0]], [*scores * 20, scores[0]])
    assert [(fit.type, fit.rows) for fit in fits] == [("noul", 41), ("choice", 20), ("score", 20)]
    by_type = {fit.type: fit for fit in fits}
    assert by_type["choice"].temperature < 1 < by_type["score"].temperature
    assert by_type["noul"].auroc is not None
    assert by_type["noul"].auroc.value == 1.0
    assert any("only 20 validation rows" in line for line in by_type["choice"].lines())


# -- training ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Taught:
    """A decision teacher: the settings, the folder of the run, that of the model, and the validation rows."""

    args: TrainArgs
    run: Path
    model: Path
    validation: list[dict[str, Any]]


@pytest.fixture(scope="module", params=["full", "lora"])
def taught(request: pytest.FixtureRequest, chat_model: str, tmp_path_factory: pytest.TempPathFactory) -> Taught:
    method = request.param
    folder = tmp_path_factory.mktemp(method)
    validation = words(120, seed=2)
    adapter = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0} if method == "lora" else {}
    args = TrainArgs(
        model=chat_model,
        train_file=write(folder / "train.jsonl", words(800, seed=1)),
        eval_file=write(folder / "validation.jsonl", validation),
        output_dir=str(folder / "run"),
        adapter=method,
        dtype="bfloat16",  # the temperature must still be that of the model as it is used
        learning_rate=5e-3 if adapter else 2e-3,
        epochs=3,
        batch_size=16,
        device="cpu",
        threads=1,
        **adapter,
    )
    final = run_stage(args)
    return Taught(args, folder / "run", final if method == "full" else folder / "run" / "merged", validation)


def test_training_teaches_decisions_on_unseen_rows(taught: Taught, chat_model: str) -> None:
    learned = {row["state"] for row in [*words(800, seed=1), *taught.validation]}
    unseen = [row for row in words(400, seed=3) if row["state"] not in learned]
    assert len(unseen) > 100
    before, after = verdicts(hf(chat_model), unseen), verdicts(hf(taught.model), unseen)
    assert 0.3 < auroc(before, unseen) < 0.7
    assert auroc(after, unseen) > 0.9
    report = json.loads((taught.run / "data_report.json").read_text(encoding="utf-8"))
    assert report["train"]["decisions"] == report["train"]["learned"] == 800


def test_the_pipeline_of_transformers_and_every_seat_give_the_same_probabilities(taught: Taught) -> None:
    from transformers import pipeline

    rows = taught.validation[:20]
    theirs = pipeline("decision", model=str(taught.model))
    asked = {"it": {"type": "noul", "instructions": IS_EARLY["instructions"]}}
    found = [theirs({"state": row["state"], "questions": asked})["it"]["noul"] for row in rows]
    assert theirs.decision_config.temperature["noul"] != 1.0
    assert verdicts(hf(taught.model), rows) == pytest.approx(found, abs=1e-5)
    assert verdicts(make_decision_backend(str(taught.model), {"device": "cpu"}), rows) == pytest.approx(found, abs=1e-5)


def test_the_recorded_temperature_is_that_of_the_files_and_fits_the_validation_rows(taught: Taught) -> None:
    (fit,) = json.loads((taught.run / "decisions.json").read_text(encoding="utf-8"))
    for folder in {taught.model, taught.run / "final"}:
        settings_file = json.loads((folder / "decision.json").read_text(encoding="utf-8"))
        assert settings_file["temperature"] == {"noul": fit["temperature"]}
    stated = verdicts(hf(taught.model), taught.validation)
    right = [p if row["answer"] else 1 - p for p, row in zip(stated, taught.validation, strict=True)]
    assert fit["after"] == pytest.approx(-fsum(map(log, right)) / len(right), abs=1e-4)
    odds = np.array([fit["temperature"] * log(p / (1 - p)) for p in right])
    best = min(float(np.logaddexp(0, -odds / t).mean()) for t in np.geomspace(0.1, 10, 200))
    assert fit["after"] <= best + 0.01
    assert fit["before"] == pytest.approx(float(np.logaddexp(0, -odds).mean()), abs=1e-4)
    assert fit["auroc"]["value"] == pytest.approx(auroc(stated, taught.validation), abs=1e-9)


def test_an_exported_teacher_keeps_its_settings(taught: Taught, tmp_path: Path) -> None:
    export(taught.run, tmp_path / "exported")
    assert (tmp_path / "exported" / "decision.json").read_text() == (taught.model / "decision.json").read_text()


def test_a_finished_teacher_is_not_trained_again(taught: Taught) -> None:
    before = (taught.model / "decision.json").stat().st_mtime_ns
    run_stage(taught.args)
    assert (taught.model / "decision.json").stat().st_mtime_ns == before


def test_without_validation_rows_the_temperature_stays(tmp_path: Path, tokenizer: Any) -> None:
    args = settings_of(output_dir=str(tmp_path))
    (tmp_path / "final").mkdir()
    lines = write_teacher(args, tokenizer, tmp_path, train_args.final_dir(tmp_path), [])
    assert any("no temperature was fitted" in line for line in lines)
    assert json.loads((tmp_path / "final" / "decision.json").read_text())["temperature"] == {}


def test_a_models_own_labels_are_taught_and_kept(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    tiny_chat_model(folder)
    own = {"labels": {"noul": ["5", "7"]}, "temperature": {"choice": 2.0, "noul": 3.0}}
    (folder / "decision.json").write_text(json.dumps(own))
    own_tokenizer = AutoTokenizer.from_pretrained(folder)
    row = parse_decision({"state": "s", "question": "Is it so?", "answer": False})
    found = decision_tokens(row, own_tokenizer)
    assert own_tokenizer.decode([found.labels[found.answer]]) == "7"
    (fit,) = fit_temperatures([found] * 40, [[0.0, 1.0]] * 40)
    (tmp_path / "final").mkdir()
    write_teacher(settings_of(output_dir=str(tmp_path)), own_tokenizer, tmp_path, tmp_path / "final", [fit])
    kept = json.loads((tmp_path / "final" / "decision.json").read_text())
    assert kept["labels"] == own["labels"]
    assert kept["temperature"] == {"choice": 2.0, "noul": fit.temperature}


def test_a_prefix_is_refused_before_a_model_is_loaded(tmp_path: Path, chat_model: str) -> None:
    args = TrainArgs(
        model=chat_model,
        train_file=write(tmp_path / "train.jsonl", words(8, seed=1)),
        output_dir=str(tmp_path / "run"),
        adapter="prefix",
        device="cpu",
    )
    with pytest.raises(ConfigError, match="cannot be merged"):
        run_stage(args)


def test_scores_are_those_of_the_pipeline(taught: Taught) -> None:
    """Rows of different lengths are read together, and the temperature is not yet in the scores."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from harness_ext.finetune.decision_temperature import label_scores

    own = AutoTokenizer.from_pretrained(taught.model)
    rows = [{**row, "state": row["state"] * (1 + at % 3)} for at, row in enumerate(taught.validation[:12])]
    tokens = [decision_tokens(parse_decision(row), own) for row in rows]
    model = AutoModelForCausalLM.from_pretrained(taught.model, dtype=torch.float32)
    temperature = json.loads((taught.model / "decision.json").read_text())["temperature"]["noul"]
    scores = label_scores(model, tokens, own.pad_token_id, 5)
    stated = [1 / (1 + exp((no - yes) / temperature)) for yes, no in scores]
    assert stated == pytest.approx(verdicts(hf(taught.model), rows), abs=1e-5)

"""Tests of verifying and continuing token ids on `hf`, compared with transformers, and of a tiny classifier."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import run_engine

from harness_ext.backends.base import Backend, GenerateRequest, Request, ScoreRequest, VerifyRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.backends.registry import make_backend, parse_spec
from harness_ext.embedded import model_path
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.engine.engine import Engine
from harness_ext.models.best_of_n import BestOfN
from harness_ext.models.skyline import Skyline
from harness_ext.models.speculative_pair import SpeculativePair
from harness_ext.protocol import Question
from harness_ext.records import Completion, Message
from harness_ext.records.call_store import CallStore
from harness_ext.records.results import read_result

GEN = {"until": ["\nHere are the context sentences:", "Answer: g"], "max_gen_toks": 40}


def ask(backend: Backend, requests: Sequence[Request]) -> list[Completion]:
    found: dict[int, Completion] = {}
    kind = {GenerateRequest: "generate", VerifyRequest: "verify", ScoreRequest: "score"}[type(requests[0])]
    getattr(backend, kind)(requests, found.__setitem__)
    return [found[i] for i in range(len(requests))]


def loaded(name: str, batch_size: int = 8) -> HFBackend:
    backend = make_hf_backend(str(model_path(name)), {"device": "cpu", "batch_size": batch_size})
    backend.load()
    backend.loaded = True
    return backend


@pytest.fixture(scope="module")
def teacher() -> HFBackend:
    return loaded("teacher")


@pytest.fixture(scope="module")
def student() -> HFBackend:
    return loaded("student")


def stories(count: int) -> list[str]:
    names, places = ["Mary", "John", "Sandra", "Daniel"], ["garden", "kitchen", "hallway", "office"]
    contexts = []
    for i in range(count):
        lines = [f"{names[(i + k) % 4]} went to the {places[(i * k + 1) % 4]}." for k in range(1 + i % 3)]
        contexts.append(INSTRUCTION + story_text(lines, f"Where is {names[i % 4]}?"))
    return contexts


@pytest.fixture(scope="module")
def written(teacher: HFBackend) -> list[Completion]:
    return ask(teacher, [GenerateRequest(c, GEN, keep_ids=True) for c in stories(6)])


def test_a_reply_continued_at_any_token_is_the_same_reply(teacher: HFBackend, written: list[Completion]) -> None:
    """All partial replies are in one padded batch. A stop sequence that begins in the given part is recognised."""
    asked = [
        (context, whole, cut)
        for context, whole in zip(stories(6), written, strict=True)
        for cut in {0, 1, len(whole.ids or ()) // 2, len(whole.ids or ()) - 1}
    ]
    requests = [GenerateRequest(context, GEN, reply=(whole.ids or ())[:cut]) for context, whole, cut in asked]
    for (_, whole, cut), rest in zip(asked, ask(teacher, requests), strict=True):
        assert (whole.ids or ())[:cut] + (rest.ids or ()) == whole.ids
        assert teacher.tokens is not None
        assert teacher.tokens.read(whole.ids or (), GEN) == (whole.text, True)
        assert whole.text.endswith(rest.text)
        assert rest.finish == whole.finish


def test_only_a_step_or_a_number_of_tokens(teacher: HFBackend) -> None:
    (one, three) = ask(teacher, [GenerateRequest(stories(1)[0], GEN, reply=(), only=n) for n in (1, 3)])
    assert (len(one.ids or ()), len(three.ids or ())) == (1, 3)
    assert (three.ids or ())[:1] == one.ids
    assert one.finish is None


def test_a_verification_is_the_models_own_opinion(teacher: HFBackend, written: list[Completion]) -> None:
    """It is the same in a padded batch and alone, and its distribution is that of transformers."""
    import torch

    other = tuple(range(10, 19))
    requests = [
        VerifyRequest(c, GEN, (w.ids or ())[:3], (w.ids or ())[3:]) for c, w in zip(stories(6), written, strict=True)
    ]
    requests += [VerifyRequest(c, GEN, (), other, candidates=(5, 6), uniforms=(0.0, 0.999999)) for c in stories(2)]
    together = ask(teacher, requests)
    for request, completion in zip(requests, together, strict=True):
        (alone,) = ask(teacher, [request])
        assert alone.ranks == completion.ranks
        assert [t for t, _ in alone.best] == [t for t, _ in completion.best]
        assert alone.logprobs == pytest.approx(completion.logprobs, abs=1e-4)
    for completion in together[:6]:
        assert set(completion.ranks) <= {0}, "the draft is its own greedy text"
    prompt = teacher.lm.tok_batch_encode([requests[6].prompt])[0][0].tolist()
    with torch.no_grad():
        scores = teacher.lm.model(torch.tensor([[*prompt, *other]])).logits[0, len(prompt) - 1 :].log_softmax(-1)
    found = together[6]
    assert found.logprobs == pytest.approx([float(scores[i, t]) for i, t in enumerate(other)], abs=1e-4)
    assert found.ranks == tuple(int((scores[i] > scores[i, t]).sum()) for i, t in enumerate(other))
    assert found.above == pytest.approx(
        [float(scores[i][scores[i] > scores[i, t]].exp().sum()) for i, t in enumerate(other)], abs=1e-4
    )
    assert found.candidates == pytest.approx([float(scores[-1, 5]), float(scores[-1, 6])], abs=1e-4)
    assert len(found.drawn) == 2
    assert read_result(json.loads(json.dumps(together[6].to_json()))) == together[6]


def test_self_certainty_is_the_divergence_from_the_uniform_distribution(teacher: HFBackend) -> None:
    """It is the model's own: settings that leave out tokens would make it infinite."""
    import torch

    context, draft = stories(1)[0], tuple(range(10, 19))
    warped = {**GEN, "do_sample": True, "temperature": 0.7, "top_k": 1}
    requests = [VerifyRequest(context, gen, (), draft, certainty=True) for gen in (GEN, warped)]
    prompt = teacher.lm.tok_batch_encode([context])[0][0].tolist()
    with torch.no_grad():
        scores = teacher.lm.model(torch.tensor([[*prompt, *draft]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    uniform = torch.full_like(scores, 1 / scores.shape[-1])
    expected = float((uniform * (uniform.log() - scores)).sum(-1).mean())
    found = ask(teacher, requests)
    assert [one.certainty for one in found] == pytest.approx([expected, expected], abs=1e-4)
    assert read_result(json.loads(json.dumps(found[0].to_json()))) == found[0]
    (without,) = ask(teacher, [VerifyRequest(context, GEN, (), ())])
    assert without.certainty is None


def test_best_of_n_takes_the_draft_of_which_the_student_is_surest(student: HFBackend) -> None:
    asked = [Question(context, GEN, "t", i, f"h{i}") for i, context in enumerate(stories(3))]
    found = run_engine(Engine(), BestOfN(n=4, by="self_certainty"), {"student": student}, asked)
    for done in found.values():
        assert done.details is not None
        drafts = [turn.text for turn in done.turns if turn.kind == "draft"]
        scores = done.details["scores"]
        assert len(scores) == 4
        assert done.text == drafts[scores.index(max(scores))]


def test_verification_sees_what_generation_would_choose_from(teacher: HFBackend) -> None:
    """Penalties and warpers apply to verification too: what is generated with them is approved with them."""
    context = stories(1)[0]
    penalised = {**GEN, "repetition_penalty": 1.6}
    (own,) = ask(teacher, [GenerateRequest(context, penalised, keep_ids=True)])
    (plain,) = ask(teacher, [GenerateRequest(context, GEN, keep_ids=True)])
    assert own.ids != plain.ids, "the penalty changes nothing here, so the test proves nothing"
    (seen,) = ask(teacher, [VerifyRequest(context, penalised, (), own.ids or ())])
    assert set(seen.ranks) == {0}
    warped = {**GEN, "do_sample": True, "temperature": 0.7, "top_k": 1}
    (sure,) = ask(teacher, [VerifyRequest(context, warped, (), plain.ids or ())])
    assert set(sure.logprobs) == {0.0}


@pytest.mark.parametrize("unit", ["token", "chunk"])
def test_greedy_is_the_teachers_text_on_the_embedded_pair(
    student: HFBackend, teacher: HFBackend, unit: Any, data_dir: Path, tmp_path: Path
) -> None:
    """Real questions are answered in padded batches, and then again from the store without a call.

    `benchmarks/speculative.py` does the same with hundreds of questions.
    """
    rows = [json.loads(line) for line in (data_dir / "babi" / "train.jsonl").read_text().splitlines()]
    rows = [row for row in rows if len(row["passage"].splitlines()) <= 4][:: 90 if unit == "chunk" else 60][:10]
    asked = [
        Question(INSTRUCTION + story_text(row["passage"].splitlines(), row["question"]), GEN, "babi", i, str(i))
        for i, row in enumerate(rows)
    ]
    assert len(asked) > 3
    wanted = run_engine(Engine(), Skyline(), {"teacher": teacher}, asked, timeout=280)
    protocol = SpeculativePair(unit=unit, accept="greedy", chunk_tokens=4)
    for attempt in range(2):
        store = CallStore(tmp_path)
        found = run_engine(Engine(store), protocol, {"student": student, "teacher": teacher}, asked, timeout=280)
        store.close()
        assert [found[i].failure for i in range(len(asked))] == [None] * len(asked)
        assert [found[i].text for i in range(len(asked))] == [wanted[i].text for i in range(len(asked))]
        assert all(t.reused for i in found for t in found[i].turns) == bool(attempt)
    passes = sum(found[i].details["totals"]["passes"] for i in found)  # type: ignore[index]
    assert passes < sum(t.result.completion_tokens or 0 for i in wanted for t in wanted[i].turns)


# -- reward models ----------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a tiny classifier with random weights."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(str(model_path("teacher")))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_labels=1, pad_token_id=0, max_position_embeddings=256,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_classifiers_score_does_not_depend_on_the_batch(classifier: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    backend = make_backend(parse_spec(f"classifier:{classifier}", {"batch_size": 3}))
    assert backend.capabilities == {"reward"}
    backend.load()
    texts = ["Mary went home.", "So Mary is there. Answer: home", "x", "John. " * 9]
    found = ask(backend, [ScoreRequest("Where?\n", text) for text in texts])
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    with torch.no_grad():
        wanted = [
            float(torch.nn.functional.logsigmoid(model(torch.tensor([tokenizer.encode(f"Where?\n{t}")])).logits[0, 0]))
            for t in texts
        ]
    assert [c.logprob for c in found] == pytest.approx(wanted, abs=1e-5)
    assert backend.render([Message("user", "Hi"), Message("assistant", "So")]).text.endswith("<|assistant|>So")
    problem = backend.check(ScoreRequest("word " * 300, ""))
    assert problem is not None
    assert problem.code == "overflow"
    assert backend.check(GenerateRequest("a", {})) is not None


@pytest.mark.parametrize(
    ("args", "message"), [({"label": "good"}, "its labels are LABEL_0"), ({"lable": 1}, "there is no argument `lable`")]
)
def test_problems_with_a_classifier_are_reported(classifier: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_backend(parse_spec(f"classifier:{classifier}", args))
    with pytest.raises(ValueError, match="cannot be read"):
        make_backend(parse_spec("classifier:no-such-model-anywhere", {}))


def test_a_classifier_takes_the_third_seat(student: HFBackend, teacher: HFBackend, classifier: str) -> None:
    reward = make_backend(parse_spec(f"classifier:{classifier}", {}))
    protocol = SpeculativePair(unit="step", accept="reward", threshold=0.5, max_corrections=1)
    gen = {**GEN, "max_gen_toks": 16}
    seats = {"student": student, "teacher": teacher, "reward": reward}
    (found,) = run_engine(Engine(), protocol, seats, [Question(stories(1)[0], gen)], timeout=200).values()
    assert found.failure is None
    assert {t.seat for t in found.turns} >= {"student", "reward"}

"""Tests of the `hf` backend with the embedded pair: the texts are those of lm-eval's own `hf`, the counts are right.

What the texts say does not matter here. The models are copied first, so that training them elsewhere changes nothing.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import instances

from harness_ext.backends.base import GenerateRequest, ScoreRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.config.run_plan import plan_run
from harness_ext.embedded import model_path
from harness_ext.errors import ConfigurationError, RunAborted
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPair, FeedbackPairLM
from harness_ext.records import Completion, Message, Transcript
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

GEN = {"until": ["\n\n", "."], "max_gen_toks": 20}
ROOMS, PEOPLE = ["kitchen", "garden", "office", "bathroom"], ["Mary", "John", "Sandra", "Daniel"]


def story(seed: int) -> str:
    rng = random.Random(seed)
    lines = [f"{rng.choice(PEOPLE)} moved to the {rng.choice(ROOMS)}." for _ in range(rng.randint(1, 9))]
    return "\n".join([*lines, f"Where is {rng.choice(PEOPLE)}?", rng.choice(["Answer:", "Reasoning:", ""])]).strip()


STORIES = [story(seed) for seed in range(40)]
CHATS = [ChatContext.of([{"role": "user", "content": text}]) for text in STORIES]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {s: str(shutil.copytree(model_path(s), folder / s)) for s in ("student", "teacher")}


@pytest.fixture(scope="session")
def stock(models: dict[str, str]) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=models["student"], device="cpu", batch_size=8)


@pytest.fixture(scope="session")
def plain_texts(stock: Any) -> list[str]:
    texts: list[str] = stock.generate_until(instances(STORIES, GEN), disable_tqdm=True)
    return texts


def baseline(tmp_path: Path, models: dict[str, str], **options: Any) -> BaselineLM:
    given = {
        "student": models["student"],
        "store": "off",
        "run_dir": tmp_path / "run",
        "progress": "off",
        "device": "cpu",
    }
    return BaselineLM(**{"batch_size": 8, **given, **options})


def transcripts(lm: BaselineLM) -> list[Transcript]:
    return sorted(read_transcripts(lm.session.run.path), key=lambda t: t.doc_id)


def ask(backend: HFBackend, requests: Sequence[GenerateRequest | ScoreRequest]) -> list[Completion]:
    """Send requests to the backend as one batch."""
    if not backend.loaded:
        backend.load()
        backend.loaded = True
    got: dict[int, Completion] = {}
    send = backend.score if isinstance(requests[0], ScoreRequest) else backend.generate
    send(requests, got.__setitem__)  # type: ignore[arg-type]
    return [got[i] for i in range(len(requests))]


def test_the_texts_differ(plain_texts: list[str]) -> None:
    """Otherwise the equality of texts below would mean little."""
    assert len(set(plain_texts)) > 3


def test_the_baseline_writes_what_stock_hf_writes(
    tmp_path: Path, models: dict[str, str], plain_texts: list[str]
) -> None:
    assert baseline(tmp_path, models).generate_until(instances(STORIES, GEN)) == plain_texts


def test_zero_rounds_write_what_stock_hf_writes(tmp_path: Path, models: dict[str, str], plain_texts: list[str]) -> None:
    lm = FeedbackPairLM(
        student=models["student"], teacher=models["teacher"], max_rounds=0, batch_size=8, device="cpu",
        store="off", run_dir=tmp_path / "run", progress="off",
    )  # fmt: skip
    assert lm.generate_until(instances(STORIES, GEN)) == plain_texts
    assert not lm.plan.seats["teacher"].backend.loaded


def test_chats_get_what_stock_hf_writes(tmp_path: Path, models: dict[str, str], stock: Any) -> None:
    rendered = [stock.apply_chat_template([{"role": "user", "content": text}]) for text in STORIES]
    wanted = stock.generate_until(instances(rendered, GEN), disable_tqdm=True)
    lm = baseline(tmp_path, models)
    assert lm.generate_until(instances(CHATS, GEN)) == wanted
    assert len(set(wanted)) > 3


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 16}, {"window": 3}])
def test_texts_and_counts_do_not_depend_on_batches(
    tmp_path: Path, models: dict[str, str], plain_texts: list[str], options: dict[str, Any]
) -> None:
    order = list(range(16))
    random.Random(5).shuffle(order)
    lm = baseline(tmp_path, models, **options)
    asked = instances(STORIES[:16], GEN)
    assert lm.generate_until([asked[i] for i in order]) == [plain_texts[i] for i in order]
    usual = baseline(tmp_path / "usual", models)
    usual.generate_until(asked)
    for one, other in zip(transcripts(lm), transcripts(usual), strict=True):
        mine, theirs = one.turns[0].to_json(), other.turns[0].to_json()
        del mine["timing"], theirs["timing"]
        assert mine == theirs


def test_token_counts_and_finish_reasons(tmp_path: Path, models: dict[str, str]) -> None:
    """They are those of each row generated alone with transformers and cut at its end."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models["student"])
    model = AutoModelForCausalLM.from_pretrained(models["student"])
    chosen: list[str | tuple[Message, ...]] = [*STORIES[:8], *(c.messages for c in CHATS[:8])]
    lm = baseline(tmp_path, models)
    lm.generate_until(instances([*STORIES[:8], *CHATS[:8]], GEN))
    finishes = set()
    for text, transcript in zip(chosen, transcripts(lm), strict=True):
        if isinstance(text, str):
            ids = tokenizer(text).input_ids
        else:
            chat = [{"role": m.role, "content": m.content} for m in text]
            ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        with torch.no_grad():
            new = model.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :].tolist()
        used, finish = len(new), "length"
        for n in range(1, len(new) + 1):
            so_far = tokenizer.decode(new[:n], skip_special_tokens=True)
            if new[n - 1] == tokenizer.eos_token_id or any(stop in so_far for stop in GEN["until"]):  # type: ignore[attr-defined]
                used, finish = n, "stop"
                break
        completion = transcript.turns[0].result
        assert (completion.prompt_tokens, completion.completion_tokens, completion.finish) == (len(ids), used, finish)
        assert completion.seconds > 0
        finishes.add(finish)
    lm = baseline(tmp_path / "short", models)
    lm.generate_until(instances(STORIES[:6], {"until": [], "max_gen_toks": 1}))
    assert all(t.turns[0].result.completion_tokens == 1 for t in transcripts(lm))


def test_contexts_with_and_without_bos_in_one_run(tmp_path: Path, models: dict[str, str]) -> None:
    """HFLM decides from the first row of a batch whether BOS is added to all of them."""
    mixed = [text for pair in zip(STORIES[:8], CHATS[:8], strict=True) for text in pair]
    together = baseline(tmp_path / "together", models).generate_until(instances(mixed, GEN))
    plain = baseline(tmp_path / "plain", models).generate_until(instances(STORIES[:8], GEN))
    chats = baseline(tmp_path / "chats", models).generate_until(instances(CHATS[:8], GEN))
    assert together[0::2] == plain
    assert together[1::2] == chats
    backend = make_hf_backend(models["student"], {"device": "cpu", "batch_size": 8})
    bos = ["<s>" + text for text in STORIES[:4]]
    completions = ask(backend, [GenerateRequest(t, GEN) for pair in zip(STORIES[:4], bos, strict=True) for t in pair])
    assert [c.text for c in completions[0::2]] == plain[:4]
    assert completions[0::2] != []
    for without, with_bos in zip(completions[0::2], completions[1::2], strict=True):
        assert (without.text, without.prompt_tokens) == (with_bos.text, with_bos.prompt_tokens)


# -- prompts that cannot be sent ----------


def test_prompts_that_cannot_be_sent_fail_alone(tmp_path: Path, models: dict[str, str], stock: Any) -> None:
    long = "\n".join(STORIES)
    asked = [STORIES[0], long, "a \ud800 b", "", STORIES[1]]
    lm = baseline(tmp_path, models, on_failure="score", **{"student.max_length": 200})
    answers = lm.generate_until(instances(asked, GEN))
    failures = {t.doc_id: t.failure for t in transcripts(lm) if t.failure}
    assert {i: f.code for i, f in failures.items()} == {1: "overflow", 2: "undecodable", 3: "empty"}
    assert "on_overflow=truncate" in failures[1].message
    assert "do not fit into the 200 positions" in failures[1].message
    assert [answers[0], answers[4]] == stock.generate_until(instances([STORIES[0], STORIES[1]], GEN), disable_tqdm=True)


def test_the_longest_prompt_that_fits_is_sent(tmp_path: Path, models: dict[str, str], stock: Any) -> None:
    tokens = len(stock.tok_encode(STORIES[3]))
    for length, fits in ((tokens + 20, True), (tokens + 19, False)):
        lm = baseline(tmp_path / str(length), models, on_failure="score", **{"student.max_length": length})
        lm.generate_until(instances([STORIES[3]], GEN))
        assert (transcripts(lm)[0].failure is None) == fits


def test_truncate_cuts_as_stock_hf_does_and_notes_it(tmp_path: Path, models: dict[str, str]) -> None:
    from lm_eval.models.huggingface import HFLM

    texts = ["\n".join(STORIES[i : i + 12]) for i in range(0, 36, 12)] + STORIES[:2]
    small = HFLM(pretrained=models["student"], device="cpu", batch_size=8, max_length=150)
    wanted = small.generate_until(instances(texts, GEN), disable_tqdm=True)
    lm = baseline(tmp_path, models, on_overflow="truncate", **{"student.max_length": 150})
    assert lm.generate_until(instances(texts, GEN)) == wanted
    notes = [t.turns[0].result.notes or t.turns[0].notes for t in transcripts(lm)]
    assert notes == [("prompt_cut",)] * 3 + [()] * 2
    assert lm.get_model_info()["harness_ext"]["summary"]["events"]["prompt_cut"] == 3
    assert all(t.turns[0].result.prompt_tokens == 130 for t in transcripts(lm)[:3])


@pytest.mark.parametrize("policy", ["fail", "truncate"])
def test_too_many_new_tokens_fail_under_every_policy(tmp_path: Path, models: dict[str, str], policy: str) -> None:
    lm = baseline(tmp_path, models, on_failure="score", on_overflow=policy, **{"student.max_length": 64})
    lm.generate_until(instances(STORIES[:1], {"max_gen_toks": 64}))
    failure = transcripts(lm)[0].failure
    assert failure is not None
    assert failure.code == "overflow"
    assert "max_gen_toks=64 leaves no room" in failure.message


# -- scoring, sharing, fingerprints ----------


def test_scores_are_stock_hfs(models: dict[str, str], stock: Any) -> None:
    from lm_eval.api.instance import Instance

    pairs = [(text, continuation) for text in STORIES[:6] for continuation in (" kitchen", " Correct.", " the garden")]
    asked = [Instance("loglikelihood", {}, pair, i, ("t", i, 1)) for i, pair in enumerate(pairs)]
    wanted = stock.loglikelihood(asked, disable_tqdm=True)
    backend = make_hf_backend(models["student"], {"device": "cpu", "batch_size": 8})
    got = ask(backend, [ScoreRequest(*pair) for pair in pairs])
    assert [c.logprob for c in got] == pytest.approx([logprob for logprob, _ in wanted], abs=1e-5)
    assert [c.greedy for c in got] == [greedy for _, greedy in wanted]
    assert [c.prompt_tokens for c in got] == [len(stock.tok_encode(a + b)) for a, b in pairs]


def test_equal_specs_share_one_model(models: dict[str, str]) -> None:
    path = models["student"]
    plan = plan_run(FeedbackPair, {"student": path, "teacher": f"hf:{path}"}, batch_size=4, device="cpu")
    assert plan.seats["student"].backend is plan.seats["teacher"].backend
    other = plan_run(FeedbackPair, {"student": path, "teacher": path, "teacher.dtype": "bfloat16"}, device="cpu")
    assert other.seats["student"].backend is not other.seats["teacher"].backend


def test_fingerprints_distinguish_models_and_nothing_else(tmp_path: Path, models: dict[str, str]) -> None:
    folder = shutil.copytree(models["student"], tmp_path / "student")

    def fingerprint(**args: Any) -> str:
        return make_hf_backend(str(folder), {"device": "cpu", **args}).fingerprint

    first = fingerprint()
    assert first == make_hf_backend(models["student"], {"device": "cpu"}).fingerprint, "the same files elsewhere"
    assert first == fingerprint(batch_size=16)
    assert first != fingerprint(dtype="bfloat16")
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert fingerprint() != first, "overwritten in place"


def test_a_checkpoint_overwritten_in_place_is_another_model(tmp_path: Path, models: dict[str, str]) -> None:
    folder = shutil.copytree(models["student"], tmp_path / "student")
    options = {"student": str(folder), "store": str(tmp_path / "store")}
    first = baseline(tmp_path / "1", models, **options).generate_until(instances(STORIES[:8], GEN))
    for name in ("model.safetensors", "config.json"):
        shutil.copy(Path(models["teacher"]) / name, folder / name)
    again = baseline(tmp_path / "2", models, **options)
    second = again.generate_until(instances(STORIES[:8], GEN))
    assert not any(t.turns[0].reused for t in transcripts(again))
    assert first != second


def test_automatic_batch_sizes_are_detected_once(
    tmp_path: Path, models: dict[str, str], plain_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.huggingface import HFLM

    found = []

    def detect(self: HFLM, *_: Any) -> int:
        found.append(self)
        return 4

    monkeypatch.setattr(HFLM, "_detect_batch_size", detect)
    lm = baseline(tmp_path, models, batch_size="auto")
    assert lm.generate_until(instances(STORIES[:9], GEN)) == plain_texts[:9]
    assert lm.generate_until(instances(STORIES[9:], GEN, task="more")) == plain_texts[9:]
    assert len(found) == 1


def test_weights_are_loaded_when_first_needed(models: dict[str, str]) -> None:
    backend = make_hf_backend(models["student"], {"device": "cpu"})
    assert backend.parameters == sum(t.numel() for t in _stored(models["student"]).values())
    assert backend.render([Message("user", "Hi")]).text == "<s><|user|>Hi</s><|assistant|>"
    assert backend.render([Message("user", "Hi"), Message("assistant", "So")]).text.endswith("<|assistant|>So")
    assert not list(backend.lm.model.parameters())


def _stored(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    tensors: dict[str, Any] = load_file(f"{folder}/model.safetensors")
    return tensors


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_error_about_an_incomplete_folder_names_it(tmp_path: Path, models: dict[str, str], missing: str) -> None:
    folder = shutil.copytree(models["student"], tmp_path / "student")
    (folder / missing).unlink()
    if missing == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigurationError) as raised:
        baseline(tmp_path, models, student=str(folder))
    (problem,) = raised.value.problems
    assert problem.startswith("`student`: ")
    assert str(folder) in problem


def test_a_model_answers_outside_a_run_too(tmp_path: Path, models: dict[str, str], plain_texts: list[str]) -> None:
    """The end of a run cancels the calls of that run, but no later ones."""
    lm = baseline(tmp_path, models)
    lm.generate_until(instances(STORIES[:2], GEN))
    backend = lm.plan.seats["student"].backend
    assert isinstance(backend, HFBackend)
    assert [c.text for c in ask(backend, [GenerateRequest(text, GEN) for text in STORIES[:2]])] == plain_texts[:2]


def test_a_ready_made_hflm_is_treated_in_the_same_way(tmp_path: Path, models: dict[str, str], stock: Any) -> None:
    """A seat may be an HFLM object, as in a notebook. BOS is not mixed, and no prompt is cut silently."""
    mixed = [text for pair in zip(STORIES[:6], CHATS[:6], strict=True) for text in pair]
    wanted = baseline(tmp_path / "spec", models).generate_until(instances(mixed, GEN))
    lm = baseline(tmp_path / "object", models, student=stock)
    assert lm.generate_until(instances(mixed, GEN)) == wanted
    assert stock.cache_hook.dbdict is None, "the original hook is restored"
    odd = baseline(tmp_path / "odd", models, student=stock, on_failure="score")
    odd.generate_until(instances(["", "word " * 8200, STORIES[0]], GEN))
    assert [t.failure and t.failure.code for t in transcripts(odd)] == ["empty", "overflow", None]


def test_a_batch_ends_between_two_tokens_when_its_run_has_ended(models: dict[str, str]) -> None:
    backend = make_hf_backend(models["student"], {"device": "cpu", "batch_size": 8})
    backend.load()
    looks = iter([False, False, True])
    backend.cancelled = lambda: next(looks)
    with pytest.raises(RunAborted):
        backend.generate([GenerateRequest(STORIES[0], GEN)], lambda i, completion: pytest.fail("it was answered"))


def test_long_passes_cost_more_in_float32_on_a_cpu(models: dict[str, str]) -> None:
    def costs(**options: Any) -> list[float]:
        backend = HFBackend({"pretrained": models["student"], "device": "cpu", **options})
        return [backend.pass_cost(tokens) for tokens in (1, 3, 9)]

    assert costs() == costs(dtype="float32") == [1, 1, 2 + 9 / 24]
    assert costs(dtype="bfloat16") == [1, 1, 1]
    assert costs(batch_size="8") == costs(batch_size="auto") == costs()

"""Tests of kept states: whatever was read before, in whichever batch, the logits are those of whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import instances
from tiny_chat import tiny_chat_model

from harness_ext.backends.base import DecideRequest, GenerateRequest, VerifyRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.backends.hf_cache import StateCache
from harness_ext.backends.hf_states import Recomputed, open_states
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.skyline import SkylineLM
from harness_ext.records import CallResult, Completion, Decision, Verification
from harness_ext.records.run_directory import read_transcripts

VOCABULARY = 24  # few tokens, so that sequences share beginnings
GEN = {"until": [], "max_gen_toks": 24}


def small(kind: str, **more: Any) -> Any:
    """Return a random model of two layers in float64, in which rounding cannot hide a wrong mask."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=512, **more,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    return AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "sliding windows": ("mistral", {"sliding_window": 5}),
    "both": ("gemma3_text", {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt-neox": ("gpt_neox", {}),
}


@pytest.fixture(scope="module", params=KINDS, ids=list(KINDS))
def model(request: pytest.FixtureRequest) -> Any:
    kind, more = KINDS[request.param]
    return small(kind, **more)


def whole(model: Any, ids: Sequence[int]) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.tensor([list(ids)])).logits[0]


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=30)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.lists(tokens, min_size=1, max_size=5)),
        st.tuples(st.just("extend"), st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=9), min_size=1)),
        st.tuples(st.just("swap"), st.tuples(st.integers(0, 9), st.integers(0, 9))),
        st.tuples(st.just("retire"), st.integers(0, 9)),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=12,
)


@pytest.mark.parametrize("budget", [1, 60_000, 10**9], ids=["no room", "little room", "room"])
@given(steps=steps, kept=st.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_logits_are_those_of_whole_sequences(model: Any, budget: int, steps: list[Any], kept: int) -> None:
    import torch

    cache = StateCache(model, budget)
    rows: list[list[int]] = []  # those in use, in the order of the cache

    def check(row: list[int], logits: Any) -> None:
        assert torch.allclose(logits, whole(model, row)[-len(logits) :], atol=1e-9)

    for action, value in steps:
        with torch.no_grad():
            if action == "read":
                known = [list(held.ids) for held in cache.held]
                wanted = [min(kept, len(row)) for row in value]
                first = len(rows)
                for read in cache.read(value, wanted, first):
                    rows.append(value[read.index])
                    assert len(read.logits) == wanted[read.index]
                    check(value[read.index], read.logits)
                    assert 0 <= read.cached <= len(value[read.index]) - wanted[read.index]
                    others = [*known, *rows[first:]]
                    assert read.cached == 0 or any(one[: read.cached] == rows[-1][: read.cached] for one in others)
            elif action == "extend" and rows:
                new = [value[i % len(value)] for i in range(len(rows))]  # rows that are left out are not in use
                logits = cache.extend(new)
                for i, more in enumerate(new):
                    rows[i] = [*rows[i], *more]
                    check(rows[i], logits[i])
            elif action == "swap" and max(value) < len(rows):
                a, b = value
                cache.swap(a, b)
                rows[a], rows[b] = rows[b], rows[a]
            elif action == "retire" and value < len(rows):
                cache.swap(value, len(rows) - 1)
                rows[value] = rows[-1]
                rows.pop()
            elif action == "clear":
                cache.clear()
                rows = []
        assert [list(held.ids) for held in cache.held[: len(rows)]] == rows


def test_a_conversation_reads_only_what_is_new(model: Any) -> None:
    import torch

    cache = StateCache(model, 10**9)
    turns = [[1, 2] * 40, [1, 2] * 40 + [3] * 7, [1, 2] * 40 + [3] * 7 + [4] * 5]
    with torch.no_grad():
        cached = [read.cached for turn in turns for read in cache.read([turn], [1])]
    assert cached == [0, 80, 87]
    assert len(cache.held) == 1, "the next turn takes over the states of the last one"


def test_what_many_prompts_begin_with_is_read_once(model: Any) -> None:
    import torch

    cache, shots = StateCache(model, 10**9), [5, 6, 7] * 30
    with torch.no_grad():
        reads = list(cache.read([[*shots, i, i + 1, i + 2] for i in range(6)], [1] * 6))
    assert [read.cached for read in reads] == [0, *[len(shots)] * 5]


def swaps(cache: StateCache) -> list[tuple[int, int]]:
    """Return a list of the rows that are exchanged from now on."""
    moved: list[tuple[int, int]] = []
    swap = cache.swap

    def count(a: int, b: int) -> None:
        if a != b:
            moved.append((a, b))
        swap(a, b)

    cache.swap = count  # type: ignore[method-assign]
    return moved


def test_sequences_stay_in_their_rows(model: Any) -> None:
    import torch

    cache, sequences = StateCache(model, 10**9), [[i] * 20 for i in range(6)]
    with torch.no_grad():
        list(cache.read(sequences, [1] * 6))
        moved = swaps(cache)
        longer = [[*one, 7, 8] for one in reversed(sequences)]
        assert [read.index for read in cache.read(longer, [1] * 6)] == [5, 4, 3, 2, 1, 0]
        assert not moved, "in another order"
        list(cache.read([[*longer[0], 9], [*longer[4], 9], [*longer[2], 9]], [1] * 3))
        assert moved == [(0, 5), (2, 3)], "only what lies behind the first three rows moves"


def test_memory_bounds_what_is_kept(model: Any) -> None:
    import torch

    token = 2 * 2 * 2 * 8 * 8  # keys and values, layers, heads, dimensions, bytes
    cache = StateCache(model, 6 * 192 * token)
    prompts = [[i] * 90 for i in range(20)]

    def cached(prompt: list[int]) -> int:
        (read,) = cache.read([prompt], [1])
        return read.cached

    with torch.no_grad():
        for prompt in prompts:
            cached(prompt)
            assert cached(prompts[0]) == 89, "what is read again and again is kept, though it came first"
        taken = sum(buffer.numel() * buffer.element_size() for buffer in cache._buffers())
        assert taken <= 6 * 192 * token
        assert (cached(prompts[-1]), cached(prompts[1])) == (89, 0), "what was read least recently is given up"


def test_models_whose_states_cannot_be_kept_are_found_out() -> None:

    class LM:
        keeps_logits, mixed_precision_dtype = True, None

        def __init__(self, model: Any) -> None:
            self.model, self.device = model, model.device

    states, reason = open_states(LM(small("llama")), 10**9)
    assert (type(states), reason) == (StateCache, "")
    assert open_states(LM(small("llama")), 0)[1] == "`kv_cache_gb=0`"
    odd = small("llama")
    odd.config._attn_implementation = "flash_attention_2"
    states, reason = open_states(LM(odd), 10**9)
    assert (type(states), reason) == (Recomputed, "attn_implementation=flash_attention_2")
    wrong = small("llama")
    former = wrong.forward
    wrong.forward = lambda ids, past_key_values=None, **more: former(ids)  # it forgets what it has read
    assert "differ by" in open_states(LM(wrong), 10**9)[1]


@given(sequences=st.lists(tokens, min_size=1, max_size=4), kept=st.integers(1, 3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_recomputed_sequences_have_the_same_logits(model: Any, sequences: list[list[int]], kept: int) -> None:
    import torch

    states, wanted = Recomputed(model, True), [min(kept, len(one)) for one in sequences]
    with torch.no_grad():
        for read in states.read(sequences, wanted):
            expected = whole(model, sequences[read.index])[-wanted[read.index] :]
            assert torch.allclose(read.logits, expected, atol=1e-9)
        states.swap(0, len(sequences) - 1)
        last = states.extend([[3]] * len(sequences))
    assert torch.allclose(last[0, -1], whole(model, [*sequences[-1], 3])[-1], atol=1e-9)


# -- on a whole backend ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"))


def loaded(folder: str, **args: Any) -> HFBackend:
    backend = make_hf_backend(folder, {"device": "cpu", "batch_size": 3, **args})
    backend.load()
    backend.loaded = True
    return backend


def answers(backend: HFBackend, requests: Sequence[Any]) -> list[Any]:
    kinds = {GenerateRequest: backend.generate, VerifyRequest: backend.verify, DecideRequest: backend.decide}
    found: dict[int, CallResult] = {}
    kinds[type(requests[0])](requests, found.__setitem__)
    return [found[i] for i in range(len(requests))]


def test_a_reply_does_not_depend_on_its_batch_even_if_it_is_drawn(folder: str) -> None:
    settings = {"until": ["e"], "max_gen_toks": 20, "do_sample": True, "temperature": 1.3, "top_p": 0.9}
    requests = [GenerateRequest(f"Question {i % 4}:", settings, seed=i // 4) for i in range(12)]
    together = answers(loaded(folder), requests)
    alone = loaded(folder, batch_size=1)
    assert [reply.text for reply in together] == [answers(alone, [request])[0].text for request in requests]
    assert len({reply.text for reply in together}) > 8, "every draw of a prompt is another one"


def test_a_penalty_sees_the_tokens_of_its_own_row(folder: str) -> None:
    from lm_eval.models.huggingface import HFLM

    settings = {"until": [], "max_gen_toks": 16, "repetition_penalty": 1.8, "no_repeat_ngram_size": 2}
    prompts = ["One two one two", "Three", "Question: Who?"]
    stock = HFLM(pretrained=folder, device="cpu", batch_size=1)
    wanted = stock.generate_until(instances(prompts, settings), disable_tqdm=True)
    assert [reply.text for reply in answers(loaded(folder), [GenerateRequest(p, settings) for p in prompts])] == wanted


def test_results_are_the_same_without_kept_states(folder: str) -> None:
    keeps, recomputes = loaded(folder), loaded(folder, kv_cache_gb=0)
    assert (keeps.why_static, recomputes.why_static) == ("", "`kv_cache_gb=0`")
    prompts = [f"Question {i}: " + "word " * i for i in range(7)]
    whole = [answers(one, [GenerateRequest(p, GEN, keep_ids=True) for p in prompts]) for one in (keeps, recomputes)]
    assert [reply.text for reply in whole[0]] == [reply.text for reply in whole[1]]
    begun = [reply.ids[:5] for reply in whole[0]]
    rests = [
        answers(one, [GenerateRequest(p, GEN, reply=ids) for p, ids in zip(prompts, begun, strict=True)])
        for one in (keeps, recomputes)
    ]
    assert [(r.text, r.ids, r.finish) for r in rests[0]] == [(r.text, r.ids, r.finish) for r in rests[1]]
    drafts = [reply.ids[5:9] for reply in whole[0]]
    passes = [
        answers(one, [VerifyRequest(*asked) for asked in zip(prompts, [GEN] * 7, begun, drafts, strict=True)])
        for one in (keeps, recomputes)
    ]
    for kept, other in zip(*passes, strict=True):
        assert isinstance(kept, Verification)
        assert kept.ranks == other.ranks == (0, 0, 0, 0)
        assert kept.logprobs == pytest.approx(other.logprobs, abs=1e-4)
        assert (kept.cached_tokens or 0) > 0
        assert other.cached_tokens == 0
    asked = [DecideRequest(p, ("yes", "no"), ("yes", "no")) for p in prompts]
    decisions = [answers(one, asked) for one in (keeps, recomputes)]
    for kept, other in zip(*decisions, strict=True):
        assert isinstance(kept, Decision)
        assert kept.probabilities == pytest.approx(other.probabilities, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "seat", "more"),
    [(BaselineLM, "student", {}), (SkylineLM, "teacher", {}), (FeedbackPairLM, "student", {"max_rounds": 0})],
    ids=["baseline", "skyline", "feedback_pair"],
)
def test_what_passes_through_is_answered_by_lm_evals_own_call(
    kind: Any, seat: str, more: dict[str, Any], folder: str, tmp_path: Path
) -> None:
    lm = kind(
        **{seat: folder}, **more, device="cpu", batch_size=3, store="off", run_dir=tmp_path / "run", progress="off"
    )
    lm.generate_until(instances(["word " * 20 + f"Question {i}:" for i in range(7)], GEN))
    backend = lm.plan.seats[seat].backend
    assert isinstance(backend.states, StateCache), "the model's states could be kept"
    assert not backend.states.held
    turns = [turn for one in read_transcripts(lm.session.run.path) for turn in one.turns]
    assert [turn.result.cached_tokens for turn in turns] == [0] * 7


def test_waiting_calls_join_the_batch(folder: str) -> None:
    """A free row is filled at the next step, and nobody waits for the slowest row."""
    backend, arrived = loaded(folder), [GenerateRequest(f"Late {i}", GEN | {"max_gen_toks": 4}) for i in range(5)]
    rows: list[int] = []
    backend.lm.model.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    asked: list[int] = []

    def waiting(free: int) -> list[GenerateRequest]:
        asked.append(free)
        given = arrived[:free]
        del arrived[:free]
        return given

    backend.waiting = waiting
    found: dict[int, CallResult] = {}
    long = GenerateRequest("Long", GEN | {"max_gen_toks": 40})
    backend.generate([long], found.__setitem__)
    assert sorted(found) == list(range(6))
    assert list(found)[-1] == 0, "the long reply ends last"
    assert max(rows) == 3, "the batch size"
    assert asked[0] == 2
    assert all(isinstance(one, Completion) and one.completion_tokens == (4 if i else 40) for i, one in found.items())


def test_replies_that_end_together_move_nothing(folder: str) -> None:
    backend = loaded(folder)
    assert isinstance(backend.states, StateCache)
    begun: list[tuple[int, ...]] = [()] * 3
    moved = swaps(backend.states)
    for _ in range(4):
        requests = [GenerateRequest(f"Question {i}:", GEN, reply=ids, only=2) for i, ids in enumerate(begun)]
        begun = [(*ids, *reply.ids) for ids, reply in zip(begun, answers(backend, requests), strict=True)]
    assert {len(ids) for ids in begun} == {8}
    assert not moved


def test_what_cannot_join_is_answered_afterwards(folder: str) -> None:
    backend = loaded(folder)
    late = [GenerateRequest("Beams", GEN | {"num_beams": 2})]
    backend.waiting = lambda free: [late.pop()] if late else []
    found: dict[int, CallResult] = {}
    backend.generate([GenerateRequest("Plain", GEN)], found.__setitem__)
    (alone,) = answers(loaded(folder), [GenerateRequest("Beams", GEN | {"num_beams": 2})])
    assert found[1].text == alone.text  # type: ignore[union-attr]


def test_a_draft_ends_where_the_model_is_unsure(folder: str) -> None:
    import torch

    backend = loaded(folder)
    prompts = [f"Question {i}: " + "word " * i for i in range(5)]
    whole = answers(backend, [GenerateRequest(p, GEN, reply=()) for p in prompts])
    shares = []
    for prompt, complete in zip(prompts, whole, strict=True):
        ids = backend.lm.tok_encode(prompt)
        with torch.no_grad():
            logits = backend.lm.model(torch.tensor([[*ids, *complete.ids]])).logits[0, len(ids) - 1 : -1]
        shares.append(torch.softmax(logits, dim=-1)[range(len(complete.ids)), list(complete.ids)].tolist())
    ordered = sorted(share for row in shares for share in row)
    limit = sum(ordered[len(ordered) // 5 :][:2]) / 2  # between two of them, a fifth of which are lower
    drafts = answers(backend, [GenerateRequest(p, GEN, reply=(), only=20, confidence=limit) for p in prompts])
    for complete, row, draft in zip(whole, shares, drafts, strict=True):
        end = next((i + 1 for i, share in enumerate(row) if share < limit), 20)
        assert draft.ids == complete.ids[: min(end, 20)]
    assert len({len(draft.ids) for draft in drafts}) > 1


def test_after_an_error_nothing_is_kept_and_the_model_goes_on(folder: str) -> None:
    """As when the memory does not suffice: the engine sends smaller batches then."""
    backend = loaded(folder)
    requests = [GenerateRequest(f"Question {i}:", GEN) for i in range(6)]
    wanted = [reply.text for reply in answers(backend, requests)]

    def fail(*_: Any) -> None:
        raise MemoryError

    assert isinstance(backend.states, StateCache)
    assert backend.states.held
    for ask in (requests, [DecideRequest("Question:", ("yes", "no"), ("yes", "no"))]):
        hook = backend.lm.model.register_forward_hook(fail)
        with pytest.raises(MemoryError):
            answers(backend, ask)
        hook.remove()
        assert not backend.states.held
        assert [reply.text for reply in answers(backend, requests)] == wanted

"""Exactness on real public models, most of them cut to a few layers: lm-eval's texts, in any batch and after resuming.

The questions and, since such models write tokens of all languages, the replies contain what texts are likely to break
at: emoji, characters joined to one, Chinese and Japanese, CRLF, LaTeX and code.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from real_models import gemma_chat, perturbed, real_model
from support import instances, run_engine
from test_lm_bridge_evaluate import make_task
from test_speculative_hf import ask

from harness_ext.backends.base import GenerateRequest
from harness_ext.backends.hf import HFBackend, make_hf_backend
from harness_ext.engine.engine import Engine
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.skyline import Skyline, SkylineLM
from harness_ext.models.speculative.partial_reply import PartialReply
from harness_ext.models.speculative.units import group, pieces_of, splitter
from harness_ext.models.speculative_pair import SpeculativePair, SpeculativePairLM
from harness_ext.protocol import Question
from harness_ext.records import Transcript
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts
from models import ODD_TEXTS

# The first of these tests downloads and converts a model, unless that has been done before.
pytestmark = [pytest.mark.real, pytest.mark.timeout(1800)]

GEN = {"until": ["\n\n\n"], "max_gen_toks": 12}
ASKED = [f"{text}\nQ: What is this?" for text in ODD_TEXTS]
ROWS = [{"q": text, "a": f"No. {number}"} for number, text in enumerate(ASKED)]
EXAMPLES = [{"q": f"{text}?", "a": text} for text in ("😀", "日本", "a\r\nb", "$x^2$", "👩‍👩‍👧")]


@pytest.fixture(scope="module")
def gemma_with_template(gemma: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma_chat(gemma, tmp_path_factory.mktemp("gemma") / "model")


@pytest.fixture(scope="module")
def noisy(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return SmolLM2 with other weights, which agrees with the original now and then."""
    return perturbed(smollm2, tmp_path_factory.mktemp("noisy") / "model", 0.05)


@cache
def stock(model: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(str(model), device="cpu")


@cache
def seat(model: Path) -> HFBackend:
    backend = make_hf_backend(str(model), {"device": "cpu", "batch_size": 8})
    backend.load()
    backend.loaded = True
    return backend


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back() -> Iterator[None]:
    """Free the models that the tests share, which are several GB."""
    yield
    for cached in (stock, seat, greedy_texts):
        cached.cache_clear()
    gc.collect()


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {"store": "off", "run_dir": folder, "progress": "off", "device": "cpu", **more}


def transcripts(lm: Any) -> list[Transcript]:
    return sorted(read_transcripts(lm.session.run.path), key=lambda t: t.doc_id)


# -- equal to lm-eval's own model ----------


@dataclass(frozen=True)
class Case:
    """How a model is evaluated. Few-shot examples are turns of the chat, if there is one, unless `in_one_turn`."""

    model: str
    batch_size: int
    chat: bool
    shots: int
    system: str | None = None
    limit: int = 6
    in_one_turn: bool = False

    def tasks(self) -> dict[str, Any]:
        """Return a task of written answers and one of choices, over the odd texts."""
        from datasets import Dataset

        parts = {"test": Dataset.from_list(ROWS), "train": Dataset.from_list(EXAMPLES)}
        shared = {"custom_dataset": lambda **_: parts, "doc_to_text": "{{q}}\nA:", "num_fewshot": self.shots}
        choices = {"output_type": "multiple_choice", "doc_to_choice": ["😀", "日本"], "doc_to_target": 0}
        return {
            "written": make_task("written", **shared, generation_kwargs=GEN),
            "choices": make_task("choices", **shared, **choices, metric_list=[{"metric": "acc"}]),
        }

    def evaluate(self, lm: Any) -> dict[str, Any]:
        """Return what a model answers and how lm-eval scores it."""
        from lm_eval.evaluator import evaluate

        results = evaluate(
            lm, self.tasks(), limit=self.limit, bootstrap_iters=0, apply_chat_template=self.chat,
            fewshot_as_multiturn=self.chat and self.shots > 0 and not self.in_one_turn, system_instruction=self.system,
        )  # fmt: skip
        assert results is not None
        samples = {
            name: [(row["doc_id"], row["resps"], row["filtered_resps"]) for row in rows]
            for name, rows in results["samples"].items()
        }
        return {"results": results["results"], "samples": samples}


CASES = [
    *(
        Case("smollm2", size, chat, shots, "Be brief. 😀" if chat and shots else None)
        for size in (1, 4, 8)
        for chat in (False, True)
        for shots in (0, 5)
    ),
    Case("smollm2", 4, True, 5, in_one_turn=True),
    # Its template refuses a system turn, begins with BOS, and ends turns with another token than the stop token.
    Case("gemma_with_template", 4, False, 0, limit=4),
    Case("gemma_with_template", 1, False, 5, limit=4),
    Case("gemma_with_template", 1, True, 0, limit=4),
    Case("gemma_with_template", 8, True, 5, limit=4),
]


def name_of(case: Case) -> str:
    how = ("chat" if case.chat else "plain") + ("-in_one_turn" if case.in_one_turn else "")
    return f"{case.model}-{case.batch_size}-{how}-{case.shots}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_without_rounds_every_answer_is_stock_hfs(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    folder = request.getfixturevalue(case.model)
    lm = stock(folder)
    lm.batch_size_per_gpu = case.batch_size
    wanted = case.evaluate(lm)
    texts = {resps[0][0] for _, resps, _ in wanted["samples"]["written"]}
    assert len(texts) > case.limit / 2, "the texts are nearly all the same, so their equality proves little"
    shared = {"batch_size": case.batch_size, "reason": "off", "student": str(folder)}
    assert case.evaluate(BaselineLM(**options(tmp_path / "baseline", **shared))) == wanted
    assert case.evaluate(FeedbackPairLM(**options(tmp_path / "pair", **shared, max_rounds=0))) == wanted


# -- speculative decoding ----------


def contexts(chat: bool, texts: Sequence[str] = ASKED) -> list[str]:
    return [ChatContext.of([{"role": "user", "content": text}]) for text in texts] if chat else [*texts]


def questions(chat: bool, limit: int = len(ASKED)) -> list[Question]:
    return [Question(context, GEN, "odd", i, str(i)) for i, context in enumerate(contexts(chat)[:limit])]


@cache
def greedy_texts(teacher: Path, chat: bool) -> list[str]:
    found = run_engine(Engine(), Skyline(), {"teacher": seat(teacher)}, questions(chat))
    assert len({found[i].text for i in found}) > 10
    return [found[i].text for i in range(len(ASKED))]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("unit", ["token", "chunk", "step"])
@pytest.mark.parametrize("student", ["noisy", "gemma_with_template"])
def test_greedy_is_the_teachers_text_whoever_drafts(
    student: str, unit: Any, chat: bool, smollm2: Path, request: pytest.FixtureRequest
) -> None:
    """A student with noise on its weights is right now and then; one with another vocabulary hardly ever is."""
    drafts = seat(request.getfixturevalue(student))
    asked = questions(chat, 10 if student == "noisy" else 4)
    protocol = SpeculativePair(unit=unit, accept="greedy", chunk_tokens=3)
    found = run_engine(Engine(), protocol, {"student": drafts, "teacher": seat(smollm2)}, asked)
    assert [found[i].failure for i in found] == [None] * len(asked)
    assert [found[i].text for i in range(len(asked))] == greedy_texts(smollm2, chat)[: len(asked)]
    totals = [found[i].details["totals"] for i in found]  # type: ignore[index]
    accepted, corrections = (sum(t[name] for t in totals) for name in ("units_accepted", "corrections"))
    assert corrections > 0, "the student is never wrong, so the test proves nothing"
    # These replies are hardly ever divided into steps, and a whole reply is never right.
    assert accepted > 0 or student != "noisy" or unit == "step", "the student is never right: the test proves nothing"


WORD_PROBLEMS = (
    "Anna has 3 boxes with 12 pencils each. She gives 7 pencils to Ben. How many pencils does she have left?",
    "A train travels 60 miles in one hour. How far does it travel in 3 hours and 30 minutes?",
    "Tom buys 4 apples for $2 each and a melon for $5. He pays with $20. How much change does he get?",
    "A class has 28 children, and a quarter of them wear glasses. How many do not?",
)


def test_greedy_is_the_teachers_text_step_by_step(tmp_path: Path) -> None:
    """On the whole model, whose replies have several steps, some of which the student writes as the teacher does."""
    from lm_eval.models.huggingface import HFLM

    teacher, settings = real_model("smollm2"), {"until": [], "max_gen_toks": 48}
    lm = HFLM(str(teacher), device="cpu", batch_size=len(WORD_PROBLEMS))
    rendered = [lm.apply_chat_template([{"role": "user", "content": text}]) for text in WORD_PROBLEMS]
    wanted = lm.generate_until(instances(rendered, settings), disable_tqdm=True)
    del lm  # three models at once would take 1.6 GB
    student = perturbed(teacher, tmp_path / "noisy", 0.05)
    how = {"batch_size": len(WORD_PROBLEMS), "accept": "greedy", "unit": "step"}
    pair = SpeculativePairLM(**options(tmp_path / "pair", **how, student=str(student), teacher=str(teacher)))
    assert pair.generate_until(instances(contexts(True, WORD_PROBLEMS), settings)) == wanted
    (student / "model.safetensors").unlink()  # 540 MB, which pytest would keep for a while
    totals = [one.details["totals"] for one in transcripts(pair)]  # type: ignore[index]
    assert sum(t["units_accepted"] for t in totals) > 0
    assert sum(t["corrections"] for t in totals) > 0


def test_a_teacher_with_another_vocabulary_is_exact_too(smollm2: Path, gemma: Path) -> None:
    asked = questions(False, 4)
    seats = {"student": seat(smollm2), "teacher": seat(gemma)}
    wanted = run_engine(Engine(), Skyline(), {"teacher": seat(gemma)}, asked)
    found = run_engine(Engine(), SpeculativePair(unit="token", accept="greedy"), seats, asked)
    assert [found[i].failure for i in found] == [None] * len(asked)
    assert [found[i].text for i in found] == [wanted[i].text for i in found]


# -- batches, windows and resuming ----------


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize(("batch_size", "window"), [(1, 2048), (4, 3), (8, 1)])
def test_texts_do_not_depend_on_batches_and_windows(
    batch_size: int, window: int, chat: bool, smollm2: Path, noisy: Path, tmp_path: Path
) -> None:
    how = {"batch_size": batch_size, "window": window, "teacher": str(smollm2)}
    wanted, asked = greedy_texts(smollm2, chat), instances(contexts(chat), GEN)
    stock = SkylineLM(**options(tmp_path / "stock", **how))  # passes lm-eval's own call through
    assert stock.generate_until(asked) == wanted
    pair = SpeculativePairLM(**options(tmp_path / "pair", **how, student=str(noisy), accept="greedy"))
    assert pair.generate_until(asked) == wanted


# Two odd texts each, so that a draft has more tokens of its own than a kept sequence may lose to another one.
PAIRS = ["\n".join(ASKED[i : i + 2]) for i in range(0, len(ASKED), 2)]


def feedback(folder: Path, student: Path, teacher: Path, kept: int, **more: Any) -> tuple[FeedbackPairLM, list[str]]:
    """Return the model of a run with one round of feedback, whose seats keep so many GB of states, and its answers."""
    how = {"student": str(student), "teacher": str(teacher), "max_rounds": 1, "review_max_tokens": 12}
    memory = {f"{name}.kv_cache_gb": kept for name in ("student", "teacher")}
    lm = FeedbackPairLM(**options(folder, **how, **memory, **more))
    return lm, lm.generate_until(instances(contexts(True, PAIRS), GEN))


def said(found: list[Transcript]) -> list[Any]:
    """Return all calls, by their keys, which stand for what was asked, and what was replied."""
    return [[(turn.seat, turn.kind, turn.key, turn.text) for turn in one.turns] for one in found]


@pytest.fixture(scope="module")
def one_by_one(smollm2: Path, noisy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[Any]]:
    """Return the answers and calls of a run in which lm-eval's own call writes each text alone."""
    lm, answers = feedback(tmp_path_factory.mktemp("feedback"), noisy, smollm2, kept=0, batch_size=1)
    found = transcripts(lm)
    assert {turn.kind for one in found for turn in one.turns} == {"draft", "verdict", "review", "refine"}
    return answers, said(found)


@pytest.mark.parametrize(("batch_size", "window", "kept"), [(1, 1, 1), (4, 3, 1), (8, 2048, 1), (8, 2048, 0)])
def test_feedback_does_not_depend_on_batches_windows_and_what_is_kept(
    batch_size: int, window: int, kept: int, one_by_one: Any, smollm2: Path, noisy: Path, tmp_path: Path
) -> None:
    how = {"kept": kept, "batch_size": batch_size, "window": window}
    lm, answers = feedback(tmp_path, noisy, smollm2, **how)
    found = transcripts(lm)
    assert (answers, said(found)) == one_by_one
    for draft, *_, refinement in (one.turns for one in found):
        read = refinement.result.cached_tokens
        assert read >= draft.result.prompt_tokens if kept else read == 0
    again, same = feedback(tmp_path, noisy, smollm2, **how)
    assert (same, transcripts(again)) == (answers, found)
    assert not any(setup.backend.loaded for setup in again.plan.seats.values()), "something was asked twice"


@pytest.mark.parametrize("window", [2, 2048])
def test_what_was_answered_before_is_read_from_the_store(
    window: int, smollm2: Path, noisy: Path, tmp_path: Path
) -> None:
    how = {"store": str(tmp_path / "store"), "window": window, "student": str(noisy), "teacher": str(smollm2)}
    wanted = greedy_texts(smollm2, False)
    for number, (count, reused) in enumerate([(6, 0), (15, 6), (15, 15)]):
        lm = SpeculativePairLM(**options(tmp_path / str(number), batch_size=4, accept="greedy", **how))
        assert lm.generate_until(instances(ASKED[:count], GEN)) == wanted[:count]
        assert [all(t.reused for t in one.turns) for one in transcripts(lm)] == [i < reused for i in range(count)]


# -- seams ----------


@pytest.fixture(params=["smollm2", "gemma"])
def backend(request: pytest.FixtureRequest) -> HFBackend:
    return seat(request.getfixturevalue(request.param))


def test_the_pieces_of_a_text_are_the_text_wherever_it_is_cut(backend: HFBackend) -> None:
    """Cuts within a character, within an emoji of several characters and within CRLF included."""
    assert backend.tokens is not None
    decode, within = backend.tokens.decode, 0
    for text in ODD_TEXTS:
        ids = backend.tokens.encode(text)
        for cut in range(len(ids) + 1):
            before = decode(ids[:cut])
            within += before.endswith("\ufffd")
            pieces = pieces_of(ids[cut:], decode, ids[:cut])
            assert len(pieces) == len(ids) - cut
            assert "".join(pieces) == decode(ids)[len(before) :]
            for unit in ("token", "chunk", "step"):
                sizes = splitter(unit, 3)(pieces)  # type: ignore[arg-type]
                assert "".join(group(pieces, sizes)) == "".join(pieces)
    assert within > 0, "no cut is within a character"


def test_a_partial_reply_is_joined_to_the_same_text_wherever_it_is_cut(backend: HFBackend) -> None:
    tokens = backend.tokens
    assert tokens is not None
    for text in ODD_TEXTS:
        text = tokens.decode(tokens.encode(text))  # without special tokens, which are no text
        for cut in range(len(text) + 1):
            reply = PartialReply("", (), tokens, GEN).with_text(text[:cut]).with_text(text[cut:])
            assert reply.text == text
            assert tokens.decode(reply.ids or ()) == text


@pytest.mark.parametrize("kind", ["own", "odd"])
def test_a_reply_continued_at_any_token_is_the_same_reply(kind: str, backend: HFBackend) -> None:
    """`own`: what the model wrote itself. `odd`: the beginning of an odd text, and what the model adds to it."""
    assert backend.tokens is not None
    contexts = ASKED[:6]
    begun: list[tuple[int, ...]] = [()] * 6 if kind == "own" else [backend.tokens.encode(t)[:6] for t in ODD_TEXTS[:6]]
    starts = [GenerateRequest(c, GEN, reply=b) for c, b in zip(contexts, begun, strict=True)]
    whole = [b + (one.ids or ()) for b, one in zip(begun, ask(backend, starts), strict=True)]
    cuts = [(c, ids, n) for c, b, ids in zip(contexts, begun, whole, strict=True) for n in range(len(b), len(ids), 3)]
    rests = ask(backend, [GenerateRequest(c, GEN, reply=ids[:n]) for c, ids, n in cuts])
    for (_, ids, n), rest in zip(cuts, rests, strict=True):
        assert ids[:n] + (rest.ids or ()) == ids
        text, ended = backend.tokens.read(ids, GEN)
        assert ended
        known = backend.tokens.decode(ids[:n])
        assert rest.text == text[len(known) :] or known.endswith("\ufffd")


def test_a_stop_sequence_across_a_seam_is_found(backend: HFBackend) -> None:
    assert backend.tokens is not None
    (whole,) = ask(backend, [GenerateRequest(ASKED[1], GEN, reply=())])
    ids, decode = whole.ids or (), backend.tokens.decode
    at = next(n for n in range(4, len(ids) - 2) if "\ufffd" not in decode(ids[: n + 1]))
    across = decode(ids[: at + 1])[len(decode(ids[:at])) - 1 :]
    settings = {"until": [across], "max_gen_toks": 16}
    (stopped,) = ask(backend, [GenerateRequest(ASKED[1], settings, reply=ids[:at])])
    wanted = decode(ids).split(across)[0]
    assert backend.tokens.read(ids[:at] + (stopped.ids or ()), settings) == (wanted, True)
    assert stopped.finish == "stop"
    (alone,) = ask(backend, [GenerateRequest(ASKED[1], settings)])
    assert alone.text == wanted

"""Tests of `speculative_pair` with scripted models and the real engine: texts, passes, stops and records."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import instance, run_engine
from token_support import END, CharBackend, CharTokens, Model, says

from harness_ext.analysis.scoring.rounds import trajectory_of
from harness_ext.backends.base import Backend, Deliver, GenerateRequest, Prompt, ScoreRequest, VerifyRequest
from harness_ext.backends.hf_verify import float32_cost
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.errors import ConfigurationError
from harness_ext.models.baseline import Baseline
from harness_ext.models.skyline import Skyline
from harness_ext.models.speculative.drafting import Drafting
from harness_ext.models.speculative.partial_reply import after
from harness_ext.models.speculative.policies import POLICIES, table
from harness_ext.models.speculative.text_policies import Judge
from harness_ext.models.speculative.token_policies import TopK, TopP
from harness_ext.models.speculative.units import group, splitter, words
from harness_ext.models.speculative_pair import SpeculativePair, SpeculativePairLM
from harness_ext.protocol import Protocol, Question
from harness_ext.reading.ratings import read_rating
from harness_ext.records import Completion, Loglikelihood, SeatCost, Transcript, Verification
from harness_ext.records.call_store import CallStore
from harness_ext.records.chat import ChatContext
from harness_ext.records.summary import Summary

ROOT = Path(__file__).resolve().parent.parent
GEN = {"until": ["\n\n"], "max_gen_toks": 120}
CHAT = ChatContext.of([{"role": "user", "content": "Where is Mary?"}])


def solve(
    protocol: Protocol,
    student: Backend,
    teacher: Backend,
    gen: dict[str, Any] = GEN,
    context: str = "Q",
    **seats: Backend,
) -> Transcript:
    named = {"student": student, "teacher": teacher, **seats}
    chosen = {name: backend for name, backend in named.items() if name in protocol.needs()}
    return run_engine(Engine(), protocol, chosen, [Question(context, gen, "t", 0, "h")])[0]


def spoken(transcript: Transcript) -> str:
    """Return the final text, and check that the records agree with it."""
    assert transcript.failure is None, transcript.failure
    details = transcript.details
    assert details is not None
    assert sum(details["units"]["characters"]) == len(transcript.text)
    assert len(details["units"]["authors"]) == len(details["units"]["characters"])
    return transcript.text


def verifications(backend: CharBackend) -> list[VerifyRequest]:
    return [request for call in backend.asked for request in call if isinstance(request, VerifyRequest)]


def chars(*texts: str) -> tuple[CharBackend, CharBackend]:
    """Return a student and a teacher that write these texts."""
    return CharBackend(says(texts[0]), "student"), CharBackend(says(texts[1]), "teacher")


# -- exactly the teacher's own greedy text ----------


def babble(seed: int, alphabet: str) -> Model:
    """Return a model that writes by a hash of the last two characters, so that it loops, stops and breaks off."""

    def model(prompt: str, reply: str) -> dict[str, float]:
        number = hashlib.sha256(f"{seed} {prompt} {reply[-2:]} {len(reply) // 9}".encode()).digest()
        first, second = alphabet[number[0] % len(alphabet)], alphabet[number[1] % len(alphabet)]
        return {first: 1.0} if first == second else {first: 0.6, second: 0.4}

    return model


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["ab. \n" + END, "abcdefgh. ", "x\n" + END]),
    st.sampled_from(["token", "step", "chunk"]), st.integers(1, 30), st.sampled_from([0, 1000]),
    st.sampled_from(["auto", "rest", 1, 2, 7]),
)  # fmt: skip
def test_greedy_is_the_teachers_own_text(
    one: int, other: int, alphabet: str, unit: Any, most: int, shift: int, ahead: Any
) -> None:
    """This holds whatever the student writes and whatever its vocabulary. Bounds and fallbacks do not apply."""
    gen = {"until": ["\n\n", "b."], "max_gen_toks": most}
    student = CharBackend(babble(one, alphabet), "student", CharTokens(f"v{shift}", shift))
    teacher = CharBackend(babble(other, alphabet), "teacher", CharTokens("v0"))
    wanted = solve(Skyline(), student, teacher, gen)
    teacher.asked.clear()
    protocol = SpeculativePair(unit=unit, accept="greedy", chunk_tokens=3, max_corrections=0, draft_tokens=ahead)
    found = solve(protocol, student, teacher, gen)
    assert spoken(found) == wanted.text
    tokens = wanted.turns[0].result.completion_tokens or 0
    assert len(verifications(teacher)) <= max(1, tokens), "each pass yields at least one token"


def test_greedy_takes_one_pass_where_nothing_is_wrong() -> None:
    student, teacher = chars("Mary went home. So: home", "Mary went home. So: home")
    transcript = solve(SpeculativePair(accept="greedy", draft_tokens="rest"), student, teacher)
    assert (spoken(transcript), transcript.stop) == ("Mary went home. So: home", "teacher_stops")
    assert len(teacher.asked) == 1
    assert verifications(teacher)[0].draft == (*map(ord, transcript.text), 0), "the end token is judged with the rest"


def test_drafts_grow_while_all_of_them_is_approved_and_shrink_otherwise() -> None:
    text = "Mary went home, and John went to the garden. So: garden"
    student, teacher = chars(text, text)
    student.parameters, teacher.parameters = 1, 8
    assert spoken(solve(SpeculativePair(accept="greedy"), student, teacher)) == text
    lengths = [len(asked.draft) for asked in verifications(teacher)]
    assert lengths[:-1] == sorted(lengths[:-1])
    assert lengths[0] < lengths[-2]
    student, teacher = CharBackend(lambda prompt, reply: {"?": 1.0}, "student"), CharBackend(says("abcdefghij"), "t")
    assert spoken(solve(SpeculativePair(accept="greedy"), student, teacher)) == "abcdefghij"
    lengths = [len(asked.draft) for asked in verifications(teacher)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] == 2


@pytest.mark.parametrize("pass_cost", [lambda tokens: 1.0, float32_cost, lambda tokens: 1 + tokens / 10])
@pytest.mark.parametrize(("cost", "rate"), [(1.0, 0.9), (0.35, 0.8), (0.1, 0.8), (0.1, 0.95), (0.02, 0.5)])
def test_a_draft_has_the_length_that_pays_most(cost: float, rate: float, pass_cost: Callable[[int], float]) -> None:
    """Checked against drawn judgements: no other length writes more tokens per unit of time."""
    length = Drafting(cost=cost, pass_cost=pass_cost, approved=int(rate * 10**6), judged=10**6).tokens
    random = np.random.default_rng(0)
    runs = np.cumprod(random.random((200_000, 16)) < rate, axis=1).sum(axis=1)
    speeds = {n: (np.minimum(runs, n) + 1).mean() / (n * cost + pass_cost(n + 1)) for n in range(2, 17)}
    assert speeds[length] == pytest.approx(max(speeds.values()), rel=0.01)


@pytest.mark.parametrize("draft_tokens", ["auto", 3])
def test_a_draft_of_some_tokens_is_no_answer_and_a_whole_one_is(draft_tokens: Any) -> None:
    student, teacher = chars("Mary went out. So: garden", "Mary went home. So: home")
    ahead = solve(SpeculativePair(accept="greedy", draft_tokens=draft_tokens), student, teacher)
    assert ahead.turns[0].kind == "draft"
    assert trajectory_of(ahead).answers == ("Mary went home. So: home",)
    whole = solve(SpeculativePair(accept="greedy", draft_tokens="rest"), *chars("Mary went out.", "Mary went home."))
    assert trajectory_of(whole).answers == ("Mary went out.", "Mary went home.")
    assert [turn.is_part for turn in whole.turns] == [False] * len(whole.turns)


def test_other_rules_judge_whole_answers() -> None:
    with pytest.raises(ValueError, match=r"`draft_tokens=4` needs a rule under which .*accept=greedy"):
        SpeculativePair(accept="topk", draft_tokens=4)
    with pytest.raises(ValueError, match=r"`draft_tokens` must be 1 or more"):
        SpeculativePair(accept="greedy", draft_tokens=0)
    student, teacher = chars("It is right.", "It is right.")
    solve(SpeculativePair(accept="topk"), student, teacher)
    assert [len(asked.draft) for asked in verifications(teacher)] == [12]


def test_after_a_correction_only_what_is_new_is_judged() -> None:
    def student(prompt: str, reply: str) -> dict[str, float]:
        text = "abcdefXhij" if len(reply) < 7 and "Y" not in reply else "abcdefYhij"
        return {(text + END)[len(reply)]: 1.0}

    teacher = CharBackend(says("abcdefYhij"), "teacher")
    protocol = SpeculativePair(accept="greedy", draft_tokens="rest")
    transcript = solve(protocol, CharBackend(student, "student"), teacher)
    first, second = verifications(teacher)
    assert (first.reply, first.draft) == ((), (*map(ord, "abcdefXhij"), 0))
    assert (second.reply, second.draft) == (tuple(map(ord, "abcdefY")), (*map(ord, "hij"), 0))
    assert spoken(transcript) == "abcdefYhij"
    (correction,) = transcript.details["corrections"]  # type: ignore[index]
    assert (correction["position"], correction["rejected"], correction["written"]) == (6, "X", "Y")
    assert correction["probability"] == pytest.approx(0.9)
    assert transcript.details["units"]["authors"] == "ssssssts" + "sss"  # type: ignore[index]


# -- the other rules of the teacher's distribution ----------


def checks(
    ranks: list[int], probabilities: list[float], above: list[float], floors: tuple[int, ...] = ()
) -> Verification:
    from math import log

    best = tuple((65, -0.1) for _ in range(len(ranks) + 1))
    return Verification(tuple(map(log, probabilities)), tuple(ranks), tuple(above), best, floors=floors)


def test_rules_decide_or_report_that_they_cannot() -> None:
    seen = checks([0, 2, 2, 20], [0.5, 0.2, 0.2, 0.01], [0.0, 0.7, 0.8, 0.9], floors=(2, 3))
    assert [TopK(3).passes(seen, i) for i in range(4)] == [True, True, None, False]
    assert [TopP(0.95).passes(seen, i) for i in range(4)] == [True, True, False, None]
    assert [POLICIES["prob"](0.2).passes(seen, i) for i in range(4)] == [True, True, True, False]  # type: ignore[attr-defined]
    assert [POLICIES["greedy"](0).passes(seen, i) for i in range(4)] == [True, False, False, False]  # type: ignore[attr-defined]


def test_a_likely_enough_token_is_approved_and_a_rejected_one_replaced_by_the_likeliest() -> None:
    student, teacher = chars("It is ?", "It is X.")
    assert spoken(solve(SpeculativePair(accept="topk", threshold=2), student, teacher)) == "It is ?"
    assert spoken(solve(SpeculativePair(accept="topk", threshold=1), student, teacher)).startswith("It is X")
    assert spoken(solve(SpeculativePair(accept="prob", threshold=0.06), student, teacher)) == "It is ?"
    assert spoken(solve(SpeculativePair(accept="prob", threshold=0.07), student, teacher)).startswith("It is X")
    assert spoken(solve(SpeculativePair(accept="topp", threshold=0.95), student, teacher)).startswith("It is X")
    assert spoken(solve(SpeculativePair(accept="topp", threshold=0.97), student, teacher)) == "It is ?"


@pytest.mark.parametrize("unit", ["step", "chunk"])
def test_a_larger_unit_is_replaced_by_the_teachers_own(unit: Any) -> None:
    def student(prompt: str, reply: str) -> dict[str, float]:
        right = "One is so. Two is BAD. Three." if len(reply) < 20 else "One is so. Two is good. Three."
        return {(right + END)[len(reply)] if len(reply) < len(right) else END: 1.0}

    teacher = CharBackend(says("One is so. Two is good. Four."), "teacher")
    protocol = SpeculativePair(unit=unit, accept="topk", threshold=1, chunk_tokens=10, max_corrections=1)
    transcript = solve(protocol, CharBackend(student, "student"), teacher)
    assert [t.kind for t in transcript.turns] == ["draft", "verify", "correct", "continue"]
    text = spoken(transcript)
    assert text.startswith("One is so. Two is good")
    assert transcript.stop == "max_corrections"
    written = transcript.details["corrections"][0]["written"]  # type: ignore[index]
    assert written == (" Two is good." if unit == "step" else " Two is go")


# -- how replies end ----------


def test_no_corrections_is_the_baseline() -> None:
    student, teacher = chars("Mary is here", "John")
    transcript = solve(SpeculativePair(max_corrections=0), student, teacher)
    assert transcript.text == solve(Baseline(), student, teacher).text
    assert [t.kind for t in transcript.turns] == ["draft"]
    assert teacher.asked == []


def test_the_first_draft_is_the_baselines_call(tmp_path: Path) -> None:
    """The store shares it in both directions."""
    for first, second in ((Baseline(), SpeculativePair()), (SpeculativePair(), Baseline())):
        folder = tmp_path / type(first).__name__
        student, teacher = chars("Mary is here", "Mary is here")
        for protocol in (first, second):
            store = CallStore(folder)
            seats = {n: b for n, b in (("student", student), ("teacher", teacher)) if n in protocol.needs()}
            done = run_engine(Engine(store), protocol, seats, [Question("Q", GEN)])
            store.close()
        assert done[0].turns[0].reused
        assert done[0].text == "Mary is here"


def test_the_stop_shows_whether_the_teacher_would_stop_too() -> None:
    student, teacher = chars("home", "home")
    assert solve(SpeculativePair(accept="topk", threshold=2), student, teacher).stop == "teacher_stops"
    student, teacher = chars("home", "home alone")
    transcript = solve(SpeculativePair(accept="topk", threshold=2), student, teacher)
    assert (spoken(transcript), transcript.stop) == ("home", "student_stopped")
    greedy = solve(SpeculativePair(accept="greedy"), student, teacher)
    assert spoken(greedy) == "home alone", "the student's end does not count where the text is the teacher's own"


def test_a_teacher_that_would_stop_earlier_writes_its_second_choice() -> None:
    student, teacher = chars("home X", "home")
    transcript = solve(SpeculativePair(accept="topk", threshold=1, max_corrections=1), student, teacher)
    assert spoken(transcript) == "home?"


def test_corrections_are_bounded_and_the_same_mistake_cannot_loop() -> None:
    """A deterministic student makes the same mistake wherever it continues."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    student = CharBackend(lambda prompt, reply: {"X": 1.0} if len(reply) < 40 else {END: 1.0}, "student")
    teacher = CharBackend(lambda prompt, reply: {letters[len(reply) % 26]: 1.0}, "teacher")
    transcript = solve(SpeculativePair(accept="topk", threshold=1), student, teacher)
    assert transcript.stop == "max_corrections"
    assert spoken(transcript) == letters[:15] + "X" * 25
    assert len(verifications(teacher)) == 15


def test_repetition_ends_with_the_first_draft() -> None:
    student = CharBackend(lambda prompt, reply: {"x" if len(reply) < 9 else END: 1.0}, "student")
    teacher = CharBackend(lambda prompt, reply: {"la"[0]: 0.9, "y": 0.1}, "teacher")
    transcript = solve(SpeculativePair(accept="topk", threshold=1), student, teacher)
    assert (spoken(transcript), transcript.stop) == ("x" * 9, "repetition")
    assert transcript.details["totals"]["first_draft_instead"] == 1  # type: ignore[index]
    assert len(verifications(teacher)) == 3


# -- what is recorded ----------


@pytest.mark.parametrize("accept", ["greedy", "topk"])
def test_kept_discarded_and_verification_tokens_are_all_that_was_generated(accept: Any) -> None:
    student, teacher = chars("Mary went to the PARK. Home", "Mary went to the park. Home")
    transcript = solve(SpeculativePair(accept=accept, threshold=None if accept == "greedy" else 1), student, teacher)
    summary = Summary(lambda seat: SeatCost(1_000))
    summary.add(transcript)
    generated = sum(t.result.completion_tokens or 0 for t in transcript.turns)
    assert sum(n or 0 for n in summary.tokens.values()) == generated
    data = summary.to_json()
    assert data["usage"]["teacher"]["verify"]["calls"] == data["totals"]["passes"]
    units = transcript.details["units"]  # type: ignore[index]
    assert data["completion_tokens"]["kept"] == len(units["authors"])
    assert data["totals"]["characters_teacher"] > 0
    assert 0 < transcript.details["teacher_share"] < 1  # type: ignore[index]
    assert Transcript.from_json(transcript.to_json()).details == transcript.details


def test_a_changed_threshold_is_another_result_on_the_same_store(tmp_path: Path) -> None:
    texts = []
    for threshold in (2, 1, 2):
        store = CallStore(tmp_path)
        student, teacher = chars("It is ?.", "It is X.")
        protocol = SpeculativePair(accept="topk", threshold=threshold, max_corrections=1)
        done = run_engine(Engine(store), protocol, {"student": student, "teacher": teacher}, [Question("Q", GEN)])
        store.close()
        texts.append(done[0].text)
    assert texts[0] == texts[2] != texts[1]
    assert student.asked == teacher.asked == [], "the third run finds every call in the store, including verifications"


def test_questions_do_not_depend_on_each_other() -> None:
    asked = [Question(f"Q{i}", {"until": ["."], "max_gen_toks": 20}, "t", i, str(i)) for i in range(12)]
    results = []
    for window in (1, 12):
        seats = {n: CharBackend(babble(seed, "ab. "), n) for n, seed in (("student", 1), ("teacher", 2))}
        done = run_engine(Engine(window=window), SpeculativePair(accept="topk", threshold=1), seats, asked)
        results.append([(done[i].text, done[i].stop, done[i].details) for i in range(12)])
    assert results[0] == results[1]


# -- draws ----------


def test_sampled_texts_have_the_teachers_distribution() -> None:
    """Texts have two tokens out of three; a chi-square test compares them with the teacher's joint distribution."""
    from scipy.stats import chisquare

    def teacher(prompt: str, reply: str) -> dict[str, float]:
        return {"a": 0.5, "b": 0.3, "c": 0.2} if not reply.endswith("a") else {"a": 0.1, "b": 0.1, "c": 0.8}

    def student(prompt: str, reply: str) -> dict[str, float]:
        return {"a": 0.2, "b": 0.2, "c": 0.6} if not reply.endswith("a") else {"a": 0.7, "b": 0.2, "c": 0.1}

    gen = {"until": [], "max_gen_toks": 2, "do_sample": True, "temperature": 1.0}
    asked = [Question("Q", gen, "t", i, str(i)) for i in range(1_000)]
    seats = {"student": CharBackend(student, "student"), "teacher": CharBackend(teacher, "teacher")}
    done = run_engine(Engine(seed=3), SpeculativePair(accept="sampled"), seats, asked, timeout=240)
    counts = Counter(done[i].text for i in range(len(asked)))
    wanted = {x + y: p * q for x, p in teacher("", "").items() for y, q in teacher("", x).items()}
    assert chisquare([counts[t] for t in wanted], [p * len(asked) for p in wanted.values()]).pvalue > 0.001
    own = {x + y: p * q for x, p in student("", "").items() for y, q in student("", x).items()}
    assert chisquare([counts[t] for t in own], [p * len(asked) for p in own.values()]).pvalue < 1e-9


def test_sampled_on_a_greedy_task_fails_with_the_remedy() -> None:
    student, teacher = chars("a", "a")
    transcript = solve(SpeculativePair(accept="sampled"), student, teacher)
    assert transcript.failure is not None
    assert "do_sample=True" in transcript.failure.message


# -- ratings and rewards ----------


def rater(ratings: dict[str, str], correction: str = " Mary is in the garden. And so on.") -> ScriptedBackend:
    """Return a chat teacher that rates steps by the text in them, and writes more than one sentence as a correction."""

    def reply(prompt: str) -> str:
        if "Rating from 0 to 9" not in prompt and "which you rate" not in prompt:
            return correction
        step = prompt.split("which you rate:")[1]
        return next((rating for text, rating in ratings.items() if text in step), "9")

    return ScriptedBackend(reply, name="teacher")


def chatty(*texts: str) -> ScriptedBackend:
    """Return a chat student that cannot continue replies and answers with one text after another."""
    left = iter(texts)
    backend = ScriptedBackend(lambda prompt: next(left), name="student")
    backend.capabilities = frozenset({"generate"})
    return backend


DRAFT = "Mary took the ball. Mary is in the hall. So it is in the hall."


def test_a_badly_rated_step_is_rewritten_and_the_student_resumes() -> None:
    student = chatty(DRAFT, "So it is in the garden.")
    transcript = solve(
        SpeculativePair(unit="step", accept="judge"), student, rater({"is in the hall": "2"}), context=CHAT
    )
    assert spoken(transcript) == "Mary took the ball. Mary is in the garden. So it is in the garden."
    assert [t.kind for t in transcript.turns] == ["draft", *["judge"] * 3, "correct", "continue", "judge"]
    resumed = student.calls[1][0]
    assert "Mary took the ball. Mary is in the garden.\n" in resumed
    assert "Write only what comes after that part" in resumed
    assert transcript.details["units"]["probabilities"][0] == 1.0  # type: ignore[index]
    assert transcript.details["corrections"][0]["rejected_probability"] == pytest.approx(2 / 9, abs=1e-6)  # type: ignore[index]
    assert transcript.details["acceptance"] == 2 / 3  # type: ignore[index]


def test_a_teacher_that_cannot_continue_is_asked_for_the_next_step() -> None:
    """Its reply ends with that step, but this does not end the answer."""
    teacher = rater({"is in the hall": "2"}, "Mary is in the garden.")
    teacher.capabilities = frozenset({"generate"})
    student = chatty(DRAFT, " So it is in the garden.")
    transcript = solve(SpeculativePair(unit="step", accept="judge"), student, teacher, context=CHAT)
    assert spoken(transcript) == "Mary took the ball. Mary is in the garden. So it is in the garden."
    assert 'beginning of an answer to the task above:\n"""\nMary took the ball.\n"""' in teacher.calls[1][0]
    assert "Rating from 0 to 9:" not in teacher.calls[0][0]
    assert transcript.details["totals"]["seams_blank_added"] == 1  # type: ignore[index]


class Counting(ScriptedBackend):
    """Ends each reply at the length limit, in words, as a server does."""

    def generate(self, requests: Sequence[GenerateRequest], deliver: Deliver) -> None:
        for i, request in enumerate(requests):
            pieces = words(str(self.reply(request.prompt)))
            kept = pieces[: request.gen_kwargs["max_gen_toks"]]
            finish: Any = "stop" if len(kept) == len(pieces) else "length"
            deliver(i, Completion("".join(kept), finish, prompt_tokens=1, completion_tokens=len(kept)))


@pytest.mark.parametrize("continues", [True, False])
@pytest.mark.parametrize("limit", range(9, 15))
def test_a_served_reply_keeps_the_tasks_length_limit(limit: int, continues: bool) -> None:
    """Nobody knows its tokens, but the server counts them: what follows a correction has what is left."""
    left = iter([DRAFT, " So it is in the garden. And there it stays for ever and ever."])
    student = Counting(lambda prompt: next(left), name="student")
    if not continues:
        student.capabilities = frozenset({"generate"})
    gen = {"until": [], "max_gen_toks": limit}
    teacher = rater({"is in the hall": "2"})
    transcript = solve(SpeculativePair(unit="step", accept="judge"), student, teacher, gen, context=CHAT)
    expected = "Mary took the ball. Mary is in the garden. So it is in the garden. And".split(" ")
    assert spoken(transcript).split(" ") == expected[:limit]
    assert transcript.stop == "length"


@given(st.text(alphabet="ab .\n\t1", max_size=30))
def test_words_are_the_text_and_end_at_line_breaks(text: str) -> None:
    pieces = words(text)
    assert "".join(pieces) == text
    assert all("\n" not in piece.rstrip("\n") or not piece.strip() for piece in pieces)
    assert all(piece.endswith("\n") or "\n" not in piece for piece in pieces)


def test_a_number_at_the_beginning_of_a_line_belongs_to_its_step() -> None:
    pieces = words("1. Add two.\n2. Add three.")
    assert group(pieces, splitter("step")(pieces)) == ["1. Add two.\n", "2. Add three."]


def test_all_units_of_a_draft_are_rated_in_one_call() -> None:
    teacher = rater({})
    transcript = solve(SpeculativePair(unit="step", accept="judge"), chatty(DRAFT), teacher, context=CHAT)
    assert (spoken(transcript), transcript.stop) == (DRAFT, "student_stopped")
    assert [len(call) for call in teacher.calls] == [3]
    assert all("Where is Mary?" in prompt for prompt in teacher.calls[0])
    assert 'approved:\n"""\nMary took the ball.\n"""' in teacher.calls[0][1]


@pytest.mark.parametrize(("policy", "text"), [("accept", DRAFT), ("reject", " Mary is in the garden.")])
def test_a_rating_without_a_number_is_counted(policy: Any, text: str) -> None:
    protocol = SpeculativePair(unit="step", accept="judge", on_malformed=policy, max_corrections=1)
    transcript = solve(protocol, chatty(DRAFT, ""), rater({"took": "Well"}), context=CHAT)
    assert spoken(transcript) == text
    assert transcript.details["totals"]["malformed"] == 1  # type: ignore[index]
    summary = Summary(lambda seat: SeatCost())
    summary.add(transcript)
    assert summary.to_json()["reviews"]["malformed"] == 1


@pytest.mark.parametrize(
    ("text", "rating"),
    [("7", 7), (" 8.", 8), ("10", 9), ("", None), ("good", None), ("9" * 5_000, 9), ("__import__", None)],
)
def test_reading_ratings(text: str, rating: int | None) -> None:
    assert read_rating(text) == rating


class Classifier(Backend):
    """Scores texts with a function."""

    capabilities = frozenset({"reward"})

    def __init__(self, score: Any) -> None:
        super().__init__()
        self.name = self.device = self.fingerprint = "classifier"
        self.score_of = score
        self.calls: list[list[str]] = []

    def load(self) -> None:
        """Do nothing: there are no weights."""

    def render_chat(self, messages: Any) -> Prompt:
        return Prompt("")

    def generate(self, requests: Any, deliver: Deliver) -> None:
        raise NotImplementedError

    def score(self, requests: Any, deliver: Deliver) -> None:
        from math import log

        self.calls.append([r.continuation for r in requests if isinstance(r, ScoreRequest)])
        for i, request in enumerate(requests):
            deliver(i, Loglikelihood(log(self.score_of(request.continuation))))


def test_a_third_seat_scores_steps() -> None:
    reward = Classifier(lambda text: 0.2 if text.endswith("in the hall.") else 0.9)
    transcript = solve(
        SpeculativePair(unit="step", accept="reward"), chatty(DRAFT, " So the garden."), rater({}), context=CHAT,
        reward=reward,
    )  # fmt: skip
    assert spoken(transcript) == "Mary took the ball. Mary is in the garden. So the garden."
    assert [len(call) for call in reward.calls] == [3, 1]
    assert reward.calls[0][1].endswith("Mary is in the hall.")


# -- continuing text, and seams ----------


@pytest.mark.parametrize(
    ("text", "reply", "new", "seam"),
    [
        ("Mary went", " home", " home", None),
        ("Mary went", "home", " home", "blank_added"),
        ("Mary went", "Mary went home", " home", "repeated"),
        ("So Mary went to the", "Mary went to the garden", " garden", "repeated"),
        ("", "Mary", "Mary", None),
        ("Mary.", "", "", None),
    ],
)
def test_what_a_reply_adds(text: str, reply: str, new: str, seam: str | None) -> None:
    assert after(text, reply) == (new, seam)


def test_a_seat_that_continues_text_is_given_the_text_and_seams_are_counted() -> None:
    def model(prompt: str, reply: str) -> dict[str, float]:
        said = prompt.removeprefix("Q") + reply
        return {("It is Xso" + END)[len(said)] if len(said) < 10 else END: 1.0}

    student = CharBackend(model, "student", abilities="text")
    teacher = CharBackend(says("It is Yso"), "teacher")
    transcript = solve(SpeculativePair(accept="greedy", draft_tokens="rest"), student, teacher)
    assert spoken(transcript) == "It is Yso"
    prompts = [r.prompt for call in student.asked for r in call if isinstance(r, GenerateRequest)]
    assert prompts[:2] == ["Q", "QIt is Y"]


# -- problems are reported before anything loads ----------


def test_the_error_about_a_missing_capability_includes_the_table(tmp_path: Path) -> None:
    student, teacher = chatty(), chatty()
    with pytest.raises(ConfigurationError) as raised:
        SpeculativePairLM(student=student, teacher=teacher, store="off", run_dir=tmp_path)
    assert "`teacher`: this run needs a model that can verify" in str(raised.value)
    assert table() in str(raised.value)


def test_sampled_needs_the_same_vocabulary(tmp_path: Path) -> None:
    student = CharBackend(says("a"), "student", CharTokens("one"))
    teacher = CharBackend(says("a"), "teacher", CharTokens("other"))
    with pytest.raises(ConfigurationError, match="needs models with the same vocabulary"):
        SpeculativePairLM(student=student, teacher=teacher, accept="sampled", store="off", run_dir=tmp_path)


def test_a_reward_seat_is_required_only_if_it_is_used(tmp_path: Path) -> None:
    student, teacher = chars("a", "a")
    common = {"student": student, "teacher": teacher, "store": "off", "run_dir": tmp_path}
    with pytest.raises(ConfigurationError, match="the seat `reward`"):
        SpeculativePairLM(accept="reward", unit="step", **common)
    with pytest.raises(ConfigurationError, match="is not used with these options"):
        SpeculativePairLM(reward=Classifier(lambda text: 1.0), **common)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accept": "judge"}, "cannot judge `unit=token`"),
        ({"accept": "sampled", "unit": "step"}, "cannot judge `unit=step`"),
        ({"accept": "greedy", "threshold": 2}, "takes no threshold"),
        ({"accept": "topk", "threshold": 0.5}, "needs another threshold"),
        ({"accept": "judge", "unit": "step", "threshold": 10}, "needs another threshold"),
        ({"chunk_tokens": 0}, "must be 1 or more"),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeculativePair(**options)


def test_the_docs_contain_the_table_of_the_code() -> None:
    assert table() in (ROOT / "docs" / "speculative.md").read_text()


def test_through_lm_eval_the_answer_is_only_the_text(tmp_path: Path) -> None:
    student, teacher = chars("It is X", "It is Y")
    lm = SpeculativePairLM(
        student=student, teacher=teacher, accept="greedy", store="off", run_dir=tmp_path, progress="off"
    )
    assert lm.generate_until([instance("Q", GEN)]) == ["It is Y"]
    assert lm.get_model_info()["harness_ext"]["summary"]["totals"]["corrections"] >= 1


def test_the_judge_keeps_its_threshold() -> None:
    policy = SpeculativePair(unit="step", accept="judge", threshold=5).policy
    assert isinstance(policy, Judge)
    assert policy.threshold == 5

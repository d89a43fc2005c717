"""Defects of published systems of this kind, each with a test that this project passes.

There is one test per defect, numbered and named after it. Where a system is named, the defect was found in its code.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import instance, instances, run_engine, scripted_pair

import harness_ext
from harness_ext.backends.base import Request
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.engine.engine import Engine
from harness_ext.errors import CallFailed, ConfigurationError, RunFailed, StoreError
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.debate import Debate
from harness_ext.models.feedback_pair import FeedbackPair, FeedbackPairLM
from harness_ext.models.self_consistency import SelfConsistency, SelfConsistencyLM
from harness_ext.protocol import Question
from harness_ext.reading import read_answer, read_verdict, same_answer, vote
from harness_ext.records import Transcript
from harness_ext.records.run_directory import read_transcripts


def make(tmp_path: Path, cls: Any = BaselineLM, **options: Any) -> Any:
    return cls(**{"store": "off", "run_dir": tmp_path / "run", "progress": "off", **options})


def solve(protocol: Any, questions: list[Question], **seats: Any) -> dict[int, Transcript]:
    return run_engine(Engine(), protocol, seats, questions)


def summary(tmp_path: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((tmp_path / "run" / "summary.json").read_text())
    return read


def test_defect_01_an_unparsable_answer_is_correct_and_votes() -> None:
    """Du et al.: None takes part in the vote, and a majority of None scores 1."""
    lost = [read_answer("I have no idea about this one"), read_answer("nor do I have any idea of it")]
    right = read_answer("#### 5")
    assert lost == [None, None]
    assert not same_answer(lost[0], lost[1])
    assert vote([*lost, right]).winner == 2
    texts = iter(["I have no idea about this one", "nor do I have any idea of it", "#### 5"])
    student = ScriptedBackend(lambda p: next(texts))
    assert solve(SelfConsistency(k="3"), [Question("q")], student=student)[0].text == "#### 5"


def test_defect_02_correct_once_counts_as_correct_forever(tmp_path: Path) -> None:
    """Self-Refine: after the first correct attempt, all later ones count as correct. Here the last text counts."""
    student, teacher = scripted_pair(
        lambda p: "seven" if "Your teacher" in p else "five", lambda p: "Correct." if "seven" in p else "Incorrect."
    )
    lm = make(tmp_path, FeedbackPairLM, student=student, teacher=teacher)
    assert lm.generate_until(instances(["q"])) == ["seven"]


def test_defect_03_the_right_option_is_always_a(tmp_path: Path) -> None:
    """SpecReason rewrites GPQA's options. Here the task's context arrives unchanged, with its choices in order."""
    context = "Which?\n(A) wrong\n(B) right\nAnswer:"
    model = ScriptedBackend(lambda p: "B", score_reply=lambda p, c: -1.0)
    make(tmp_path, student=model).generate_until(instances([context]))
    assert model.calls == [[context]]
    lm = make(tmp_path / "choices", student=model, reason="off")
    asked = [instance(context, idx=i) for i in range(2)]
    for request, choice in zip(asked, (" wrong", " right"), strict=True):
        request.request_type, request.arguments = "loglikelihood", (context, choice)
    lm.loglikelihood(asked)
    (done,) = read_transcripts(lm.session.run.path)
    assert [(t.verdict or {})["continuation"] for t in done.turns] == [" wrong", " right"]


def broken(bad: str, working: Callable[[str], str] = lambda p: f"re {p}") -> Callable[[str], str]:
    def reply(prompt: str) -> str:
        if bad and bad in prompt:
            raise ValueError("no such thing")
        return working(prompt)

    return reply


def test_defect_04_failed_samples_are_replaced_by_others(tmp_path: Path) -> None:
    """MALLM draws other samples instead. Here a failed question remains, is counted, and keeps its document."""
    lm = make(tmp_path, student=ScriptedBackend(broken("q2")), on_failure="score")
    assert lm.generate_until(instances([f"q{i}" for i in range(4)])) == ["re q0", "re q1", "", "re q3"]
    assert sorted((t.doc_id, t.failure is None) for t in read_transcripts(lm.session.run.path)) == [
        (0, True), (1, True), (2, False), (3, True),
    ]  # fmt: skip
    assert (summary(tmp_path)["questions"], summary(tmp_path)["failed"]) == (4, 1)


def test_defect_05_the_output_is_deleted_at_the_start(tmp_path: Path) -> None:
    """MALLM, too. Here a second run in the same folder continues the first and keeps what it wrote."""
    make(tmp_path, student=ScriptedBackend(broken(""))).generate_until(instances(["a", "b"]))
    before = (tmp_path / "run" / "transcripts.jsonl").read_bytes()
    model = ScriptedBackend(broken(""))
    make(tmp_path, student=model).generate_until(instances(["a", "b", "c"]))
    assert model.calls == [["c"]]
    assert (tmp_path / "run" / "transcripts.jsonl").read_bytes().startswith(before)


def test_defect_06_the_resume_key_lacks_the_settings(tmp_path: Path) -> None:
    """RSD and SpecReason resume old results with another threshold. Here another setting is another evaluation."""
    pair = {"student": ScriptedBackend(broken("")), "teacher": ScriptedBackend(lambda p: "Correct.", name="t")}
    make(tmp_path, FeedbackPairLM, **pair, max_rounds=1).generate_until(instances(["a"]))
    for changed in ({"max_rounds": 2}, {"student.gen.temperature": 0.5}, {"reason": "off"}):
        with pytest.raises(StoreError, match="contains another evaluation"):
            make(tmp_path, FeedbackPairLM, **{**pair, "max_rounds": 1, **changed})


def test_defect_07_errored_rows_count_as_done(tmp_path: Path) -> None:
    """MASLab. Here they, and only they, are tried again."""
    lm = make(tmp_path, student=ScriptedBackend(broken("b")))
    with pytest.raises(RunFailed):
        lm.generate_until(instances(["a", "b", "c"]))
    model = ScriptedBackend(broken(""))
    assert make(tmp_path, student=model).generate_until(instances(["a", "b", "c"])) == ["re a", "re b", "re c"]
    assert model.calls == [["b"]]


def test_defect_08_the_cache_is_not_keyed_by_model(tmp_path: Path) -> None:
    """lm-eval's --use_cache. Here two models and two protocols share one store without mixing their replies."""
    answers = []
    for name in ("one", "two"):
        model = ScriptedBackend(lambda p, name=name: name, name=name)
        lm = make(tmp_path / name, student=model, store=str(tmp_path / "store"))
        answers += lm.generate_until(instances(["q"]))
    student, teacher = scripted_pair(lambda p: "two" if "Your teacher" in p else "one", lambda p: "Incorrect.")
    student.fingerprint = "scripted:one"
    lm = make(
        tmp_path / "f", FeedbackPairLM, student=student, teacher=teacher, store=str(tmp_path / "store"), max_rounds=1
    )
    answers += lm.generate_until(instances(["q"]))
    assert answers == ["one", "two", "two"]
    assert sum(map(len, student.calls)) == 1  # the draft was shared with the baseline, the refinement was not
    hook = type("Hook", (), {"dbdict": {}})()
    with pytest.raises(ConfigurationError, match="--use_cache is not keyed by model"):
        lm.set_cache_hook(hook)


def test_defect_09_the_same_prompt_is_the_same_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache or temperature 0 turns N agents into one. Here they are N draws, or the run reports that they are one."""
    count = iter(range(99))
    one = ScriptedBackend(lambda p: f"#### {next(count)}")
    sampled = Question("q", {"do_sample": True, "temperature": 1.0})
    done = solve(Debate(topology="all", max_rounds=0), [sampled], agent1=one, agent2=one, agent3=one)[0]
    assert len({t.text for t in done.turns}) == 3
    lm = make(tmp_path, SelfConsistencyLM, student=ScriptedBackend(lambda p: "5"), k=3, temperature=0)
    lm.generate_until(instances(["q"]))
    assert "2 calls repeated a greedy call" in capsys.readouterr().err


def questions(count: int) -> list[Question]:
    return [Question(f"question {i}", {}, "t", i) for i in range(count)]


def test_defect_10_batch_mates_decide_when_a_sample_stops() -> None:
    """RSD ends all unfinished samples if none has finished for five rounds. Here each question has its own rounds."""

    def student(prompt: str) -> str:
        return f"draft {prompt.count('draft')}"

    def teacher(prompt: str) -> str:
        number = int(prompt.split("question ")[1].split()[0].strip('"'))
        return "Correct." if f"draft {number % 9}" in prompt else "Incorrect."

    def results(which: list[Question], window: int) -> dict[int, tuple[str, str]]:
        a, b = scripted_pair(student, teacher)
        found = run_engine(Engine(window=window), FeedbackPair(max_rounds=20), {"student": a, "teacher": b}, which)
        return {t.doc_id: (t.text, t.stop) for t in found.values()}

    together = results(questions(12), 2048)
    alone = {k: v for q in questions(12) for k, v in results([q], 1).items()}
    assert together == alone == results(questions(12)[::-1], 5)


@pytest.mark.parametrize(
    "review",
    [
        "I am not certain that it is correct",
        "It is not certain that it is correct.",
        "Incorrect. You wrote that it is correct",
        "Is it correct?",
        "The line `Answer: it is correct` is wrong",
    ],
)
def test_defect_11_magic_words_stop_the_loop(review: str) -> None:
    """Self-Refine stops at the substring "it is correct". Here only a structured verdict stops the loop."""
    assert not read_verdict(review).accepted
    student, teacher = scripted_pair(lambda p: f"draft {len(p)}", lambda p: review)
    protocol = FeedbackPair(max_rounds=2, max_malformed=0)
    assert solve(protocol, [Question("q")], student=student, teacher=teacher)[0].stop == "max_rounds"


def test_defect_12_model_text_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multi-Agents-Debate and MASLab call eval() on replies. Here no code path does."""
    monkeypatch.chdir(tmp_path)
    hostile = "__import__('pathlib').Path('hacked').touch()"
    for said in (
        hostile,
        f"Answer: {hostile}",
        f"\\boxed{{{hostile}}}",
        f"Correct. {hostile}",
        f'{{"verdict": {hostile}}}',
    ):
        agents = [ScriptedBackend(lambda p, said=said: said, name=n) for n in "abj"]
        solve(Debate(topology="judge"), [Question("q")], agent1=agents[0], agent2=agents[1], judge=agents[2])
        student, teacher = scripted_pair(lambda p, said=said: said, lambda p, said=said: said)
        solve(FeedbackPair(max_rounds=2), [Question("q")], student=student, teacher=teacher)
    assert not Path("hacked").exists()


def test_defect_12_the_package_calls_neither_eval_nor_exec_nor_pickle() -> None:
    names = ("models", "tasks", "enhance", "finetune")
    modules = [harness_ext, *(importlib.import_module(f"harness_ext.{name}") for name in names)]
    folders = [Path(module.__file__ or "").parent for module in modules]
    found = []
    for path in {p for folder in folders for p in folder.rglob("*.py")}:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec"):
                found.append(f"{path.name}:{node.lineno}")
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}:{name}" for name in names if name.partition(".")[0] in ("pickle", "dill", "shelve")]
    assert found == []


def test_defect_13_whole_texts_are_compared_instead_of_answers() -> None:
    """optillm merges texts of 0.985 similarity that answer 72 and 74, and separates two ways of writing 72."""
    long = "He starts with forty, buys twice as many as his sister had, and gives half of them away. " * 5
    assert not same_answer(read_answer(f"{long}\n#### 72"), read_answer(f"{long}\n#### 74"))
    assert same_answer(read_answer(f"{long}\n#### 72"), read_answer("Twice 36 is 72.0. The answer is $72."))
    assert not same_answer(read_answer(f"{long}\nAnswer: yes"), read_answer(f"{long}\nAnswer: no"))
    assert len({read_answer(t).number for t in ("#### 1,000", "1000", "1000.0", "$1000")}) == 1  # type: ignore[union-attr]


def test_defect_14_ties_depend_on_the_order_of_questions() -> None:
    """debate-or-vote breaks ties with the global random generator. Here the question alone decides its tie."""

    def ends(order: list[Question]) -> dict[int, tuple[str, str]]:
        agents = {f"agent{i}": ScriptedBackend(lambda p, i=i: f"#### {i}", name=f"a{i}") for i in (1, 2, 3)}
        done = solve(Debate(topology="all", max_rounds=0, order="shuffled"), order, **agents)
        return {t.doc_id: (t.text, t.stop) for t in done.values()}

    forwards = ends(questions(8))
    assert forwards == ends(questions(8)[::-1])
    assert {stop for _, stop in forwards.values()} == {"tie"}
    assert len(set(forwards.values())) > 1


def test_defect_15_calls_are_missing_from_the_totals(tmp_path: Path) -> None:
    """MASLab does not count a model's first call; optillm counts in a global variable. Here no token is missing."""
    written = {"student": 0, "teacher": 0}

    def counting(seat: str, reply: Callable[[str], str]) -> Callable[[str], str]:
        def say(prompt: str) -> str:
            text = reply(prompt)
            written[seat] += len(text.split())
            return text

        return say

    student, teacher = scripted_pair(
        counting("student", lambda p: "a new draft" if "Your teacher" in p else f"draft of {len(p)}"),
        counting("teacher", lambda p: "Correct." if "new" in p else "Incorrect.\nHint: look again"),
    )
    lm = make(tmp_path, FeedbackPairLM, student=student, teacher=teacher, window=3)
    lm.generate_until(instances([f"question {'x' * i}" for i in range(12)]))
    usage = summary(tmp_path)["usage"]
    assert {seat: usage[seat]["total"]["completion_tokens"] for seat in written} == written
    assert usage["student"]["total"]["calls"] == sum(map(len, student.calls)) == 24
    turns = [t for transcript in read_transcripts(lm.session.run.path) for t in transcript.turns]
    assert sum(t.result.completion_tokens or 0 for t in turns) == sum(written.values())


def test_defect_16_discarded_tokens_are_not_counted(tmp_path: Path) -> None:
    """Only RSD counts them. Here the tokens kept, discarded and spent on verification add up to those written."""
    student, teacher = scripted_pair(
        lambda p: "a better one" if "Your teacher" in p else "first",
        lambda p: "Correct." if "better" in p else "Incorrect.",
    )
    make(tmp_path, FeedbackPairLM, student=student, teacher=teacher).generate_until(instances(["a", "b"]))
    tokens = summary(tmp_path)["completion_tokens"]
    assert tokens == {"kept": 6, "discarded": 2, "verification": 4}
    written = summary(tmp_path)["usage"]
    assert sum(tokens.values()) == sum(seat["total"]["completion_tokens"] for seat in written.values())
    texts = iter(["#### 1", "so #### 2", "so #### 2"])
    lm = make(tmp_path / "sc", SelfConsistencyLM, student=ScriptedBackend(lambda p: next(texts)), k=3)
    lm.generate_until(instances(["a"]))
    assert summary(tmp_path / "sc")["completion_tokens"] == {"kept": 3, "discarded": 5, "verification": 0}


def test_defect_17_old_messages_are_dropped_silently(tmp_path: Path) -> None:
    """Here a conversation that does not fit fails its question, or is cut on request and counted."""

    class Narrow(ScriptedBackend):
        def check(self, request: Request) -> CallFailed | None:
            return CallFailed("overflow", "it does not fit", can_cut=True) if "Your teacher" in request.prompt else None

    teacher = ScriptedBackend(lambda p: "Incorrect.", name="t")
    pair = {"student": Narrow(lambda p: f"draft {len(p)}"), "teacher": teacher, "max_rounds": 1}
    lm = make(tmp_path, FeedbackPairLM, **pair)
    with pytest.raises(RunFailed, match="it does not fit"):
        lm.generate_until(instances(["a"]))
    assert summary(tmp_path)["failures"] == {"overflow": 1}
    lm = make(tmp_path / "cut", FeedbackPairLM, **pair, on_overflow="truncate")
    lm.generate_until(instances(["a"]))
    assert summary(tmp_path / "cut")["events"]["prompt_cut"] == 1


def test_defect_18_a_hidden_switch_changes_the_configuration(tmp_path: Path) -> None:
    """optillm's MARS is another protocol below 4,000 tokens. Here the stored options are what runs, at any length."""
    stored = []
    for length in (10, 100_000):
        folder = tmp_path / str(length)
        student, teacher = scripted_pair(lambda p: f"draft {len(p)}", lambda p: "Incorrect.")
        lm = make(folder, FeedbackPairLM, student=student, teacher=teacher, max_rounds=3)
        lm.generate_until(instances(["a"], {"max_gen_toks": length}))
        stored.append(json.loads((folder / "run" / "config.json").read_text())["identity"]["options"])
        assert len([t for t in next(read_transcripts(lm.session.run.path)).turns if t.kind == "refine"]) == 3
    assert stored[0] == stored[1] == json.loads(json.dumps(vars(FeedbackPair(max_rounds=3))))


def test_defect_19_malformed_verdicts_are_accepted_silently(tmp_path: Path) -> None:
    """SpecReason and MALLM count an unreadable verdict as a rejection without a word. Here the rate is reported."""
    student, teacher = scripted_pair(lambda p: f"draft {len(p)}", lambda p: "Well, well" if "xx" in p else "Correct.")
    lm = make(tmp_path, FeedbackPairLM, student=student, teacher=teacher, max_rounds=1)
    lm.generate_until(instances(["a", "b", "c", "xx"]))
    assert summary(tmp_path)["reviews"]["malformed_rate"] == 0.25
    agents = {f"agent{i}": ScriptedBackend(lambda p, i=i: f"#### {i}", name=f"a{i}") for i in (1, 2)}
    done = solve(Debate(consensus="verdict", max_rounds=1), [Question("q")], **agents)[0]
    assert (done.details or {})["totals"]["malformed_stances"] == 2


def test_defect_20_a_stop_rule_that_never_fires() -> None:
    """MALLM tests its consensus on records that its agents never write. Here the real engine's calls are counted."""
    for size in (2, 3, 5):
        agents = {f"agent{i}": ScriptedBackend(lambda p: "#### 7", name=f"a{i}") for i in range(1, size + 1)}
        done = solve(Debate(topology="all", max_rounds=10), [Question("q")], **agents)[0]
        assert done.stop == "agreed"
        assert sum(len(batch) for agent in agents.values() for batch in agent.calls) == size


def test_defect_21_calls_that_the_protocol_did_not_make() -> None:
    """SpecReason asks the server for its models before every call. Here a question costs only its protocol's calls."""
    student, teacher = scripted_pair(lambda p: f"draft {p}", lambda p: "Correct.")
    solve(FeedbackPair(), questions(5), student=student, teacher=teacher)
    assert (sum(map(len, student.calls)), sum(map(len, teacher.calls))) == (5, 5)
    assert (len(student.calls), student.loads, teacher.loads) == (1, 1, 1)


# -- speculative decoding: the same defects, tested with that protocol ------------------------------------------------

SPECULATIVE = {
    6: "test_a_changed_threshold_is_another_result_on_the_same_store",
    10: "test_questions_do_not_depend_on_each_other",
    16: "test_kept_discarded_and_verification_tokens_are_all_that_was_generated",
    19: "test_a_rating_without_a_number_is_counted",
    20: "test_corrections_are_bounded_and_the_same_mistake_cannot_loop",
    21: "test_after_a_correction_only_what_is_new_is_judged",
}


@pytest.mark.parametrize(("defect", "test"), SPECULATIVE.items())
def test_defect_in_speculative_decoding_has_its_test(defect: int, test: str) -> None:
    assert f"def {test}(" in (Path(__file__).parent / "test_speculative.py").read_text()


def test_every_defect_has_its_test() -> None:
    numbers = {int(name[len("test_defect_") :][:2]) for name in globals() if re.match(r"test_defect_\d\d_", name)}
    assert numbers == set(range(1, 22))

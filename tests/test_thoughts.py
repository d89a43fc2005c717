"""Reasoning models: thoughts are kept apart from answers, in every seat, and stop sequences apply to answers alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import Server, completion
from support import instance, scripted_pair

from harness_ext.backends.hf_rows import GeneratedRow, completion_of
from harness_ext.backends.hf_stops import AnswerStops
from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.embedded import model_path
from harness_ext.models.baseline import BaselineLM
from harness_ext.models.debate import DebateLM
from harness_ext.models.feedback_pair import FeedbackPairLM
from harness_ext.models.self_consistency import SelfConsistencyLM
from harness_ext.models.speculative_pair import SpeculativePairLM
from harness_ext.reading.stops import cut_at_stop
from harness_ext.reading.thoughts import DEFAULT_MARKERS
from harness_ext.records import Completion, Transcript
from harness_ext.records.chat import ChatContext
from harness_ext.records.run_directory import read_transcripts

GEN = {"until": ["\n\n"], "max_gen_toks": 64}


def replies(*texts: str) -> Callable[[str], str]:
    left: Iterator[str] = iter(texts)
    return lambda prompt: next(left)


def options(tmp_path: Path, **more: Any) -> dict[str, Any]:
    return {"store": "off", "run_dir": tmp_path / "run", "progress": "off", **more}


def transcripts(lm: Any) -> list[Transcript]:
    return list(read_transcripts(lm.session.run.path))


def prompts(lm: Any, seat: str) -> list[str]:
    backend = lm.plan.seats[seat].backend
    assert isinstance(backend, ScriptedBackend)
    return [prompt for batch in backend.calls for prompt in batch]


def summary(lm: Any) -> dict[str, Any]:
    written: dict[str, Any] = json.loads((lm.session.run.path / "summary.json").read_text())
    return written


STUDENT = ("<think>7*6 is 41? No.</think>The product is 41.\nAnswer: 41", "<think>42 then.</think>Answer: 42")
TEACHER = (
    "<think>The student is correct? Correct. No: 7*6 = 42.</think>\nIncorrect.\nHint: multiply again.",
    "<think>Incorrect? Let me check: 42. Fine.</think>Correct.",
)


def test_a_reasoning_pair_is_read_by_its_answers(tmp_path: Path) -> None:
    student, teacher = scripted_pair(replies(*STUDENT), replies(*TEACHER))
    lm = FeedbackPairLM(student=student, teacher=teacher, **options(tmp_path))
    assert lm.generate_until([instance("What is 6*7?", GEN)]) == ["Answer: 42"]
    (done,) = transcripts(lm)
    assert [turn.kind for turn in done.turns] == ["draft", "review", "refine", "review"]
    assert [(turn.verdict or {}).get("accepted") for turn in done.turns] == [None, False, None, True]
    thoughts = [turn.result.thought for turn in done.turns if isinstance(turn.result, Completion)]
    assert thoughts[0] == "7*6 is 41? No."
    assert all(thoughts)
    for prompt in (*prompts(lm, "student")[1:], *prompts(lm, "teacher")):
        assert "think" not in prompt
        assert "No: 7*6 = 42" not in prompt
    assert summary(lm)["events"]["thought"] == 4


@pytest.mark.parametrize(("thoughts", "seen"), [("hide", False), ("history", True)])
def test_a_thought_returns_only_to_its_own_seat_and_only_if_asked(tmp_path: Path, thoughts: str, seen: bool) -> None:
    student, teacher = scripted_pair(replies(*STUDENT), replies(*TEACHER))
    lm = FeedbackPairLM(student=student, teacher=teacher, **options(tmp_path, **{"student.thoughts": thoughts}))
    lm.generate_until([instance("What is 6*7?", GEN)])
    assert ("7*6 is 41? No." in prompts(lm, "student")[1]) == seen
    assert all("7*6 is 41? No." not in prompt for prompt in prompts(lm, "teacher"))


def test_thoughts_can_be_a_part_of_the_answer(tmp_path: Path) -> None:
    text = "<think>41?</think>42"
    lm = BaselineLM(student=ScriptedBackend(lambda prompt: text), **options(tmp_path, **{"student.thoughts": "off"}))
    assert lm.generate_until([instance("6*7?", GEN)]) == [text]


def test_an_empty_thought_is_no_part_of_the_answer(tmp_path: Path) -> None:
    """Qwen3 writes one where thinking is switched off."""
    lm = BaselineLM(student=ScriptedBackend(lambda prompt: "<think>\n\n</think>\n\n42"), **options(tmp_path))
    assert lm.generate_until([instance("6*7?", GEN)]) == ["42"]


def test_other_markers_are_named_per_seat(tmp_path: Path) -> None:
    lm = BaselineLM(
        student=ScriptedBackend(lambda prompt: "{{plan}}41?{{/plan}}42"),
        **options(tmp_path, **{"student.thought_start": "{{plan}}", "student.thought_end": "{{/plan}}"}),
    )
    assert lm.generate_until([instance("6*7?", GEN)]) == ["42"]


def test_an_unfinished_thought_is_no_answer_and_the_run_says_so(tmp_path: Path, capsys: Any) -> None:
    backend = ScriptedBackend(lambda prompt: "<think>The answer is 42, I think, but")
    lm = BaselineLM(student=backend, **options(tmp_path))
    assert lm.generate_until([instance(f"{n}*7?", GEN) for n in range(3)]) == [""] * 3
    assert summary(lm)["readability"]["student"] == {
        "replies": 3, "empty": 3, "unfinished": 3, "decisions": 0, "unread": 0, "votes": 0,
    }  # fmt: skip
    assert "`student`: all 3 replies are empty, 3 of them within an unfinished thought." in capsys.readouterr().err


def test_a_review_may_be_longer_by_its_thought(tmp_path: Path) -> None:
    seen: list[int] = []
    student, teacher = scripted_pair(replies("42"), replies("<think>…</think>Correct."))
    generate = teacher.generate
    teacher.generate = lambda requests, deliver: (  # type: ignore[method-assign]
        seen.extend(r.gen_kwargs["max_gen_toks"] for r in requests),
        generate(requests, deliver),
    )
    given = {"review_max_tokens": 100, "teacher.thought_tokens": 900}
    lm = FeedbackPairLM(student=student, teacher=teacher, **options(tmp_path, **given))
    lm.generate_until([instance("6*7?", GEN)])
    assert seen == [1000]


def test_thoughts_do_not_vote_and_are_not_heard(tmp_path: Path) -> None:
    text = "<think>Maybe the answer is 41.</think>The answer is 42. I hope this helps!"
    lm = SelfConsistencyLM(student=ScriptedBackend(lambda p: text), k="3", **options(tmp_path / "votes"))
    lm.generate_until([instance("6*7?", GEN)])
    assert transcripts(lm)[0].details == {
        "votes": [["42", 3.0]],
        "totals": {"draws": 3, "unparsable": 0, "ties": 0, "unanimous": 1},
    }
    agents = {
        f"agent{n}": ScriptedBackend(lambda p, n=n: f"<think>secret {n}</think>Answer: {n}", name=f"agent {n}")
        for n in (1, 2)
    }
    debate = DebateLM(**agents, topology="all", max_rounds=1, **options(tmp_path / "debate"))
    debate.generate_until([instance("6*7?", GEN)])
    assert all("secret" not in prompt for name in agents for prompt in prompts(debate, name))
    assert transcripts(debate)[0].stop in ("tie", "max_rounds")


@pytest.mark.parametrize("corrections", [0, 3])
def test_a_reply_of_two_authors_is_scored_by_its_answer(tmp_path: Path, corrections: int) -> None:
    student, teacher = scripted_pair(lambda p: "<think>41?\n42.</think>Answer: 42", lambda p: "9")
    lm = SpeculativePairLM(
        student=student, teacher=teacher, unit="step", accept="judge", max_corrections=corrections, **options(tmp_path)
    )
    assert lm.generate_until([instance("6*7?", GEN)]) == ["Answer: 42"]


# -- stop sequences ----------


def test_stop_sequences_apply_to_the_answer() -> None:
    text = "<think>First.\n\nThen.</think>\n\nThe answer.\n\nMore."
    assert cut_at_stop(text, ["\n\n"]) == ("<think>First.\n\nThen.</think>\n\nThe answer.", True)
    assert cut_at_stop("<think>First.\n\nThen", ["\n\n"]) == ("<think>First.\n\nThen", False)
    assert cut_at_stop("One.\n\nTwo.", ["\n\n", ""]) == ("One.", True)
    assert cut_at_stop("<think>a\n\nb</think>c", ["\n\n"], None) == ("<think>a", True)


class Tokenizer:
    """A tokenizer whose tokens are characters."""

    def decode(self, ids: Any, **_: Any) -> str:
        return "".join(map(chr, ids))

    def batch_decode(self, rows: Any, **_: Any) -> list[str]:
        return [self.decode(row) for row in rows]


def test_an_hf_row_ends_at_a_stop_sequence_of_its_answer() -> None:
    torch = pytest.importorskip("torch")
    thinking, plain = "<think>a\n\nb</think>\n\nc\n\nd", "One.\n\nTwo. And more, to be as long"
    width = 3
    stops = AnswerStops(Tokenizer(), ["\n\n"], width, DEFAULT_MARKERS)
    ended: dict[int, int] = {}
    for length in range(1, len(thinking) + 1):
        rows = [[0] * width + [ord(c) for c in text[:length]] for text in (thinking, plain)]
        for row, done in enumerate(stops(torch.tensor(rows), None).tolist()):
            if done:
                ended.setdefault(row, length)
    assert ended == {0: thinking.index("c") + 3, 1: plain.index("Two")}


@pytest.mark.parametrize("thought", ["a\n\nb", "\n\n"])
def test_an_hf_reply_keeps_its_thought_and_is_cut_in_its_answer(thought: str) -> None:
    class Model:
        end_ids = frozenset({0})
        think_end_token = None

        def tok_decode(self, ids: Any) -> str:
            return "".join(map(chr, ids))

    text = f"<think>{thought}</think>\n\nc\n\nd"
    row = GeneratedRow(5, [*map(ord, text), 0, 0], 99, ["\n\n"], 0.1, DEFAULT_MARKERS)
    found = completion_of(Model(), text.split("\n\n")[0], row, keep_ids=False)  # the text as HFLM cuts it
    assert (found.text, found.finish) == (f"<think>{thought}</think>\n\nc", "stop")
    assert found.completion_tokens == text.index("c") + 3


def test_the_embedded_pair_writes_the_same_texts_as_under_lm_evals_own_criterion(tmp_path: Path) -> None:
    """Without thoughts, the criterion changes no text."""
    from lm_eval.models.huggingface import HFLM

    contexts = [f"1 Mary went to the {place}.\nQuestion: Where is Mary?\nAnswer:" for place in ("garden", "hall")]
    gen = {"until": ["\n", "."], "max_gen_toks": 24, "do_sample": False}
    folder = str(model_path("student"))
    stock = HFLM(pretrained=folder, device="cpu", dtype="float32", batch_size=2)
    wanted = stock.generate_until([instance(context, gen) for context in contexts])
    lm = BaselineLM(student=folder, batch_size=2, device="cpu", **options(tmp_path, **{"student.dtype": "float32"}))
    assert lm.generate_until([instance(context, gen) for context in contexts]) == wanted


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_server_may_report_the_thought_in_a_field(tmp_path: Path, field: str) -> None:
    def reply(text: str) -> dict[str, Any]:
        data = completion("Answer: 42", {"messages": [{"content": text}]})
        data["choices"][0]["message"][field] = "Is it 41?"
        return data

    with Server(reply) as server:
        lm = BaselineLM(student=f"openai:m@{server.url}", **options(tmp_path))
        assert lm.generate_until([instance("6*7?", GEN)]) == ["Answer: 42"]
    (turn,) = transcripts(lm)[0].turns
    assert isinstance(turn.result, Completion)
    assert turn.result.thought == "Is it 41?"
    assert turn.notes == ("thought",)


def test_a_server_may_report_the_thought_as_a_part_of_the_content(tmp_path: Path) -> None:
    def reply(text: str) -> dict[str, Any]:
        data = completion("", {"messages": [{"content": text}]})
        data["choices"][0]["message"]["content"] = [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Is it 41?"}]},
            {"type": "text", "text": "Answer: 42"},
        ]
        return data

    with Server(reply) as server:
        lm = BaselineLM(student=f"openai:m@{server.url}", **options(tmp_path))
        assert lm.generate_until([instance("6*7?", GEN)]) == ["Answer: 42"]
    (turn,) = transcripts(lm)[0].turns
    assert isinstance(turn.result, Completion)
    assert turn.result.thought == "Is it 41?"


def test_a_stop_sequence_inside_a_thought_does_not_end_a_served_reply(tmp_path: Path) -> None:
    """The first such reply is asked for again without stop sequences; from then on they are applied here."""
    whole = "<think>First.\n\nThen.</think>\n\nAnswer: 42\n\nQuestion: next?"

    class Stopping(Server):
        async def _answer(self, request: Any, body: dict[str, Any]) -> Any:
            stops = body.get("stop") or []
            self.reply = lambda text: min([whole, *(whole.split(stop)[0] for stop in stops)], key=len)
            return await super()._answer(request, body)

    with Stopping() as server:
        lm = BaselineLM(student=f"openai:m@{server.url}", **options(tmp_path, **{"student.num_concurrent": 1}))
        asked = [instance(ChatContext.of([{"role": "user", "content": f"{n}*7?"}]), GEN) for n in range(3)]
        assert lm.generate_until(asked) == ["Answer: 42"] * 3
    assert [request.get("stop") for request in server.requests] == [["\n\n"], None, None, None]
    assert summary(lm)["events"]["stopped_in_thought"] == 1

"""What holds for any text: readers never raise, take linear time, agree, and do not mind markup."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reading_choices import CHOICES, PLACES
from reading_numbers import NUMBERS

from harness_ext.reading import (
    AnswerForm,
    Reading,
    answer_form,
    cut_run_on,
    neutralise,
    read_answer,
    read_choice,
    read_choice_of,
    read_confidence,
    read_json_choice,
    read_number,
    read_rating,
    read_row,
    read_verdict,
    read_verdict_system0,
    read_yes_no,
    same_answer,
    split_thought,
    vote,
)
from harness_ext.reading.reply import cleaned

PIECES = [
    "Answer:", "\n", "####", "\\boxed{", "}", "5", "1,000", "½", " ", "the answer is ", "x", "^", "$", "<think>",
    "</think>", "Q:",
    "Question: ", "not ", "(B)", "B", "A", "cellar", "the oven ", "is correct", "yes", "no", "true", ".", ",", ";",
    "\"", "**", "_", "`",
    "because ", "=", "+", "-", "/", "\\frac{", "{", "[[", "]]", "<answer>", "</answer>", "<|channel|>final",
    "<|message|>", "assistantfinal",
    "two hundred ", "minus ", "and ", "3:45 pm", "\u00a0", "\u200b", "Ｂ", "٣", "\ud800", "I choose ", "if ",
    "{\"answer\": ", "So ", "?", "!",
]  # fmt: skip
texts = st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@settings(deadline=None, max_examples=500)
@given(texts, texts)
@example("Answer: the", "(")
@example("\\boxed{\\boxed{1}}", "\ud800")
@example("\ue000\ue001\ue002", "\ue000")
def test_any_text_is_read_or_not_but_never_an_error(text: str, other: str) -> None:
    for wrapped in (
        text,
        f"Answer: {text}",
        f"\\boxed{{{text}}}",
        f"{text}\nAnswer: 7",
        f"<think>{text}</think>{other}",
    ):
        found = [
            read_number(wrapped, other),
            read_answer(wrapped),
            read_answer(wrapped, pattern=r"(?s)\A(.*)"),
            read_yes_no(wrapped, other),
            read_choice(wrapped, PLACES),
        ]
        for one in found:
            assert one is None or wrapped[slice(*one.span)] == one.written
            assert same_answer(one, one) == (one is not None)
        read_json_choice(wrapped, PLACES)
        answer_form(wrapped)
        cut_run_on(wrapped)
    result = vote([read_answer(text), read_answer(other)])
    assert (result.winner is None) == (result.unparsable == 2)


@settings(deadline=None, max_examples=300)
@given(texts)
def test_votes_and_scores_never_differ(text: str) -> None:
    assert read_answer(text, form=AnswerForm("number")) == read_number(text)
    assert read_answer(text, form=AnswerForm("choice", PLACES)) == read_choice(text, PLACES)
    yes_no = read_yes_no(text)
    assert yes_no is None or read_answer(text, form=AnswerForm("yes_no")) == yes_no
    row: dict[str, Any] = {"reply": text, "kind": "number"}
    assert read_row(row)["read"] == (str(found.number) if (found := read_number(text)) else None)


LEADS = ["", "So ", "Therefore, ", "12 boxes hold 3 each.\n", "First, 12 * 3 = 36.\n\n", "Let's see. "]
CORES = ["the answer is {}", "Answer: {}", "**Answer:** {}", "\\boxed{{{}}}", "#### {}", "the final result is {}"]
CORES += ["she has {} left", "that makes {}", "{} is the answer", "the total is {}", "it comes to {}"]
TAILS = [
    "",
    ".",
    ". I hope this helps!",
    ", since each of the 12 boxes = 3 kg.",
    " because 12 of the 36 are gone.",
    " (12 of 3).",
]


@settings(deadline=None, max_examples=400)
@given(
    st.sampled_from(LEADS),
    st.sampled_from(CORES),
    st.sampled_from(TAILS),
    st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=-(10**9), max_value=10**9),
    st.sampled_from(["{}", "{:,}", "**{}**", "${}$", "{} km"]),
)
def test_every_number_is_read_back(lead: str, core: str, tail: str, value: Any, form: str) -> None:
    reply = f"{lead}\n{core.format(form.format(value))}{tail}"
    score, voted = read_number(reply), read_answer(reply)
    assert score is not None, reply
    assert score.number == Fraction(value), reply
    assert voted is not None
    assert voted.number == Fraction(value), reply


def replies() -> list[tuple[str, Callable[[str], Reading | None]]]:
    numbers = [reply for rows in NUMBERS.values() for reply, _ in rows]
    table: list[tuple[str, Callable[[str], Reading | None]]] = [(reply, read_number) for reply in numbers]
    table += [(reply, read_answer) for reply in numbers]
    for options, rows in CHOICES.items():
        table += [(reply, lambda text, options=options: read_choice(text, options)) for reply, _ in rows]  # type: ignore[misc]
    # A mark around a whole text with lines, tags or quotes of its own says something else there.
    return [(reply, read) for reply, read in table if not any(mark in reply for mark in "\n<\r")]


@pytest.mark.parametrize(
    "marks", [("**", "**"), ("*", "*"), ("_", "_"), ("__", "__"), ("`", "`"), ('"', '"'), ("“", "”"), ("'", "'")]
)
def test_marks_around_a_reply_do_not_change_what_is_read(marks: tuple[str, str]) -> None:
    for reply, read in replies():
        plain, marked = read(reply), read(f"{marks[0]}{reply}{marks[1]}")
        assert (plain and plain.value) == (marked and marked.value), reply


@settings(deadline=None)
@given(
    st.sampled_from(replies()),
    st.sampled_from(["\u200b{}", "\ufeff{}", "{}\n", "\n\n{}", "{}  ", "\r\n{}\r\n", "\u00a0{}"]),
)
def test_blanks_around_a_reply_do_not_change_what_is_read(row: tuple[str, Any], form: str) -> None:
    reply, read = row
    plain, padded = read(reply), read(form.format(reply))
    assert (plain and plain.value) == (padded and padded.value)


HOSTILE = [
    "not ", "a ", " ", "*", "correct ", "incorrect ", "n't x ", "\n", "> ", "Answer: ", "(", "1,", "\\boxed{",
    "the answer is ", "9", "Q:\n",
    "\\boxed{\\boxed{1}} ", "1 ", "(A) ", "A. ", "<think>", "</think>", "<answer>", "[[", '{"answer": ', "{", '{"',
    "{'a':", "$1 ", "_", "`",
    "1/", "1^", "1-", "1:", "one hundred and ", "the cellar is the best ", "Therefore, it is ", "because ", '"',
    'the sentence "', "it is ",
    "the statement that ", "final correct ", "answer to the question ", "<|channel|>analysis", "<|im_end|>",
    "assistantfinal", "\\frac{1}{2}",
    "Ａ", "e.g. ", "the correct answer is ", "1 + ", "1 apple + ", "→", "not cellar ", "I choose ",
    "Verdict: correct ", "no mistakes ",
    "there is a mistake ", "should be ", "7/9 ", "85% ", "\u200b", "\ue000", "User: x\n", "[INST]", "yes or no ",
    "1'", "12:30 ", "1 000 ",
    "thousand ", "#### ", "\nQuestion:", "answer\n\n", "letter of the ", "option that fits ", "if the answer ",
    "wait ", "no, ", "actually it's ", "not A but ", "A) oven - wrong\n", "could be 1 or ", "think x but it's ",
    "what? ",
    "I don't think that's ", "while it is, ", "Answer: (<letter>) ", "half of 5, which is ", "did not x ",
    "correct? ",
]  # fmt: skip
READERS: dict[str, Callable[[str], object]] = {
    "number": read_number,
    "answer": read_answer,
    "choice": lambda text: read_choice(text, PLACES),
    "yes_no": read_yes_no,
    "json": lambda text: read_json_choice(text, PLACES),
    "verdict": read_verdict,
    "system0": read_verdict_system0,
    "rating": read_rating,
    "confidence": read_confidence,
    "word": lambda text: read_choice_of(text, ("open", "closed")),
    "thought": split_thought,
    "form": answer_form,
    "neutralise": lambda text: neutralise(text, plain=True),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    cleaned.cache_clear()
    started = time.process_time()
    read(text)
    return time.process_time() - started


@pytest.mark.parametrize("name", READERS)
def test_time_grows_with_the_text_and_not_faster(name: str) -> None:
    """A text eight times as long may take 24 times as long; what takes no time at all is not measured.

    That tells 8 times (linear) from 64 times (quadratic) also where other processes slow this one down: CPU time
    depends on them a little, through caches and clock rates.
    """
    read = READERS[name]
    for piece in HOSTILE:
        for begin in ("", "Answer: 5. "):
            once, long = (begin + (piece * 32_000)[:size] for size in (4_000, 32_000))
            if (first := seconds(read, once)) > 0.02:
                assert any(seconds(read, long) < 24 * max(first, 0.03) for _ in range(3)), (name, piece)
            assert first < 30, (name, piece)


def test_a_megabyte_is_read() -> None:
    text = "The answer is 5 apples.\n" * 42_000
    for read in READERS.values():
        assert seconds(read, text) < 30


@pytest.mark.parametrize(
    "hostile",
    [
        "Answer: " + "9" * 100_000, "\\boxed{9^{9^{9^{9}}}}", "\\boxed{100000!}", "\\boxed{\\int x^x}",
        "\\boxed{(x+y+z+1)^{99}}",
        "Answer: __import__('os').system('touch hacked')", "1" * 50 + "/0", "Answer: 2^99999", "Answer: 1e99999999",
        "Answer: 9^400^400",
        "Answer: " + "(" * 500 + "1" + ")" * 500, "Answer: 10^400", "Answer: 1/10^400",
    ],
)  # fmt: skip
def test_hostile_formulas_cost_no_time_and_run_nothing(hostile: str) -> None:
    started = time.process_time()
    same_answer(read_answer(hostile), read_answer(hostile + " "))
    same_answer(read_answer(hostile), read_answer("\\boxed{2^x}"))
    read_number(hostile)
    assert time.process_time() - started < 20  # each takes milliseconds; without its limit it takes minutes or for ever

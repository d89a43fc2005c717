"""Reading answers, comparing them, voting."""

from __future__ import annotations

import threading
import time
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness_ext.reading.answers import Answer, all_agree, cut_run_on, read_answer, same_answer, vote

READ = [
    ("She sells 9 * 2 = 18 eggs.\n#### 18", "18"),
    ("#### 1,000", "1000"),
    ("The answer is $1000.", "1000"),
    ("Reasoning: he went there.\nAnswer: the Garden.", "garden"),
    ("Reasoning: x. Answer: hall\n**Answer:** **garden**", "garden"),
    ("**Final Answer**: apple,football", "apple, football"),
    ("Answer:\n\n18 dollars", "18"),
    ("So the correct answer is (B) kitchen.", "B"),
    ("B. kitchen", "B"),
    ("b", "B"),
    ("(c)", "C"),
    ("Answer: Yes, since he is there.", "yes"),
    ("no", "no"),
    ("We get \\[\\boxed{\\frac{1}{2}}\\]", "\\frac{1}{2}"),
    ("so \\boxed{\\text{garden}}.", "garden"),
    ("First \\boxed{3}, no, \\boxed{4}.", "4"),
    ("\\boxed{x = 5}", "5"),
    ("Answer: -3.50", "-7/2"),
    ("Answer: −3/4", "-3/4"),
    ("Answer: 50%", "50"),
    ("Answer: 3 pm", "3 pm"),
    ("Answer: 10:30 am", "10:30 am"),
    ("Answer: 2 or 3", "2 or 3"),
    ("Answer: x=1 or x=2", "x=1 or x=2"),
    ("In all she makes 9 * 2 = $18 every day at the market.", "18"),
    ("<think>Answer: 5</think>\nAnswer: 6", "6"),
    ("Answer: 18\n\nQuestion: And now?\nAnswer: 7", "18"),
    ("1e999999999", "1e999999999"),
]


@pytest.mark.parametrize(("text", "wanted"), READ)
def test_what_a_reply_answers(text: str, wanted: str) -> None:
    answer = read_answer(text)
    assert answer is not None
    assert answer.text == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "  \n", "...", "Answer:", "Answer:\nReasoning: he", "No idea at all what to say here", "<think>Answer: 5",
        "\\boxed{", "Answer: " + "word " * 100,
    ],
)  # fmt: skip
def test_what_cannot_be_read(text: str) -> None:
    assert read_answer(text) is None


EQUAL = [
    ("1,000", "$1000"), ("1000", "1000.0"), ("1000 dollars", "$1,000.00"), ("0.5", "1/2"),
    ("\\boxed{\\frac{1}{2}}", ".5"),
    ("\\boxed{x^2+1}", "\\boxed{1+x^2}"), ("\\boxed{\\frac{\\sqrt{2}}{2}}", "\\boxed{1/\\sqrt{2}}"), ("(B)", "B."),
    ("Answer: the garden", "Garden."), ("Answer: apple, football", "Answer: apple,football"),
]  # fmt: skip
UNEQUAL = [
    ("yes", "no"), ("10", "100"), ("-5", "5"), ("3 am", "3 pm"), ("garden", "kitchen"),
    ("\\boxed{x+1}", "\\boxed{x-1}"),
    ("\\boxed{(1,2)}", "\\boxed{(2,1)}"), ("south, east", "east, south"), ("0.333", "1/3"), ("A", "B"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_the_same_answer(a: str, b: str) -> None:
    assert same_answer(read_answer(a), read_answer(b))
    assert same_answer(read_answer(b), read_answer(a))


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_not_the_same_answer(a: str, b: str) -> None:
    assert read_answer(a) is not None
    assert not same_answer(read_answer(a), read_answer(b))
    assert not same_answer(read_answer(b), read_answer(a))


def test_a_pattern_reads_the_answer_instead() -> None:
    assert read_answer("Result => 7 (not 8)", r"=> (\d+)") == Answer("7", Fraction(7))
    assert read_answer("no result", r"=> (\d+)") is None


def test_a_reply_that_runs_on_is_cut() -> None:
    assert cut_run_on("Answer: 5\nAgent 2: No, 6.") == ("Answer: 5", True)
    assert cut_run_on("Answer: 5\n\n**Question 2:** what?") == ("Answer: 5", True)
    assert cut_run_on("Answer: 5\nThe question: done.") == ("Answer: 5\nThe question: done.", False)
    assert cut_run_on("\nQuestion: is all there is") == ("\nQuestion: is all there is", False)


def test_votes() -> None:
    said = [read_answer(t) for t in ("5", "no words to read here at all", "7", "5.0", "$7")]
    result = vote(said)
    assert (result.winner, result.counts, result.tie, result.unparsable) == (0, (("5", 2.0), ("7", 2.0)), True, 1)
    weighted = vote(said, [0.1, 9.0, 0.2, 0.1, 0.2])
    assert weighted.winner == 2
    assert not weighted.tie
    assert vote([None, None]).winner is None
    assert not all_agree([None, None])
    assert not all_agree([])
    assert all_agree([read_answer("5"), read_answer("5.00")])


text = st.text(max_size=200) | st.lists(
    st.sampled_from(
        ["Answer:", "\n", "####", "\\boxed{", "}", "5", " ", "the answer is", "x", "^", "$", "<think>", "Q:"]
    ),
    max_size=40,
).map("".join)


@given(st.lists(text, max_size=5))
@example(["Answer: the", "(", "\\boxed{\\boxed{1}}", "\ud800"])
def test_any_texts_have_a_vote(texts: list[str]) -> None:
    answers = [read_answer(t) for t in texts]
    result = vote(answers)
    assert result.unparsable == answers.count(None)
    assert sum(n for _, n in result.counts) == len(texts) - result.unparsable
    assert (result.winner is None) == (result.unparsable == len(texts))
    for a in answers:
        assert same_answer(a, a) == (a is not None)


@pytest.mark.parametrize(
    "hostile",
    [
        "Answer: " + "9" * 100_000, "\\boxed{9^{9^{9^{9}}}}", "\\boxed{100000!}", "Answer:\n" * 20_000,
        "the answer is " * 10_000, "\\boxed{" * 20_000, "Answer: 5 " + "a" * 290, "\n" * 100_000, "\\boxed{\\int x^x}",
        "1 " * 50_000, "Answer: __import__('os').system('touch hacked')", "\\boxed{(x+y+z+1)^{99}}", "1" * 50 + "/0",
    ],
)  # fmt: skip
def test_hostile_replies_cost_no_time_and_run_nothing(hostile: str) -> None:
    start = time.process_time()
    same_answer(read_answer(hostile), read_answer(hostile + " "))
    same_answer(read_answer(hostile), read_answer("\\boxed{2^x}"))
    assert time.process_time() - start < 20  # each takes milliseconds; without its limit it takes minutes or for ever


def test_formulas_are_compared_outside_the_main_thread() -> None:
    """math-verify's time-outs are signals, which raise in any other thread; the engine has a thread of its own."""
    found: list[bool] = []
    thread = threading.Thread(
        target=lambda: found.append(same_answer(read_answer("\\boxed{2x+1}"), read_answer("\\boxed{1+2x}")))
    )
    thread.start()
    thread.join()
    assert found == [True]

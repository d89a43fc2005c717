"""Tests of dividing texts into units: joined units are exactly the text, and a step is what a reader calls one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.models.speculative.units import group, pieces_of, split_chunks, split_steps, splitter, words
from harness_ext.reading.steps import steps

FRAGMENTS = [
    "So Mary is there.", " Then 3.14 and 2.", "\n", "\n\n", " ", "\t", "$x = 1. y$", "$$\na. b\n$$", "\\[ a. \n b \\]",
    "$5", "```python\nx = 1. \n\ny = 2\n```", "```", "`a. b`", "1. ", "2) two", "- item", "Mr. Smith", "e.g. this",
    "今日は。明日", "…",
    "\\begin{align} a. b\n\\end{align}", "\\begin{x", "😀 ok!", "\u2028", "\r\n", '?!" He', "\ufeff",
    "a", "#### 42", "~~~\n. a",
]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=6), max_size=12).map("".join)


@settings(deadline=None, max_examples=150)
@given(texts)
def test_steps_give_back_the_text(text: str) -> None:
    found = steps(text)
    assert "".join(found) == text
    assert all(step.strip() for step in found) or not text.strip()


@settings(deadline=None, max_examples=100)
@given(texts, st.integers(1, 9), st.lists(st.integers(0, 5), max_size=60))
def test_units_of_any_pieces_give_back_the_text(text: str, size: int, lengths: list[int]) -> None:
    pieces, rest = [], text
    for length in lengths:
        pieces.append(rest[:length])
        rest = rest[length:]
    pieces.append(rest)
    for unit in ("token", "step", "chunk"):
        sizes = splitter(unit, size)(pieces)  # type: ignore[arg-type]
        assert sum(sizes) == len(pieces)
        assert min(sizes) > 0
        assert "".join(group(pieces, sizes)) == text


@settings(deadline=None)
@given(texts)
def test_words_give_back_the_text(text: str) -> None:
    assert "".join(words(text)) == text


@pytest.mark.parametrize(
    "parts",
    [
        ["Reasoning: 1 John, 2 Mary hallway.", " So Mary is in the garden.\n", "Answer: garden"],
        ["It costs $5.", " And $6.50 more."],
        ["We have $x = 3. 14$ here.", " Done!", " Yes?"],
        ["Pi is 3.14 or so.", " Mr. Smith agrees, e.g. here.\n\n", "1. First item.", " Good.\n", "2. Second"],
        ["Code:\n", "```python\nx = 1. \n\ny = 2\n```\n", "That is all."],
        ["Open:\n", "```\nx = 1. y. z\n\nfoo. bar"],
        ["So \\[ \na. b\n\n c \\] holds.", " End."],
        ["Then $$a. b\n c$$ follows.\n", "\\begin{align} a. b\n c. d \\end{align} is it."],
        ["Call `a. b` now.", " Next."],
        ["今日は。", "明日も。"],
        ['He said "No."', " She left."],
        ["\n\n  a line\n", "another"],
    ],
)
def test_a_step_is_what_a_reader_calls_one(parts: list[str]) -> None:
    assert steps("".join(parts)) == parts


@pytest.mark.parametrize("text", ["", " ", "\n\n", "word", "\t\n "])
def test_texts_without_an_end_are_one_step(text: str) -> None:
    assert steps(text) == ([text] if text else [])


def test_hostile_texts_take_no_time() -> None:
    """No pattern backtracks without bound. With one that does, each of these texts would take hours."""
    for text in (
        "$" * 5_000,
        "`" * 5_000,
        "\\begin{" * 2_000,
        "```\n" * 2_000,
        ". " * 5_000,
        "\n" * 20_000,
        "$a" * 3_000,
    ):
        assert "".join(steps(text)) == text


def test_a_piece_across_the_end_of_a_step_belongs_to_that_step() -> None:
    pieces = ["One", ". T", "wo.", "\n", "Three"]
    assert group(pieces, split_steps(pieces)) == ["One. T", "wo.\n", "Three"]


def test_chunks() -> None:
    assert split_chunks(3)(["a"] * 7) == [3, 3, 1]
    assert split_chunks(3)([]) == []


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30), st.integers(0, 5))
def test_pieces_of_bytes_give_back_the_text(text: str, known: int) -> None:
    """With bytes as tokens, a character may have several tokens; the last one adds the whole character."""
    ids = list(text.encode())

    def decode(tokens: list[int]) -> str:
        return bytes(tokens).decode("utf-8", "replace")

    pieces = pieces_of(ids[known:], decode, ids[:known])  # type: ignore[arg-type]
    assert len(pieces) == len(ids[known:])
    assert "".join(pieces) == decode(ids)[len(decode(ids[:known])) :]

"""Tests of which labels a first token speaks for, and of what the likeliest tokens say about all labels."""

from __future__ import annotations

import string
from collections import Counter
from math import fsum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.backends.first_token import Token, labels_begun, shares_of

LETTERS = tuple(string.ascii_uppercase[:5])
DIGITS = tuple(string.digits)
ANSWERS = ("Yes", "No")
OPENINGS = ("Correct.", "Incorrect.")


@pytest.mark.parametrize(
    ("labels", "token", "speaks_for"),
    [
        (ANSWERS, "Yes", "Yes"), (ANSWERS, "Ye", "Yes"), (ANSWERS, "Yes.", "Yes"), (ANSWERS, "Yes\n", "Yes"),
        (ANSWERS, "No,", "No"), (ANSWERS, "Y", None), (ANSWERS, "Yesterday", None), (ANSWERS, "Not", None),
        (ANSWERS, "None", None), (ANSWERS, "yes", None), (ANSWERS, " Yes", None), (ANSWERS, "The", None),
        (ANSWERS, "", None), (ANSWERS, " ", None), (ANSWERS, "es", None),
        ((" Yes", " No"), " Yes", " Yes"), ((" Yes", " No"), "Yes", None), ((" Yes", " No"), " ", None),
        ((" Yes", " No"), " No.", " No"), ((" Yes", " No"), " N", None),
        (LETTERS, "A", "A"), (LETTERS, "A.", "A"), (LETTERS, "B)", "B"), (LETTERS, "An", None),
        (LETTERS, "Because", None),
        (LETTERS, "AB", None), (LETTERS, "F", None), (LETTERS, "D:", "D"),
        (DIGITS, "7", "7"), (DIGITS, "10", None), (DIGITS, "1.", "1"), (DIGITS, "7/10", "7"),
        (("1", "10"), "1", None), (("1", "10"), "10", "10"), (("1", "10"), "1.", "1"), (("1", "10"), "100", None),
        (OPENINGS, "Correct", "Correct."), (OPENINGS, "Correct.", "Correct."), (OPENINGS, "Correct.\n", "Correct."),
        (OPENINGS, "Correct.The", "Correct."), (OPENINGS, "Correct!", None), (OPENINGS, "In", "Incorrect."),
        (OPENINGS, "Inc", "Incorrect."), (OPENINGS, "Incorrect", "Incorrect."), (OPENINGS, "I", None),
        (OPENINGS, "C", None), (OPENINGS, "Corrections", None),
        (("A wins", "B wins"), "A", "A wins"), (("Option A", "Option B"), "Option", None),
        (("No", "No way"), "No", None), (("No", "No way"), "No.", "No"), (("No", "No way"), "No ", None),
        (("No", "No way"), "No w", None), (("No", "No way"), "No way!", "No way"),
    ],
)  # fmt: skip
def test_which_label_a_token_speaks_for(labels: tuple[str, ...], token: str, speaks_for: str | None) -> None:
    begun = labels_begun([label.encode() for label in labels], token.encode())
    assert [labels[i] for i in begun] == [speaks_for] if len(begun) == 1 else speaks_for is None


def test_a_token_may_end_within_a_character() -> None:
    labels = ["да".encode(), "нет".encode()]
    assert labels_begun(labels, labels[0][:3]) == [0]
    assert labels_begun(labels, "да, ".encode()) == [0]
    assert labels_begun(labels, "дата".encode()) == []
    assert labels_begun(labels, labels[0][:1]) == [], "one byte is none, unless tokens are bytes"
    assert labels_begun(labels, labels[1][:2], single=True) == [1]


def test_a_tokenizer_of_single_characters_begins_labels_with_one() -> None:
    characters = [Token(text.encode(), p) for text, p in (("C", 0.5), ("I", 0.25), ("T", 0.2))]
    assert shares_of(OPENINGS, characters).shares == pytest.approx((2 / 3, 1 / 3))
    words = [Token(b"The", 0.05), *characters]
    assert shares_of(OPENINGS, words).shares == (), "`I` and `C` begin other words there"


label_sets = st.one_of(
    *(st.just(labels) for labels in (ANSWERS, (" Yes", " No"), LETTERS, DIGITS, OPENINGS)),
    st.lists(st.text("ab1. ", min_size=1, max_size=4), min_size=2, max_size=5, unique=True).map(tuple),
)
others = st.text("abYesNoCrIn1. \n", max_size=5)
weights = st.floats(1e-6, 1)


@st.composite
def replies(draw: st.DrawFn) -> tuple[tuple[str, ...], list[Token]]:
    """Return labels, and the probabilities of first tokens: beginnings and continuations of labels, and others."""
    labels = draw(label_sets)
    near = st.sampled_from(labels)
    pieces = st.one_of(
        near,
        st.tuples(near, st.integers(1, 6)).map(lambda pair: pair[0][: pair[1]]),
        st.tuples(near, others).map("".join),
        others,
    )
    texts = draw(st.lists(pieces, min_size=1, max_size=12, unique=True))
    raw = draw(st.lists(weights, min_size=len(texts), max_size=len(texts)))
    scale = draw(st.floats(0.05, 1)) / fsum(raw)
    return labels, [Token(text.encode(), weight * scale) for text, weight in zip(texts, raw, strict=True)]


@settings(deadline=None)
@given(replies())
def test_probability_is_counted_once_and_for_labels_alone(reply: tuple[tuple[str, ...], list[Token]]) -> None:
    labels, tokens = reply
    found = shares_of(labels, tokens)
    assert found.mass + found.shared <= fsum(token.probability for token in tokens) + 1e-9
    known = [share for share in found.shares if share is not None]
    assert bool(known) == (found.mass > 0)
    if known:
        assert len(found.shares) == len(labels)
        assert fsum(known) == pytest.approx(1)
        assert 0 <= found.at_most <= 1
        assert found.at_most <= min(known) + 1e-9, "an unreported label is no likelier than a reported one"


@settings(deadline=None)
@given(replies(), st.randoms(use_true_random=False))
def test_the_order_of_labels_and_tokens_does_not_matter(reply, random) -> None:  # type: ignore[no-untyped-def]
    labels, tokens = reply
    found = shares_of(labels, tokens)
    order = random.sample(range(len(labels)), len(labels))
    other = shares_of([labels[i] for i in order], random.sample(tokens, len(tokens)))
    assert (other.mass, other.shared, other.at_most) == pytest.approx((found.mass, found.shared, found.at_most))
    for position, i in enumerate(order):
        share = found.shares[i] if found.shares else None
        assert (other.shares[position] if other.shares else None) == (None if share is None else pytest.approx(share))


@settings(deadline=None)
@given(label_sets, others)
def test_a_token_and_a_label_that_it_speaks_for_agree(labels: tuple[str, ...], token: str) -> None:
    """One continues the other, and a label itself always speaks for itself unless it begins another one."""
    encoded = [label.encode() for label in labels]
    for i in labels_begun(encoded, token.encode(), single=True):
        assert labels[i].startswith(token) or token.startswith(labels[i])
    for i, label in enumerate(labels):
        begun = labels_begun(encoded, label.encode())
        assert i in begun
        if not any(other.startswith(label) for other in labels if other != label):
            assert begun == [i]


@settings(deadline=None)
@given(st.sampled_from([ANSWERS, LETTERS, DIGITS]), st.lists(weights, min_size=40, max_size=40), st.integers(1, 40))
def test_bounds_hold_for_labels_that_are_not_reported(labels: tuple[str, ...], raw: list[float], count: int) -> None:
    """Of forty tokens, among them all labels, only the likeliest are reported."""
    names = [*labels, *(f"word{i}" for i in range(40 - len(labels)))]
    true = {name: weight / fsum(raw) for name, weight in zip(names, raw, strict=True)}
    top = Counter(true).most_common(count)
    found = shares_of(labels, [Token(text.encode(), p) for text, p in top])
    total = fsum(true[label] for label in labels)
    for i, label in enumerate(labels):
        share = found.shares[i] if found.shares else 1.0
        if share is None:
            assert true[label] / total <= found.at_most + 1e-9
        elif None not in found.shares and found.shares:
            assert share == pytest.approx(true[label] / total)

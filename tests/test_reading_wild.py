"""Letters without their options, ratings, pairs and JSON replies in the manner of many chat models."""

from __future__ import annotations

import pytest
from reading_wild_choices import WILD_LETTERS
from reading_wild_verdicts import WILD_JSON, WILD_JSON_CHOICES, WILD_RATINGS, WILD_SAME

from harness_ext.reading import read_row


@pytest.mark.parametrize(("reply", "letter"), WILD_LETTERS)
def test_letters_without_their_options(reply: str, letter: str | None) -> None:
    assert read_row({"reply": reply, "kind": "choice"})["read"] == letter


@pytest.mark.parametrize(("reply", "rating"), WILD_RATINGS)
def test_ratings(reply: str, rating: int | None) -> None:
    assert read_row({"reply": reply, "kind": "rating"})["read"] == rating


@pytest.mark.parametrize(("first", "second", "same"), WILD_SAME)
def test_pairs(first: str, second: str, same: bool) -> None:
    assert read_row({"reply": [first, second], "kind": "same"})["read"] is same


@pytest.mark.parametrize(("reply", "letter"), WILD_JSON)
def test_json_replies(reply: str, letter: str | None) -> None:
    assert read_row({"reply": reply, "kind": "json_choice", "choices": WILD_JSON_CHOICES})["read"] == letter

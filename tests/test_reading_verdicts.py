"""Verdicts of reviews, the feedback setting's own rules, ratings, confidences, and one of a few words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_verdicts import ACCEPTED, MALFORMED, REJECTED

from harness_ext.reading import read_choice_of, read_confidence, read_rating, read_verdict, read_verdict_system0


@pytest.mark.parametrize("review", ACCEPTED)
def test_accepted(review: str) -> None:
    verdict = read_verdict(review)
    assert verdict.accepted, verdict
    assert not verdict.malformed
    assert verdict.span is not None
    assert review[slice(*verdict.span)] == verdict.written != ""


@pytest.mark.parametrize("review", REJECTED)
def test_rejected(review: str) -> None:
    verdict = read_verdict(review)
    assert (verdict.accepted, verdict.malformed) == (False, False), verdict


@pytest.mark.parametrize("review", MALFORMED)
def test_malformed(review: str) -> None:
    verdict = read_verdict(review)
    assert (verdict.accepted, verdict.malformed) == (False, True), verdict


RULES = [
    ("Correct.", "first_word"),
    ("Verdict: Correct.", "label"),
    ('{"verdict": "correct"}', "json"),
    ("✅ On all three steps.", "mark"),
    ("The answer is correct.", "sentence"),
    ("Well done.", "praise"),
    ("Correct answer: 9", "gives_answer"),
    ("Correct the second step.", "order"),
    ("Correct up to step 2.", "partly"),
    ("Correct, but the answer is wrong.", "praise_then_rejection"),
    ("That is not right.", "negated"),
    ("Look again at step 2.", "hint"),
    ("What about the milk?", "question"),
    ("Correct. Incorrect.", "both"),
    ("The answer is _____", "template_echo"),
    ("<think>hm", "unfinished_thought"),
    (" ", "blank"),
    ("Mary is in the hall.", "none"),
]


@pytest.mark.parametrize(("review", "rule"), RULES)
def test_the_rule_is_named(review: str, rule: str) -> None:
    assert read_verdict(review).rule == rule


@pytest.mark.parametrize(
    "review",
    [
        "The line `Answer: it is correct` is wrong",
        'The student claims "this is correct" but 3+4 is 7.',
        "The draft says “all steps are right”, which is no answer.",
    ],
)
def test_what_a_review_quotes_is_not_its_own_verdict(review: str) -> None:
    assert not read_verdict(review).accepted


def test_a_negation_does_not_cross_a_sentence() -> None:
    assert read_verdict("I see no mistake. Correct.").accepted
    assert read_verdict("It does not matter. The answer is right.").accepted
    assert not read_verdict("I see no reason to think that it is right.").accepted


fragments = st.lists(
    st.sampled_from(
        ["Correct", "Incorrect", ".", "\n", " ", "**", "not", "right", "n't", "’", "_____", "?", "hint", "good",
         "\ud800",
         "The answer is ", "wrong", "but ", "Verdict:", "✅", "{\"verdict\": \"", "\"}", "mistake", "no ", "<think>"]
    )
    | st.text(max_size=5),
    max_size=12,
).map("".join)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(fragments)
def test_any_text_has_a_verdict(text: str) -> None:
    verdict = read_verdict(text)
    assert verdict == read_verdict(text)
    assert not (verdict.accepted and verdict.malformed)
    assert not read_verdict(f"Incorrect. {text}").accepted


# -- the feedback setting's own rules ----------

SYSTEM0 = [
    ("Correct.", True, "correct_line"),
    ("**Correct** reasoning", True, "correct_line"),
    ("My verdict:\nCorrect.", True, "correct_line"),
    ("Correct answer: kitchen", True, "correct_line"),
    ("Correct reasoning, wrong answer.", True, "correct_line"),
    ("Correct? incorrect", False, "incorrect_anywhere"),
    ("Correct.\nIncorrect.", True, "correct_line"),
    ("The answer is incorrect.", False, "incorrect_anywhere"),
    ("That is not right.", True, "words"),
    ("The copyright is bright.", True, "words"),
    ("good", True, "words"),
    ("Well done, but there is a mistake", False, "words"),
    ("There is an error", False, "words"),
    ("good error", False, "words"),
    ("a good wrong", False, "words"),
    ("Please double-check", False, "words"),
    ("Are you sure?", False, "question"),
    ("Consider the milk.", False, "question"),
    ("The student is a student.", False, "none"),
    ("The answer is _____", False, "template_echo"),
    ("-----\nCorrect", False, "template_echo"),
]


@pytest.mark.parametrize(("review", "accepted", "rule"), SYSTEM0)
def test_the_rules_of_the_feedback_setting(review: str, accepted: bool, rule: str) -> None:
    verdict = read_verdict_system0(review)
    assert (verdict.accepted, verdict.rule, verdict.malformed) == (accepted, rule, False)


def by_the_description(review: str) -> bool | None:
    """Read a review by the published description of `check_feedback`, written out again."""
    if not review.strip():
        return None
    if "_____" in review or "-----" in review:
        return False
    plain = re.sub("[*_-]", "", review.lower())
    for line in plain.split("\n"):
        if re.match(r"correct\b", line) and not re.search(r"\bincorrect\b", line[7:]):
            return True
    if "incorrect" in plain:
        return False
    points = {"good": 1, "well done": 1, "right": 1, "that's right": 1, "that is right": 1, "correct answer": 1}
    points |= {"well reasoned": 1, "perfect": 1, "wrong": -1, "error": -1, "mistake": -1, "check": -1, "look again": -1}
    points |= {"review": -1, "reconsider": -1, "verify": -1, "double-check": -1, "hint": -1, "not quite": -1}
    scores = {1: 0, -1: 0}
    for word, sign in points.items():
        scores[sign] += 2 if f" {word} " in f" {plain} " else int(word in plain)
    return scores[1] > scores[-1]


words = (
    "correct incorrect Correct good well done right that's is perfect wrong error mistake check look again review "
    "hint not quite double-check ? consider a"
).split()


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from([*words, "\n", ".", "*", "_", "-", ","]), max_size=12), st.sampled_from(["", " "]))
def test_the_feedback_settings_rules_are_exact(parts: list[str], between: str) -> None:
    review = between.join(parts)
    verdict = read_verdict_system0(review)
    expected = by_the_description(review)
    assert verdict.malformed == (expected is None)
    assert verdict.accepted == bool(expected)


# -- ratings, confidences, words ----------

RATINGS = [
    ("7", 7), (" 8.", 8), ("10", 9), ("", None), ("good", None), ("9" * 5_000, 9), ("__import__", None), ("0", 0),
    ("Step 2 is wrong: 0", 0), ("on a scale of 10: 3", 3), ("-1", None), ("-3", None), ("Rating: -1", None),
    ("Rating: 7/9", 7), ("7/9", 7), ("8 out of 9", 8), ("seven", 7), ("**7**", 7), ("Rating: **8**", 8),
    ("\\boxed{7}", 7),
    ("Score: 6 (step 3 is off)", 6), ("The step is correct. 9", 9), ("I'd rate this a 7 out of 9 since 2 errors.", 7),
    ("On a scale from 0 to 9, I give this step a 7.", 7), ("Between 0 and 9 I say 4.", 4), ("7.5", 7), ("8/10", 8),
    ("I would give it a five.", 5), ("Step 1 is right, step 2 is right: 9", 9), ("<think>3</think>8", 8),
    ("9 - everything follows", 9), ('{"rating": 6}', 6), ("4 or 5", None), ("This step deserves a 6", 6),
    ("<think>7", None),
    ("1. Rating: 5", 5), ("Grade: 8 of 9", 8),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "rating"), RATINGS)
def test_ratings(reply: str, rating: int | None) -> None:
    assert read_rating(reply) == rating


def test_a_rating_of_another_scale() -> None:
    assert read_rating("Rating: 12", most=20) == 12
    assert read_rating("Rating: 12", most=5) == 5


CONFIDENCES = [
    ("85%", 0.85), ("Confidence: 0.85", 0.85), ("8/10", 0.8), ("85", 0.85), ("Confidence: 90%", 0.9), ("1", 1.0),
    ("I am 85% confident that the answer is 42.", 0.85), ("0", 0.0), ("high", None), ("150%", None), ("-5%", None),
    ("Confidence: 9/10", 0.9), ("The answer is 42. Confidence: 70%", 0.7), ("ninety percent", 0.9), ("0.5", 0.5),
    ("9 out of 10", 0.9), ("1%", 0.01), ("Confidence: 95", 0.95), ("**Confidence:** 75 %", 0.75), ("", None),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "confidence"), CONFIDENCES)
def test_confidences(reply: str, confidence: float | None) -> None:
    assert read_confidence(reply) == (None if confidence is None else pytest.approx(confidence))


WORDS = [
    ("Open.", ("open", "closed"), "open"),
    ("**Agree**", ("agree", "disagree"), "agree"),
    ("Agree. Their reasoning holds.", ("agree", "disagree"), "agree"),
    ("I agree with agent 2.", ("agree", "disagree"), "agree"),
    ("I disagree.", ("agree", "disagree"), "disagree"),
    ("I do not agree.", ("agree", "disagree"), None),
    ("Decision: closed, since it is open-ended", ("open", "closed"), "closed"),
    ("It is not open but closed.", ("open", "closed"), "closed"),
    ("Open or closed?", ("open", "closed"), None),
    ("banana", ("open", "closed"), None),
    ("<think>closed</think>open", ("open", "closed"), "open"),
    ("anything", (), None),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "among", "word"), WORDS)
def test_one_of_a_few_words(reply: str, among: tuple[str, ...], word: str | None) -> None:
    assert read_choice_of(reply, among) == word


@settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_has_a_rating_or_none(text: str) -> None:
    for wrapped in (text, f"Rating: {text}", f"{text}/9", f"confidence {text}%"):
        rating, confidence = read_rating(wrapped), read_confidence(wrapped)
        assert rating is None or 0 <= rating <= 9
        assert confidence is None or 0 <= confidence <= 1
        read_choice_of(wrapped, ("open", "closed"))

"""Replies that choose none of the options, where one of the options says so, too."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading_choices import NUMERIC

from harness_ext.decisions import Choice
from harness_ext.models.speculative_cot import NONE
from harness_ext.protocol.deciding import from_text
from harness_ext.reading import read_choice
from harness_ext.records import Completion

REJECTING = [
    "none", "None.", "**None**", "Answer: None", "The answer is none.", "The answer is neither.",
    "<answer>none</answer>", '{"best": "none"}', "None of these", "none of the above", "Neither",
    "Neither one is right.", "Not one of them.", "None of the NOUNs is right.",
    "None of the NOUNs are correct.", "no NOUN", "No NOUN is right.",
    "None of the proposed NOUNs gives the right answer.", "None of the NOUNs is right, since each forgets a step.",
    "None of them is entirely correct.", "There is no correct NOUN.", "All of them are wrong", "All NOUNs are wrong.",
    "They are all incorrect.", "Every NOUN is flawed.", "Each of the NOUNs contains an error.", "Both are not correct.",
    "I reject all of them.",
    "I would not choose any of these NOUNs.", "I choose none of them.", "The best option is none of the above.",
    "Each makes another mistake. So none of the NOUNs is right.",
    "None of the NOUNs of thought are correct. The correct answer is 18.",
]  # fmt: skip
NOT_REJECTING = [
    "If none of the NOUNs is right, choose the last option.", "Is none of the NOUNs right?", "All of them are right.",
    "None of the steps is wrong.", "None of the NOUNs but one is right.", "It is not true that all NOUNs are wrong.",
    "Some NOUNs are wrong.", "There is no wrong step.", "None of the others is right.", "I cannot decide.", "",
    "None of the apples is left.", "All of them contain no errors.", "All of the NOUNs are hardly wrong.", "No answer.",
]  # fmt: skip
NOUNS = ["chain", "proof", "draft"]
LAST = [NONE, "None of the above", "none", "Neither", "no NOUN", "All NOUNs are wrong"]


def chosen(reply: str, options: tuple[str, ...]) -> str | None:
    return from_text(Choice("Which is right?", options), Completion(reply)).choice


def options_of(noun: str, count: int, last: str) -> tuple[str, ...]:
    return (*(f"{noun} {n}" for n in range(1, count + 1)), last.replace("NOUN", noun))


@pytest.mark.parametrize("reply", REJECTING)
@pytest.mark.parametrize("last", LAST)
def test_a_rejection_is_the_option_that_says_the_same(reply: str, last: str) -> None:
    for noun in NOUNS:
        options = options_of(noun, 3, last)
        assert chosen(reply.replace("NOUN", noun), options) == options[-1]


@pytest.mark.parametrize("reply", NOT_REJECTING)
def test_what_is_no_rejection_chooses_none_of_the_options(reply: str) -> None:
    assert chosen(reply.replace("NOUN", "chain"), options_of("chain", 3, NONE)) is None


@pytest.mark.parametrize("reply", REJECTING)
def test_without_such_an_option_a_rejection_chooses_nothing(reply: str) -> None:
    assert read_choice(reply.replace("NOUN", "thing"), ("a mug", "a spoon", "a fork")) is None


@settings(deadline=None)
@given(
    st.integers(1, 5).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))),
    st.sampled_from(["{letter}", "({letter})", "{name}", "Answer: {name}", "I choose {name}.", "{letter}. {name}"]),
    st.sampled_from(["", "\nNone of the others is right.", "\nAll of the others are wrong.", "\nNo other is right."]),
)
def test_other_choices_are_read_as_before(which: tuple[int, int], said: str, more: str) -> None:
    count, number = which
    options = options_of("chain", count, NONE)
    name = options[number - 1]
    assert chosen(said.format(letter="ABCDE"[number - 1], name=name) + more, options) == name


@settings(deadline=None)
@given(st.sampled_from(REJECTING), st.integers(1, 3))
def test_the_last_word_counts(rejecting: str, number: int) -> None:
    options, rejecting = options_of("chain", 3, NONE), rejecting.replace("NOUN", "chain")
    if rejecting.startswith(("Answer", "The answer", "The best", "<")):  # what states an answer counts before the rest
        assert chosen(f"{rejecting}\nEach has its charm.", options) == NONE
        return
    verb = any(f" {verb} " in rejecting for verb in ("is", "are", "choose", "reject", "contains", "gives"))
    if verb:
        assert chosen(f"{rejecting} Yet it must be said: I choose chain {number}.", options) == f"chain {number}"
    assert chosen(f"I think chain {number} is the best. But wait. {rejecting}", options) == NONE


def test_options_are_named_to_say_what_is_wrong_with_them() -> None:
    options = options_of("chain", 3, NONE)
    assert chosen("None of the chains is right. Chain 1 forgets a step.", options) == NONE
    assert chosen("Chain 1 uses the wrong rate; none of the chains is right.", options) == NONE
    assert chosen("None of the chains is fully right, but chain 2 is closest.", options) == "chain 2"


@pytest.mark.parametrize(
    "reply",
    [
        "2", "2.", "**2**", "(2)", "#2", "Option 2", "Number 2", "Chain #2", "The answer is 2.", "Answer: 2",
        "I choose 2.", "Chains 1 and 3 are wrong.\n2", "1 and 3 are wrong, so 2",
        "There are 3 errors in chain 1, so chain 2.",
    ],
)  # fmt: skip
def test_a_number_names_a_numbered_option(reply: str) -> None:
    assert chosen(reply, options_of("chain", 3, NONE)) == "chain 2"


@pytest.mark.parametrize("reply", ["4", "12", "2.5", "The answer is 18.", "1 and 3", "Chains 1 and 3 are right.", "2%"])
def test_other_numbers_and_several_of_them_name_no_option(reply: str) -> None:
    assert chosen(reply, options_of("chain", 3, NONE)) is None


def test_an_answer_that_denies_something_is_no_rejection() -> None:
    assert read_choice("None of the options is right.", ("x = 2", "x = 3", "no solution")) is None
    found = read_choice("None of these is right. So I would choose 14.", NUMERIC)
    assert found is not None
    assert found.value == "B"


def test_options_of_a_task_can_be_rejected_too() -> None:
    for reply in ("All of the options are wrong.", "No answer is right.", "The answer is none of these."):
        found = read_choice(reply, NUMERIC)
        assert found is not None
        assert found.value == "D"


@given(
    st.text(max_size=200) | st.lists(st.sampled_from([*REJECTING, ";", "\n", "?", " so "]), max_size=30).map("".join)
)
def test_no_text_is_an_error(text: str) -> None:
    assert chosen(text, options_of("chain", 3, NONE)) in (None, *options_of("chain", 3, NONE))

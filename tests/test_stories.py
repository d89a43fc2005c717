"""The story generator: answers compared with an independent simulation, mistakes, hints, seeds, skipped questions."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.embedded.stories import (
    FAMILIES,
    Ask,
    Story,
    StoryGenerator,
    answer,
    parse_sentence,
    read,
    render,
    resolve,
)
from harness_ext.embedded.stories import generator as generator_module
from harness_ext.embedded.stories.mistakes import careless, correct, misread, review
from harness_ext.embedded.stories.seen import public_hashes, question_hash
from harness_ext.embedded.stories.vocabulary import WOMEN

SEEDS = st.integers(0, 2**32)
PEOPLE = {"Mary", "Sandra", "Julie", "John", "Daniel", "Fred", "Bill", "Jeff"}
FAMILY = st.sampled_from(sorted(FAMILIES))


def take(seed: int, families: list[str], lines: tuple[int, int], count: int) -> Iterator[Story]:
    return itertools.islice(StoryGenerator(seed, families, lines), count)


def simulate(passage: str, question: str) -> str:
    """Answer a question by simulating the text, without using any code of the package."""
    place: dict[str, set[str]] = {}
    ruled_out: dict[str, str] = {}
    hands: dict[str, list[str]] = {}
    thing_at: dict[str, str] = {}
    last: list[str] = []
    for line in passage.splitlines():
        words = line.rstrip(".").split()
        names = [word for word in words if word in PEOPLE]
        if re.search(r"\b(he|she|they)\b", line):
            assert not names
            if "she" in words:
                assert last[0] in WOMEN
            assert ("they" in words) == (len(last) > 1)
            names = last
        gone = re.search(r"is (?:no longer|not) in the (\w+)", line)
        either = re.search(r"is either in the (\w+) or the (\w+)", line)
        given_to = re.search(r"(?:gave|handed|passed) the (\w+) to (\w+)", line)
        taken = re.search(r"(?:got|grabbed|took|picked up) the (\w+)", line)
        dropped = re.search(r"(?:left|dropped|discarded|put down) the (\w+)", line)
        moved = re.search(r"(?:to|is in) the (\w+)$", line.rstrip("."))
        who = [names[0]] if given_to else names
        for name in who:
            if gone:
                place.pop(name, None)
                ruled_out[name] = gone[1]
            elif either:
                place[name] = {either[1], either[2]}
            elif given_to:
                hands.setdefault(name, []).remove(given_to[1])
                hands.setdefault(given_to[2], []).append(given_to[1])
            elif taken:
                hands.setdefault(name, []).append(taken[1])
            elif dropped:
                hands.setdefault(name, []).remove(dropped[1])
            else:
                assert moved, line
                place[name] = {moved[1]}
        for name in [*place]:
            for thing in hands.get(name, []):
                thing_at[thing] = "/".join(sorted(place[name]))
        last = who
    if thing := re.fullmatch(r"Where is the (\w+)\?", question):
        return thing_at[thing[1]]
    if person := re.fullmatch(r"Where is (\w+)\?", question):
        (only,) = place[person[1]]
        return only
    if inside := re.fullmatch(r"Is (\w+) in the (\w+)\?", question):
        known = place.get(inside[1])
        if known is None:
            assert ruled_out[inside[1]] == inside[2]
            return "no"
        if inside[2] not in known:
            return "no"
        return "yes" if len(known) == 1 else "maybe"
    carried = re.search(r"is (\w+) carrying", question)
    assert carried
    held = hands.get(carried[1], [])
    return ["none", "one", "two", "three"][len(held)] if "How many" in question else ",".join(held) or "nothing"


@settings(max_examples=150, deadline=None)
@given(SEEDS, FAMILY, st.integers(2, 14))
def test_answers_agree_with_an_independent_simulation(seed: int, family: str, longest: int) -> None:
    for story in take(seed, [family], (2, longest), 3):
        assert story.gold.answer == simulate(story.passage, story.ask.text), story.passage


@settings(max_examples=150, deadline=None)
@given(SEEDS, FAMILY)
def test_sentences_are_parsed_back_from_their_text(seed: int, family: str) -> None:
    for story in take(seed, [family], (2, 10), 2):
        parsed = [parse_sentence(line) for line in story.lines]
        assert resolve([one for one in parsed if one is not None]) == story.sentences


@settings(max_examples=150, deadline=None)
@given(SEEDS, FAMILY)
def test_wrong_drafts_differ_and_hints_lead_to_the_answer_without_naming_it(seed: int, family: str) -> None:
    rng = random.Random(seed)
    for story in take(seed, [family], (2, 10), 2):
        for draft in (careless(story.ask, story.sentences), misread(rng, story.ask, story.sentences)):
            found = review(draft, story.sentences)
            assert found.accepted == (draft.answer == story.gold.answer)
            assert found.accepted == found.text.startswith("Correct.\n")
            rounds = 0
            while not found.accepted:
                words = set(re.findall(r"\w+", f"{found.hint} {found.issue}".lower()))
                assert not words & set(re.findall(r"\w+", story.gold.answer.lower())), found
                assert found.text == f"Incorrect.\nHint: {found.hint}\nIssue: {found.issue}"
                assert 1 <= found.line <= len(story.lines)
                draft = correct(draft, found, story.sentences)
                found = review(draft, story.sentences)
                rounds += 1
                assert rounds <= len(story.lines) + 1


@settings(max_examples=100, deadline=None)
@given(SEEDS, FAMILY)
def test_the_rationale_lists_every_line_in_order_and_ends_in_the_answer(seed: int, family: str) -> None:
    story = next(take(seed, [family], (2, 10), 1))
    text = render(story.gold)
    reasoning, last = text.split("\n")
    assert last == f"Answer: {story.gold.answer}"
    assert reasoning.startswith(f"Reasoning: {story.ask.topic}? 1 ")
    numbers = [int(number) for number in re.findall(r"(?:\? |, )(\d+) ", reasoning)]
    assert numbers == list(range(1, len(story.lines) + 1))


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_equal_seeds_give_equal_stories(seed: int) -> None:
    first, second, other = (list(take(s, sorted(FAMILIES), (4, 10), 5)) for s in (seed, seed, seed + 1))
    assert first == second
    assert first != other


def test_lengths_and_families_are_as_requested() -> None:
    stories = list(take(3, ["one_fact", "coreference"], (3, 7), 200))
    assert {story.family for story in stories} == {"one_fact", "coreference"}
    assert {len(story.lines) for story in stories if story.family == "one_fact"} == {3, 4, 5, 6, 7}
    assert all(len(story.lines) % 2 == 0 for story in stories if story.family == "coreference")


def test_public_test_questions_are_skipped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = take(11, ["one_fact"], (2, 6), 2)
    monkeypatch.setattr(
        generator_module, "public_hashes", lambda: frozenset({question_hash(first.passage, first.ask.text)})
    )
    stories = StoryGenerator(11, ["one_fact"], (2, 6))
    assert next(stories) == second
    assert stories.skipped == 1


def test_the_shipped_hashes_match_stories_that_the_generator_would_produce() -> None:
    stories = StoryGenerator(0, ["conjunction", "one_fact"], (2, 2))
    for story in itertools.islice(stories, 20_000):
        assert question_hash(story.passage, story.ask.text) not in public_hashes()
    assert stories.skipped > 0


def test_public_hashes_ignore_blanks_but_not_words() -> None:
    assert question_hash("A b.\nC d.\n", "E?") == question_hash(" A  b.\nC d.", "E?")
    assert question_hash("A b.\nC d.\n", "E?") != question_hash("A b.\nC e.\n", "E?")
    assert question_hash("A b.\nC d.\n", "E?") != question_hash("A b. C d.\n", "E?")


@pytest.mark.parametrize("lines", [(0, 3), (5, 4)])
def test_bad_ranges_are_refused(lines: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="range"):
        StoryGenerator(1, ["one_fact"], lines)


def test_unknown_families_are_refused() -> None:
    with pytest.raises(ValueError, match="no_such"):
        StoryGenerator(1, ["no_such"])


def test_a_story_cannot_begin_with_a_pronoun() -> None:
    sentence = parse_sentence("Then she went to the office.")
    assert sentence is not None
    with pytest.raises(ValueError, match="pronoun"):
        resolve([sentence])


def test_text_that_is_not_a_story_is_not_parsed() -> None:
    assert parse_sentence("The office is north of the garden.") is None


def ask_of(question: str) -> Ask:
    shapes = {
        "where_thing": r"Where is the (\w+)\?",
        "where": r"Where is (\w+)\?",
        "is_in": r"Is (\w+) in the (\w+)\?",
        "count": r"How many objects is (\w+) carrying\?",
        "carrying": r"What is (\w+) carrying\?",
    }
    kind, match = next((kind, found) for kind, shape in shapes.items() if (found := re.fullmatch(shape, question)))
    return Ask(kind, *match.groups())


@pytest.mark.data
def test_the_reader_answers_the_real_training_rows(data_dir: Path) -> None:
    tasks = {family.task for family in FAMILIES.values()}
    with open(data_dir / "babi" / "train.jsonl", encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if row["task"] in tasks]
    assert len(rows) >= 500
    for row in rows:
        sentences = resolve([parse_sentence(line) for line in row["passage"].splitlines()])
        assert answer(ask_of(row["question"]), read(sentences)).answer == row["answer"], row


@pytest.mark.data
def test_the_shipped_hashes_are_those_of_the_public_test_rows(data_dir: Path) -> None:
    with open(data_dir / "babi" / "test.jsonl", encoding="utf-8") as lines:
        hashes = {question_hash(row["passage"], row["question"]) for row in map(json.loads, lines)}
    assert hashes == public_hashes()

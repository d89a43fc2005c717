"""Reading real rows: every solution of GSM8K and every ECQA row with the endings that chat models write.

A sample by default; `HARNESS_EXT_READING_ALL=1` reads every row with every ending (about ten minutes).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from reading_endings import CHOICE_ENDINGS, NUMBER_ENDINGS

from harness_ext.reading import AnswerForm, Reading, read_answer, read_choice, read_number

pytestmark = [
    pytest.mark.data,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("HARNESS_EXT_DATA"), reason="HARNESS_EXT_DATA names no folder"),
]
ALL = bool(os.environ.get("HARNESS_EXT_READING_ALL"))
SAMPLED = 12  # every row is read with so many of the endings, another set for each
ENOUGH = 0.995


def rows(*names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        path = Path(os.environ["HARNESS_EXT_DATA"], f"{name}.jsonl")
        if not path.is_file():
            pytest.skip(f"{path} is missing")
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def sampled(endings: list[str], number: int, share: int) -> list[str]:
    return endings if ALL else endings[number % share :: share]


def same(score: Reading | None, vote: Reading | None) -> bool:
    return (score and score.value) == (vote and vote.value)


def test_gsm8k_solutions_with_any_ending_are_read_alike_for_votes_and_scores() -> None:
    asked = right = 0
    wrong: list[tuple[str, str]] = []
    for number, row in enumerate(rows("gsm8k/train", "gsm8k/test")):
        solution, _, gold = row["answer"].rpartition("####")
        solution = re.sub(r"<<[^<>]*>>", "", solution).strip()
        for ending in sampled(NUMBER_ENDINGS, number, SAMPLED):
            reply = f"{solution}\n{ending.format(n=gold.strip())}"
            score, vote = read_number(reply), read_answer(reply)
            assert same(score, vote), (reply, score, vote)
            asked += 1
            if score is not None and score.number == Fraction(gold.replace(",", "")):
                right += 1
            else:
                wrong.append((reply[-200:], gold))
    print(f"GSM8K: {right} of {asked} read right ({right / asked:.4%})")
    assert right / asked >= ENOUGH, wrong[:20]


def test_gsm8k_solutions_alone_are_mostly_read_right_by_their_last_sentence() -> None:
    asked = right = 0
    for row in rows("gsm8k/test"):
        solution, _, gold = row["answer"].rpartition("####")
        solution = re.sub(r"<<[^<>]*>>", "", solution).strip()
        score, vote = read_number(solution), read_answer(solution)
        assert same(score, vote), (solution, score, vote)
        asked += 1
        right += score is not None and score.number == Fraction(gold.replace(",", ""))
    print(f"GSM8K without an ending: {right} of {asked} read right ({right / asked:.4%})")
    assert right / asked >= 0.97


def test_ecqa_rows_with_any_ending_are_read_alike_for_votes_and_scores() -> None:
    asked = right = 0
    wrong: list[tuple[str, str, list[str]]] = []
    for number, row in enumerate(rows("ecqa/test")):
        options = [row[f"q_op{i}"] for i in range(1, 6)]
        gold = options.index(row["q_ans"])
        other = next(i for i in (gold + 2, gold + 1, gold + 3) if options[i % 5] != options[gold]) % 5
        words = {"L": "ABCDE"[gold], "l": "abcde"[gold], "t": options[gold], "T": options[gold].capitalize()}
        words |= {"O": "ABCDE"[other], "o": options[other]}
        for ending in sampled(CHOICE_ENDINGS, number, SAMPLED // 4):
            for reply in (ending.format(**words), f"{row['taskB'].strip()}\n\n{ending.format(**words)}"):
                score = read_choice(reply, options)
                vote = read_answer(reply, form=AnswerForm("choice", tuple(options)))
                assert score == vote, reply
                asked += 1
                if score is not None and options["ABCDE".index(score.value)] == options[gold]:
                    right += 1
                else:
                    wrong.append((reply[-200:], words["L"], options))
    print(f"ECQA: {right} of {asked} read right ({right / asked:.4%})")
    assert right / asked >= ENOUGH, wrong[:20]


TRUTH_ENDINGS = [
    'The sentence "{s}" is {v}.',
    "The sentence '{s}' is {v}.",
    'The statement "{s}" is {v}. {e}',
    "{s} This is {v}.",
    "The sentence is {v}. {e}",
    "{V}\n{e}",
    "{V}. {e}",
    "{V} - {e}",
    "**{V}**\n\n{e}",
    "{e}\n\n{V}",
    "{e} Therefore, the sentence is {v}.",
    "{e}\nAnswer: {V}",
    "{s} ({L}) {V}",
    "({L}) {V}\n\n{e}",
    "{e}\n\nThe correct answer is ({L}) {V}.",
    "A: {V}\n\n{e}",
    "{Y}, {e}",
    "{e} So {y}.",
    "The letter of the choice is {L}.",
    "The sentence is factually {w}.",
]


def test_creak_sentences_are_read_as_true_or_false() -> None:
    asked = right = 0
    for number, row in enumerate(rows("creak/validation")):
        true = row["label"] == "true"
        words = {"s": row["sentence"].strip(), "e": row["explanation"], "L": "A" if true else "B"}
        words |= {"v": row["label"], "V": row["label"].capitalize(), "w": "correct" if true else "incorrect"}
        words |= {"Y": "Yes" if true else "No", "y": "yes" if true else "no"}
        for ending in sampled(TRUTH_ENDINGS, number, 4):
            found = read_choice(ending.format(**words), ("True", "False"))
            asked += 1
            right += found is not None and found.value == words["L"]
    print(f"CREAK: {right} of {asked} read right ({right / asked:.4%})")
    assert right / asked >= ENOUGH


def test_letters_are_read_without_the_choices_too() -> None:
    for number, row in enumerate(rows("ecqa/test")):
        letter = "ABCDE"[number % 5]
        reply = f"{row['taskB'].strip()}\n\nThe answer is ({letter}) because of that."
        found = read_answer(reply)
        assert found is not None
        assert (found.kind, found.value) == ("choice", letter)

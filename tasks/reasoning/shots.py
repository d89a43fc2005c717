"""Worked examples for few-shot runs. They were written for these tasks; none is a row of a data set."""

from __future__ import annotations

from typing import Any

from harness_ext.tasks.reasoning.forms import with_target
from harness_ext.tasks.teacherlm.rows import lettered


def choice() -> list[dict[str, Any]]:
    """Return examples of multiple-choice questions, as documents."""
    return [with_target(lettered(stem, choices, gold), rationale) for stem, choices, gold, rationale in CHOICE]


def number() -> list[dict[str, Any]]:
    """Return examples of arithmetic problems, as documents."""
    return [
        {"question": question, "target": f"{rationale}\nAnswer: {answer}"} for question, rationale, answer in NUMBER
    ]


_CHECK = "Determine the correctness of the following sentence. "
_TRUTH = ["True", "False"]
CHOICE: list[tuple[str, list[str], int, str]] = [
    (
        f"{_CHECK}A lighthouse is built to warn trains of snow.",
        _TRUTH,
        1,
        "A lighthouse stands by the sea and guides ships. It has nothing to do with trains.",
    ),
    (
        "Where would a baker keep bread warm before it is sold?",
        ["oven", "cellar", "river", "mailbox", "freezer"],
        0,
        "Bread stays warm where there is heat. Of these places only an oven is warm.",
    ),
    (
        "Could a newborn kitten climb over a garden wall?",
        _TRUTH,
        1,
        "A newborn kitten can neither see nor walk yet. A garden wall has to be climbed.",
    ),
    (
        f"{_CHECK}A compass needle points along the magnetic field.",
        _TRUTH,
        0,
        "The needle is a small magnet that can turn. It turns until it lies along the field.",
    ),
    (
        "What do people carry when clouds look dark?",
        ["a ladder", "sunglasses", "an umbrella", "a fishing rod", "a blanket"],
        2,
        "Dark clouds bring rain. An umbrella keeps rain off.",
    ),
]
NUMBER: list[tuple[str, str, str]] = [
    (
        "Ruth plants 4 rows of 6 tulips. Rabbits eat 5 of them. How many tulips are left?",
        "She plants 4 * 6 = 24 tulips. After the rabbits 24 - 5 = 19 are left.",
        "19",
    ),
    (
        "A ferry ticket costs $7.50 for an adult and half of that for a child. What do 2 adults and 2 children pay?",
        "A child pays 7.50 / 2 = 3.75. Two adults pay 15.00 and two children 7.50, together 22.50.",
        "22.5",
    ),
    (
        "Omar reads 12 pages on Monday and three times as many on Tuesday. How many pages does he read on both days?",
        "On Tuesday he reads 3 * 12 = 36 pages. Together that is 12 + 36 = 48.",
        "48",
    ),
    (
        "A tank holds 1,500 litres. A pump empties 250 litres an hour. After how many hours is it empty?",
        "The pump needs 1500 / 250 = 6 hours.",
        "6",
    ),
    (
        "The morning is at -3 degrees; by noon it is 11 degrees warmer. What is the temperature at noon?",
        "From -3 degrees, 11 degrees more make -3 + 11 = 8.",
        "8",
    ),
]

"""The reasoning tasks: instructions, documents, and the scoring of replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from harness_ext.reading import read_choice, read_number
from harness_ext.tasks.gsm8k import rows as gsm8k
from harness_ext.tasks.teacherlm import rows as teacherlm

if TYPE_CHECKING:
    from datasets import DatasetDict

Doc = dict[str, Any]

CHOICE_INSTRUCTION = """\
Answer the question. First reason briefly, in a few sentences.
Then end with a line of its own that gives the letter of your choice:
Answer: (<letter>)

"""
NUMBER_INSTRUCTION = """\
Solve the problem. First reason step by step.
Then end with a line of its own that gives the result as a plain number, without units:
Answer: <number>

"""
CHOICE_DEMAND = """\
Reason briefly, in a few sentences. Then end with a line of its own that gives the letter of your choice:
Answer: (<letter>)"""
NUMBER_DEMAND = """\
Reason step by step. Then end with a line of its own that gives the result as a plain number, without units:
Answer: <number>"""


def with_target(doc: Doc, rationale: str = "") -> Doc:
    """Return a document with the expected reply as `target`, in the form that few-shot examples show."""
    line = f"Answer: ({doc['letters'][doc['gold']]})"
    return {**doc, "target": f"{rationale}\n{line}" if rationale else line}


def number_doc(row: Doc) -> Doc:
    """Return a GSM8K row as a document. Its `gold` is the number without commas."""
    _, mark, gold = row["answer"].rpartition("####")
    number = gold.strip().replace(",", "")
    if not mark or read_number(f"Answer: {number}") is None:
        raise ValueError(f"`answer` must end in a line `#### <number>`, found {row['answer'][-40:]!r}")
    return {"question": row["question"], "gold": number, "target": f"Answer: {number}"}


def load_choices(choice_set: str, gold_facts: bool = False, train: bool = False, **_: Any) -> DatasetDict:
    """Return a data set as documents of the split `test`, or `train` if they are its training rows.

    choice_set: `creak`, `ecqa` or `strategyqa`.
    gold_facts: whether the questions of StrategyQA include their gold facts. Default false.
    train: whether to load the training rows instead, of `creak` or `strategyqa`. Default false.
    """
    from datasets import Dataset, DatasetDict

    if train:
        source, make = {
            "creak": (teacherlm.CREAK, teacherlm.creak_doc),
            "strategyqa": (teacherlm.STRATEGYQA, teacherlm.strategyqa_doc),
        }[choice_set]
        loaded = teacherlm.documents(replace(source, splits=("train",)), make)
    else:
        loaded = {
            "creak": teacherlm.load_creak,
            "ecqa": teacherlm.load_ecqa,
            "strategyqa": lambda: teacherlm.load_strategyqa(gold_facts),
        }[choice_set]()
    (docs,) = loaded.values()
    return DatasetDict({"train" if train else "test": Dataset.from_list([with_target(doc) for doc in docs])})


def load_numbers(train: bool = False, **_: Any) -> DatasetDict:
    """Return GSM8K as documents: its test rows, or its training rows."""
    from datasets import DatasetDict

    split = "train" if train else "test"
    loaded = teacherlm.documents(replace(gsm8k.SOURCE, splits=(split,)), number_doc)
    return DatasetDict({split: loaded[split]})


def score_choice(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score a reply to a multiple-choice question: `exact_match`, and `unparsable` if no answer was found in it."""
    found = read_choice(results[0], doc["choices"], doc["question"].partition(" (A) ")[0])
    right = found is not None and found.value == doc["letters"][doc["gold"]]
    return {"exact_match": float(right), "unparsable": float(found is None)}


def score_number(doc: Doc, results: Sequence[str]) -> dict[str, float]:
    """Score a reply to an arithmetic problem; 18 and 18.00 are equal."""
    found = read_number(results[0], doc["question"])
    right = found is not None and found.number == Fraction(doc["gold"])
    return {"exact_match": float(right), "unparsable": float(found is None)}

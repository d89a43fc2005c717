"""The rows of CREAK, ECQA, StrategyQA and MMLU as multiple-choice questions.

Every loader returns documents with `question` (the text with its choices, as TeacherLM stores it), `letters` (the
letters of the choices), `choices` (their texts) and `gold` (the index of the correct one). The wording is that of
github.com/hahaplus/TeacherLM, without the second "Q: " at the beginning of its ECQA rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness_ext.data import DataSource, load_rows, make_documents

if TYPE_CHECKING:
    from datasets import DatasetDict

Doc = dict[str, Any]

CREAK = DataSource(
    folder="creak",
    hub_id="amydeng2000/CREAK",
    splits=("validation",),
    fields={"sentence": str, "label": str | bool, "explanation": str | None},
)
ECQA = DataSource(
    folder="ecqa",
    hub_id="tasksource/ecqa",
    splits=("test",),
    fields=dict.fromkeys(("q_text", "q_op1", "q_op2", "q_op3", "q_op4", "q_op5", "q_ans"), str),
)
STRATEGYQA = DataSource(
    folder="strategyqa",
    hub_id="ChilleD/StrategyQA",
    splits=("test",),
    fields={"question": str, "answer": bool, "facts": list[str] | str | None},
)


def lettered(stem: str, choices: Sequence[str], gold: int) -> Doc:
    """Return a document whose question is the stem followed by the choices with their letters.

    stem: the question.
    choices: the texts of the choices.
    gold: index of the correct choice.
    """
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    return {"question": f"{stem} {listed}", "letters": letters, "choices": list(choices), "gold": gold}


def creak_doc(row: Doc) -> Doc:
    """Return a CREAK row as a document. Choice (A) is True."""
    label = str(row["label"]).strip().lower()
    if label not in ("true", "false"):
        raise ValueError(f"`label` must be true or false, found {row['label']!r}")
    stem = f"Determine the correctness of the following sentence. {row['sentence'].strip()}"
    return lettered(stem, ["True", "False"], ["true", "false"].index(label))


def ecqa_doc(row: Doc) -> Doc:
    """Return an ECQA row as a document with five choices."""
    choices = [row[f"q_op{n}"] for n in range(1, 6)]
    if row["q_ans"] not in choices:
        raise ValueError(f"`q_ans` {row['q_ans']!r} is not one of the five choices {choices}")
    # Some rows contain a choice twice; TeacherLM's gold choice is the later one.
    gold = max(i for i, choice in enumerate(choices) if choice == row["q_ans"])
    return lettered(row["q_text"], choices, gold)


def strategyqa_doc(row: Doc) -> Doc:
    """Return a StrategyQA row as a document without its facts. Choice (A) is True, which means yes."""
    return lettered(row["question"].strip(), ["True", "False"], 0 if row["answer"] else 1)


def strategyqa_facts_doc(row: Doc) -> Doc:
    """Return a StrategyQA row as a document whose question begins with the numbered gold facts."""
    facts = facts_of(row["facts"])
    if not facts:
        raise ValueError("the row has no `facts`: use `strategyqa_no_facts`, which asks without them")
    listed = " ".join(f"Fact {n}: {fact}" for n, fact in enumerate(facts, start=1))
    stem = f"{listed} Given these facts above, {row['question'].strip().lower()}"
    return lettered(re.sub(" {2,}", " ", stem), ["True", "False"], 0 if row["answer"] else 1)


def facts_of(facts: Sequence[str] | str | None) -> list[str]:
    """Return facts as a list. A text is a JSON list, or has one fact per line."""
    if isinstance(facts, str):
        try:
            parsed = json.loads(facts)
        except (ValueError, RecursionError):
            parsed = None
        facts = [str(fact) for fact in parsed] if isinstance(parsed, list) else facts.splitlines()
    return [fact.strip() for fact in facts or () if fact.strip()]


def mmlu_doc(row: Doc) -> Doc:
    """Return an MMLU row as a document whose question names the subject."""
    if len(row["choices"]) != 4 or not 0 <= row["answer"] < 4:
        raise ValueError(f"four `choices` and an `answer` from 0 to 3 are required, found {row['answer']!r}")
    question = row["question"] if row["question"].endswith((".", ",", "?", "!", '"')) else row["question"] + "."
    stem, *choices = (text.replace("\n", " ") for text in (question, *row["choices"]))
    return lettered(stem, choices, row["answer"]) | {"subject": row["subject"].replace("_", " ")}


def documents(
    source: DataSource, make: Callable[[Any], Doc], where: tuple[str, str | int] | None = None
) -> DatasetDict:
    """Return the rows of a data set as documents.

    Raises DataError, naming the first rows at fault, if `make` raises ValueError.

    source: the data set.
    make: turns a row into a document.
    where: a column and the value it must have. Default: all rows.
    """
    return make_documents(load_rows(source, where), make, source.folder)


def load_creak(**_: Any) -> DatasetDict:
    """Return CREAK's validation split, because the labels of the test split are not published."""
    return documents(CREAK, creak_doc)


def load_ecqa(**_: Any) -> DatasetDict:
    """Return ECQA's test split."""
    return documents(ECQA, ecqa_doc)


def load_strategyqa(gold_facts: bool, **_: Any) -> DatasetDict:
    """Return StrategyQA's test split, with or without the gold facts in the question."""
    return documents(STRATEGYQA, strategyqa_facts_doc if gold_facts else strategyqa_doc)


def load_mmlu(mmlu_subject: str, mmlu_split: str = "validation", **_: Any) -> DatasetDict:
    """Return a subject of MMLU as the split `test`. Other arguments, which lm-eval adds, are ignored.

    mmlu_subject: the subject.
    mmlu_split: the split to load; `--metadata '{"mmlu_split": "test"}'` sets it. Default `validation`, as in TeacherLM.
    """
    source = DataSource(
        folder="mmlu",
        hub_id="cais/mmlu",
        config="all",
        splits=(mmlu_split,),
        fields={"question": str, "subject": str, "choices": list[str], "answer": int},
        hint="""For another split, pass --metadata '{"mmlu_split": "test"}'""",
    )
    rows = documents(source, mmlu_doc, ("subject", mmlu_subject))
    rows["test"] = rows.pop(mmlu_split)
    return rows

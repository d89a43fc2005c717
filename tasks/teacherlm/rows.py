"""The rows of CREAK, ECQA, StrategyQA and MMLU as questions with lettered choices.

Every loader returns documents with `question` (the text with its choices, as TeacherLM stores it), `letters` (the
choices' letters), `choices` (their texts) and `gold` (the right one's position). Wording: the evaluation of
github.com/hahaplus/TeacherLM, without the second "Q: " that its ECQA rows begin with.
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
    """Return a document: the stem, then every choice behind its letter."""
    letters = [chr(ord("A") + i) for i in range(len(choices))]
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip(letters, choices, strict=True))
    return {"question": f"{stem} {listed}", "letters": letters, "choices": list(choices), "gold": gold}


def creak_doc(row: Doc) -> Doc:
    """Return a CREAK row as a document; (A) is True."""
    label = str(row["label"]).strip().lower()
    if label not in ("true", "false"):
        raise ValueError(f"`label` must be true or false, found {row['label']!r}")
    stem = f"Determine the correctness of the following sentence. {row['sentence'].strip()}"
    return lettered(stem, ["True", "False"], ["true", "false"].index(label))


def ecqa_doc(row: Doc) -> Doc:
    """Return an ECQA row as a document of five choices."""
    choices = [row[f"q_op{n}"] for n in range(1, 6)]
    if row["q_ans"] not in choices:
        raise ValueError(f"`q_ans` {row['q_ans']!r} is none of the five choices {choices}")
    # Some rows hold a choice twice; TeacherLM's gold is the later one.
    gold = max(i for i, choice in enumerate(choices) if choice == row["q_ans"])
    return lettered(row["q_text"], choices, gold)


def strategyqa_doc(row: Doc) -> Doc:
    """Return a StrategyQA row as a document without its facts; (A) is True, that is, yes."""
    return lettered(row["question"].strip(), ["True", "False"], 0 if row["answer"] else 1)


def strategyqa_facts_doc(row: Doc) -> Doc:
    """Return a StrategyQA row as a document that begins with its gold facts, numbered."""
    facts = facts_of(row["facts"])
    if not facts:
        raise ValueError("there are no `facts`: this row can only be asked without them (`strategyqa_no_facts`)")
    listed = " ".join(f"Fact {n}: {fact}" for n, fact in enumerate(facts, start=1))
    stem = f"{listed} Given these facts above, {row['question'].strip().lower()}"
    return lettered(re.sub(" {2,}", " ", stem), ["True", "False"], 0 if row["answer"] else 1)


def facts_of(facts: Sequence[str] | str | None) -> list[str]:
    """Return facts as a list. A text may be a JSON list or one fact a line; any other text is one fact."""
    if isinstance(facts, str):
        try:
            parsed = json.loads(facts)
        except ValueError:
            parsed = None
        facts = [str(fact) for fact in parsed] if isinstance(parsed, list) else facts.splitlines()
    return [fact.strip() for fact in facts or () if fact.strip()]


def mmlu_doc(row: Doc) -> Doc:
    """Return an MMLU row as a document whose question names the subject."""
    if len(row["choices"]) != 4 or not 0 <= row["answer"] < 4:
        raise ValueError(f"four `choices` and an `answer` from 0 to 3 are needed, found {row['answer']!r}")
    question = row["question"] if row["question"].endswith((".", ",", "?", "!", '"')) else row["question"] + "."
    stem, *choices = (text.replace("\n", " ") for text in (question, *row["choices"]))
    return lettered(stem, choices, row["answer"]) | {"subject": row["subject"].replace("_", " ")}


def documents(
    source: DataSource, make: Callable[[Any], Doc], where: tuple[str, str | int] | None = None
) -> DatasetDict:
    """Return a data set's rows as documents; raises DataError that names the first rows `make` cannot use."""
    return make_documents(load_rows(source, where), make, source.folder)


def load_creak(**_: Any) -> DatasetDict:
    """Return CREAK's validation split (the published test labels are secret)."""
    return documents(CREAK, creak_doc)


def load_ecqa(**_: Any) -> DatasetDict:
    """Return ECQA's test split."""
    return documents(ECQA, ecqa_doc)


def load_strategyqa(gold_facts: bool, **_: Any) -> DatasetDict:
    """Return StrategyQA's test split, with the gold facts in the question or without them."""
    return documents(STRATEGYQA, strategyqa_facts_doc if gold_facts else strategyqa_doc)


def load_mmlu(mmlu_subject: str, mmlu_split: str = "validation", **_: Any) -> DatasetDict:
    """Return one subject of MMLU as the split `test`.

    TeacherLM evaluates on the validation split; `--metadata '{"mmlu_split": "test"}'` takes another.
    """
    source = DataSource(
        folder="mmlu",
        hub_id="cais/mmlu",
        config="all",
        splits=(mmlu_split,),
        fields={"question": str, "subject": str, "choices": list[str], "answer": int},
        hint="""Another split: --metadata '{"mmlu_split": "test"}'""",
    )
    rows = documents(source, mmlu_doc, ("subject", mmlu_subject))
    rows["test"] = rows.pop(mmlu_split)
    return rows

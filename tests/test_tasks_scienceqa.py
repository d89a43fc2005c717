"""ScienceQA in four settings: contexts, replies, scores, missing data and the table, on rows written for the tests."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tasks_support import RuleLM, evaluate, real_rows, task_manager, write_rows

from harness_ext.bridge import exports as tables
from harness_ext.cli import main
from harness_ext.data import DataError
from harness_ext.reading import JsonReply
from harness_ext.reading import read_json_choice as read_reply
from harness_ext.tasks.scienceqa import metrics
from harness_ext.tasks.scienceqa.rows import image_question_text, images

BASE: dict[str, Any] = {
    "question": "Which is\nwet?",
    "choices": ["it's rain", "sand"],
    "answer": 0,
    "hint": "Look {up}.",
    "task": "closed choice",
    "grade": "grade3",
    "subject": "natural science",
    "topic": "physics",
    "lecture": "Water is wet.",
    "solution": "Rain is water. So rain is wet.",
    "image": None,
}
OTHER = BASE | {"grade": "grade9", "subject": "social science", "topic": "geography", "hint": "", "answer": 1}
PICTURED = BASE | {"topic": "biology", "hint": ""}
ROWS = [BASE, OTHER, BASE | {"lecture": ""}, PICTURED]
META = [{"pid": str(n), "has_image": n == 3} for n in range(4)]

HEAD = "Question: Which is\nwet?\n Task: closed choice\n Choices: [\"it's rain\", 'sand']\n Hint: Look {up}."
TAIL = "\n Instruction: \nPlease output the answer in JSON style with an answer and a solution field"
CONTEXTS = {
    "qtch": HEAD + TAIL,
    "qtchl": HEAD + " \nLecture: Water is wet." + TAIL,
    "qtchls": HEAD + " \nLecture: Water is wet.\nSolution: Rain is water. So rain is wet." + TAIL,
    "qtchs": HEAD + " \nSolution: Rain is water. So rain is wet." + TAIL,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_EXT_DATA", str(tmp_path))
    write_rows(tmp_path / "scienceqa", test=ROWS)
    write_rows(tmp_path / "scienceqa", **{"test.meta": META})
    return tmp_path


def reply(request: Any) -> str:
    """Reply correctly to the first question and wrongly to the second."""
    return json.dumps({"answer": "it's rain", "solution": "Water is wet. Rain is water. So rain is wet."})


@pytest.mark.parametrize("setting", CONTEXTS)
def test_contexts_equal_those_of_the_original(folder: Path, setting: str) -> None:
    lm = RuleLM(reply)
    scores = evaluate(lm, task_manager(), f"scienceqa_{setting}")["results"][f"scienceqa_{setting}"]
    assert len(lm.asked) == 2, "rows without a lecture and rows with an image are left out"
    assert lm.asked[0].args[0] == CONTEXTS[setting]
    shown = {k.split(",")[0]: v for k, v in scores.items() if k.endswith(",none") and "stderr" not in k}
    assert {k: v for k, v in shown.items() if k.startswith("acc") or k == "unmapped"} == {
        "acc": 0.5,
        "unmapped": 0.0,
        "acc_natural": 1.0,
        "acc_social": 0.0,
        "acc_has_text": 1.0,
        "acc_no_context": 0.0,
        "acc_grade_1_6": 1.0,
        "acc_grade_7_12": 0.0,
        "acc_physics": 1.0,
        "acc_geography": 0.0,
    }
    assert shown["bleu1"] == shown["bleu4"] == shown["rougeL"] == pytest.approx(1.0)


REPLIES: list[tuple[str, JsonReply]] = [
    ('{"answer": "sand", "solution": "Dry."}', JsonReply(1, "Dry.")),
    ('```json\n{"answer": "Sand.", "solution": "Dry."}\n```', JsonReply(1, "Dry.")),
    ('Sure! {"Answer": "sand", "Solution": "Dry."} Anything else?', JsonReply(1, "Dry.")),
    ("{'answer': \"it's rain\", 'solution': 'Wet.'}", JsonReply(0, "Wet.")),
    ('{"answer": 1, "solution": "Dry."}', JsonReply(1, "Dry.")),
    ('{"answer": "(1) sand", "solution": "Dry."}', JsonReply(1, "Dry.")),
    ('{"answer": "B", "explanation": "Dry."}', JsonReply(1, "Dry.")),
    ('{"answer": ["sand"], "solution": ["Dry.", "Very."]}', JsonReply(1, "Dry. Very.")),
    ('{"answer": ["sand", "it\'s rain"], "solution": ""}', JsonReply(None, "")),
    ('{"answer": "mud", "solution": "Hm."}', JsonReply(None, "Hm.")),
    ('{"answer": 7, "solution": "Hm."}', JsonReply(None, "Hm.")),
    ('{"solution": "Dry."}', JsonReply(None, "Dry.")),
    ('{"answer": "sand", "solution": "Dry and', JsonReply(1, "Dry and")),
    ('{"answer": "sand", "solution": "She said "dry"."}', JsonReply(1, 'She said "dry".')),
    ('{"answer": "sand",\n "solution": "Two\nlines."}', JsonReply(1, "Two\nlines.")),
    ('{"answer": "sand", "solution": "Dry."}</s>{"answer": "it\'s rain"}', JsonReply(1, "Dry.")),
    ("The answer is sand.", JsonReply(1, "The answer is sand.")),
    ("The answer is (A) because it is wet.", JsonReply(0, "The answer is (A) because it is wet.")),
    ("NA", JsonReply(None, "NA")),
    ("", JsonReply(None, "")),
    ("[1, 2]", JsonReply(None, "[1, 2]")),
    ("{" * 5000, JsonReply(None, "{" * 5000)),
]


@pytest.mark.parametrize(("text", "read"), REPLIES, ids=range(len(REPLIES)))
def test_replies_are_read(text: str, read: JsonReply) -> None:
    assert read_reply(text, BASE["choices"]) == read


@given(st.text())
def test_any_reply_is_read_or_not_but_never_an_error(text: str) -> None:
    for wrapped in (text, f'{{"answer": {text}', f'{{"answer": "{text}", "solution": "{text}"}}'):
        read_reply(wrapped, BASE["choices"])


def test_measures_without_their_data_are_missing_and_the_remedy_is_logged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> Any:
        raise LookupError("Resource wordnet not found.")

    monkeypatch.setattr(metrics, "_meteor", absent)
    monkeypatch.setattr(metrics, "_similarity", absent)
    metrics.measures.cache_clear()
    with caplog.at_level(logging.WARNING):
        task_manager().load("scienceqa_qtch")
    said = caplog.text
    assert "meteor is reported as missing (Resource wordnet not found.)" in said
    assert "python -m nltk.downloader wordnet" in said
    assert "hf download sentence-transformers/all-MiniLM-L6-v2" in said
    scores = evaluate(RuleLM(reply), task_manager(), "scienceqa_qtch")["results"]["scienceqa_qtch"]
    assert [scores[f"{name},none"] for name in ("meteor", "similarity", "overall")] == ["missing"] * 3
    assert isinstance(scores["bleu1,none"], float)
    metrics.measures.cache_clear()


def test_overall_is_100_times_the_mean_of_all_measures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_meteor", lambda: lambda reference, explanation: 0.5)
    monkeypatch.setattr(metrics, "_similarity", lambda: lambda reference, explanation: 0.25)
    metrics.measures.cache_clear()
    lm = RuleLM(reply)
    scores = evaluate(lm, task_manager(), "scienceqa_qtch")["results"]["scienceqa_qtch"]
    assert scores["overall,none"] == pytest.approx(100 * (1 + 1 + 1 + 0.5 + 0.25) / 5)
    empty = evaluate(RuleLM(lambda r: ""), task_manager(), "scienceqa_qtch")["results"]["scienceqa_qtch"]
    assert (empty["overall,none"], empty["acc,none"], empty["unmapped,none"]) == (0.0, 0.0, 1.0)
    metrics.measures.cache_clear()


MEASURED = """
import json, sys
from pathlib import Path

import nltk.data
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from harness_ext.tasks.scienceqa import metrics

folder = Path(sys.argv[1])
wordnet = folder / "nltk_data" / "corpora" / "wordnet"
wordnet.mkdir(parents=True)
for kind in ("noun", "verb", "adj", "adv"):
    (wordnet / f"data.{kind}").write_text("  1 WordNet 3.0 Copyright  \\n")
    (wordnet / f"index.{kind}").write_text("  1 WordNet 3.0 Copyright  \\n")
    (wordnet / f"{kind}.exc").write_text("")
(wordnet / "lexnames").write_text("00\\tadj.all\\t3\\n")
(wordnet / "index.sense").write_text("")
nltk.data.path[:] = [str(folder / "nltk_data")]

cached = folder / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
snapshot = cached / "snapshots" / ("a" * 40)
snapshot.mkdir(parents=True)
(cached / "refs").mkdir()
(cached / "refs" / "main").write_text("a" * 40)
words = "[PAD] [UNK] [CLS] [SEP] [MASK] rain is wet .".split()
(folder / "vocab.txt").write_text("\\n".join(words))
sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder / "bert")
BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(8)]).save(str(snapshot))

print(json.dumps([metrics.score("Rain is wet here.", text) for text in ("Rain is wet here.", "Sand raining.", "")]))
"""


def test_all_five_measures_with_the_real_libraries(tmp_path: Path) -> None:
    """An empty WordNet and an untrained model suffice to check that the libraries are called correctly."""
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same, other, empty = json.loads(done.stdout.splitlines()[-1])
    meteor = 1 - 0.5 / 5**3  # five matching tokens in one chunk
    ones = dict.fromkeys(("bleu1", "bleu4", "rougeL", "similarity"), 1.0)
    assert same == pytest.approx(ones | {"meteor": meteor, "overall": 20 * (4 + meteor)})
    matched = 2  # in two chunks: "rain" by its stem, and the full stop
    precision, recall = matched / 3, matched / 5
    mean = precision * recall / (0.9 * precision + 0.1 * recall)
    assert other["meteor"] == pytest.approx(mean * (1 - 0.5 * (2 / matched) ** 3))
    assert set(empty.values()) == {0.0}


def test_bleu_splits_at_spaces_and_full_stops() -> None:
    bleu1, bleu4 = metrics._bleu((1.0,))(), metrics._bleu((0.25,) * 4)()
    assert bleu1("a b.c", "c. a") == pytest.approx(2.718281828459045 ** (1 - 3 / 2))
    assert bleu1("a b c", "a x") == pytest.approx(0.5 * 2.718281828459045 ** (1 - 3 / 2))
    assert bleu4("a b c d", "a b c d") == 1.0
    assert bleu4("a b c d", "a b x d") < 1e-50


def test_another_split_and_a_meta_file_of_the_wrong_length(folder: Path) -> None:
    with pytest.raises(DataError, match=r"""validation.jsonl is missing(.|\n)*--metadata '\{"scienceqa_split": """):
        task_manager(scienceqa_split="validation").load("scienceqa_qtch")
    write_rows(folder / "scienceqa", validation=[BASE])
    results = evaluate(RuleLM(reply), task_manager(scienceqa_split="validation"), "scienceqa_qtch")
    assert results["n-samples"]["scienceqa_qtch"]["original"] == 1
    write_rows(folder / "scienceqa", **{"test.meta": META[:2]})
    with pytest.raises(DataError, match=r"test.meta.jsonl has 2 rows, but its split has 4"):
        task_manager().load("scienceqa_qtch")


def test_images_that_local_rows_lack_are_reported(folder: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 3 rows of scienceqa/test need an image .*: unset HARNESS_EXT_DATA"):
        task_manager().load("scienceqa_qtch_image")


def test_image_tasks_include_every_row_with_its_image_or_a_blank_one(folder: Path) -> None:
    (folder / "scienceqa" / "test.jsonl").unlink()
    (folder / "scienceqa" / "test.meta.jsonl").unlink()
    red = Image.new("RGB", (4, 4), "red")
    rows = Dataset.from_list([{**row, "image": red if row is PICTURED else None} for row in ROWS])
    DatasetDict(test=rows).save_to_disk(folder / "scienceqa")
    task = task_manager().load("scienceqa_qtch_image")["tasks"]["scienceqa_qtch_image"]
    assert task.MULTIMODAL
    docs = list(task.test_docs())
    assert [doc["has_image"] for doc in docs] == [False, False, True]
    assert [images(doc)[0].size for doc in docs] == [(224, 224), (224, 224), (4, 4)]
    assert image_question_text(docs[0]) == "<image>" + CONTEXTS["qtch"]
    text_only = task_manager().load("scienceqa_qtch")["tasks"]["scienceqa_qtch"]
    assert len(list(text_only.test_docs())) == 2


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


NAME = "org_model-1_5_test_output_setting_QTCH.csv"


def doc(n: int, setting: str = "QTCH") -> dict[str, Any]:
    return {**BASE, "question": f'Nr "{n}"\tis\nwhich?', "setting": setting, "split": "test", "has_image": False}


def test_the_table_is_written_row_by_row_and_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "benchmarking" / "org_model-1_5" / NAME
    first = tables.Tables(tmp_path, "org/Model-1.5")
    first.add("scienceqa_qtch", 0, doc(0), 'a "quoted"\treply\nof two lines')
    assert path.read_text().startswith('"idx"\t"input"\t"output"\t"subject"\n"0"\t"Question: Nr ""0""')
    first.add("scienceqa_qtch", 1, doc(1), "")
    whole = path.read_text()
    assert [row[0] for row in table(path)] == ["idx", "0", "1"]
    assert [row[2] for row in table(path)][1:] == ['a "quoted"\treply\nof two lines', "NA"]
    for cut in range(0, len(whole), 11):  # killed in the middle of a write: missing rows are written, none twice
        path.write_text(whole[:cut])
        again = tables.Tables(tmp_path, "org/Model-1.5")
        again.add("scienceqa_qtch", 1, doc(1), "")
        again.add("scienceqa_qtch", 0, doc(0), 'a "quoted"\treply\nof two lines')
        assert sorted(row[0] for row in table(path)) == ["0", "1", "idx"]
        assert sorted(table(path)) == sorted(csv.reader(whole.splitlines(keepends=True), delimiter="\t"))


def test_the_tables_of_a_distributed_run_are_merged(tmp_path: Path) -> None:
    ranks = [tables.Tables(tmp_path, "m", rank) for rank in range(3)]
    for n, one in enumerate(ranks):
        one.add("scienceqa_qtch", n, doc(n), "x")
    ranks[0].merge(3)
    ranks[0].merge(3)
    path = tmp_path / "benchmarking" / "m" / "m_test_output_setting_QTCH.csv"
    assert [row[0] for row in table(path)] == ["idx", "0", "1", "2"]


def test_a_table_that_only_another_process_wrote_to_is_merged_as_well(tmp_path: Path) -> None:
    """Rank 0 may get no document of a task, or of a file of a task."""
    ranks = [tables.Tables(tmp_path, "m", rank) for rank in range(2)]
    ranks[1].add("scienceqa_qtch", 5, doc(5), "x")
    ranks[0].merge(2, [one.written for one in ranks])
    path = tmp_path / "benchmarking" / "m" / "m_test_output_setting_QTCH.csv"
    assert [row[0] for row in table(path)] == ["idx", "5"]


def test_samples_of_any_model_are_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results" / "org__model-1.5"
    results.mkdir(parents=True)
    samples = [{"doc_id": n, "doc": doc(n), "resps": [[f"reply {n}"]]} for n in (1, 0)]
    file = results / "samples_scienceqa_qtch_2026-01-01T00-00-00.jsonl"
    file.write_text("".join(json.dumps(s) + "\n" for s in samples))
    (results / "samples_gsm8k_2026-01-01T00-00-00.jsonl").write_text('{"doc_id": 0}\n')
    assert main(["export", str(tmp_path / "results"), str(tmp_path / "out")]) == 0
    made = Path(capsys.readouterr().out.strip())
    assert made == tmp_path / "out" / "benchmarking" / "model-1_5" / NAME.removeprefix("org_")
    assert [(row[0], row[2]) for row in table(made)[1:]] == [("0", "reply 0"), ("1", "reply 1")]
    assert main(["export", str(file), str(tmp_path / "named"), "--label", "My/Model"]) == 0
    assert (tmp_path / "named" / "benchmarking" / "my_model").is_dir()


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("samples_scienceqa_qtch_2026.jsonl", "{}\n", "line 1 is not an lm-eval sample (KeyError: 'doc_id')"),
        ("samples_scienceqa_qtch_2026.jsonl", "nope\n", "line 1 is not an lm-eval sample (JSONDecodeError"),
        ("samples_gsm8k_2026.jsonl", "{}\n", "no task in samples_gsm8k_2026.jsonl has a table"),
    ],
)
def test_files_that_cannot_be_exported_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, cause: str
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["export", str(tmp_path / name), str(tmp_path / "out")]) == 1
    assert cause in capsys.readouterr().err


@pytest.mark.data
def test_every_real_row_is_asked_and_its_own_answer_is_correct(data_dir: Path) -> None:
    metas = real_rows(data_dir, "scienceqa", "test.meta")
    wanted = [
        row
        for row, meta in zip(real_rows(data_dir, "scienceqa"), metas, strict=True)
        if row["lecture"] and row["solution"] and not meta["has_image"]
    ]
    task = task_manager().load("scienceqa_qtchl")["tasks"]["scienceqa_qtchl"]
    docs = list(task.test_docs())
    assert len(docs) == len(wanted) > 100
    for row, one in zip(wanted, docs, strict=True):
        by_hand = (
            f"Question: {row['question']}\n Task: {row['task']}\n Choices: {row['choices']!r}\n Hint: {row['hint']} \n"
            f"Lecture: {row['lecture']}\n Instruction: \nPlease output the answer in JSON style with an answer and a "
            "solution field"
        )
        assert task.doc_to_text(one) == by_hand
        right = json.dumps({"answer": row["choices"][row["answer"]], "solution": row["solution"]})
        assert read_reply(right, row["choices"]).choice == row["answer"]
        wrong = json.dumps({"answer": row["choices"][row["answer"] - 1], "solution": ""})
        assert read_reply(wrong, row["choices"]).choice != row["answer"]

"""Evaluation documents in training rows: exact overlap and near-duplicates, against brute force, in any file."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.enhance.command import main
from harness_ext.enhance.contamination import documents as task_loader
from harness_ext.enhance.contamination import near_duplicates
from harness_ext.enhance.contamination.near_duplicates import (
    NearDuplicateIndex,
    bands,
    chance,
    parts_of,
    similarity_of,
)
from harness_ext.enhance.contamination.ngrams import NgramIndex
from harness_ext.enhance.contamination.search import search, search_file
from harness_ext.enhance.contamination.settings import SearchSettings
from harness_ext.enhance.contamination.words import Words, texts_of
from harness_ext.enhance.row_files import FileRow
from harness_ext.errors import ConfigurationError

# Few words, so that sequences are shared by chance.
TEXTS = st.lists(st.sampled_from("a b c d".split()), min_size=0, max_size=24).map(" ".join)
DOCUMENTS = st.lists(st.lists(TEXTS, max_size=3), max_size=5)


def rows_of(*values: Any) -> list[FileRow]:
    return [FileRow(f"line {number}", value) for number, value in enumerate(values, start=1)]


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def text(seed: int, words: int = 40) -> str:
    """Return a text of random words, the same one for the same seed."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(3000)}" for _ in range(words))


def changed(original: str, places: int, seed: int) -> str:
    """Return a text with some of its words replaced."""
    draw = random.Random(seed)
    words = original.split()
    for place in draw.sample(range(len(words)), places):
        words[place] = f"new{place}"
    return " ".join(words)


# -- words -------------------------------------------------------------------------------------------------------------


def test_words_are_compared_regardless_of_case_and_punctuation() -> None:
    assert Words("He said: «STRASSE 42», don't!").words == ["he", "said", "strasse", "42", "don", "t"]
    assert Words("Straße").words == ["strasse"]
    assert Words("モデルGPT").words == ["モ", "デ", "ル", "gpt"], "scripts without spaces are read by character"


def test_texts_are_found_at_any_depth() -> None:
    row = {
        "a": "one", "n": 5, "b": ["two", {"c": "three"}], "none": None,
        "messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": [{"text": "five"}]}],
    }  # fmt: skip
    assert list(texts_of(row)) == ["one", "two", "three", "four", "five"]


@given(TEXTS, TEXTS, st.integers(1, 9))
def test_hashes_are_equal_exactly_for_equal_sequences(one: str, other: str, n: int) -> None:
    first, second = Words(one), Words(other)
    found = dict(zip(first.hashes(n).tolist(), [first.gram(i, n) for i in range(len(first))], strict=False))
    assert set(found.values()) == grams(one, n)
    shared = set(first.hashes(n).tolist()) & set(second.hashes(n).tolist())
    assert {found[code] for code in shared} == grams(one, n) & grams(other, n)


# -- exact overlap -----------------------------------------------------------------------------------------------------


@given(DOCUMENTS, st.lists(TEXTS, max_size=3), st.integers(2, 9))
def test_shared_words_are_those_of_brute_force(documents: list[list[str]], row: list[str], n: int) -> None:
    index = NgramIndex(documents, n)
    found = index.find([Words(one) for one in row])

    def sequences(texts: Sequence[str]) -> set[tuple[str, ...]]:
        """Return the sequences of a document: those of `n` words, or a shorter text as a whole."""
        return {
            gram
            for one in texts
            for length in [min(n, len(one.split()))]
            if length >= min(n, 5)
            for gram in grams(one, length)
        }

    met = {
        number
        for number, texts in enumerate(documents)
        if any(gram in grams(one, len(gram)) for gram in sequences(texts) for one in row)
    }
    assert index.documents_met == met
    assert (found is not None) == bool(met)
    if found is not None:
        assert found.document in met
        assert found.words in sequences(documents[found.document])
        assert found.text.gram(found.start, len(found.words)) == found.words
        assert found.other.gram(found.other_start, len(found.words)) == found.words
        assert found.documents == sum(found.words in sequences(texts) for texts in documents)


def test_overlap_with_evaluation_documents() -> None:
    documents = {
        "long": [{"q": "The quick brown fox jumps over the lazy dog again"}, {"q": "None of this is met anywhere"}],
        "short": [{"q": "Cats purr very often indeed", "label": 1, "choices": ["too short"]}, {"q": "Yes"}],
    }
    rows = rows_of(
        {"a": "He said: THE QUICK, brown fox jumps over the lazy cat."},
        {"a": "too short", "b": ["x", {"c": "see: cats purr very often indeed!"}]},
        {"a": "the quick brown fox"},
    )
    found = search(rows, documents, SearchSettings(ngram=8))
    assert found.numbers("ngram") == [1, 2]
    long, short = found.tasks
    assert (long.rows["ngram"], long.documents_met["ngram"], long.short) == ([1], 1, 0)
    assert (short.rows["ngram"], short.documents_met["ngram"], short.short) == ([2], 1, 1)
    assert short.examples[0].words == "cats purr very often indeed"
    assert search(rows, documents, SearchSettings(ngram=9)).numbers("ngram") == [2]


# -- near-duplicates ---------------------------------------------------------------------------------------------------


@given(DOCUMENTS, st.lists(TEXTS, max_size=3), st.sampled_from([0.1, 0.3, 0.5, 0.8, 1.0]))
@settings(max_examples=60)
def test_no_pair_below_the_similarity_is_found(documents: list[list[str]], row: list[str], similarity: float) -> None:
    index = NearDuplicateIndex(documents, similarity)
    found = index.find(parts_of(map(Words, row)))
    parts = [part.words for part in parts_of(map(Words, row))]

    def exact(number: int) -> float:
        others = [part.words for part in parts_of(map(Words, documents[number]))]
        pairs = [(grams(" ".join(a), 5), grams(" ".join(b), 5)) for a in parts for b in others]
        return max((len(a & b) / len(a | b) for a, b in pairs), default=0.0)

    assert all(exact(number) >= similarity for number in index.documents_met)
    assert (found is None) == (not index.documents_met)
    if found is not None:
        assert found.similarity >= similarity
        assert found.similarity == pytest.approx(exact(found.document))
        assert found.document in index.documents_met


@pytest.mark.parametrize("similarity", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_find_a_pair_at_the_threshold_almost_surely(similarity: float) -> None:
    number, size = bands(similarity)
    assert number * size <= near_duplicates.PERMUTATIONS
    assert chance(similarity, number, size) >= near_duplicates.RECALL
    more = [(s, chance(similarity, number, size)) for s in (similarity, (1 + similarity) / 2, 1.0)]
    assert [value for _, value in more] == sorted(value for _, value in more)
    with pytest.raises(ValueError, match="cannot be found"):
        bands(0.001)


@pytest.mark.parametrize("similarity", [0.5, 0.8])
def test_true_pairs_are_found_with_at_least_the_stated_probability(similarity: float) -> None:
    """The random numbers of texts and permutations are fixed, so the result is the same in every run."""
    originals = [text(seed, 120) for seed in range(400)]
    rows = [changed(original, 1 + seed % 10, seed) for seed, original in enumerate(originals)]
    true = [
        number
        for number, (row, original) in enumerate(zip(rows, originals, strict=True))
        if similarity_of(grams(row, 5), grams(original, 5)) >= similarity
    ]
    assert 30 < len(true) < 400, "some of the pairs are similar enough, and some are not"
    index = NearDuplicateIndex([[original] for original in originals], similarity)
    found = [index.find(parts_of([Words(row)])) for row in rows]
    documents = [None if one is None else one.document for one in found]
    assert [number for number, document in enumerate(documents) if document is not None] == true
    assert all(documents[number] == number for number in true)
    again = NearDuplicateIndex([[original] for original in originals], similarity)
    assert [again.find(parts_of([Words(row)])) is None for row in rows] == [one is None for one in found]
    assert all(abs(one.similarity - one.estimated) < 0.25 for one in found if one is not None)


def test_a_row_in_one_field_finds_a_document_in_several() -> None:
    question, answer = text(1, 60), text(2, 60)
    documents = {"t": [{"question": question, "answer": answer}]}
    near = changed(question, 1, 0)
    for row in ({"text": f"{near} {answer}"}, {"q": near, "a": answer}, {"prompt": near, "completion": "none"}):
        assert search(rows_of(row), documents).numbers("near_duplicate") == [1], row
    together = NearDuplicateIndex([[question, answer]]).find(parts_of([Words(f"{near} {answer}")]))
    assert together is not None
    assert together.other.words == f"{question} {answer}".split(), "the document's texts together"


def test_equal_texts_of_many_documents_are_compared_once() -> None:
    instruction = text(7, 30)
    documents = {"t": [{"instruction": instruction, "question": text(100 + seed, 12)} for seed in range(50)]}
    found = search(rows_of({"prompt": instruction}, {"prompt": instruction.upper()}), documents)
    (task,) = found.tasks
    assert task.rows["near_duplicate"] == [1, 2]
    assert task.documents_met["near_duplicate"] == 50
    assert [(one.document, one.documents) for one in task.examples] == [(0, 50)] * 4
    assert any("document 0 and 49 more" in line for line in found.lines())


def test_a_text_with_too_many_similar_documents_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MOST_CANDIDATES", 10)
    common = text(3, 100)
    documents = {"t": [{"q": f"{common} {text(seed, 3)}"} for seed in range(60)]}
    found = search(rows_of({"q": f"{common} {text(59, 3)}"}), documents)
    (task,) = found.tasks
    assert task.crowded == 1
    near = next(one for one in task.examples if one.kind == "near_duplicate")
    assert (near.document, near.similarity) == (59, 1.0), "the most similar ones are compared"
    assert task.documents_met["near_duplicate"] == 10
    assert any("there may be more documents than stated" in line for line in found.lines())


# -- files -------------------------------------------------------------------------------------------------------------

GSM = [{"question": text(seed, 30), "answer": text(100 + seed, 20)} for seed in range(5)]


def write(path: Path, rows: Sequence[Mapping[str, Any] | str]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_any_columns_and_formats(tmp_path: Path) -> None:
    from datasets import Dataset

    rows = [{"odd name": GSM[2]["question"], "n": "1"}, {"odd name": "nothing", "n": "2"}]
    files = [write(tmp_path / "rows.jsonl", rows)]
    Dataset.from_list(rows).to_csv(tmp_path / "rows.csv")
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    files += [tmp_path / "rows.csv", tmp_path / "rows.parquet", tmp_path / "saved"]
    for path in files:
        found = search_file(path, {"gsm": GSM})
        assert (found.rows, found.numbers("ngram"), found.numbers("near_duplicate")) == (2, [1], [1]), path
        assert found.tasks[0].examples[0].document == 2


def test_rows_without_text_and_unreadable_rows_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"n": 5}, "{broken", {"text": [1, None, {"x": False}]}, GSM[0], "", "[1]"])
    found = search_file(path, {"gsm": GSM})
    assert (found.rows, found.without_text, len(found.unreadable)) == (5, 2, 2)
    assert found.numbers("ngram") == [4]
    assert found.tasks[0].examples[0].place == "line 4"
    printed = "\n".join(found.lines())
    assert "2 rows have no text to compare" in printed
    assert "2 rows cannot be read and were not compared: line 2: not JSON" in printed


def test_one_row_and_no_rows(tmp_path: Path) -> None:
    assert search_file(write(tmp_path / "one.jsonl", [GSM[1]]), {"gsm": GSM}).contaminated == 1
    assert search_file(write(tmp_path / "clean.jsonl", [{"text": "clean"}]), {"gsm": GSM}).contaminated == 0
    with pytest.raises(ConfigurationError, match="contains no rows"):
        search_file(write(tmp_path / "none.jsonl", []), {"gsm": GSM})
    with pytest.raises(ConfigurationError, match="no row that can be read: line 1: not JSON"):
        search_file(write(tmp_path / "broken.jsonl", ["{"]), {"gsm": GSM})
    with pytest.raises(ConfigurationError, match="unknown format"):
        search_file(write(tmp_path / "rows.txt", [GSM[1]]), {"gsm": GSM})
    none = search_file(tmp_path / "one.jsonl", {"empty": []})
    assert (none.contaminated, none.tasks[0].documents) == (0, 0)


def test_only_the_named_fields_are_compared(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "mine", "source": GSM[0]["question"]}, {"prompt": "also mine"}])
    assert search_file(path, {"gsm": GSM}).contaminated == 1
    assert search_file(path, {"gsm": GSM}, fields=["prompt"]).contaminated == 0
    assert search_file(path, {"gsm": GSM}, fields=["prompt", "source"]).contaminated == 1
    with pytest.raises(ConfigurationError, match=r"has a field 'promt'; the fields are 'prompt', 'source'"):
        search_file(path, {"gsm": GSM}, fields=["promt"])
    assert search_file(path, {"gsm": GSM}, limit=1).rows == 1


def test_hostile_texts_are_made_safe_to_print(tmp_path: Path) -> None:
    hostile = f"\x1b[31m\u202e{GSM[0]['question']}\n\x07" + "x " * 500
    found = search_file(write(tmp_path / "rows.jsonl", [{"q": hostile}]), {"gsm": GSM})
    example = found.tasks[0].examples[0]
    assert not any(ord(character) < 32 or character == "\u202e" for line in found.lines() for character in line)
    assert len(example.row_text) <= 300
    assert str(example.words) in example.row_text.casefold()


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let tasks have the documents of `GSM`, without loading lm-eval; return the names that were asked for."""
    asked: list[list[str]] = []

    def load(names: Sequence[str], include_path: str | None = None) -> dict[str, list[dict[str, Any]]]:
        asked.append(list(names))
        return {name: [dict(one) for one in GSM] for name in names}

    monkeypatch.setattr(task_loader, "task_documents", load)
    return asked


def test_check_takes_a_file_without_a_manifest(
    tmp_path: Path, tasks: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    near = {"prompt": changed(GSM[3]["question"], 1, 0), "completion": "?"}
    path = write(tmp_path / "mine.jsonl", [{"prompt": "clean"}, near])
    assert main(["check", str(path), "--tasks", "gsm8k, other", "--ngram", "28", "--similarity", "0.7"]) == 0
    assert tasks == [["gsm8k", "other"]]
    printed = capsys.readouterr().out
    assert f"{path}: 1 of 2 rows (50.00%) contain evaluation documents" in printed
    assert "0 rows share words with 0 of them (28 words in a row); 1 rows are near-duplicates of 1 of them" in printed
    assert "row 2 (line 2), document 3: similarity 0." in printed
    saved = json.loads((tmp_path / "mine.contamination.json").read_text())
    assert saved["lines"] == {"ngram": [], "near_duplicate": [2]}
    assert saved["tasks"]["gsm8k"]["near_duplicate"] == {"rows": 1, "documents": 1}
    example = saved["tasks"]["gsm8k"]["examples"][0]
    assert 0.7 <= example["similarity"] < 1
    assert not (tmp_path / "mine.report.json").exists()


def test_check_can_fail_and_name_its_output(tmp_path: Path, tasks: list[list[str]]) -> None:
    path = write(tmp_path / "mine.jsonl", [GSM[0]])
    arguments = ["check", str(path), "--tasks", "gsm8k", "--output", str(tmp_path / "found.json")]
    assert main(arguments) == 0
    assert main([*arguments, "--strict"]) == 1
    assert json.loads((tmp_path / "found.json").read_text())["contaminated_rows"] == 1
    clean = write(tmp_path / "clean.jsonl", [{"a": "b"}])
    assert main(["check", str(clean), "--tasks", "gsm8k", "--strict"]) == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "pass `--tasks"),
        (["--tasks", "gsm8k", "--similarity", "0"], "`--similarity` is 0.0; it must be between 0.1 and 1"),
        (["--tasks", "gsm8k", "--ngram", "0"], "`--ngram` is 0; it must be at least 1"),
        (["--tasks", "gsm8k", "--fields", "none"], "has a field 'none'; the fields are 'question', 'answer'"),
        (["--tasks", "gsm8k", "--output", "/dev/null/x"], "/dev/null is not a folder. Name another output"),
    ],
)
def test_wrong_arguments_of_check(
    tmp_path: Path, tasks: list[list[str]], arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.jsonl", [GSM[0]])
    assert main(["check", str(path), *arguments]) == 2
    assert problem in capsys.readouterr().err
    assert main(["check", str(tmp_path / "nowhere.jsonl"), "--tasks", "gsm8k"]) == 2
    assert "nowhere.jsonl is missing" in capsys.readouterr().err


def test_documents_come_from_lm_evals_own_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task of one's own and an unknown one, through lm-eval's loader."""
    data = write(tmp_path / "test.jsonl", GSM)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        f"task: contamination_mine\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\n"
        "test_split: test\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
    )
    rows = write(tmp_path / "rows.jsonl", [{"text": f"{GSM[4]['question']} {GSM[4]['answer']}"}])
    more = ["--include_path", str(tmp_path / "tasks")]
    assert main(["check", str(rows), "--tasks", "contamination_mine", *more]) == 0
    saved = json.loads((tmp_path / "rows.contamination.json").read_text())
    task = saved["tasks"]["contamination_mine"]
    assert (task["documents"], task["ngram"]["rows"], task["near_duplicate"]["rows"]) == (5, 1, 1)
    assert task["examples"][1]["similarity"] == 1
    capsys.readouterr()
    assert main(["check", str(rows), "--tasks", "no_such_task", *more]) == 2
    assert "there is no task `no_such_task`" in capsys.readouterr().err

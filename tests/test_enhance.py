"""Prompts, annotation, checks and the data set, run through the real engine with a scripted teacher."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from enhance_support import CREAK_ROWS, asked, lines, run, write
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.backends.scripted import ScriptedBackend
from harness_ext.embedded.story_prompt import INSTRUCTION, story_text
from harness_ext.enhance.annotate import Annotate, AnnotateJob, annotate, settings
from harness_ext.enhance.checks import FLAGS, report
from harness_ext.enhance.command import _parser, main
from harness_ext.enhance.gold_answers import AnswerReader
from harness_ext.enhance.postprocess import finish
from harness_ext.enhance.prepare import prepare
from harness_ext.enhance.row_files import to_line
from harness_ext.enhance.running import plan_seats
from harness_ext.enhance.templates import RowProblem, known_sets, load_templates, read_templates, squeeze
from harness_ext.errors import ConfigurationError
from harness_ext.reading import same_answer
from harness_ext.records import Completion


def test_creak_prompts_equal_those_of_teacherlm(tmp_path: Path) -> None:
    counts = prepare(write(tmp_path / "raw.jsonl", CREAK_ROWS), tmp_path / "in.jsonl", load_templates("creak"))[
        "counts"
    ]
    first, second, _ = lines(tmp_path / "in.jsonl")
    assert counts == {"read": 3, "written": 3, "bad": 0}
    assert list(second) == ["sentence", "label", "ex_id", "spans", "text", "cot_text", "error_text", "fundamental_text"]
    start = "Q: Determine the correctness of the following sentence. Fish can fly planes. (A) True (B) False A: "
    assert second["text"] == f"{start}The answer is (B)."
    assert second["cot_text"] == f"{start}The answer is (B). Let's think step by step."
    assert second["error_text"] == f"{start}The answer is (B). The common mistakes are:"
    assert second["fundamental_text"] == f"{start}The answer is (B). The fundamental of this question is:"
    assert "Water  is wet.  (A)" in first["text"]  # as in the original, only the three prompts are cleaned
    assert "Water is wet. (A) True" in first["cot_text"]


def test_all_creak_training_rows(tmp_path: Path, data_dir: Path) -> None:
    source = data_dir / "creak" / "train.jsonl"
    manifest = prepare(source, tmp_path / "creak.jsonl", load_templates("creak"))
    rows, prepared = lines(source), lines(tmp_path / "creak.jsonl")
    assert manifest["counts"] == {"read": 10_176, "written": 10_176, "bad": 0}
    added = ["text", "cot_text", "error_text", "fundamental_text"]
    for row, ready in zip(rows, prepared, strict=True):
        letter = "A" if row["label"] == "true" else "B"
        text = f"Q: Determine the correctness of the following sentence. {row['sentence']} (A) True (B) False A: "
        assert list(ready) == [*row, *added]
        assert {name: ready[name] for name in row} == row
        assert ready["text"] == f"{text}The answer is ({letter})."
        assert ready["cot_text"] == squeeze(f"{ready['text']} Let's think step by step.")


def test_the_stories_prompt_equals_that_of_the_task() -> None:
    row = {"passage": "Mary went home.\nJohn slept.\n", "question": "Where is Mary?", "answer": "home"}
    filled = load_templates("stories").fill(row)
    assert filled["cot_text"] == INSTRUCTION + story_text(row["passage"].splitlines(), row["question"])


def test_values_are_never_templates() -> None:
    row = {"sentence": "{{ 7 * 7 }} {% raw %} <b>&amp;", "label": "true"}
    assert "{{ 7 * 7 }} {% raw %} <b>&amp;" in load_templates("creak").fill(row)["cot_text"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": "true"}, "'sentence' is missing"),
        ({"label": "true", "sentence": " \n"}, "'sentence' is empty"),
        ({"label": "maybe", "sentence": "x"}, "cannot be rendered"),
        ({"label": "true", "sentence": "x", "text": "mine"}, "'text' already exists"),
    ],
)
def test_rows_that_do_not_fit_the_templates(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowProblem, match=reason):
        load_templates("creak").fill(row)


def test_all_problems_of_templates_are_reported() -> None:
    with pytest.raises(ConfigurationError) as error:
        read_templates({"fields": {"a": 3}, "generations": {}, "gold": 7}, "mine.yaml")
    assert len(error.value.problems) == 3
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_templates("creek")
    with pytest.raises(ConfigurationError, match="template is not valid Jinja"):
        read_templates({"fields": {"a": "{{ unclosed"}}, "mine.yaml")
    with pytest.raises(ConfigurationError, match="no group"):
        read_templates({"fields": {"a": "x"}, "answer": "abc"}, "mine.yaml")


def test_templates_run_in_a_sandbox() -> None:
    found = read_templates({"fields": {"a": "{{ x.__class__.__mro__ }}"}}, "mine.yaml")
    with pytest.raises(RowProblem, match="unsafe"):
        found.fill({"x": "1"})


@pytest.mark.parametrize("task_type", ["cot_text", "error_text", "fundamental_text"])
def test_annotated_rows_have_teacherlms_fields(tmp_path: Path, task_type: str) -> None:
    manifest, rows, teacher = run(tmp_path, CREAK_ROWS, lambda p: " because. ", task_type=task_type)
    field = task_type.removesuffix("_text")
    before = lines(tmp_path / "in.jsonl")
    assert [list(row) for row in rows] == [[*row, field, "all"] for row in before]
    assert all(row[field] == " because. " and row["all"] == row[task_type] + " because. " for row in rows)
    assert manifest["counts"] == {"read": 3, "written": 3, "bad": 0}
    assert asked(teacher) == [row[task_type] for row in before]
    assert manifest["identity" if "identity" in manifest else "field"] == field
    assert settings(load_templates("creak"), {}) == {"do_sample": True, "temperature": 1.0, "max_gen_toks": 2048}


def test_a_space_that_the_tokenizer_lost_is_restored(tmp_path: Path) -> None:
    _, rows, _ = run(tmp_path, CREAK_ROWS[:1], lambda p: "Water")
    assert rows[0]["cot"] == " Water"
    assert rows[0]["all"].endswith("step by step. Water")


def test_bad_rows_go_to_their_own_file_and_the_counts_add_up(tmp_path: Path) -> None:
    templates = load_templates("creak")
    good = [templates.fill(row) for row in CREAK_ROWS]
    without = {k: v for k, v in good[1].items() if k != "cot_text"}
    rows = [good[0], '{"broken": ', without, {**good[1], "cot_text": " "}, {**good[1], "cot_text": 5}, "[1]",
            b'{"cot_text": "\xff"}', "", good[2], '{"torn": "li']  # fmt: skip
    source = write(tmp_path / "in.jsonl", rows)

    def reply(prompt: str) -> str:
        if "Oslo" in prompt:
            raise RuntimeError("too much for me")
        return " fine."

    teacher = ScriptedBackend(reply, name="teacher")
    plan = plan_seats(Annotate, {"teacher": teacher}, {"store": "off", "progress": "off"})
    manifest = annotate(AnnotateJob(source, tmp_path / "out.jsonl", "cot_text", {}, templates), plan)
    assert manifest["counts"] == {"read": 9, "written": 1, "bad": 8}
    bad = lines(tmp_path / "out.bad.jsonl")
    assert [(one["place"], one["code"]) for one in bad] == [
        ("line 2", "unreadable"), ("line 3", "incomplete"), ("line 4", "incomplete"), ("line 5", "incomplete"),
        ("line 6", "unreadable"), ("line 7", "unreadable"), ("line 9", "backend"), ("line 10", "unreadable"),
    ]  # fmt: skip
    assert all(word in one["reason"] for word, one in zip(("JSON", "missing", "empty", "not text"), bad, strict=False))
    assert bad[1]["row"] == without


def test_hostile_rows_are_preserved_exactly(tmp_path: Path) -> None:
    texts = [
        "<script>alert(1)</script> & <|im_end|> </s>", "tab\there \r\n\x00\x07\x1b[31m",
        "日本語 العربية 👩‍👩‍👧 e\u0301",
        "line\u2028sep\u2029para\x85next", "\ufeffbom", "{{ x }} {% y %} %s {0}", '"quotes" \\ back',
    ]  # fmt: skip
    rows = [{"sentence": t, "label": "true", "note": t, "big": "ab\u2028" * 200_000 if i == 0 else i * 10**30}
            for i, t in enumerate(texts)]  # fmt: skip
    _, found, _ = run(tmp_path, rows, lambda p: f"\x01{p[-3:]}\u2028</s>\n")
    assert len(found) == len(rows)
    for before, after in zip(rows, found, strict=True):
        assert {name: after[name] for name in before} == before
        assert after["cot"] == f"\x01{after['cot_text'][-3:]}\u2028</s>\n"
    content = (tmp_path / "out.jsonl").read_text(encoding="utf-8")
    assert len(content.splitlines()) == len(rows), "every reader of lines sees one line per row"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1"])
def test_other_encodings_are_read_or_reported(tmp_path: Path, encoding: str) -> None:
    row = {"sentence": "Ærø is an island.", "label": "true"}
    raw = tmp_path / "raw.jsonl"
    raw.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding=encoding)
    counts = prepare(raw, tmp_path / "in.jsonl", load_templates("creak"))["counts"]
    if encoding == "latin-1":
        assert counts == {"read": 1, "written": 0, "bad": 1}
        assert "not UTF-8" in lines(tmp_path / "in.bad.jsonl")[0]["reason"]
    else:
        assert counts == {"read": 1, "written": 1, "bad": 0}
        assert lines(tmp_path / "in.jsonl")[0]["sentence"] == row["sentence"]


def test_half_a_surrogate_pair_is_preserved_or_reported(tmp_path: Path) -> None:
    fine = {"sentence": "Oslo is big.", "label": "true", "note": "\ud83d"}
    _, found, _ = run(tmp_path, [fine], lambda p: " yes.")
    assert found[0]["note"] == "\ud83d"
    with pytest.raises(ConfigurationError, match=r"'note'.*half a surrogate pair"):
        finish(tmp_path / "out.jsonl", tmp_path / "set")


@given(
    st.dictionaries(st.text(min_size=1), st.recursive(st.text() | st.integers() | st.none(), st.lists, max_leaves=4))
)
def test_a_row_is_one_line_that_parses_to_the_same_row(fields: dict[str, Any]) -> None:
    line = to_line(fields)
    assert len(line.splitlines()) == 1
    assert json.loads(line.encode().decode()) == fields


def test_resuming_is_by_content(tmp_path: Path) -> None:
    rows = [{"sentence": f"Thing {i} is red.", "label": "true", "n": i} for i in range(12)]
    (tmp_path / "first").mkdir()
    _, first, teacher = run(tmp_path, rows[:8], lambda p: f" {p[60:75]} {random.random()}", name="first/out")
    paid = len(asked(teacher))
    assert paid == 8
    shuffled = random.Random(1).sample(rows, len(rows))
    _, second, _ = run(tmp_path, shuffled, lambda p: "", name="second", backend=teacher)
    assert len(asked(teacher)) == 12, "only the four new rows were asked"
    assert [row["n"] for row in second] == [row["n"] for row in shuffled], "in input order"
    texts = {row["n"]: row["cot"] for row in second}
    assert all(texts[row["n"]] == row["cot"] for row in first)


def test_equal_sampled_prompts_have_different_replies_that_are_reused(tmp_path: Path) -> None:
    rows = [{"sentence": "Same.", "label": "true", "n": i} for i in range(3)]
    _, first, teacher = run(tmp_path, rows, lambda p: f" {random.random()}")
    assert len({row["cot"] for row in first}) == 3
    _, again, _ = run(tmp_path, rows, lambda p: "", backend=teacher)
    assert again == first
    assert len(asked(teacher)) == 3


def test_other_outputs_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("precious\n")
    with pytest.raises(ConfigurationError, match="no run wrote it"):
        run(tmp_path, CREAK_ROWS, lambda p: " x.", name="mine")
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"
    run(tmp_path, CREAK_ROWS, lambda p: " x.")
    with pytest.raises(ConfigurationError, match="different: task_type"):
        run(tmp_path, CREAK_ROWS, lambda p: " x.", task_type="error_text")
    before = (tmp_path / "out.jsonl").read_bytes()
    run(tmp_path, CREAK_ROWS[:1], lambda p: " x.")
    assert (tmp_path / "out.jsonl.old-1").read_bytes() == before, "a previous output of the run is kept"


def test_checks_flag_problems(tmp_path: Path) -> None:
    replies = {
        "Thing 0": " It is. The answer is (A).", "Thing 1": " The answer is (A), no: the answer is (B).",
        "Thing 2": "   ", "Thing 3": Completion(" It is and", "length", completion_tokens=3),
        "Thing 4": " It IS.  The answer is (A).",
        "Thing 5": " So the answer is True.",
    }  # fmt: skip
    rows = [{"sentence": f"Thing {i} is.", "label": "true"} for i in range(6)]
    run(tmp_path, rows, lambda p: next(v for k, v in replies.items() if k in p))
    found = json.loads((tmp_path / "out.report.json").read_text())
    flagged = {flag: one["lines"] for flag, one in found["flags"].items()}
    assert flagged == {"empty": [3], "cut_off": [4], "duplicate": [5], "no_answer": [4], "contradicts_gold": [2]}
    assert found["not_checked"] == {"leaks_gold": "applies to `fundamental`, not to `cot`"}
    assert found["without_a_flag"] == 2
    assert lines(tmp_path / "out.records.jsonl")[1]["reply"] == replies["Thing 1"], "the raw text is kept"


def test_a_fundamental_that_gives_away_the_label_leaks(tmp_path: Path) -> None:
    replies = {"Thing 0": " Red is a colour.", "Thing 1": " So (A) is right.", "Thing 2": " Hence the answer is true."}
    rows = [{"sentence": f"Thing {i} is red.", "label": "true"} for i in range(3)]
    run(tmp_path, rows, lambda p: next(v for k, v in replies.items() if k in p), task_type="fundamental_text")
    assert report(tmp_path / "out.jsonl")["flags"]["leaks_gold"]["lines"] == [2, 3]


def test_free_answers_are_parsed_and_leak_as_whole_words() -> None:
    reader = AnswerReader(pattern=r"(?im)^answer:[ \t]*(.+)$")
    assert same_answer(reader.last("Answer: hall\nAnswer: The Kitchen."), reader.gold("kitchen"))
    plain = AnswerReader()
    assert plain.says("It follows that six is meant.", "six")
    assert not plain.says("It follows that sixty is meant.", "six")


def test_a_budget_ends_a_run_and_the_next_run_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"sentence": f"Thing {i} is red.", "label": "true"} for i in range(10)]
    manifest, found, teacher = run(tmp_path, rows, lambda p: " x.", budget="calls:4")
    assert "budget" in manifest["stopped"]
    assert found == []
    assert len(asked(teacher)) == 4
    assert len(lines(tmp_path / "out.jsonl.partial")) == 4
    manifest, found, _ = run(tmp_path, rows, lambda p: "", backend=teacher)
    assert len(asked(teacher)) == 10
    assert [row["cot"] for row in found] == [" x."] * 10


def test_the_first_prompt_is_shown_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []

    def reply(prompt: str) -> str:
        shown.append(capsys.readouterr().err)
        return " x."

    run(tmp_path, [{"sentence": "Oslo \x1b[31m is big. " + "x" * 20_000, "label": "true"}], reply)
    assert lines(tmp_path / "in.jsonl")[0]["cot_text"].replace("\x1b", "<U+001B>") in shown[0]


def test_command_line_problems_are_usage_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(write(tmp_path / "in.jsonl", CREAK_ROWS))
    assert main(["prepare", str(tmp_path / "none.jsonl"), str(tmp_path / "x.jsonl")]) == 2
    assert (
        main(["annotate", "embedded", source, str(tmp_path / "o.jsonl"), "sentence", "--model_args", "run_dir=x"]) == 2
    )
    assert main(["annotate", "nobackend:x", source, str(tmp_path / "o.jsonl"), "sentence"]) == 2
    assert main(["check", source]) == 2
    assert main(["finish", source, str(tmp_path / "s"), "--drop", "overlap"]) == 2
    assert main(["finish", source, str(tmp_path / "s"), "--drop", "near_duplicate"]) == 2
    assert "run_dir" in capsys.readouterr().err
    with pytest.raises(SystemExit) as usage:
        main(["annotate"])
    assert usage.value.code == 2


def test_the_documentation_lists_all_options_flags_and_templates() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "enhance.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    templates = read_templates(yaml.safe_load(block[1]), "page.yaml")
    filled = templates.fill({"question": "Is  water wet?", "answer": "A"})
    assert filled["cot_text"] == "Q: Is water wet? A: The answer is A. Let's think step by step."
    stages = next(iter(_parser()._subparsers._group_actions)).choices  # type: ignore[union-attr]
    known = {option for stage in stages.values() for action in stage._actions for option in action.option_strings}
    assert set(re.findall(r"(?<![\w-])--[a-z_]+", page)) - known == set()
    assert {flag for flag in FLAGS if f"| `{flag}` |" not in page} == set()
    assert all(f"`{name}`" in page for name in known_sets())

"""`harness-ext show`: transcripts in the terminal, which model text can never control."""

from __future__ import annotations

import io
import json
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text
from scored_runs import ROWS, failed, make_task, manager_of, said, transcript, write_run

from harness_ext.analysis.report.turns import transcript_json
from harness_ext.analysis.scoring.score import score_run
from harness_ext.analysis.show import main, render, word_diff
from harness_ext.records import Completion
from harness_ext.terminal import safe_line, safe_text

OURS = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = "\x1b[31mred\x1b]0;title\x07\x9b2J\r\x08 \u202egnp.\u2066 \u2028 [bold]x[/bold] :smile: \x7f\ud800"
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
texts = st.text(st.characters(exclude_categories=()), max_size=40)


def run_of_three(path: Path) -> Path:
    """Return a scored run: wrong to right, right to wrong, wrong to wrong, and one failed question."""
    hint = said("teacher", "review", "Incorrect.\nHint: add", accepted=False, rule="first_word")
    good = said("teacher", "review", "Correct.", accepted=True, rule="words")
    drafts = [("it is 1", ROWS[0]["a"]), (ROWS[1]["a"], "it is 1"), ("a b c", "a d c")]
    run = write_run(
        path,
        *(
            transcript(i, said("student", "draft", a), hint, said("student", "refine", b), good)
            for i, (a, b) in enumerate(drafts)
        ),
        failed(3),
    )
    score_run(run, manager=manager_of(make_task()))
    return run


def shown(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> str:
    assert main([str(a) for a in arguments]) == status
    captured = capsys.readouterr()
    return captured.err if status else captured.out


def test_the_output_for_one_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, run_of_three(tmp_path), "--doc", 2)
    expected = [
        "── sums, document 2 ──", "Q: 2+2?", "student draft", "a b c", "teacher review  ✗ rejected", "Hint: add",
        "student refine", "a [-b-]{+d+} c", "teacher review  ✓ accepted (words)",
        "ended: accepted; exact_match,none: wrong → wrong; gold: 4",
    ]  # fmt: skip
    positions = [out.find(line) for line in expected]
    assert -1 not in positions, expected[positions.index(-1)]
    assert positions == sorted(positions)
    assert "document 1" not in out
    assert "\x1b" not in out, "no colours without a terminal"


def test_how_a_draft_was_read_stands_below_it_and_verdicts_are_summed_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(capsys, run_of_three(tmp_path), "--doc", 0).splitlines()
    assert lines[lines.index("it is 1") + 1] == "read: 1 (rule whole)"
    assert "sums, exact_match: 3 of 6 drafts accepted, precision 0.333, recall 0.500" in lines[-1]


def test_thoughts_are_folded_unless_they_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thinking = said("student", "draft", "0")
    result = Completion("0", "stop", thought="Let me see.")
    run = write_run(tmp_path, transcript(0, replace(thinking, result=result)))
    folded = shown(capsys, run)
    assert "thought, 11 characters (--thoughts)" in folded
    assert "Let me see." not in folded
    assert "Let me see." in shown(capsys, run, "--thoughts")


READ = [
    ("ballot", {"candidates": ["agent1", "agent2"], "points": {"agent1": 2.5, "agent2": 0.0}, "malformed": False},
     "points: agent1 2.5, agent2 0"),
    ("ballot", {"candidates": ["agent1", "agent2"], "points": None, "malformed": True}, "malformed"),
    ("choose", {"question": "0a", "choice": "chain 2", "malformed": False}, "choice: chain 2"),
    ("choose", {"question": "0a", "choice": None, "malformed": True}, "malformed"),
    ("confidence", {"confidence": 0.8, "malformed": False}, "confidence: 0.8"),
    ("confidence", {"confidence": None, "malformed": True}, "malformed"),
    ("accept", {"accepted": False, "malformed": True, "rating": None}, "✗ rejected (malformed)"),
    ("ballot", {"points": {"\x1b[31m": "\x1b[31m"}, "malformed": False}, "points: <U+001B>[31m <U+001B>[31m"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "verdict", "words"), READ)
def test_what_was_read_from_a_turn_stands_in_its_title_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, verdict: dict[str, Any], words: str
) -> None:
    turn = replace(said("agent1", kind, "2, 1"), verdict=verdict)
    assert f"agent1 {kind}  {words}" in shown(capsys, write_run(tmp_path, transcript(0, turn))).splitlines()
    assert [found["verdict"] for found in transcript_json(transcript(0, turn))["turns"]] == [words]


def test_runs_are_found_by_label_and_a_folder_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")  # lines for other programs are not wrapped
    for number, text in enumerate(("older", "newer")):
        run = tmp_path / "harness_ext_runs" / f"pair-{number}"
        write_run(run, transcript(0, said("student", "draft", text)), started=f"2026-01-0{number + 1}T00:00:00+0000")
    out = shown(capsys, "pair")
    assert "newer" in out
    assert "the newest of 2 runs with this label" in out
    assert "older" in shown(capsys, "pair-0")
    listed = shown(capsys)
    assert listed == shown(capsys, "harness_ext_runs/")
    assert [line.split()[0] for line in listed.splitlines()] == ["label", "pair", "pair", "2"]
    assert "is no run's label" in shown(capsys, "nobody", status=1)


def test_long_output_goes_through_the_pager_of_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged: list[str] = []
    monkeypatch.setattr("pydoc.pager", paged.append)
    monkeypatch.setenv("LESS", "FRX")
    run = run_of_three(tmp_path)
    for is_terminal, options in ((True, []), (True, ["--no-pager"]), (False, [])):
        out = Console(force_terminal=is_terminal, file=io.StringIO(), height=10, width=100)
        monkeypatch.setattr("harness_ext.analysis.show.console", lambda out=out: out)
        assert main([str(run), *options]) == 0
    (text,) = paged
    assert "a [-b-]{+d+} c" in OURS.sub("", text)


def test_flips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of_three(tmp_path)
    out = shown(capsys, run, "--flips")
    assert re.findall(r"document (\d)", out) == ["0", "1"]
    assert re.findall(r"none: (\w+ → \w+)", out) == ["wrong → right", "right → wrong"]
    assert "1 more questions" in shown(capsys, run, "--flips", "--limit", 1)
    (run / "scores.jsonl").unlink()
    assert "harness-ext score" in shown(capsys, run, "--flips", status=1)
    assert "not scored" in shown(capsys, run)


def test_missing_data_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of_three(tmp_path / "run")
    assert "contains no transcripts" in shown(capsys, tmp_path / "nothing", status=1)
    assert "tasks of this run: sums" in shown(capsys, run, "--task", "other", status=1)
    assert "was not scored by this metric; it has exact_match,none" in shown(capsys, run, "--metric", "bleu", status=1)
    assert "failed: out of memory" in shown(capsys, run, "--doc", 3)
    (run / "scores.jsonl").write_text('{"task": 1}\n')
    assert "is damaged" in shown(capsys, run, status=1)


def test_encoded_messages_are_printed_as_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    run = write_run(tmp_path, transcript(0, said("student", "draft", "because"), context=context))
    assert "system: Be brief.\n\nuser: Why?\n" in shown(capsys, run)


def printed(*blocks: Text, colours: bool = True) -> str:
    out = io.StringIO()
    target = Console(
        file=out, force_terminal=colours, color_system="truecolor" if colours else None, width=60,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    for block in blocks:
        target.print(block)
    return out.getvalue()


def is_harmless(text: str) -> bool:
    return all(c in "\n\u200c\u200d" or unicodedata.category(c)[0] != "C" for c in text) and not set(text) & set(
        "\u2028\u2029"
    )


@given(texts)
@example(HOSTILE)
def test_safe_text_contains_nothing_that_controls_a_terminal(text: str) -> None:
    assert is_harmless(safe_text(text))
    assert "\n" not in safe_line(text)
    assert safe_text(safe_text(text)) == safe_text(text)


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))))
def test_ordinary_text_is_unchanged(text: str) -> None:
    assert safe_text(text) == text


@given(texts, texts, texts)
@example(HOSTILE, HOSTILE, HOSTILE + "x")
@settings(max_examples=60, deadline=None)
def test_model_text_never_moves_the_cursor_or_sets_colours(context: str, first: str, second: str) -> None:
    """Wherever text comes from a model or a file, the output contains no control characters but those of our styles."""
    one = transcript(
        0, said(first, second, context), said("teacher", "review", first, accepted=False, rule=second),
        said(first, "refine", second, answer=context), task=second, text=first, context=context, stop=first,
    )  # fmt: skip
    for transcripts in (one, failed(0, context=context, task=first)):
        blocks = list(render(transcripts, None, {}, full=False))
        with_colours, without = printed(*blocks), printed(*blocks, colours=False)
        assert is_harmless(OURS.sub("", with_colours))
        assert "\x1b" not in without
        codes = {code for style in OURS.findall(with_colours) for code in style[2:-1].split(";")}
        assert codes <= {"0", "1", "2", "9", "31", "32", "37"}, "only our styles: bold, dim, struck, red, green, white"


def test_markup_and_emoji_codes_are_text() -> None:
    shown_ = printed(Text(safe_text("[red]x[/red] :smile: https://a.b")), colours=True)
    assert shown_ == "[red]x[/red] :smile: https://a.b\n"


@given(st.lists(st.sampled_from(["a", "b ", "c\n", " "])), st.lists(st.sampled_from(["a", "b ", "c\n", " "])))
def test_a_word_diff_contains_the_new_text(before: list[str], after: list[str]) -> None:
    old, new = "".join(before), "".join(after)
    text = word_diff(old, new)
    kept = re.sub(r"\[-.*?-\]", "", text.plain)
    assert re.sub(r"\{\+(.*?)\+\}", r"\1", kept, flags=re.DOTALL) == new
    assert word_diff(new, new).plain == new


def test_without_a_terminal_lines_are_200_characters_wide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness_ext import terminal

    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(terminal.sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert terminal.console().width == 200

"""Prompts as files: exported, edited and given back, with their hash in the records."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
from compare_support import SEEDS, read, results
from hypothesis import given
from hypothesis import strategies as st
from support import instance, scripted_pair

from harness_ext.analysis.compare.runs import CompareError
from harness_ext.cli import main
from harness_ext.cli.prompts import chosen_prompts, write_prompts
from harness_ext.config.prompts import PromptOption, presets_of, prompts_hash, prompts_of, with_prompts
from harness_ext.config.run_options import RunOptions
from harness_ext.config.run_plan import RunPlan, plan_run
from harness_ext.errors import ConfigurationError
from harness_ext.models.feedback_pair import REFINE_USER, FeedbackPair, FeedbackPairLM
from harness_ext.options import PromptText, build, read_prompt
from harness_ext.protocol import Protocol

ROOT = Path(__file__).resolve().parent.parent
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
PROTOCOLS: dict[str, type[Protocol]] = {
    name: getattr(import_module(target.partition(":")[0]), target.partition(":")[2]).protocol
    for name, target in POINTS.items()
    if not name.startswith("harness_ext.")
}


def plan(**options: Any) -> RunPlan:
    student, teacher = scripted_pair(lambda prompt: "a", lambda prompt: "Correct.")
    return plan_run(FeedbackPair, {"student": student, "teacher": teacher, "store": "off", **options})


def problems_of(**options: Any) -> str:
    with pytest.raises(ConfigurationError) as raised:
        plan(**options)
    return str(raised.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert main(["prompts", "feedback_pair", "-o", str(tmp_path / "my")]) == 0
    return tmp_path / "my"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_prompts_of_every_protocol_can_be_exported_and_given_back(tmp_path: Path, name: str) -> None:
    protocol = PROTOCOLS[name]
    write_prompts(chosen_prompts(protocol, None)[0], tmp_path / "my")
    problems: list[str] = []
    given = with_prompts({"prompts": str(tmp_path / "my")}, protocol, problems)
    for cls in (protocol, RunOptions):
        declared = {n: v for n, v in vars(cls()).items() if isinstance(v, PromptText)}
        read = {n: v for n, v in vars(build(cls, given, problems)).items() if isinstance(v, PromptText)}
        assert read == declared
        assert declared.keys() <= given.keys()
    assert problems == []
    assert [option.name for option in prompts_of(protocol).values() if not option.purpose] == []


PRESETS = [(name, preset) for name, protocol in PROTOCOLS.items() for preset in presets_of(protocol)]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_presets_fit_their_protocols(name: str, preset: str) -> None:
    files, digest = chosen_prompts(PROTOCOLS[name], f"preset:{preset}")
    defaults, plain = chosen_prompts(PROTOCOLS[name], None)
    assert digest != plain
    given = with_prompts({"prompts": f"preset:{preset}"}, PROTOCOLS[name], [])
    changed = {n for n in files if files[n] != defaults[n]}
    assert changed == given.keys() - {"prompts"}, "each file of a preset replaces a prompt"


def test_there_are_presets() -> None:
    assert {("feedback_pair", "base"), ("feedback_pair", "system0"), ("self_refine", "base")} <= set(PRESETS)


def test_edited_prompts_are_used(folder: Path, tmp_path: Path) -> None:
    (folder / "review_user.txt").write_text("Task: {task}\nAnswer: {draft}\n")
    (folder / "refine_user.txt").write_text("---\nprompt: refine_user\nanything\n---\nAgain: {review}\n\n{demand}\n")
    (folder / "closing.txt").write_text("So it is")
    (folder / "hint_user.txt").unlink()
    (tmp_path / "single").write_text("Once more: {review}")
    found = plan(prompts=str(folder))
    assert isinstance(found.protocol, FeedbackPair)
    assert found.protocol.review_user == "Task: {task}\nAnswer: {draft}"
    assert found.protocol.refine_user == "Again: {review}\n\n{demand}"
    assert found.protocol.hint_user == FeedbackPair().hint_user
    assert found.options.closing == "So it is"
    single = plan(prompts=str(folder), refine_user=str(tmp_path / "single")).protocol
    assert isinstance(single, FeedbackPair)
    assert single.refine_user == "Once more: {review}", "a prompt that is given by itself wins"
    assert single.review_user == "Task: {task}\nAnswer: {draft}"


def test_all_problems_of_a_folder_are_named(folder: Path) -> None:
    (folder / "review_user.txt").write_text("Answer: {draf}")
    (folder / "refine_user.txt").write_bytes(b"\xff")
    message = problems_of(prompts=str(folder))
    assert "a prompt with {draft}, {task}, which the file" in message
    assert "no {draf} in the file" in message
    assert "did you mean `{draft}`?" in message
    assert (
        "the fields of this prompt are {draft}, {task}; write other text in braces with a space, `{ draf }`" in message
    )
    assert "readable UTF-8" in message


def test_what_is_no_prompt_is_named(folder: Path) -> None:
    (folder / "reveiw_user.txt").write_text("x")
    (folder / "notes.md").write_text("x")
    (folder / ".hidden").write_text("x")
    (folder / "more").mkdir()
    message = problems_of(prompts=str(folder), max_round=3)
    assert "`reveiw_user.txt` (did you mean `review_user.txt`?)" in message
    assert "`more`" in message
    assert "`notes.md`" in message
    assert ".hidden" not in message
    assert "did you mean `max_rounds`?" in message


def test_folders_and_presets_that_do_not_exist_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "the folder contains no prompts; they are" in problems_of(prompts=str(tmp_path / "empty"))
    assert "expected a folder with a file for each prompt" in problems_of(prompts=str(tmp_path / "none"))
    assert "no preset `bse` (did you mean `base`?): its presets are base, system0" in problems_of(prompts="preset:bse")
    assert "no preset `../base`" in problems_of(prompts="preset:../base")
    assert "expected a folder, or `preset:<name>`" in problems_of(prompts="")
    for number in range(99):
        (tmp_path / "empty" / f"{number}").write_text("")
    assert "and 94 more, which is no prompt" in problems_of(prompts=str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\ufeffone\ntwo\n\n", "one\ntwo"),
        ("one\r\ntwo\r\n", "one\ntwo"),
        ("\ufeff---\r\nprompt: x\r\nfields: none\r\n---\r\none", "one"),
        ("---\nprompt: x\n---\n", ""),
        ("---\nprompt: x\n---\n---\nprompt: y\n---\ntext", "---\nprompt: y\n---\ntext"),
        ("---\ntitle: x\n---\ntext", "---\ntitle: x\n---\ntext"),
        ("---\nprompt: x\nno end", "---\nprompt: x\nno end"),
        ("a\n---\nprompt: x\n---\n", "a\n---\nprompt: x\n---"),
    ],
)
def test_headers_and_what_only_looks_like_them(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "file").write_bytes(content.encode())
    assert read_prompt(tmp_path / "file", None) == text


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")).map(lambda t: t.rstrip("\n")))
def test_any_text_comes_back(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(PromptOption("any", "anything", None).as_file(text), encoding="utf-8")
    assert read_prompt(path, None) == text


@pytest.mark.parametrize("formula", [r"\boxed{answer}", r"\frac{a}{b}", "x^{n}", "x_{i}", '{"a": 1}', "{ a }", "{}"])
def test_braces_of_formulas_are_no_fields(tmp_path: Path, formula: str) -> None:
    (tmp_path / "file").write_text(f"{{review}} {formula}")
    assert read_prompt(tmp_path / "file", REFINE_USER) == f"{{review}} {formula}"


@dataclass(frozen=True)
class Old(FeedbackPair):
    """Options as they can be declared without `prompt`.

    first: the first prompt, which has a purpose of
        two lines. Default in the code.
    second, third: not described alone.
    """

    first: PromptText = field(default_factory=lambda: PromptText("{task}"))
    second: PromptText | None = None

    roles: ClassVar[Any] = {}


def test_prompts_that_are_described_in_a_docstring_are_found() -> None:
    found = prompts_of(Old)
    assert found["first"] == PromptOption(
        "first", "the first prompt, which has a purpose of two lines. Default in the code", PromptText("{task}")
    )
    assert found["second"].text is None
    assert found["review_user"].purpose == "asks for a review"
    assert "second" not in chosen_prompts(Old, None)[0]


def test_the_hash_is_recorded_and_other_prompts_are_another_evaluation(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(name: str, **options: Any) -> dict[str, Any]:
        student, teacher = scripted_pair(lambda prompt: "a", lambda prompt: "Correct.")
        lm = FeedbackPairLM(
            student=student, teacher=teacher, store="off", run_dir=tmp_path / name, progress="off", **options
        )
        lm.generate_until([instance("q")])
        return {**json.loads((tmp_path / name / "config.json").read_text()), "info": lm.get_model_info()["harness_ext"]}

    plain, same = run("plain"), run("same", prompts=str(folder))
    assert plain["identity"] == same["identity"], "unchanged prompts are the same evaluation"
    assert plain["prompts"] == same["prompts"] == prompts_hash(FeedbackPair(), RunOptions()) == plain["info"]["prompts"]
    (folder / "refine_user.txt").write_text("Again: {review}")
    other = run("other", prompts=str(folder))
    assert other["prompts"] != plain["prompts"]
    assert other["identity"] != plain["identity"]
    capsys.readouterr()
    assert main(["prompts", "feedback_pair", "--prompts", str(folder)]) == 0
    assert f"with the hash {other['prompts']}" in capsys.readouterr().err
    with pytest.raises(Exception, match="other"):
        run("plain", prompts=str(folder))


def test_results_with_other_prompts_are_no_repeats(tmp_path: Path) -> None:
    """The arguments in lm-eval's results name only the folder, whose files may have changed between two runs."""
    for seed, digest in enumerate("aab"):
        path = results(tmp_path / str(seed), "m", {"t": [1, 0]}, seeds={**SEEDS, "torch_seed": seed})
        content = json.loads(path.read_text())
        content["config"] |= {"model_args": {"prompts": "my"}, "harness_ext": {"prompts": digest, "run": "none"}}
        path.write_text(json.dumps(content))
    (run,) = read(f"m={tmp_path / '0'}", f"m={tmp_path / '1'}")
    assert len(run.sources) == 2
    with pytest.raises(CompareError, match="different models or settings"):
        read(f"m={tmp_path / '0'}", f"m={tmp_path / '2'}")


def test_a_protocol_in_a_seat_has_prompts_of_its_own(tmp_path: Path) -> None:
    def inner(text: str) -> RunPlan:
        (tmp_path / "look_user.txt").write_text(text)
        student, teacher = scripted_pair(lambda prompt: "a", lambda prompt: "Correct.")
        seats = {"student": "protocol:second_look", "student.student": student, "teacher": teacher}
        return plan_run(FeedbackPair, {**seats, "student.prompts": str(tmp_path)})

    one, other = inner("Look."), inner("Look again.")
    assert one.prompts_hash != other.prompts_hash
    assert one.seats["student"].identity != other.seats["student"].identity
    with pytest.raises(ConfigurationError, match=r"`student.look_user=.*no \{what\} in the file"):
        inner("Look {what}.")
    (tmp_path / "reason_user.txt").write_text(prompts_of(FeedbackPair)["reason_user"].as_file(RunOptions().reason_user))
    inner("Look.")  # as `harness-ext prompts` wrote it
    (tmp_path / "reason_user.txt").write_text("Think.")
    with pytest.raises(ConfigurationError, match=r"`student.prompts=.*`reason_user.txt` is a prompt of the whole run"):
        inner("Look.")


def test_the_command_prints_what_it_would_write(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["prompts", "feedback_pair"]) == 0
    printed = capsys.readouterr().out
    assert printed == "\n".join((folder / f"{name}.txt").read_text() for name in prompts_of(FeedbackPair))
    assert "---\nprompt: review_user\npurpose: asks for a review\nfields: {draft}, {task}\n---\n" in printed


def test_the_command_refuses_and_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    assert main(["prompts", "feedback_pair", "-o", str(folder)]) == 2
    assert "exists: remove it, or name another folder" in capsys.readouterr().err
    assert main(["prompts", "feedbck_pair", "-o", str(folder.parent / "new")]) == 2
    assert "no protocol `feedbck_pair` (did you mean `feedback_pair`?)" in capsys.readouterr().err
    (folder / "refine_user.txt").write_text("no field")
    assert main(["prompts", "feedback_pair", "--prompts", str(folder), "-o", str(folder.parent / "new")]) == 2
    assert "expected a prompt with {review}" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
    assert sorted(folder.parent.iterdir()) == [folder]

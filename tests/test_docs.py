"""The pages say what the code does: links, options, files and commands named in them exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harness_ext.arguments import RunOptions, SeatOptions, flatten
from harness_ext.models.debate import Debate
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.models.self_consistency import SelfConsistency
from harness_ext.models.speculative_pair import SpeculativePair
from harness_ext.options import known_names
from harness_ext.protocol import Protocol

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_commands_name_exist(page: Path) -> None:
    named = re.findall(r"(?:python|bash) ((?:benchmarks|finetune|enhance|docs)/[\w/.-]+)", page.read_text())
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_every_page_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"docs/{p.name}" not in readme] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for t in targets)


def options_in(page: str) -> set[str]:
    """Return the names in the first column of a page's tables."""
    cells = re.findall(r"^\| (`.*?) (?<!\\)\|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_all_options_and_no_others_are_described() -> None:
    options = {*known_names(RunOptions), *known_names(FeedbackPair)}
    models = {"--model", "baseline", "skyline", "feedback_pair", "speculative_pair", "debate", "self_consistency"}
    assert options_in("protocols.md") - models == options


@pytest.mark.parametrize(
    ("page", "protocol"),
    [("debate.md", Debate), ("self-consistency.md", SelfConsistency), ("speculative.md", SpeculativePair)],
)
def test_options_of_a_protocol_and_their_defaults_are_described(page: str, protocol: type[Protocol]) -> None:
    assert set(known_names(protocol)) - options_in(page) == set()
    text = (ROOT / "docs" / page).read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", text, re.MULTILINE))
    declared = {n: str(v) for n, v in vars(protocol()).items() if n in rows and v is not None}
    assert {n: rows[n].strip() for n in declared} == declared


def test_all_seat_options_are_described() -> None:
    described = " ".join(options_in("seats.md"))
    assert [name for name in known_names(SeatOptions) if f"<seat>.{name}" not in described] == []


def test_defaults_are_described_as_they_are() -> None:
    text = (ROOT / "docs" / "protocols.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", text, re.MULTILINE)
    defaults = {**vars(RunOptions()), **vars(FeedbackPair())}
    wrong = {n: d for n, d in rows if n in defaults and defaults[n] is not None and str(defaults[n]) != d.strip()}
    assert {n: d for n, d in wrong.items() if d.strip() != "in the code"} == {}


def test_the_nested_form_means_the_dotted_one() -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "seats.md").read_text(), re.DOTALL)
    assert block is not None
    arguments = flatten(yaml.safe_load(block[1])["model_args"])
    assert arguments["teacher.dtype"] == "bfloat16"
    assert arguments["teacher.model"] == "hf:Qwen/Qwen2.5-7B-Instruct"

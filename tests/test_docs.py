"""The documentation matches the code: the links, options, files and commands that it names exist."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import yaml
from page import pages as benchmark_pages

from harness_ext.config.levels import flatten
from harness_ext.config.run_options import RunOptions, SeatOptions
from harness_ext.config.run_plan import plan_run
from harness_ext.data import DataError, load_files
from harness_ext.embedded import model_path
from harness_ext.errors import ConfigurationError
from harness_ext.models.best_of_n import BestOfN
from harness_ext.models.cascade import Cascade
from harness_ext.models.chain_of_verification import ChainOfVerification
from harness_ext.models.debate import Debate
from harness_ext.models.equal_budget import EqualBudget
from harness_ext.models.feedback_pair import FeedbackPair
from harness_ext.models.lookahead import Lookahead
from harness_ext.models.mixture_of_agents import MixtureOfAgents
from harness_ext.models.second_look import SecondLook
from harness_ext.models.self_consistency import SelfConsistency
from harness_ext.models.self_refine import SelfRefine
from harness_ext.models.speculative_cot import SpeculativeCot
from harness_ext.models.speculative_pair import SpeculativePair
from harness_ext.options import known_names
from harness_ext.protocol import Protocol

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
SOURCES = ("harness_ext", "models", "tasks", "enhance", "finetune")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its code: neither blocks nor code in a line contain links or headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"(?<!`)`[^`\n]+`(?!`)", lambda code: "" if "](" in code[0] else code[0], text)


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """Yield the relative links of a page, as the file that each leads to and its anchor (or an empty string)."""
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        base = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        repeats = (f"{base}-{number}" for number in count(1))
        found.add(base if base not in found else next(anchor for anchor in repeats if anchor not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_have_a_target(page: Path) -> None:
    assert [name_of(target) for target, _ in links(page) if not target.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_anchors_of_links_exist(page: Path) -> None:
    anchored = [(target, anchor) for target, anchor in links(page) if anchor]
    assert [f"{name_of(target)}#{anchor}" for target, anchor in anchored if anchor not in anchors(target)] == []


def test_links_to_missing_anchors_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `title`, twice\n# A title twice\n[yes](#a-title-twice-1) [no](#a-title) `[code](#none)`\n")
    assert anchors(page) == {"a-title-twice", "a-title-twice-1"}
    assert list(links(page)) == [(page, "a-title-twice-1"), (page, "a-title")]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_in_commands_exist(page: Path) -> None:
    named = re.findall(r"(?:python|bash) ((?:benchmarks|finetune|enhance|docs)/[\w/.-]+)", page.read_text())
    assert [n for n in named if not (ROOT / n).exists()] == []


def test_lists_of_lm_eval_that_are_named_exist() -> None:
    from lm_eval._cli.harness import HarnessCLI

    parser = HarnessCLI()._parser
    sources = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    named = {
        (name_of(path), what)
        for path in [*PAGES, *sources]
        for what in re.findall(r"\blm[-_]eval ls (\w+)", path.read_text(encoding="utf-8"))
    }
    assert named, "some page says how to list tasks"
    for file, what in sorted(named):
        try:
            parser.parse_args(["ls", what])
        except SystemExit:
            pytest.fail(f"{file}: there is no `lm_eval ls {what}`")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_a_page_names_exist(page: Path) -> None:
    named = re.findall(r"`((?:harness_ext|models|tasks|enhance|finetune|benchmarks|tests)/[\w./-]*)`", prose(page))
    assert [n for n in named if not (ROOT / n).exists() and not n.startswith("harness_ext_runs")] == []


def test_every_page_is_reachable_from_the_index() -> None:
    found, waiting = set[Path](), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page not in found and page.suffix == ".md" and DOCS in page.parents:
            found.add(page)
            waiting += [target for target, _ in links(page)]
    assert [name_of(page) for page in DOCS.rglob("*.md") if page not in found] == []
    assert DOCS / "index.md" in {target for target, _ in links(ROOT / "README.md")}


def test_generated_pages_are_up_to_date() -> None:
    generated = benchmark_pages()
    assert [name_of(path) for path, text in generated.items() if path.read_text(encoding="utf-8") != text] == []
    assert set((DOCS / "benchmarks").iterdir()) <= set(generated)


def test_the_picture_of_the_architecture_has_the_layers_that_are_checked() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = re.findall(r"\w+", " ".join(layer for layer in contract["layers"] if layer != "__main__"))
    names = re.findall(r"^ *\| ([\w, ]*?)  +", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    assert re.findall(r"\w+", " ".join(names)) == layers


def test_the_file_of_each_protocol_is_as_short_as_the_page_says() -> None:
    """Prompts are counted. What a protocol imports may be longer, and has to be listed on the page."""
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["lm_eval.models"]
    modules = {point.partition(":")[0].removeprefix("harness_ext.") for point in points.values()}
    files = [ROOT / f"{module.replace('.', '/')}.py" for module in modules]
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    allowed = re.search(r"has at most (\d+) lines", page)
    assert allowed is not None
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > int(allowed[1])} == {}
    shared = {path for path in (ROOT / "models").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    listed = re.findall(r"^\| `([\w.]+)/?` \|", page.partition("## The file of a protocol")[2], re.MULTILINE)
    assert {path.name for path in shared.difference(files)} - {"__init__.py"} == {*listed}


def message_templates() -> list[str]:
    """Return all texts of the code, values that are filled in as `\0`, on one line."""
    found = []
    for path in (path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub("%[sd]", "\0", node.value))
    return [" ".join(text.split()) for text in found]


def blocks_of_text(page: str) -> list[str]:
    return re.findall(r"```text\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_messages_are_quoted_as_the_code_has_them() -> None:
    """A quoted message is made of texts of the code; `<…>` and `…` stand for what is filled in."""
    templates, wrong = message_templates(), []
    lines = "".join(blocks_of_text("troubleshooting.md")).splitlines()
    for line in lines:
        parts = [" ".join(part.split()) for part in re.split(r"<[^<>]*>|…", line)]
        telling = [part for part in parts if len(part) > 12]
        if not telling or not all(any(part in text for text in templates) for part in telling):
            wrong.append(line)
    assert len(lines) > 40
    assert wrong == []


def test_the_example_of_wrong_arguments_is_what_a_user_sees() -> None:
    (example,) = blocks_of_text("your-models.md")
    with pytest.raises(ConfigurationError) as raised:
        plan_run(FeedbackPair, {"student": str(model_path("student")), "max_round": 3})
    parts = [re.escape(part.strip()) for part in re.split("…", example)]
    assert re.fullmatch(".*".join(parts), str(raised.value), re.DOTALL), str(raised.value)


def test_the_example_of_wrong_rows_is_what_a_user_sees(tmp_path: Path) -> None:
    (example,) = blocks_of_text("new-task.md")
    rows = tmp_path / "capitals.jsonl"
    rows.write_text('{"question": "What?", "answer": "Paris"}\n{"question": "What?", "anser": "Lima"}\n')
    with pytest.raises(DataError) as raised:
        load_files({"test": rows}, {"question": str, "answer": str})
    assert str(raised.value).replace(str(tmp_path), "/data") == example.strip()


def test_make_targets_of_the_readme_exist() -> None:
    targets = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{t}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for t in targets)


def options_in(page: str) -> set[str]:
    """Return the names in the first column of the tables of a page."""
    cells = re.findall(r"^\| (`.*?) (?<!\\)\|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_exactly_the_existing_options_are_described() -> None:
    options = {*known_names(RunOptions), *known_names(FeedbackPair)}
    models = {"--model", "baseline", "skyline", "feedback_pair", "speculative_pair", "debate", "self_consistency"}
    models |= {"decision", "second_look", "self_refine", "chain_of_verification", "best_of_n", "mixture_of_agents"}
    models |= {"cascade", "speculative_cot", "lookahead", "equal_budget"}
    assert options_in("protocols.md") - models == options


@pytest.mark.parametrize(
    ("page", "protocol"),
    [
        ("debate.md", Debate),
        ("self-consistency.md", SelfConsistency),
        ("second-look.md", SecondLook),
        ("self-refine.md", SelfRefine),
        ("chain-of-verification.md", ChainOfVerification),
        ("best-of-n.md", BestOfN),
        ("mixture-of-agents.md", MixtureOfAgents),
        ("cascade.md", Cascade),
        ("speculative-cot.md", SpeculativeCot),
        ("lookahead.md", Lookahead),
        ("equal-budget.md", EqualBudget),
        ("speculative.md", SpeculativePair),
    ],
)
def test_options_of_a_protocol_and_their_defaults_are_described(page: str, protocol: type[Protocol]) -> None:
    assert set(known_names(protocol)) - options_in(page) == set()
    text = (ROOT / "docs" / page).read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", text, re.MULTILINE))
    rows = {name: default for name, default in rows.items() if default.strip() != "in the code"}
    declared = {n: str(v) for n, v in vars(protocol()).items() if n in rows and v is not None}
    assert {n: rows[n].strip() for n in declared} == declared


def test_all_seat_options_are_described() -> None:
    described = " ".join(options_in("seats.md"))
    assert [name for name in known_names(SeatOptions) if f"<seat>.{name}" not in described] == []


def test_described_defaults_are_correct() -> None:
    text = (ROOT / "docs" / "protocols.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", text, re.MULTILINE)
    defaults = {**vars(RunOptions()), **vars(FeedbackPair())}
    wrong = {n: d for n, d in rows if n in defaults and defaults[n] is not None and str(defaults[n]) != d.strip()}
    assert {n: d for n, d in wrong.items() if d.strip() != "in the code"} == {}


def test_the_nested_form_is_equivalent_to_the_dotted_one() -> None:
    block = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "seats.md").read_text(), re.DOTALL)
    assert block is not None
    arguments = flatten(yaml.safe_load(block[1])["model_args"])
    assert arguments["teacher.dtype"] == "bfloat16"
    assert arguments["teacher.model"] == "hf:Qwen/Qwen2.5-7B-Instruct"

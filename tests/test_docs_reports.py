"""The pages on `score`, `compare` and `show` describe exactly the options of these commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness_ext.analysis.compare.command import main as compare
from harness_ext.analysis.scoring.command import main as score
from harness_ext.analysis.show import main as show

DOCS = Path(__file__).resolve().parent.parent / "docs"


@pytest.mark.parametrize(
    ("command", "page", "elsewhere"), [(score, "score", ()), (compare, "compare", ("score",)), (show, "show", ())]
)
def test_options(
    command: Callable[[list[str]], int], page: str, elsewhere: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command(["--help"])
    offered = set(re.findall(r"--[a-z_]+", capsys.readouterr().out)) - {"--help"}
    rows = {name: _options(DOCS / f"{name}.md") for name in (page, *elsewhere)}
    assert rows[page] <= offered
    assert offered <= set().union(*rows.values())


def _options(page: Path) -> set[str]:
    """Return the options in the first column of the tables of a page."""
    cells = re.findall(r"^\| (`--.*?`) (?<!\\)\|", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {option for cell in cells for option in re.findall(r"--[a-z_]+", cell)}

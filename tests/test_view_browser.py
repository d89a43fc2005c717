"""`harness-ext view` in a real browser: a page follows its run, and asks nobody but its own server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_support import Visit, chromium, needs_browser, visited
from report_support import ATTACKS, finish, verdict
from scored_runs import said, transcript, write_run
from view_support import served

from harness_ext.analysis.view.viewer import Viewer
from harness_ext.records.run_directory import RunDirectory
from harness_ext.terminal import safe_text

pytest.importorskip("plotly", reason="needs the extra `report`")
pytestmark = needs_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    with served(folder) as found:
        yield found


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    yield from visited(browser, "light", address)


def test_a_page_follows_its_run_from_the_first_answer_to_the_last(visit: Visit, address: str, folder: Path) -> None:
    visit.page.goto(address)
    assert "There are no runs in" in visit.page.locator("main").inner_text()
    run = RunDirectory(folder / "run", {"label": "live", "started": "2026-01-01T00:00:00+0000", "identity": {}})
    run.add(transcript(0, said("student", "draft", "0")))
    visit.page.get_by_role("link", name="live").click()  # it appears by itself
    visit.page.wait_for_selector("html[data-ready=yes]")
    visit.until("document.getElementById('live').textContent === 'going on, 1 question'")
    assert visit.page.locator("#rows tr").count() == 1
    assert visit.page.locator("#rounds").count() == 0
    visit.draw_all()

    # The reader has filtered, unfolded and opened something; all of it stays.
    visit.page.select_option("#filter-is-1", "right")
    visit.page.locator("#method summary").first.click()
    changed = transcript(1, said("student", "draft", "x"), verdict(0.2), said("student", "refine", "2"))
    run.add(changed)
    run.add(transcript(2, said("student", "draft", ATTACKS[0])))
    visit.until("document.getElementById('found').textContent === '2 of 3 questions'")
    assert visit.page.locator("#filter-is-1").input_value() == "right"
    assert visit.page.locator("#method details").first.get_attribute("open") is not None
    visit.page.wait_for_selector("#chart-rounds")  # a new part of the page
    assert visit.page.locator("#parts a", has_text="Rounds").count() == 1
    assert "3 questions of sums" in visit.page.locator("#about-runs").inner_text()
    visit.draw_all()

    # An open question stays the one that it is, although others now come before it.
    visit.page.get_by_role("link", name="sums 1").click()
    visit.until("document.title === 'sums, document 1'")
    visit.page.locator("#question h2").evaluate("(one) => { one.dataset.mine = 'yes'; }")
    run.add(transcript(3, said("student", "draft", "6")))
    visit.until("document.getElementById('live').textContent === 'going on, 4 questions'")
    visit.until("state.table.rows.length === 4")
    assert visit.page.locator("#question h2").get_attribute("data-mine") == "yes"  # nor was it drawn anew
    visit.page.keyboard.press("Escape")
    visit.until("document.getElementById('found').textContent === '3 of 4 questions'")

    run.close()
    del run
    finish(folder / "run", changed)
    visit.until("document.getElementById('live').textContent.startsWith('finished')")
    visit.page.goto(f"{visit.page.url.split('#')[0]}#q/sums/2")
    visit.until(f"document.querySelector('.turn .said')?.textContent === {safe_text(ATTACKS[0])!r}")
    assert visit.page.evaluate("window.hacked") is None


def test_a_choice_in_the_list_outlives_its_renewal_and_leads_to_a_comparison(
    visit: Visit, address: str, folder: Path
) -> None:
    for name in ("a", "b", "c"):
        one = transcript(0, said("student", "draft", "0"))
        finish(write_run(folder / name, one, label=name), one)
    visit.page.goto(address)
    visit.page.get_by_label("compare a").check()
    visit.page.get_by_label("compare c").check()
    one = transcript(0, said("student", "draft", "0"))
    finish(write_run(folder / "d", one, label="d"), one)
    visit.page.wait_for_selector("text=4 runs, 0 suites")
    visit.page.get_by_role("button", name="Show the chosen runs").click()
    visit.page.wait_for_selector("html[data-ready=yes]")
    assert sorted(visit.page.locator("th.run").all_inner_texts()) == ["a", "c"]
    visit.page.get_by_role("link", name="← all runs").click()
    visit.page.wait_for_selector("text=4 runs, 0 suites")


def test_what_the_server_cannot_make_now_is_asked_for_again(
    visit: Visit, address: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = transcript(0, said("student", "draft", "0"))
    visit.page.goto(address)
    with monkeypatch.context() as patch:
        patch.setattr(Viewer, "_list", lambda self: 1 / 0)
        visit.page.wait_for_selector("text=The server could not make this page (500). It is asked again.")
    finish(write_run(folder / "run", one, label="live"), one)
    visit.page.get_by_role("link", name="live").click()
    visit.page.wait_for_selector("html[data-ready=yes]")
    (folder / "run").rename(folder.parent / "away")
    visit.until("document.getElementById('live').textContent.includes('(404). It is asked again.')")
    (folder.parent / "away").rename(folder / "run")
    visit.until("document.getElementById('live').textContent.startsWith('finished')")
    assert {text.rpartition(": ")[2][:30] for text in visit.complaints} == {"the server responded with a st"}
    visit.complaints.clear()


@pytest.mark.parametrize("place", ["list", "page"])
def test_the_list_and_a_page_have_no_serious_findings_of_axe(
    place: str, visit: Visit, address: str, folder: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    one = transcript(0, said("student", "draft", "0"))
    finish(write_run(folder / "a", one, label="a"), one)
    visit.page.goto(address)
    if place == "page":
        visit.page.get_by_role("link", name="a", exact=True).click()
        visit.page.wait_for_selector("html[data-ready=yes]")
    found = axe.Axe().run(visit.page)
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert not [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious]

"""The report in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_support import PATIENCE, Visit, chromium, needs_browser, visited
from report_support import ATTACKS, LABEL, write_report

from harness_ext.terminal import safe_line, safe_text

pytest.importorskip("plotly", reason="needs the extra `report`")
pytestmark = needs_browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(params=["light", "dark"])
def visit(request: pytest.FixtureRequest, browser: Any) -> Iterator[Visit]:
    yield from visited(browser, request.param)


@pytest.fixture
def light(browser: Any) -> Iterator[Visit]:
    yield from visited(browser, "light")


def rows(visit: Visit) -> list[str]:
    texts: list[str] = visit.page.locator("#rows th").all_inner_texts()
    return texts


def choose(visit: Visit, name: str, value: str) -> None:
    visit.page.select_option(f"#filter-{name}", value)


def test_every_chart_is_drawn_in_light_and_dark_and_without_serious_findings_of_axe(visit: Visit, report: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    visit.open(report)
    visit.draw_all()
    visit.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    places = {"report": ".report", "question": "#question .turn"}
    for place, selector in places.items():
        if place == "question":
            visit.page.locator("#rows a").first.click()
        visit.page.wait_for_selector(selector)
        found = axe.Axe().run(visit.page)
        serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
        assert not [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in serious], place


def test_colours_follow_the_system_and_the_readers_choice(visit: Visit, report: Path) -> None:
    visit.open(report)

    def background() -> int:
        text = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in text.removeprefix("rgb(").removesuffix(")").split(","))

    is_dark = visit.page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (background() < 380) is is_dark
    visit.page.select_option("#theme", "light" if is_dark else "dark")
    assert (background() < 380) is not is_dark


def test_filters_leave_what_they_name(light: Visit, report: Path) -> None:
    light.open(report)
    assert len(rows(light)) == 8
    choose(light, "run-1", "1")
    for condition, expected in (("up", [4]), ("down", [0]), ("wrong", [0, 5, 6, 7]), ("1", [6]), ("4", [7])):
        choose(light, "is-1", condition)
        light.until(f"document.querySelectorAll('#rows tr').length === {len(expected)}")
        assert rows(light) == [f"sums {number}" for number in expected]
    choose(light, "is-1", "right")
    choose(light, "run-2", "0")
    choose(light, "is-2", "wrong")
    light.until("document.getElementById('found').textContent.startsWith('1 of 8')")
    assert rows(light) == ["sums 4"]


def test_a_search_finds_what_was_asked_and_what_was_said(light: Visit, report: Path) -> None:
    light.open(report)
    light.page.keyboard.press("/")
    light.page.keyboard.type("6+6")
    light.until("document.querySelectorAll('#rows tr').length === 1")
    assert rows(light) == ["sums 6"]
    light.page.fill("#filter-text", "onerror=")
    light.until("document.querySelectorAll('#rows tr').length === 0")
    light.page.check("#filter-said")
    light.until("document.querySelectorAll('#rows tr').length === 1")
    assert rows(light) == ["sums 2"]


def test_a_link_opens_a_question_with_its_runs_and_keys_move_on(light: Visit, report: Path) -> None:
    light.open(report, "#q/sums/4?runs=pair,base")
    light.page.wait_for_selector("#question .turn")
    columns = light.page.locator(".columns > article > header h3")
    assert columns.all_inner_texts() == ["pair", "base"]  # as the link names them
    assert light.page.locator("ins").all_inner_texts() == ["8"]
    assert light.page.locator(".columns mark").first.inner_text() == "1"
    light.page.locator("fieldset input").first.uncheck()
    light.until("document.querySelectorAll('.columns > article').length === 1")
    assert light.page.url.endswith("#q/sums/4?runs=pair")
    light.page.locator("fieldset input").nth(1).uncheck()
    light.until("document.querySelectorAll('.columns > article').length === 0")
    assert light.page.locator("fieldset input:checked").count() == 0
    assert light.page.locator(".columns").inner_text() == "No run is chosen."
    light.page.locator("fieldset input").first.check()
    light.until("document.querySelectorAll('.columns > article').length === 1")
    light.page.keyboard.press("ArrowRight")
    light.until("document.title === 'sums, document 5'")
    light.page.keyboard.press("k")
    light.until("document.title === 'sums, document 4'")
    light.page.keyboard.press("Escape")
    light.page.wait_for_selector(".report", state="visible")
    assert light.page.locator("#question").is_hidden()


def test_a_question_is_copied_as_link_and_as_markdown(light: Visit, report: Path) -> None:
    light.open(report, "#q/sums/7?runs=base")
    light.page.get_by_role("button", name="copy link").click()
    light.until("document.getElementById('status').textContent === 'The link is copied.'")
    assert light.page.evaluate("navigator.clipboard.readText()") == f"{report.as_uri()}#q/sums/7?runs=base"
    light.open(report, f"#q/sums/7?runs={'x'},base")
    light.page.locator("fieldset input").nth(2).check()
    light.until("document.querySelectorAll('.columns > article').length === 2")
    light.page.get_by_role("button", name="copy as Markdown").click()
    light.until("document.getElementById('status').textContent.includes('Markdown')")
    text = light.page.evaluate("navigator.clipboard.readText()")
    assert f"`````text\n{ATTACKS[7]}\n`````" in text  # the fence is longer than any within


def test_hostile_texts_are_shown_as_they_are_and_do_nothing(light: Visit, report: Path) -> None:
    light.open(report)
    light.draw_all()
    for number, attack in enumerate(ATTACKS):
        light.page.goto(f"{report.as_uri()}#q/sums/{number}")
        light.until(f"document.title === 'sums, document {number}'")
        for box in range(light.page.locator("fieldset input").count()):
            light.page.locator("fieldset input").nth(box).set_checked(box == 2)
        first = ".columns > article:only-child .turn .said"
        light.until(f"document.querySelector('{first}')?.textContent === {json.dumps(safe_text(attack))}")
    assert light.page.locator(".columns h3").inner_text() == safe_line(LABEL)
    assert light.page.evaluate("window.hacked") is None
    assert light.page.locator("main img, main b").count() == 0


def test_a_folder_works_from_the_disk_and_loads_transcripts_when_they_are_opened(light: Visit, tmp_path: Path) -> None:
    index = write_report(tmp_path, "--split")
    light.open(index)
    light.draw_all()
    assert not [url for url in light.requests if "block-" in url]
    light.page.locator("#rows a").first.click()
    light.page.wait_for_selector("#question .turn")
    assert [url for url in light.requests if url.endswith("block-0.js")]


def test_a_phone_needs_no_sideways_scrolling(browser: Any, report: Path) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 740})
    context.set_default_timeout(PATIENCE)
    phone = Visit(context.new_page())
    for address in ("", "#q/sums/4"):
        phone.open(report, address)
        if not address:
            phone.draw_all()
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()

"""The report in a real browser: what no parser of HTML can tell."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from synthetic_results import compared, make_diagnosis, make_study

from aradals.report import write_report
from aradals.results.records import Cost

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium")
SIZES = {"screen": (1280, 900), "phone": (390, 800)}

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    shifts = [(name, severity) for name in ("fog", "snow") for severity in (1, 3, 5)]
    methods = {"vanilla": 1.0, **{f"a method with quite a long name {index}": 0.04 * index for index in range(21)}}
    many = make_study(
        methods=methods,
        calibrators=("none", "temperature", "conditional_temperature", "one_versus_rest"),
        shifts=shifts,
    )
    costs = tuple(Cost(method, 0, relative_cost=1.5) for method in methods)
    results = {
        "study": compared(make_study(shifts=shifts)),
        "diagnosis": make_diagnosis(),
        "many": replace(compared(many), costs=costs),
    }
    paths = {name: folder / f"{name}.html" for name in results}
    for name, path in paths.items():
        write_report(results[name], path)
    return paths


@pytest.fixture
def page(browser: Browser, reports: dict[str, Path]) -> Iterator[Page]:
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto(reports["study"].as_uri())
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("report", "size", "scheme"),
    [
        *(("study", size, scheme) for size in SIZES for scheme in ("light", "dark")),
        *((report, size, "light") for report in ("diagnosis", "many") for size in SIZES),
    ],
)
def test_quiet_complete_and_no_wider_than_the_screen(
    browser: Browser, reports: dict[str, Path], report: str, size: str, scheme: Any, tmp_path: Path
) -> None:
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(reports[report].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("details.section").count() > 3
    assert page.locator("details.section[open]").count() == 0
    unfold(page)
    assert messages == []
    assert [url for url in requests if not url.startswith("data:")] == [reports[report].as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = page.evaluate("[...document.querySelectorAll('.panel svg')].map(e => e.getBoundingClientRect().toJSON())")
    assert len(boxes) == page.locator("figure.panel").count() > 10
    assert all(box["width"] > 200 and box["height"] > 100 for box in boxes)
    # No label may be cut off: all of a figure's text lies inside it.
    outside = page.evaluate(
        """[...document.querySelectorAll('.panel svg text')].filter(text => {
            const [box, frame] = [text, text.closest('svg')].map(e => e.getBoundingClientRect());
            return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
        }).map(text => text.textContent)"""
    )
    assert outside == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(22, 22, 22)")
    page.screenshot(path=tmp_path / f"{report}-{size}-{scheme}.png", full_page=True)
    context.close()


def unfold(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.setAttribute('open', ''))")


def test_the_first_screen_has_the_verdict_and_the_figure(browser: Browser, reports: dict[str, Path]) -> None:
    for report in reports.values():
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        page.goto(report.as_uri())
        bottoms = page.evaluate(
            "[...document.querySelectorAll('.verdict dd')].map(e => e.getBoundingClientRect().bottom)"
        )
        assert len(bottoms) == 3
        assert max(bottoms) < 600
        top = page.locator("main > .panels svg").first.evaluate("element => element.getBoundingClientRect().top")
        assert top < 600
        assert page.locator("main > .scroll table").count() == 1
        page.close()


def test_links_open_the_sections_that_they_lead_to(page: Page) -> None:
    links = page.locator("nav a").all()
    assert len(links) == page.locator("details.section").count() == 8
    for link in links:
        section = page.locator(link.get_attribute("href") or "")
        assert section.locator("details.section").get_attribute("open") is None
        link.click()
        section.locator("details.section[open]").wait_for(timeout=2000)
        assert page.evaluate("element => element.getBoundingClientRect().top < innerHeight", section.element_handle())
    # Once more after it was folded by hand, and by an address with the anchor.
    links[0].click()
    page.locator("summary", has_text="Differences between methods").click()
    assert page.locator("#differences-between-methods details.section[open]").count() == 0
    links[0].click()
    page.locator("#differences-between-methods details.section[open]").wait_for(timeout=2000)


def test_an_address_with_an_anchor_opens_its_section(page: Page, reports: dict[str, Path]) -> None:
    page.goto("about:blank")
    page.goto(f"{reports['study'].as_uri()}#reliability")
    assert (
        page.locator("details.section[open]").count() == page.locator("#reliability details.section[open]").count() == 1
    )


def column(page: Page, index: int) -> list[str]:
    """What stands in a column of the main table, without the arrows of significant differences."""
    rows = "[...document.querySelector('table').tBodies[0].rows]"
    texts: list[str] = page.evaluate(f"{rows}.map(row => row.cells[{index}].firstChild.textContent)")
    return [text.rstrip(" ▲▼") for text in texts]


def test_tables_sort_by_number_and_by_name_with_the_keyboard_too(page: Page) -> None:
    assert page.locator("table").first.locator("td.better").count() > 5
    header = page.locator("table").first.locator("th button", has_text=re.compile("^ECE$"))
    header.focus()
    page.keyboard.press("Enter")
    up = [float(value) for value in column(page, 2)]
    assert up == sorted(up)
    assert len(set(up)) == len(up) == 8
    assert page.locator("table").first.locator("th[aria-sort=ascending]").inner_text() == "ECE"
    header.click()
    assert [float(value) for value in column(page, 2)] == sorted(up, reverse=True)
    page.locator("table").first.locator("th button", has_text="method").click()
    names = column(page, 0)
    assert names == sorted(names, key=str.lower)
    assert page.locator("table").first.locator("th[aria-sort=ascending]").count() == 1


def test_numbers_appear_on_hover_and_by_arrow_keys(page: Page) -> None:
    tip = page.locator("#tip")
    assert not tip.is_visible()
    unfold(page)
    svg = page.locator("[data-name=subsets-vanilla] svg")
    svg.scroll_into_view_if_needed()
    page.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )  # scrolling hides tips
    mark = svg.locator("[data-tip]").first
    box = mark.bounding_box()
    assert box
    page.mouse.move(box["x"] + box["width"] / 2 + 4, box["y"] + box["height"] / 2 + 4)
    assert tip.is_visible()
    assert tip.inner_text() == mark.get_attribute("data-tip")
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    svg.focus()
    tips = []
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        tips.append(tip.inner_text())
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text() == tips[1]
    assert [text[:9] for text in tips] == ["subset 0:", "subset 1:", "subset 2:"]
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def downloaded(page: Page, name: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return download.value.path().read_text(encoding="utf-8")


def test_figures_are_downloaded_as_svg_that_needs_no_style_sheet(page: Page) -> None:
    page.emulate_media(color_scheme="dark")
    unfold(page)
    svg = downloaded(page, "download the figure reliability-vanilla as SVG")
    root = ElementTree.fromstring(svg)
    assert root.attrib["width"] == "360"
    assert "var(" not in svg
    assert not any(name in element.attrib for element in root.iter() for name in ("class", "data-tip"))
    texts = [element for element in root.iter() if element.tag.endswith("text")]
    assert {element.attrib["fill"] for element in texts} == {"rgb(27, 27, 27)"}  # dark on white paper
    assert page.evaluate("document.documentElement.dataset.theme") is None


def test_values_are_downloaded_and_shown_as_a_table(page: Page) -> None:
    unfold(page)
    table = list(csv.reader(downloaded(page, "download the values of subsets-vanilla as CSV").splitlines()))
    assert table[0][:3] == ["subset", "confidence", "confidence_low"]
    assert len(table) == 11
    panel = page.locator("[data-name=subsets-vanilla]")
    toggle = panel.get_by_role("button", name="show the values")
    toggle.click()
    assert toggle.get_attribute("aria-expanded") == "true"
    cells = panel.locator("tbody tr").nth(3).locator("td").all_inner_texts()
    assert cells == table[4]
    toggle.click()
    assert panel.locator("table").count() == 0
    numbers = downloaded(page, "download the table methods, n = 8,000 as CSV")
    assert numbers.startswith("method,accuracy %,ECE,noise floor,")
    assert "\nvanilla,80.0 (79." in numbers


def test_everything_with_a_function_has_a_name(page: Page) -> None:
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, svg, img, [role=region], nav, a')].filter(element =>
            !(element.getAttribute('aria-label') || element.alt || element.textContent.trim())).length"""
    )
    assert unnamed == 0
    assert page.locator("h1").count() == 1
    assert page.locator("html[lang=en]").count() == 1


def test_it_prints_on_white_without_buttons(page: Page) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".tools").first.is_visible()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#all-numbers table").first.is_visible()
    assert page.locator("details.section[open]").count() == page.locator("details.section").count()
    assert len(page.pdf()) > 10_000

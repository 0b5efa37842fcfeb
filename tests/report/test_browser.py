"""The report in a real browser: what no parser of HTML can tell."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pytest
from synthetic_results import make_comparisons, make_diagnosis, make_study

from aradals.report import write_report

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
    study = make_study(shifts=[(name, severity) for name in ("fog", "snow") for severity in (1, 3, 5)])
    study["comparisons"] = make_comparisons(study)
    paths = {name: folder / f"{name}.html" for name in ("study", "diagnosis")}
    write_report(study, paths["study"])
    write_report(make_diagnosis(), paths["diagnosis"])
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
        *(("diagnosis", size, "light") for size in SIZES),
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
    for summary in page.locator("summary").all():
        if summary.locator("..").get_attribute("open") is None:
            summary.click()
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


def first_column(page: Page, index: int) -> list[str]:
    rows = "[...document.querySelector('table').tBodies[0].rows]"
    texts: list[str] = page.evaluate(f"{rows}.map(row => row.cells[{index}].firstChild.textContent)")
    return texts


def test_tables_sort_by_number_and_by_name_with_the_keyboard_too(page: Page) -> None:
    header = page.locator("table").first.locator("th button", has_text="ECE")
    header.focus()
    page.keyboard.press("Enter")
    up = [float(value) for value in first_column(page, 1)]
    assert up == sorted(up)
    assert page.locator("table").first.locator("th[aria-sort=ascending]").inner_text() == "ECE"
    header.click()
    assert [float(value) for value in first_column(page, 1)] == sorted(up, reverse=True)
    page.locator("table").first.locator("th button", has_text="method").click()
    names = first_column(page, 0)
    assert names == sorted(names, key=str.lower)
    assert page.locator("table").first.locator("th[aria-sort=ascending]").count() == 1


def test_numbers_appear_on_hover_and_by_arrow_keys(page: Page) -> None:
    tip = page.locator("#tip")
    assert not tip.is_visible()
    svg = page.locator("[data-name=subsets-vanilla] svg")
    svg.scroll_into_view_if_needed()
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
    svg = downloaded(page, "download the figure reliability-vanilla as SVG")
    root = ElementTree.fromstring(svg)
    assert root.attrib["width"] == "360"
    assert "var(" not in svg
    assert not any(name in element.attrib for element in root.iter() for name in ("class", "data-tip"))
    texts = [element for element in root.iter() if element.tag.endswith("text")]
    assert {element.attrib["fill"] for element in texts} == {"rgb(27, 27, 27)"}  # dark on white paper
    assert page.evaluate("document.documentElement.dataset.theme") is None


def test_values_are_downloaded_and_shown_as_a_table(page: Page) -> None:
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
    numbers = downloaded(page, "download the table clean, n = 8,000 as CSV")
    assert numbers.startswith("method,ECE,noise floor,")
    assert "vanilla,0." in numbers


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
    assert len(page.pdf()) > 10_000

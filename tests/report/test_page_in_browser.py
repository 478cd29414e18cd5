"""The report page in a real browser: no error, no request, usable by mouse and keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from samples import CRASHED, FAILED, FAST, SLOW, ranked

from toolkit.report.page import render_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs chromium", allow_module_level=True)

pytestmark = pytest.mark.slow

WIDTHS = (360, 768, 1440)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = ranked(FAST, SLOW, too_close=True)
    results = replace(
        results,
        parity=(*results.parity, replace(CRASHED, stderr_tail="boom " * 99)),
        command="toolkit run --quick",
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page(results), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def view(browser: Any, page_file: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    yield page
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_page_opens_without_error_request_or_sideways_scrolling(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    drawn = page.evaluate(
        "[...document.querySelectorAll('.chart svg')].map(s => s.querySelectorAll('path').length)"
    )
    assert len(drawn) == 4
    assert min(drawn) > 2
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, page_file: Path, scheme: str) -> None:
    axe = pytest.importorskip(
        "axe_core_python.sync_playwright", reason="needs the package axe-core-python"
    )
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    found = axe.Axe().run(page)["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    context.close()


def names(view: Any) -> list[str]:
    return [
        row.locator("td").first.inner_text()
        for row in view.locator("#rows-table tbody tr:visible").all()
    ]


def test_table_is_sorted_by_mouse_and_by_keyboard(view: Any) -> None:
    speed = view.locator("#rows-table th", has_text="images/s")
    before = names(view)
    speed.locator("button").click()
    assert speed.get_attribute("aria-sort") == "ascending"
    speed.locator("button").press("Enter")
    assert speed.get_attribute("aria-sort") == "descending"
    cells = view.locator("#rows-table tbody tr").all_inner_texts()
    assert len(cells) == len(before)
    runtime = view.locator("#rows-table th", has_text="runtime").locator("button")
    runtime.focus()
    view.keyboard.press("Space")
    assert names(view) == sorted(before)
    view.keyboard.press("Space")
    assert names(view) == sorted(before, reverse=True)


def test_numbers_are_sorted_as_numbers_and_empty_cells_stay_last(view: Any) -> None:
    heading = view.locator("#rows-table th", has_text="size MB")
    place = heading.evaluate("each => each.cellIndex")

    def column() -> list[str]:
        rows = view.locator("#rows-table tbody tr").all()
        return [row.locator("td").nth(place).inner_text() for row in rows]

    heading.locator("button").click()
    filled = [float(each) for each in column() if each]
    assert filled == sorted(filled)
    assert column()[-1] == ""
    heading.locator("button").click()
    assert [float(each) for each in column() if each] == sorted(filled, reverse=True)
    assert column()[-1] == ""


def test_filter_hides_other_rows_and_says_how_many(view: Any) -> None:
    field = view.get_by_label("Filter").first
    field.fill("openvino fp32")
    assert names(view) == ["openvino"]
    assert view.locator("[data-status=rows-table]").inner_text() == "1 of 3 rows"
    field.fill("")
    assert len(names(view)) == 3


def test_copied_table_is_text_with_tabs(view: Any) -> None:
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.locator("[data-copy=rows-table]").click()
    copied = view.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines()[0].startswith("runtime\tformat\t")
    assert len(copied.splitlines()) == 4
    view.locator("[data-copy=command]").click()
    assert view.evaluate("navigator.clipboard.readText()") == "toolkit run --quick"


def test_first_tab_skips_to_the_verdict(view: Any) -> None:
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    assert view.evaluate("document.activeElement.getAttribute('href')") == "#main"
    assert view.locator("#verdict").inner_text() == "✗ Failed"


def test_failed_image_is_shown_and_dumps_are_folded(view: Any) -> None:
    assert view.locator(".gallery li.flipped").count() == len(FAILED.worst)
    dump = view.locator("details", has_text="SIGSEGV")
    assert not dump.locator("pre").is_visible()
    dump.locator("summary").click()
    assert dump.locator("pre").is_visible()

"""The pages as a reader has them: in a browser, from a file, without a network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_pages import HOSTILE_CLASS, HOSTILE_STEM, PATIENCE

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
Open = Callable[..., Any]

_COLOURS = """() => {
  const canvas = document.getElementById("slice-labels");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const found = {};
  for (let at = 0; at < data.length; at += 4) {
    const key = data[at + 3] ? `${data[at]},${data[at + 1]},${data[at + 2]}` : "clear";
    found[key] = (found[key] || 0) + 1;
  }
  return found;
}"""


def _wait_for_slice(page: Any, position: int) -> None:
    expect(page.locator("#slice-labels")).to_have_attribute("data-slice", str(position), timeout=PATIENCE)


def test_the_slices_of_a_run_are_browsed_with_the_keyboard(labelled: Path, open_page: Open) -> None:
    opened = open_page(labelled / "report.html")
    page = opened.page
    _wait_for_slice(page, 2)
    page.locator("#stage").focus()
    page.keyboard.press("Home")
    _wait_for_slice(page, 0)
    assert HOSTILE_STEM in page.locator("#where").inner_text()
    assert HOSTILE_CLASS in page.locator("#slice-image").get_attribute("alt")
    page.keyboard.press("ArrowRight")
    _wait_for_slice(page, 1)
    opacity = page.locator("#opacity")
    before = int(opacity.input_value())
    page.keyboard.press("ArrowUp")
    assert int(opacity.input_value()) == before + 5
    # the canvas holds each class as often as the label image does
    counts = page.evaluate(_COLOURS)
    shares = page.evaluate("matseg.data.page.slices[1].fractions")
    palette = ["0,0,0", "230,159,0", "86,180,233"]
    assert [counts.get(colour, 0) for colour in palette] == [round(share * 40 * 52) for share in shares]
    page.keyboard.press("2")
    expect(page.locator("#slice-labels")).to_have_attribute("data-classes", "0 2", timeout=PATIENCE)
    assert "230,159,0" not in page.evaluate(_COLOURS)
    opened.require_quiet(labelled / "report.html")


def test_a_click_on_a_curve_brings_that_slice(labelled: Path, open_page: Open) -> None:
    page = open_page(labelled / "report.html").page
    plot = page.locator("#chart-fraction-0 .plot")
    x, y = page.evaluate(
        """() => {
          const plot = document.querySelector("#chart-fraction-0 .plot");
          const { xaxis, yaxis } = plot._fullLayout;
          return [xaxis.d2p(plot.data[0].x[3]), yaxis.d2p(plot.data[0].y[3])];
        }"""
    )
    area = plot.locator(".nsewdrag")
    # plotly looks for points when the pointer moves within the plot, not when it enters
    area.hover(position={"x": x - 6, "y": y + 6})
    area.hover(position={"x": x, "y": y})
    expect(plot.locator(".hovertext")).to_have_count(1, timeout=PATIENCE)
    area.click(position={"x": x, "y": y})
    _wait_for_slice(page, 3)
    assert "s3" in page.locator("#where").inner_text()


def test_theme_and_narrow_screens(labelled: Path, open_page: Open) -> None:
    options = {"viewport": {"width": 400, "height": 800}, "color_scheme": "dark"}
    page = open_page(labelled / "report.html", **options).page
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    assert page.locator("#theme").get_attribute("aria-label") == "Colour theme: light"
    assert page.evaluate(paper) != dark
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    unnamed = "[...document.querySelectorAll('img')].filter((image) => !image.hasAttribute('alt')).length"
    assert page.evaluate(unnamed) == 0


def test_an_evaluation_is_wiped_and_sorted(evaluation_page: Path, open_page: Open) -> None:
    opened = open_page(evaluation_page)
    page = opened.page
    page.locator("#wipe-at").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#wipe-at").input_value() == "50.5"
    assert page.evaluate("document.getElementById('wipe').style.getPropertyValue('--at')") == "50.5%"
    page.keyboard.press("3")
    assert page.locator("#wipe-right-layer").input_value() == "prediction"
    first = page.locator("#wipe-where b").inner_text()
    page.keyboard.press("n")
    assert page.locator("#wipe-where b").inner_text() != first
    page.locator("#image-table thead button", has_text="mean IoU").click()
    page.locator("#image-table thead button", has_text="mean IoU").click()
    ranks = page.locator("#image-table tbody td:first-child").all_inner_texts()
    assert ranks == ["3", "2", "1"]
    opened.require_quiet(evaluation_page)


def test_a_training_is_drawn_and_tabled(training_log: Path, report: Any, open_page: Open) -> None:
    assert report(training_log)[0] == 0
    path = training_log.parent.parent / "plots" / "alloy_v1.html"
    opened = open_page(path)
    opened.page.locator("#chart-loss summary").click()
    rows = opened.page.locator("#chart-loss tbody tr")
    rows.first.wait_for()
    assert rows.count() == 4
    assert rows.first.inner_text().split() == ["1", "1", "1"]
    ticks = opened.page.locator("#chart-mean-iou .xtick text").all_text_contents()
    assert ticks == ["1", "2", "3", "4"], "there is no epoch and a half"
    opened.require_quiet(path)


def test_no_button_of_a_chart_hands_it_to_a_service(training_log: Path, report: Any, open_page: Open) -> None:
    assert report(training_log)[0] == 0
    opened = open_page(training_log.parent.parent / "plots" / "alloy_v1.html")
    buttons = opened.page.locator("#chart-loss .modebar-btn")
    buttons.first.wait_for(state="attached")
    titles = {button.get_attribute("data-title") for button in buttons.all()}
    assert titles == {"Download plot", "Zoom", "Pan", "Reset axes"}

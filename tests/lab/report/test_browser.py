"""The report in headless Chromium: everything drawn, nothing fetched, nothing complained about."""

import os
import shutil
from pathlib import Path

import pytest
from lab.synthetic import (
    DEFAULT,
    FREE,
    LOST_MEMBER,
    SERIAL,
    STEP,
    broken,
    deep_steps,
    small_run,
    write_synthetic_run,
)
from playwright import sync_api

from hopmix.lab.report.page import write_report
from hopmix.lab.report.sections.against_accuracy import SCATTERS
from hopmix.lab.report.sections.by_depth import MAPS
from hopmix.lab.report.sections.during_training import CURVES

ARMS = tuple(arm for arm in DEFAULT if arm.strength != 1e-3)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A study of all kinds of arms, with one member that diverged, and its report."""
    path = write_synthetic_run(
        tmp_path_factory.mktemp("runs") / "digits", ARMS, seeds=4, diverged=(LOST_MEMBER,)
    )
    write_report(path)
    return path


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        reason = "no chromium on this machine: the page was not opened"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


class Opened:
    """A page in the browser, with everything it complained about and asked for."""

    def __init__(self, browser, run: Path, width: int, page: str = "report.html", **options):
        self.complaints = []
        self.requests = []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto((run / page).as_uri())
        if options.get("java_script_enabled", True):
            self.page.wait_for_selector("html[data-drawn]", state="attached")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.page.close()

    def check(self):
        assert self.complaints == []
        assert [
            url for url in self.requests if not url.startswith(("file:", "data:", "blob:"))
        ] == []


# The bounding boxes of what a chart drew: curves and points, error bars, cells of a heat map, or a
# sentence.
MARKS = """charts => charts.filter(chart => chart.offsetParent !== null).map(chart => {
    const marks = chart.querySelectorAll(
        '.scatterlayer .trace path, .heatmaplayer image, .annotation-text');
    const size = mark => {
        const box = mark.getBoundingClientRect();
        return box.width + box.height;
    };
    return [...marks].filter(mark => size(mark) > 0).length;
})"""


@pytest.mark.parametrize("width", [1280, 390])
def test_every_chart_and_picture_is_drawn(browser, run, width):
    with Opened(browser, run, width) as opened:
        marks = opened.page.eval_on_selector_all(".plot", MARKS)
        pictures = opened.page.eval_on_selector_all(
            "img", "images => images.map(image => image.naturalWidth)"
        )
        opened.check()
    assert len(marks) == 1 + 2 + 3 * 2 + len(ARMS) + 4  # lambda, curves, panels, maps, energy
    assert min(marks) > 0
    assert min(pictures) > 0


def test_nothing_sticks_out_on_a_phone(browser, run):
    with Opened(browser, run, 390) as opened:
        opened.page.eval_on_selector_all(
            "details", "all => all.forEach(one => { one.open = true; })"
        )
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_choices_redraw_the_charts(browser, run):
    with Opened(browser, run, 1280) as opened:
        page = opened.page
        curves = lambda: (
            page.locator('[data-chart="asymmetry"]').first.locator(".scatterlayer .js-line").count()
        )
        before = curves()
        page.locator("#asymmetry .legend button").first.click()
        assert curves() < before
        assert (
            page.locator('.legend button[aria-pressed="false"]').count()
            == page.locator(".legend").count()
        )
        scale = lambda: page.evaluate(
            "document.querySelector('[data-chart=asymmetry]').layout.yaxis.type"
        )
        assert page.locator("#metric").input_value() == "relative_breaking"
        assert scale() == "log"
        page.locator("#log").uncheck()
        assert scale() == "linear"
        page.select_option("#metric", "cosine")
        assert page.locator("#log").is_disabled()
        colours = lambda: page.evaluate(
            "document.querySelector('[data-chart=map]').layout.coloraxis"
        )
        page.select_option("#map-metric", "balance")
        assert colours()["cmin"] == -colours()["cmax"]
        page.select_option("#map-metric", "complex_fraction")
        drawn = page.evaluate(
            "Array.from(document.querySelector('[data-chart=map]')._fullData[0].x)"
        )
        assert drawn == [STEP * index for index in deep_steps(25)]
        for name in ("#metric", "#map-metric", "#curve", "#energy-block"):
            for value in page.eval_on_selector_all(
                f"{name} option", "options => options.map(option => option.value)"
            ):
                page.select_option(name, value)
        opened.check()


def test_the_toolbar_stands_above_the_axes(browser, run):
    with Opened(browser, run, 1280) as opened:
        gaps = opened.page.eval_on_selector_all(
            ".plot:has(.nsewdrag)",
            """charts => charts.filter(chart => chart.offsetParent !== null).map(chart =>
                chart.querySelector(".nsewdrag").getBoundingClientRect().top -
                chart.querySelector(".modebar-group").getBoundingClientRect().bottom)""",
        )
        assert len(gaps) > 10
        assert min(gaps) >= 0


def test_a_panel_without_values_is_a_sentence(browser, tmp_path):
    path = small_run(tmp_path, FREE, broken(1e-4), SERIAL)
    write_report(path)
    with Opened(browser, path, 1280) as opened:
        opened.page.select_option("#map-metric", "breaking_ratio")  # which only broken arms have
        told = (
            opened.page.locator('[data-chart="map"]')
            .first.locator(".annotation-text")
            .all_text_contents()
        )
        assert told == ["This arm has no value of this index."]
        opened.check()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_table_of_final_values_is_never_cut_off(browser, run, width):
    with Opened(browser, run, width, "symmetry.html") as opened:
        room = "tables => tables.map(table => table.parentElement.clientWidth - table.scrollWidth)"
        assert min(opened.page.eval_on_selector_all("#values table", room)) >= 0


def test_pictures_of_weights_fill_their_card(browser, run):
    with Opened(browser, run, 1280) as opened:
        share = """grids => {
            const images = [...grids[0].querySelectorAll("img")].slice(0, 3);
            return images.reduce((sum, image) => sum + image.getBoundingClientRect().width, 0)
                / grids[0].getBoundingClientRect().width;
        }"""
        assert opened.page.eval_on_selector_all(".weights", share) > 0.75


def test_paper_shows_the_static_figures_and_opens_what_is_folded(browser, run, tmp_path):
    with Opened(browser, run, 1280) as opened:
        opened.page.emulate_media(media="print")
        assert not opened.page.locator(".live").first.is_visible()
        assert (
            opened.page.locator(".still:visible").count() == 5
        )  # lambda, curves, one metric, map, energy
        opened.page.emulate_media(media="screen")
        opened.page.evaluate(
            "addEventListener('beforeprint', () => { window.unfolded = "
            "document.querySelectorAll('details:not([open])').length === 0; })"
        )
        opened.page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
        assert opened.page.evaluate("window.unfolded")
        assert opened.page.locator("details:not([open])").count() > 0
        opened.check()


def test_without_scripts_the_static_figures_are_shown(browser, run):
    with Opened(browser, run, 1280, java_script_enabled=False) as opened:
        assert opened.page.locator(".still:visible").count() == 9  # all five metrics
        assert opened.page.locator(".live:visible").count() == 0
        opened.check()


# --- the symmetry page


@pytest.mark.parametrize("width", [1280, 390])
def test_the_symmetry_page_shows_the_chosen_figures(browser, run, width):
    with Opened(browser, run, width, "symmetry.html") as opened:
        page = opened.page
        for group in ("map", "curves", "scatter"):
            keys = page.eval_on_selector_all(
                f"#{group} option", "options => options.map(option => option.value)"
            )
            assert len(keys) > 1
            for key in keys:
                page.select_option(f"#{group}", key)
                shown = page.locator(f"[data-group={group}]:visible")
                assert shown.evaluate_all("all => all.map(one => one.dataset.key)") == [key]
        page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
        assert (
            min(
                page.eval_on_selector_all(
                    "img", "images => images.map(image => image.naturalWidth)"
                )
            )
            > 0
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        opened.check()


def test_the_pages_lead_to_each_other(browser, run):
    with Opened(browser, run, 1280) as opened:
        opened.page.locator("nav a[href='symmetry.html']").click()
        opened.page.wait_for_url("**/symmetry.html")
        opened.page.locator("nav a[href='report.html']").click()
        opened.page.wait_for_url("**/report.html")
        opened.check()


def test_without_scripts_the_symmetry_page_shows_everything(browser, run):
    with Opened(browser, run, 1280, "symmetry.html", java_script_enabled=False) as opened:
        assert opened.page.locator(".picture[data-group]:visible").count() == len(
            [*MAPS, *CURVES, *SCATTERS]
        )
        assert opened.page.locator("select:visible").count() == 0
        opened.check()


# --- unusual runs


@pytest.mark.parametrize("case", ["first measurement", "one arm", "deep"])
def test_unusual_runs_open_without_complaint(browser, tmp_path, case):
    path = {
        "first measurement": lambda: small_run(
            tmp_path, FREE, broken(1e-4), steps=1, seeds=1, finished=False
        ),
        "one arm": lambda: small_run(tmp_path, FREE),
        "deep": lambda: small_run(tmp_path, FREE, broken(0.0), blocks=24),
    }[case]()
    write_report(path)
    with Opened(browser, path, 390) as opened:
        if case == "deep":
            opened.page.select_option("#group", "5")
        assert min(opened.page.eval_on_selector_all(".plot", MARKS)) > 0
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        opened.check()
    with Opened(browser, path, 390, "symmetry.html") as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        opened.check()

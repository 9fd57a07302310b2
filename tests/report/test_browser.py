"""The page in a real browser: drawn, without console messages or requests, by keyboard, on a phone, in dark mode."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imputome.report.html.content import of_result
from imputome.report.html.page import write_report
from imputome.report.html.scoreboard import of_table
from imputome.studies.results import summary

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
DRIVERS = ("chromedriver", "chromium.chromedriver")
WIDTH, PHONE = 1280, 390  # CSS pixels
PATIENCE = 20.0  # seconds for a page to be drawn


def installed(names: tuple[str, ...]) -> str | None:
    return next((path for path in map(shutil.which, names) if path), None)


webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(
    installed(BROWSERS) is None or installed(DRIVERS) is None,
    reason="no chromium with its driver here (apt-get install chromium chromium-driver)",
)


@pytest.fixture(autouse=True)
def no_network() -> None:
    """Allow sockets, because the browser is controlled through one; what the page requests is logged."""


class Browser:
    """A page in Chromium, with its console and its requests."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def command(self, name: str, **options: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, options)

    def screen(self, width: int, *, dark: bool = False) -> None:
        """The size of the window and the scheme that its user prefers."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = "dark" if dark else "light"
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, path: Path) -> None:
        """Load the page, and wait until all charts are drawn."""
        self.driver.get("about:blank")
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri())
        self.wait("return document.documentElement.dataset.drawn === 'yes'")

    def wait(self, script: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < end, f"{script} stayed false: {self.console()}"
            time.sleep(0.05)

    def console(self) -> list[str]:
        """What is in the console."""
        return [f"{entry['level']} {entry['message']}" for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses that were requested."""
        events = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        options = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code, "text": text}
        self.command("Input.dispatchKeyEvent", type="keyDown", **options)
        self.command("Input.dispatchKeyEvent", type="keyUp", **options)

    def names(self, table: str) -> list[str]:
        """First cells of the rows that are shown."""
        return self.run(f"return [...document.querySelectorAll('#{table} tbody th')].map((cell) => cell.textContent)")

    def column(self, table: str, place: int) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map((row) => row.cells[arguments[1]].textContent)"
        return self.run(script, f"#{table} tbody tr", place)


@pytest.fixture(scope="module")
def driver() -> Iterator[Browser]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = installed(BROWSERS)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # the path is given, so that selenium looks for no driver elsewhere
    chromium = webdriver.Chrome(options=options, service=Service(installed(DRIVERS)))
    yield Browser(chromium)
    chromium.quit()


@pytest.fixture
def browser(driver: Browser) -> Browser:
    driver.screen(WIDTH)
    return driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def result(folder: Path, page_counts) -> Path:
    """The page of a checked result with all sections."""
    path = folder / "result.html"
    if not path.exists():
        write_report(path, of_result(page_counts, source="in <b>.h5ad", map="pca"))
    return path


@pytest.fixture
def of_real(folder: Path, page_real) -> Path:
    path = folder / "real.html"
    if not path.exists():
        write_report(path, of_result(page_real, map="pca"))
    return path


@pytest.fixture
def study(folder: Path, scores) -> Path:
    path = folder / "study.html"
    if not path.exists():
        write_report(path, of_table(scores, source="scores.csv"))
    return path


@pytest.fixture(params=["result", "of_real", "study"])
def page(request: pytest.FixtureRequest) -> Path:
    """Each kind of page."""
    return request.getfixturevalue(request.param)


# -- any page ----------------------------------------------------------------------------------------------------------
def test_drawn_without_requests_console_messages_or_sideways_scrolling(browser, page):
    browser.open(page)
    charts = browser.run(
        "return [...document.querySelectorAll('.plot')].map((place) => ({"
        "id: place.id, label: place.querySelector('svg')?.getAttribute('aria-label'),"
        "marks: place.querySelectorAll('svg .mark-symbol path, svg .mark-rect path, svg .mark-line path').length,"
        "width: place.querySelector('svg')?.getBoundingClientRect().width, room: place.clientWidth}))"
    )
    assert len(charts) >= 4
    for chart in charts:
        assert chart["marks"] > 1, chart
        assert chart["label"], chart
        assert 0.8 * chart["room"] < chart["width"] <= chart["room"] + 1, chart
    browser.run("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    browser.screen(PHONE)
    widest = "Math.max(...[...document.querySelectorAll('svg')].map((svg) => svg.clientWidth))"
    browser.wait(f"return {widest} <= {PHONE}")  # charts are drawn again at the new width
    assert browser.run("return document.documentElement.scrollWidth") <= PHONE
    requests = browser.requests()
    assert page.as_uri() in requests
    assert [url for url in requests if url != page.as_uri() and not url.startswith(("data:", "blob:"))] == []
    assert browser.console() == []


def test_the_dark_has_other_colours(browser, page):
    script = """
    const body = getComputedStyle(document.body);
    const label = document.querySelector('.plot svg .role-axis-label text');
    return [body.backgroundColor, body.color, getComputedStyle(label).fill];
    """
    browser.open(page)
    light = browser.run(script)
    browser.screen(WIDTH, dark=True)
    dark = browser.run(script)

    def shade(color: str) -> float:
        return float(np.mean([float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]))

    assert shade(light[0]) > 200 > 100 > shade(light[1])
    assert shade(dark[0]) < 60 < 180 < shade(dark[1])
    assert shade(light[2]) < 130 < shade(dark[2])  # charts follow without being drawn again


def test_tab_skips_to_the_content(browser, page):
    browser.open(page)
    browser.press("Tab")
    assert browser.run("return document.activeElement.className") == "skip"
    assert browser.run("return document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("Enter")
    browser.wait("return document.activeElement.id === 'main'")


# -- a result ----------------------------------------------------------------------------------------------------------
def test_tab_reaches_the_search_with_a_ring(browser, result):
    browser.open(result)
    for _ in range(80):
        browser.press("Tab")
        if browser.run("return document.activeElement.id") == "search-genes":
            break
    else:
        pytest.fail("the search box was not reached")
    style = browser.run(
        "const style = getComputedStyle(document.activeElement); return [style.outlineStyle, style.outlineWidth]"
    )
    assert style == ["solid", "3px"]


def test_search_finds_genes(browser, result, page_counts, nasty):
    browser.open(result)
    count = "return document.querySelector('#live-genes .count').textContent"
    assert browser.run(count).startswith("60 of 60 ")
    assert len(set(browser.names("live-genes")) & set(page_counts.var_names)) == 50
    search = browser.driver.find_element("id", "search-genes")
    search.send_keys("ENE1")
    assert sorted(browser.names("live-genes")) == [f"gene{j}" for j in range(10, 20)]
    assert browser.run(count).startswith("10 of 60 ")
    search.clear()
    search.send_keys("</script>")
    assert browser.names("live-genes") == [nasty[0]]
    search.clear()
    search.send_keys("no such gene")
    assert browser.names("live-genes") == []
    assert browser.run(count).startswith("0 of 60 ")


def test_more_rows_on_demand(browser, result, page_counts):
    browser.open(result)
    browser.run("document.querySelector('#live-genes .more').click()")
    names = browser.names("live-genes")
    assert sorted(names) == sorted(page_counts.var_names)
    assert browser.run("return document.querySelector('#live-genes .more').hidden")
    assert browser.run("return document.activeElement.textContent") == names[50]


def test_sorting_by_a_column(browser, result, page_counts):
    browser.open(result)
    titles = browser.run("return [...document.querySelectorAll('#live-genes thead button')].map((b) => b.textContent)")
    place = titles.index("mean before")
    head = f"document.querySelectorAll('#live-genes thead th')[{place}]"
    means = page_counts.X.toarray().mean(axis=0)
    for order, expected in (("descending", np.argsort(-means)), ("ascending", np.argsort(means))):
        browser.run(f"{head}.querySelector('button').focus()")
        browser.press("Enter")
        assert browser.run(f"return {head}.getAttribute('aria-sort')") == order
        shown = browser.names("live-genes")
        assert shown[:5] == [page_counts.var_names[j] for j in expected[:5]]
    browser.run("document.querySelectorAll('#live-genes thead button')[0].click()")
    assert browser.run(f"return {head}.getAttribute('aria-sort')") is None
    assert browser.names("live-genes")[-1] == "gene51"
    explained = [float(text.rstrip("%").replace("–", "nan")) for text in browser.column("live-genes", 1)]
    assert np.isfinite(explained).sum() > 40


def test_choosing_another_score_draws_it(browser, result):
    browser.open(result)
    script = "return [...document.querySelectorAll('#plot-scores .mark-symbol path')].map((p) => p.outerHTML)"
    before = browser.run(script)
    browser.run(
        "const list = document.querySelector('#plot-scores select'); list.value = 'total_ratio';"
        "list.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    browser.wait(f"{script}.join() !== {json.dumps(','.join(before))}")
    assert len(browser.run(script)) >= len(before)  # fewer methods are far off in this score


def test_the_tooltip_names_the_point(browser, result, page_counts):
    browser.open(result)
    browser.run("document.querySelector('#plot-map-after').scrollIntoView({block: 'center', behavior: 'instant'})")
    place = browser.run(
        "const box = document.querySelector('#plot-map-after .mark-symbol path').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    browser.wait("return document.querySelector('#vg-tooltip-element.visible') !== null")
    tooltip = browser.run("return document.querySelector('#vg-tooltip-element').textContent")
    assert "type <" in tooltip
    assert any(name in tooltip for name in page_counts.obs_names)


def test_a_cell_is_found_in_the_other_map(browser, result):
    browser.open(result)
    browser.run("document.querySelector('#plot-map-after').scrollIntoView({block: 'center', behavior: 'instant'})")
    rings = "document.querySelectorAll('#plot-map-{} g.mark-symbol.role-mark')[1].querySelectorAll('path').length"
    place = browser.run(
        "const box = document.querySelector('#plot-map-after g.mark-symbol.role-mark path').getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]"
    )
    assert browser.run(f"return {rings.format('before')}") == 0
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    browser.wait(f"return {rings.format('before')} === 1")
    assert browser.run(f"return {rings.format('after')}") == 0
    assert browser.console() == []


def test_methods_far_from_the_others_can_be_hidden(browser, result):
    browser.open(result)
    points = "return document.querySelectorAll('#plot-scores .mark-symbol.role-mark path').length"
    assert browser.run(points) == 9
    browser.run("document.querySelector('#plot-scores input[type=checkbox]').click()")
    browser.wait(points.replace("return", "return 12 ==="))
    assert browser.console() == []


# -- scores ------------------------------------------------------------------------------------------------------------
def choose(browser: Browser, field: str, value: str) -> None:
    browser.run(
        "const list = document.getElementById(arguments[0]); list.value = arguments[1];"
        "list.dispatchEvent(new Event('change', {bubbles: true}))",
        f"filter-{field}",
        value,
    )


def figures(browser: Browser) -> list[str]:
    return browser.run("return [...document.querySelectorAll('#plots-place h3')].map((title) => title.textContent)")


def test_filters_act_on_plots_and_table(browser, study, scores):
    browser.open(study)
    means = summary(scores)
    assert len(figures(browser)) == 4
    loss = means[means["metric"] == "poisson_loss"]
    assert len(browser.names("live-scores")) == len(loss)
    choose(browser, "dataset", "1")
    browser.wait("return document.querySelectorAll('#plots-place svg').length === 2")
    assert figures(browser) == ["two, hidden by thin 0.1", "two, hidden by thin 0.3"]
    assert set(browser.column("live-scores", 6)) == {"two"}
    choose(browser, "setting", "0")
    browser.wait("return document.querySelectorAll('#plots-place svg').length === 1")
    choose(browser, "metric", "1")
    browser.wait("return document.querySelector('#plots-place svg')?.textContent.includes('total_ratio (best at 1)')")
    part = means[(means["metric"] == "total_ratio") & (means["dataset"] == "two") & (means["fraction"] == 0.1)]
    np.testing.assert_allclose([float(text) for text in browser.column("live-scores", 1)], part["mean"], rtol=1e-4)
    assert browser.column("live-scores", 5) == list(part["loses_to"])
    browser.run("document.querySelector('button[data-pick=controls]').click()")
    assert browser.names("live-scores") == ["gene_mean (control)", "no_imputation (control)"]
    points = "return document.querySelectorAll('#plots-place .mark-symbol.role-mark path').length"
    browser.wait(f"{points.replace('return', 'return 6 ===')}")
    browser.run("document.getElementById('filter-near').click()")
    browser.run("document.querySelector('button[data-pick=none]').click()")
    assert browser.names("live-scores") == []
    assert figures(browser) == []
    assert browser.console() == []


def test_filters_by_keyboard(browser, study):
    browser.open(study)
    browser.run("document.getElementById('filter-dataset').focus()")
    browser.press("ArrowDown")
    browser.wait("return document.querySelectorAll('#plots-place svg').length === 2")
    assert set(browser.column("live-scores", 6)) == {"one </script>"}
    browser.run("document.getElementById('methods').open = true; document.querySelector('input[name=method]').focus()")
    browser.press(" ")
    browser.wait("return !document.querySelector('#live-scores tbody').textContent.includes('gene_mean (control)')")
    assert len(browser.names("live-scores")) == 6

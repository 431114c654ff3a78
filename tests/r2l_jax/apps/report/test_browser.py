"""Reports in headless Chromium: on a desktop and on a phone, light and dark."""

import shutil

import pytest
import report_runs

from r2l_jax.apps.report.page import write_report

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of a run with all results, and of a group."""
    folder = tmp_path_factory.mktemp("runs")
    made = {"run": report_runs.write_everything(folder / "run"), "group": report_runs.write_group(folder / "group")}
    for name, run in made.items():
        write_report([str(run)], folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Root has no sandbox to start it in.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def visit(request, browser, reports):
    """A function that opens a report in a window of some width."""

    def visit(name, width):
        context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=request.param)
        page = context.new_page()
        page.goto(reports[name].as_uri())
        return page

    return visit


@pytest.mark.parametrize("name", ["run", "group"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_is_as_wide_as_the_window_and_axe_finds_nothing_serious(visit, name, width):
    page = visit(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found = axe.Axe().run(page)
    wrong = [rule for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")]
    assert wrong == [], found.generate_report()


def test_tables_are_sorted_by_a_click(visit):
    page = visit("run", 1280)
    table = page.locator("main table").first
    for descends in (False, True):
        table.get_by_role("button", name="accuracy").click()
        values = [cell.get_attribute("data-value") for cell in table.locator("tbody td:nth-child(2)").all()]
        # Cells without a number stay below the others.
        numbers = [float(value) for value in values[:2]]
        assert values[2] is None
        assert numbers == sorted(numbers, reverse=descends)

"""The page in headless Chromium, with a program that serves it."""

import base64
import io
import re
import shutil
import signal

import numpy as np
import pytest
import requests
import tifffile
from programs import start

pytest.importorskip("nicegui")
playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]

# The text of all probabilities.
SHARES = "[...document.querySelectorAll('.lab-share')].map(each => each.innerText).join()"

# Compiling takes a while on a busy machine; in milliseconds.
PATIENCE = 120_000

DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def address(one_epoch, tmp_path_factory):
    """The address of the page of a run. No dropped file is left when the program ends."""
    folder = tmp_path_factory.mktemp("tmp")
    process = start("lab.py", "--port=0", f"--run={one_epoch.run_dir}", environment={"TMPDIR": str(folder)})
    while not (found := re.match(r"(http://127\.0\.0\.1:\d+)/", line := process.stdout.readline())):
        assert line, process.stderr.read()
    yield found[1]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr, stderr
    assert list(folder.glob("r2l_lab_*")) == []


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        # Root has no sandbox to start it in.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address):
    """A function that opens the page in a new tab; nothing on it may fail or come from elsewhere."""
    contexts, wrong = [], []

    def visit(width=1400, height=900, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
        page.goto(address)
        page.wait_for_selector(".lab-slope")
        # Other tests have left their state.
        before = picture(page)
        page.get_by_label("next sample").click()
        changed(page, before)
        page.wait_for_selector(".lab-slope")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def drop(page, name, content):
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def picture(page):
    return page.get_attribute(".lab-now", "src")


def changed(page, before):
    page.wait_for_function("before => document.querySelector('.lab-now').src !== before", arg=before)


def move(page, name, position):
    """Moves a slider, and waits until its picture and its slopes show."""
    before = picture(page)
    page.locator(f"[id='knob-{name}']").fill(str(position))
    changed(page, before)
    page.wait_for_selector(".lab-slope")
    assert page.locator(f"[id='knob-{name}']").input_value() == str(position)


def focused(page):
    """The roles and names that screen readers know of what has the keyboard's focus."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    return [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if any(each["name"] == "focused" and each["value"]["value"] for each in node.get("properties", ()))
    ]


def test_a_dropped_file_and_a_slider_show_other_pictures_and_other_probabilities(visit):
    page = visit()
    sample, of_sample = picture(page), page.evaluate(SHARES)
    file = io.BytesIO()
    tifffile.imwrite(file, np.random.default_rng(0).integers(5000, 40000, (40, 48), np.uint16))
    drop(page, "mine.tiff", file.getvalue())
    changed(page, sample)
    page.wait_for_selector(".lab-slope")
    default, of_default = picture(page), page.evaluate(SHARES)
    assert of_default != of_sample
    assert page.locator(".lab-name em").inner_text() == "assumed true"
    move(page, "white_balance.red", 1)
    assert picture(page) != default
    page.wait_for_function(f"before => {SHARES} !== before", arg=of_default)
    # The page comes back as it was.
    page.reload()
    page.wait_for_selector(".lab-slope")
    assert page.locator("[id='knob-white_balance.red']").input_value() == "1"
    with page.expect_download() as download:
        page.get_by_role("button", name="Settings (Python)").click()
    assert download.value.suggested_filename == "my_isp.py"
    page.locator("[id='knob-white_balance.red']").focus()
    assert ("slider", "white balance, red") in focused(page)
    page.get_by_text("Reset sliders").click()
    page.wait_for_function(f"before => {SHARES} === before", arg=of_default)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme):
    page = visit(scheme=scheme)
    drop(page, "notes.txt", b"")
    page.get_by_text(re.compile(r"^notes\.txt: ")).first.wait_for()
    page.get_by_text("Compare", exact=True).click()
    page.wait_for_selector(".lab-before")
    page.locator("[id='knob-gamma_correct']").fill("0.5")
    page.wait_for_selector(".lab-reset:not([disabled])")
    telephone = visit(390, 844, scheme)
    assert telephone.evaluate("document.documentElement.scrollWidth") == 390
    for each in (page, telephone):
        found = axe.Axe().run(each, options={"rules": {"target-size": {"enabled": True}}})
        wrong = [rule for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")]
        assert wrong == [], found.generate_report()


def test_other_hosts_are_refused(address):
    assert requests.get(address, headers={"Host": "elsewhere.example"}, timeout=30).status_code == 400
    assert requests.get(f"{address}/pictures/none", timeout=30).status_code == 404
    assert requests.get(address, timeout=30).status_code == 200

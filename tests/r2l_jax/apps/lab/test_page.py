"""The page in headless Chromium, with a program that serves it."""

import base64
import contextlib
import io
import re
import shutil
import signal

import numpy as np
import own_code
import pytest
import requests
import tifffile
from programs import start

import isp
from r2l_jax.pipelines import find_pipeline

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


# The visible buttons and sliders that are less than 24 pixels wide or high.
SMALL = """[...document.querySelectorAll(
  "button, input[type=range], summary, [role=slider], [role=checkbox]")].filter((each) => {
  const { width, height } = each.getBoundingClientRect();
  return width && height && getComputedStyle(each).visibility !== "hidden" && Math.min(width, height) < 24;
}).map((each) => each.outerHTML.slice(0, 100))"""


@contextlib.contextmanager
def served(folder, *flags):
    """The address of a page. No dropped file is left when the program ends."""
    process = start("lab.py", "--port=0", *flags, environment={"TMPDIR": str(folder)})
    while not (found := re.match(r"(http://127\.0\.0\.1:\d+)/", line := process.stdout.readline())):
        assert line, process.stderr.read()
    yield found[1]
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr, stderr
    assert list(folder.glob("r2l_lab_*")) == []


@pytest.fixture(scope="module")
def address(one_epoch, tmp_path_factory):
    """The address of the page of a run."""
    with served(tmp_path_factory.mktemp("tmp"), f"--run={one_epoch.run_dir}") as address:
        yield address


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

    def visit(width=1400, height=900, scheme="light", address=address, until=".lab-slope"):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
        page.goto(address)
        page.wait_for_selector(until)
        if until == ".lab-slope":
            # Other tests have left their state.
            before = picture(page)
            page.get_by_label("next sample").click()
            changed(page, before)
            page.wait_for_selector(until)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def drop(page, name, content):
    page.evaluate(DROP, [name, base64.b64encode(content).decode()])


def raw_file(seed=0, shape=(40, 48)):
    content = io.BytesIO()
    tifffile.imwrite(content, np.random.default_rng(seed).integers(5000, 40000, shape, np.uint16))
    return content.getvalue()


def picture(page):
    """The address of the picture that shows now."""
    return page.get_attribute(".lab-now", "src")


def shares(page):
    return page.locator(".lab-share").all_inner_texts()


def changed(page, before):
    """Waits until another picture shows."""
    page.wait_for_function("before => document.querySelector('.lab-now').src !== before", arg=before)


def move(page, name, position):
    """Moves a slider, and waits until its picture, its probabilities and its slopes show."""
    before = picture(page)
    page.locator(f"[id='knob-{name}']").fill(str(position))
    changed(page, before)
    page.wait_for_selector(".lab-slope")


def test_a_dropped_file_and_a_slider_show_other_pictures_and_other_probabilities(visit):
    page = visit()
    sample, of_sample = picture(page), shares(page)
    assert len(of_sample) == 5
    drop(page, "mine.tiff", raw_file())
    changed(page, sample)
    page.wait_for_selector(".lab-slope")
    default, of_default = picture(page), shares(page)
    assert of_default != of_sample
    assert page.locator(".lab-name em").inner_text() == "taken as true"
    move(page, "white_balance.red", 1)
    assert picture(page) != default
    page.wait_for_function(f"before => {SHARES} !== before", arg=",".join(of_default))
    # The page comes back as it was.
    page.reload()
    page.wait_for_selector(".lab-slope")
    assert page.locator("[id='knob-white_balance.red']").input_value() == "1"
    page.get_by_text("Reset sliders").click()
    page.wait_for_function(f"before => {SHARES} === before", arg=",".join(of_default))


def test_files_that_cannot_be_read_are_named_and_the_page_goes_on(visit):
    page = visit()
    for name in ("broken.tiff", "notes.txt"):
        drop(page, name, b"no picture")
        page.get_by_text(re.compile(rf"^{re.escape(name)}: ")).first.wait_for()
    move(page, "gamma_correct", 0.5)


def test_no_press_of_an_arrow_is_lost(visit):
    page = visit()
    slider = page.locator("[id='knob-gamma_correct']")
    step = float(slider.get_attribute("step"))
    for delay in (0, 5, 10, 20, 30):
        page.get_by_text("Reset sliders").click()
        page.wait_for_function("document.getElementById('knob-gamma_correct').value === '0'")
        slider.focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
            page.wait_for_timeout(delay)
        page.get_by_text(f"gamma {2.2 * np.exp(20 * step):.3g}").wait_for()
        assert float(slider.input_value()) == pytest.approx(20 * step), delay
    # A press on the next slider does not overtake the former one's.
    page.keyboard.press("ArrowRight")
    page.locator("[id='knob-gaussian_blur']").press("ArrowRight")
    page.wait_for_selector(".lab-slope")
    assert float(slider.input_value()) == pytest.approx(21 * step)
    assert float(page.locator("[id='knob-gaussian_blur']").input_value()) == pytest.approx(step)


def test_the_verdict_stays_in_sight_while_sliders_move(visit):
    for width, height in ((1400, 900), (390, 844)):
        page = visit(width, height)
        page.locator("[id='knob-gamma_correct']").scroll_into_view_if_needed()
        verdict = page.locator(".lab-verdict")
        assert re.fullmatch(r"now (\w+), true (\w+): (right|wrong)", verdict.inner_text())
        box = verdict.bounding_box()
        assert 0 <= box["y"] < box["y"] + box["height"] <= height
        others = [name for name in page.locator(".lab-name").all_inner_texts() if "true" not in name]
        page.get_by_title(f"take {others[0]} as the true class").click()
        page.get_by_text(re.compile(f"taken as true {others[0]}: (the same|different)")).wait_for()


def test_a_search_moves_the_sliders_until_it_is_stopped(visit):
    page = visit()
    page.get_by_text("Toward the worst").click()
    page.get_by_text(re.compile(r"toward the worst: step [1-9]")).wait_for()
    page.get_by_text("Stop").click()
    page.wait_for_selector(".lab-busy:not(.working)", state="attached")
    assert page.locator(".lab-knob.moved").count() > 5


def test_a_telephone_shows_all_of_it_without_scrolling_sideways(visit):
    page = visit(390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    slider = page.locator("[id='knob-gamma_correct']")
    slider.scroll_into_view_if_needed()
    # The picture stays above the sliders.
    assert page.locator(".lab-now").bounding_box()["y"] >= 0
    move(page, "gamma_correct", 0.5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The address of the page without flags."""
    with served(tmp_path_factory.mktemp("tmp")) as address:
        yield address


def test_without_flags_an_example_is_opened_and_a_file_without_a_camera_waits_for_it(visit, plain):
    page = visit(address=plain, until=".lab-now")
    assert page.get_by_label("sample", exact=True).input_value() == "example: BAS"
    drop(page, "mine.tiff", raw_file())
    page.get_by_text(re.compile(r"^mine\.tiff: .* a camera must be given")).wait_for()
    width = "document.querySelector('.lab-frame').style.getPropertyValue('--w')"
    assert page.evaluate(width) == "256"
    page.get_by_label("camera", exact=True).click()
    page.get_by_role("option", name="drone").click()
    page.wait_for_function(f"{width} === '48'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, plain, scheme):
    page = visit(scheme=scheme)
    drop(page, "notes.txt", b"")
    page.get_by_text(re.compile(r"^notes\.txt: ")).first.wait_for()
    page.get_by_text("Compare", exact=True).click()
    page.wait_for_selector(".lab-before")
    page.locator("[id='knob-gamma_correct']").fill("0.5")
    page.wait_for_selector(".lab-reset:not([disabled])")
    pages = [page, visit(390, 844, scheme), visit(scheme=scheme, address=plain, until=".lab-now")]
    for each in pages:
        found = axe.Axe().run(each, options={"rules": {"target-size": {"enabled": True}}})
        wrong = [rule for rule in found.response["violations"] if rule["impact"] in ("serious", "critical")]
        assert wrong == [], found.generate_report()
        assert each.evaluate("document.documentElement.lang") == "en-US"
        assert each.evaluate(SMALL) == []


def test_other_hosts_are_refused(address):
    assert requests.get(address, headers={"Host": "elsewhere.example"}, timeout=30).status_code == 400
    assert requests.get(f"{address}/pictures/none", timeout=30).status_code == 404
    assert requests.get(address, timeout=30).status_code == 200


def test_pipelines_are_chosen_and_saved_with_their_values(visit, tmp_path):
    page = visit()
    page.get_by_label("pipeline", exact=True).click()
    page.get_by_role("option", name="full").click()
    page.locator("[id='knob-saturation']").wait_for()
    move(page, "saturation", 0.5)
    files = {"Settings (Python)": "my_isp.py", "Picture": "picture.png"}
    for button, name in files.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=button).click()
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    named = own_code.write(tmp_path / "my_isp.py", (tmp_path / "my_isp.py").read_text())
    saved = find_pipeline(named)(isp.CAMERAS["drone"])
    assert float(saved.saturation[...]) == pytest.approx(1.1 * np.exp(0.5), rel=0.01)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")

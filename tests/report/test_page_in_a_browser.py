"""The page of a run in a browser: what a user does with it.

The tests need Playwright and Chromium, see CONTRIBUTING.md; without them they are skipped.
"""

import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import numpy as np
import pytest

from dip_jax.base import Status
from dip_jax.images.read import StoredImage
from dip_jax.presets import build_config
from dip_jax.report.image import report_image
from dip_jax.report.run_page import write_page
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summarize import failure_summary

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("browser")]

CONFIG = build_config("denoise_single")
ODD = 'cost $5 [red] <b>"x"</b> #6 %20 é </script>'
WIDE, NARROW = {"width": 1280, "height": 850}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
        try:
            # Chromium refuses to run as root in a sandbox.
            chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens the page of the folder; at the end, no page may have reported an error."""
    errors, contexts = [], []

    def call(*, size=WIDE, anchor="", **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda request: errors.append(request.url))
        page.goto(f"{(tmp_path / 'index.html').as_uri()}{anchor}")
        if options.get("java_script_enabled", True):
            page.wait_for_function("document.documentElement.dataset.ready")
        return page

    yield call
    for context in contexts:
        context.close()
    assert errors == []


@pytest.fixture
def run(tmp_path, case, sampled, result):
    """A folder of images in all states, with the files of a fit and of samples."""
    template = StoredImage(case.reference)
    summaries = [failure_summary("zebra", CONFIG, "out of memory & <more>")]
    for name, reported in {
        "sub/c": result,
        "stack/page-0001": result._replace(seconds=70.0),
        ODD: result._replace(status=Status.DIVERGED),
        "IMG_10": result,
        "IMG_9": result,
        "sampled": sampled,
    }.items():
        renamed = case._replace(name=name), reported._replace(name=name)
        summaries.append(report_image(tmp_path, *renamed, CONFIG, template))
    summaries[2]["psnr"] = 11.0
    write_pages(tmp_path, summaries)
    return summaries


def names(page) -> list[str]:
    return page.locator("td.name a").all_inner_texts()


def test_problems_come_first_and_columns_sort(run, open_page):
    page = open_page()
    problems = [ODD, "zebra", "sampled"]  # diverged and failed, then not converged
    assert names(page) == [*problems, "IMG_9", "IMG_10", "stack/page-0001", "sub/c"]
    assert page.locator("tr.failed .why").inner_text() == "out of memory & <more>"
    assert page.locator(".badge.unconverged").count() == 1
    page.locator("th[data-key=psnr] button").click()
    assert names(page)[0] == "stack/page-0001"
    assert names(page)[-1] == "zebra"  # without a value
    page.locator("th[data-key=psnr] button").click()
    assert page.locator("th[data-key=psnr]").get_attribute("aria-sort") == "descending"
    assert names(page)[-2:] == ["stack/page-0001", "zebra"]
    page.locator("#sort").select_option("name")
    found = names(page)
    assert found.index("IMG_9") < found.index("IMG_10")


def test_images_are_filtered_by_text_and_status(run, open_page):
    page = open_page()
    page.locator("#filter").fill("img_")
    assert names(page) == ["IMG_9", "IMG_10"]
    assert page.locator("#count").inner_text() == "2 of 7"
    page.locator("#filter").fill("out of memory")
    assert names(page) == ["zebra"]
    page.locator("#filter").fill("")
    page.locator("#status").select_option("not converged")
    assert names(page) == ["sampled"]
    page.locator("#filter").fill("nothing")
    assert page.get_by_text("No image matches.").is_visible()


def test_the_slider_moves_the_divider_by_keys_and_by_the_knob(run, open_page):
    page = open_page(anchor="#IMG_9")
    stage = page.locator("#stage").bounding_box()

    def divider() -> float:
        box = page.locator("#divider").bounding_box()
        return (box["x"] + box["width"] / 2 - stage["x"]) / stage["width"]

    def clipped() -> float:
        style = page.locator(".pane.left").evaluate("pane => getComputedStyle(pane).clipPath")
        right = float(re.search(r"inset\(0(?:px)? (?:calc\(100% - )?([\d.]+)%", style)[1])
        return right / 100 if "calc" in style else 1 - right / 100

    assert divider() == pytest.approx(0.5, abs=0.01)
    page.locator("#slider").focus()
    page.keyboard.press("End")
    assert divider() == pytest.approx(1, abs=0.01)
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert divider() == pytest.approx(0.005, abs=0.01)
    assert clipped() == pytest.approx(0.005, abs=0.001)
    page.locator("#slider").fill("50")
    knob = page.locator("#knob").bounding_box()
    page.mouse.move(knob["x"] + 20, knob["y"] + 20)
    page.mouse.down()
    page.mouse.move(stage["x"] + 0.25 * stage["width"], knob["y"] + 5)
    page.mouse.up()
    assert divider() == pytest.approx(0.25, abs=0.01)
    assert float(page.locator("#slider").input_value()) == pytest.approx(25, abs=1)


@pytest.mark.parametrize("is_split", [False, True])
def test_both_images_are_zoomed_and_moved_together(run, open_page, is_split):
    page = open_page(anchor="#IMG_9")
    if is_split:
        page.locator("#mode").click()

    def places() -> list[np.ndarray]:
        boxes = [page.locator(f"#image-{side}").bounding_box() for side in ("left", "right")]
        panes = [page.locator(f".pane.{side}").bounding_box() for side in ("left", "right")]
        keys = ("x", "y", "width", "height")
        return [
            np.array([box[k] - (pane[k] if k in "xy" else 0) for k in keys])
            for box, pane in zip(boxes, panes, strict=True)
        ]

    start = places()
    box = page.locator("#stage").bounding_box()
    x, y = box["x"] + 0.7 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -600)
    page.wait_for_function("document.getElementById('stage').classList.contains('zoomed')")
    zoomed = places()
    factor = zoomed[0][2] / start[0][2]
    assert factor == pytest.approx(np.exp(1.2), rel=0.01)
    # The point under the pointer stays where it is.
    pane = page.locator(".pane.right").bounding_box()
    pointer = np.array([x - pane["x"], y - pane["y"]])
    before = (pointer - start[1][:2]) / start[1][2:]
    np.testing.assert_allclose((pointer - zoomed[1][:2]) / zoomed[1][2:], before, atol=0.01)
    page.mouse.down()
    page.mouse.move(x - 30, y - 20)
    page.mouse.up()
    moved = places()
    np.testing.assert_allclose(moved[0][:2] - zoomed[0][:2], [-30, -20], atol=1)
    for left, right in (start, zoomed, moved):
        np.testing.assert_allclose(left, right, atol=1)
    page.locator("#fit").click()
    np.testing.assert_allclose(places()[0], start[0], atol=1)


def test_samples_have_their_figures_interval_and_numbers(run, open_page):
    page = open_page(anchor="#sampled")
    tabs = page.get_by_role("tab").all_inner_texts()
    figures = ["Deviation", "Curve", "Traces", "Calibration", "Sheet"]
    assert tabs == ["Compare", "Interval", *figures]
    for tab in figures:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_function("document.getElementById('figure-image').naturalWidth > 100")
    page.get_by_role("tab", name="Interval").click()
    assert page.locator("#tag-left").inner_text() == "lower end of the interval"
    facts = page.locator("#facts").inner_text()
    assert f"{run[-1]['rhat_max']:.3f}" in facts
    assert f"{run[-1]['coverage_90']:.3f}" in facts
    assert page.locator("#facts li.bad").first.inner_text().startswith("not converged")
    choices = page.locator("#right option").all_inner_texts()
    assert {"degraded", "restored", "reference", "sample 3"} <= set(choices)


@pytest.mark.parametrize("name", [ODD, "sub/c", "stack/page-0001"])
def test_an_odd_name_can_be_opened_linked_and_has_working_links(run, open_page, name):
    page = open_page()
    page.get_by_role("link", name=name, exact=True).click()
    page.locator("#viewer-title", has_text=name).wait_for()  # the new address is reported later
    assert page.locator("#viewer-title").inner_text() == name
    page.wait_for_function("document.getElementById('image-right').naturalWidth == 36")
    page.wait_for_function("document.getElementById('image-left').naturalWidth == 36")
    anchor = "#" + page.url.partition("#")[2]
    page.locator("#close").click()
    assert not page.locator("#viewer").is_visible()
    again = open_page(anchor=anchor)
    assert again.locator("#viewer-title").inner_text() == name
    links = again.locator("#facts .links a").evaluate_all("links => links.map(link => link.href)")
    assert len(links) >= 9
    assert all(Path(url2pathname(urlparse(link).path)).exists() for link in links)
    again.get_by_role("link", name="thumbnail.jpg").click()
    again.wait_for_load_state()
    assert again.locator("img").evaluate("image => image.naturalWidth") == 76


def test_a_failed_image_shows_its_error(run, open_page):
    page = open_page(anchor="#zebra")
    assert page.get_by_role("alert").inner_text() == "out of memory & <more>"
    assert page.locator("#stage").is_hidden()


def test_keys_lead_to_the_next_image_and_back_to_the_list(run, open_page):
    page = open_page(anchor="#IMG_9")
    page.keyboard.press("n")
    assert page.locator("#viewer-title").inner_text() == "IMG_10"
    page.keyboard.press("p")
    page.keyboard.press("p")
    assert page.locator("#viewer-title").inner_text() == "sampled"
    page.keyboard.press("Escape")
    assert not page.locator("#viewer").is_visible()
    assert "#" not in page.url


@pytest.mark.parametrize("anchor", ["", "#sampled"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_needs_no_horizontal_scrolling(run, open_page, anchor, scheme):
    page = open_page(size=NARROW, anchor=anchor, color_scheme=scheme, has_touch=True)
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    body = page.locator(".viewer-body")
    if anchor:
        assert body.evaluate("body => body.scrollWidth - body.clientWidth") == 0
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) < 150) == (scheme == "dark")


def test_without_javascript_there_are_links(run, open_page):
    page = open_page(java_script_enabled=False)
    assert "need JavaScript" in page.locator("noscript p").inner_text()
    assert page.locator("noscript a", has_text="summary.csv").is_visible()
    assert page.locator("main").is_hidden()


def test_settings_are_compared_on_one_image(tmp_path, case, result, open_page):
    summaries = []
    for label, factor in {"plain": 1.0, "rate 0.1": 0.5}.items():
        folder, changed = (
            tmp_path / label.replace(" ", "_"),
            result._replace(image=factor * result.image),
        )
        summary = report_image(folder, case, changed, CONFIG, StoredImage(case.reference))
        summaries.append({**summary, "variant": label})
    write_page(tmp_path, summaries, folders={"plain": "plain", "rate 0.1": "rate_0.1"})
    page = open_page()
    assert names(page) == ["photo", "photo"]
    page.locator("td.name a").first.click()
    page.locator("#left").select_option(label="rate 0.1")
    tags = [page.locator(f"#tag-{side}").inner_text() for side in ("left", "right")]
    plain, changed = (f"{summary['psnr']:.2f} dB" for summary in summaries)
    assert tags == [f"rate 0.1 {changed}", f"plain {plain}"]
    page.wait_for_function("document.getElementById('image-left').naturalWidth == 36")


def test_ten_thousand_images_are_usable_at_once(tmp_path, open_page, case, sampled):
    summary = report_image(tmp_path, case, sampled, CONFIG, StoredImage(case.reference))
    draw = np.random.default_rng(0)
    figures = {key: value for key, value in summary.items() if isinstance(value, float)}
    summaries = [
        {
            **summary,
            **{key: value * float(draw.uniform(0.9, 1.1)) for key, value in figures.items()},
            "name": f"IMG_{i:05d}" if i else "photo",
            "notes": [f"{note} ({i})" for note in summary["notes"]],
        }
        for i in range(10_000)
    ]
    start = time.perf_counter()
    write_page(tmp_path, summaries)
    written = time.perf_counter() - start
    start = time.perf_counter()
    page = open_page()
    ready = time.perf_counter() - start
    assert page.locator("#rows tr").count() == 100
    timing = page.evaluate(
        """() => {
          const start = performance.now();
          document.querySelector("th[data-key=psnr] button").click();
          document.body.offsetHeight;
          const sorted = performance.now();
          const filter = document.getElementById("filter");
          filter.value = "IMG_0777";
          filter.dispatchEvent(new Event("input"));
          document.body.offsetHeight;
          return [sorted - start, performance.now() - sorted];
        }"""
    )
    assert page.locator("#count").inner_text() == "10 of 10000"
    size = (tmp_path / "index.html").stat().st_size / 1e6
    print(
        f"\n10,000 images: {size:.1f} MB, written in {written:.1f} s, usable after {1000 * ready:.0f} ms, "
        f"sorted in {timing[0]:.0f} ms, filtered in {timing[1]:.0f} ms"
    )
    assert ready < 5
    assert max(timing) < 1000

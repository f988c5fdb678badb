"""The review page of 10,000 objects, driven in Chromium by mouse and keys.

How fast it is: ``tests/measure_review_page.py``.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest
from review_browser import CLASSES, HEIGHT, WIDTH, chromium, made_up_items, metrics

from seg_every_thing.annotation.decisions import read_decisions
from seg_every_thing.annotation.review import write_review
from seg_every_thing.annotation.review_crops import crop_of
from seg_every_thing.annotation.review_items import CropMask, ReviewItem

COUNT = 10_000


class Driver:
    """A browser with a review page in it."""

    def __init__(self, browser: Any, downloads: Path) -> None:
        self.browser = browser
        self.downloads = downloads

    def open(self, page: Path) -> None:
        """Open a page as for the first time."""
        self.browser.get(page.as_uri())
        self.run("localStorage.clear()")
        self.browser.refresh()

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def wait(self, condition: str) -> Any:
        """Wait until an expression of JavaScript is true; its value."""
        wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
        return wait(self.browser, 30, 0.02).until(lambda _: self.run(f"return {condition}"))

    def find(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        chains = pytest.importorskip("selenium.webdriver.common.action_chains")
        chains.ActionChains(self.browser).send_keys(*keys).perform()

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def enter(self, name: str, value: str) -> None:
        """Set a filter, as typing or choosing does."""
        self.run(
            "const field = document.querySelector('#filters').elements[arguments[0]];"
            "field.value = arguments[1];"
            "field.dispatchEvent(new Event('input', { bubbles: true }));",
            name,
            value,
        )

    @property
    def shown(self) -> int:
        return int(self.text("#counts").split(" of ")[0].replace(",", ""))

    @property
    def selected(self) -> int:
        """Id of the selected object."""
        (ids,) = (v for v in self.values() if v.startswith("object "))
        return int(ids.split(",")[0].split()[1])

    def values(self) -> List[str]:
        return self.run("return [...document.querySelectorAll('#values dd')].map(e => e.innerText)")

    def download(self) -> Path:
        path = self.downloads / "decisions.json"
        path.unlink(missing_ok=True)
        self.click("#download")
        wait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
        wait(self.browser, 30, 0.02).until(lambda _: path.is_file() and path.stat().st_size)
        return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    downloads = tmp_path_factory.mktemp("downloads")
    with chromium(downloads=str(downloads)) as browser:
        yield Driver(browser, downloads)


@pytest.fixture(scope="module")
def items(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> List[ReviewItem]:
    return list(made_up_items(tmp_path_factory.mktemp("images"), 20, COUNT // 20))


@pytest.fixture(scope="module")
def report(items: List[ReviewItem], tmp_path_factory: pytest.TempPathFactory) -> Path:
    facts = {"Model": "some.yaml"}
    return write_review(
        tmp_path_factory.mktemp("report"), items, {"source": "run1", "facts": facts}
    )


@pytest.fixture
def page(driver: Driver, report: Path) -> Driver:
    driver.open(report)
    return driver


def worst_first(items: List[ReviewItem]) -> List[ReviewItem]:
    return sorted(items, key=lambda item: item.score)


def test_the_worst_are_shown_first_and_few_of_all_have_elements(
    page: Driver, items: List[ReviewItem]
) -> None:
    assert page.text("#counts") == (
        "10,000 of 10,000 shown · 0 accepted · 0 rejected · 10,000 to do"
    )
    expected = [item.annotation_id for item in worst_first(items)]
    assert page.selected == expected[0]
    tiles = "[...document.querySelectorAll('.tile')]"
    assert 10 < page.run(f"return {tiles}.length") < 100
    page.run("document.querySelector('#list').scrollTop = 1e9")
    last = page.wait(f"{tiles}.find(t => t.ariaPosInSet === '10000')")
    assert last.get_attribute("id") == f"object-{expected[-1] - 100}"
    assert page.run(f"return {tiles}.length") < 100
    assert page.find("#list").get_attribute("aria-activedescendant") is None  # not in sight
    page.press("n")
    assert (
        page.find("#list").get_attribute("aria-activedescendant") == f"object-{expected[1] - 100}"
    )


def test_nothing_is_asked_of_the_network_and_nothing_fails(page: Driver) -> None:
    page.browser.get_log("performance")  # of the browser's own start
    page.browser.refresh()
    page.press("a", "r", "n")
    page.wait("[...document.images].every(i => i.complete && i.naturalWidth)")
    assert page.text("#message") == ""
    events = [json.loads(e["message"])["message"] for e in page.browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if "requestWillBeSent" in e["method"]]
    assert asked and {url.split(":")[0] for url in asked} <= {"file", "data"}
    assert page.browser.get_log("browser") == []


def test_masks_and_boxes_are_drawn_where_they_are(page: Driver, items: List[ReviewItem]) -> None:
    page.enter("order", "best")
    best = max(items, key=lambda item: (item.score, -item.annotation_id))
    page.wait("document.querySelector('#stage canvas').width !== 300")  # of an empty canvas
    drawn, size, box = page.run(
        """const [image, canvas, box] = document.querySelector('#stage .frame').children;
        const { width, height } = canvas;
        const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
        const [whole, part] = [image, box].map(e => e.getBoundingClientRect());
        return [[...data].filter((_, i) => i % 4 === 3), [width, height],
                [(part.x - whole.x) / whole.width, (part.y - whole.y) / whole.height,
                 part.width / whole.width, part.height / whole.height]];"""
    )
    left, top, right, bottom = crop_of(best, np.zeros((HEIGHT, WIDTH, 3), np.uint8)).window
    width, height = right - left, bottom - top
    assert size == [width, height]  # none of these crops is scaled
    expected = np.zeros((height, width), bool)
    x, y, w, h = (int(v) for v in best.box)
    expected[y - top : y - top + h, x - left : x - left + w] = best.mask.decode()
    np.testing.assert_array_equal(np.reshape(drawn, (height, width)) > 0, expected)
    place = [(x - left) / width, (y - top) / height, w / width, h / height]
    np.testing.assert_allclose(box, place, atol=0.01)


def test_overlays_are_switched_by_key_and_by_mouse(page: Driver) -> None:
    def visible() -> List[bool]:
        parts = ("#stage canvas", "#stage .box", ".tile canvas", ".tile .box")
        return [page.find(part).is_displayed() for part in parts]

    assert visible() == [True] * 4
    page.press("m")
    assert visible() == [False, True, False, True]
    page.press("b")
    assert visible() == [False] * 4
    page.click("#show-mask")
    assert visible() == [True, False, True, False]
    assert page.find("#show-mask").is_selected() and not page.find("#show-box").is_selected()


def test_keys_decide_move_on_and_undo(page: Driver, items: List[ReviewItem]) -> None:
    order = [item.annotation_id for item in worst_first(items)]
    page.press("a", "r", "r")
    assert page.selected == order[3]
    assert page.text("#counts").endswith("1 accepted · 2 rejected · 9,997 to do")
    page.press("p")
    assert page.selected == order[2] and page.text("#verdict") == "rejected"
    page.press("u")
    assert page.selected == order[2] and page.text("#verdict") == ""
    page.press("u", "u", "u")  # one more than there is to undo
    assert page.selected == order[0]
    assert page.text("#counts").endswith("0 accepted · 0 rejected · 10,000 to do")
    page.press("a", "p", "c")
    assert page.selected == order[0] and page.text("#verdict") == ""
    page.press("\ue010")  # End
    assert page.selected == order[-1]
    page.press("a", "n")
    assert page.selected == order[-1] and page.text("#verdict") == "accepted"


def test_buttons_do_what_keys_do(page: Driver, items: List[ReviewItem]) -> None:
    order = [item.annotation_id for item in worst_first(items)]
    page.click("#next")
    page.click("#reject")
    assert page.selected == order[2]
    page.click("#previous")
    assert page.find("#reject").get_attribute("aria-pressed") == "true"
    page.click(f"#object-{order[4] - 100}")
    page.click("#accept")
    page.click("#undo")
    assert page.selected == order[4]
    label = page.find(f"#object-{order[1] - 100}").get_attribute("aria-label")
    assert label == "teapot, score 0.00, empty, rejected"


def test_keys_are_left_to_fields_and_can_be_switched_off(page: Driver) -> None:
    first = page.selected
    page.click("#filters [name=scoreFrom]")
    page.press("a", "n", "\ue015")
    page.click("#keys")
    page.press("a", "n")
    assert page.selected == first and " 0 accepted" in page.text("#counts")
    page.run("document.querySelector('#list').focus()")
    page.press("\ue014")  # arrows still move in the list itself
    assert page.selected != first


def test_filters_show_what_they_say(page: Driver, items: List[ReviewItem]) -> None:
    def expect(count: int) -> None:
        assert page.shown == count
        assert page.run("return document.querySelectorAll('.tile').length") <= count

    page.enter("class", "1")
    expect(sum(item.class_name == CLASSES[1] for item in items))
    page.click("#flags input")
    flagged = [i for i in items if i.class_name == CLASSES[1] and "changed_by_polygon" in i.flags]
    expect(len(flagged))
    page.click("#filters [type=reset]")
    page.wait("document.querySelector('#counts').textContent.startsWith('10,000 of')")
    page.enter("scoreFrom", "0.5")
    page.enter("scoreTo", "0.6")
    expect(sum(0.5 <= item.score <= 0.6 for item in items))
    page.enter("scoreFrom", "")
    page.enter("scoreTo", "")
    page.enter("fillTo", "0")
    expect(sum(item.fill < 0.005 for item in items))
    page.enter("scoreFrom", "2")
    expect(0)
    assert page.text("#nothing") == "No object passes the filters."
    assert page.find("#accept").get_attribute("disabled")
    page.press("a", "n", "u")  # nothing to decide on
    page.click("#filters [type=reset]")
    page.wait("document.querySelector('#counts').textContent.startsWith('10,000 of')")
    assert " 0 accepted" in page.text("#counts")


def test_what_is_decided_leaves_the_list_of_what_is_to_do(
    page: Driver, items: List[ReviewItem]
) -> None:
    order = [item.annotation_id for item in worst_first(items)]
    page.enter("decision", "open")
    page.press("a", "a")
    assert page.selected == order[2] and page.shown == COUNT - 2
    page.press("u")
    assert page.selected == order[1] and page.shown == COUNT - 1
    page.enter("decision", "accept")
    assert page.selected == order[0] and page.shown == 1
    page.press("r")
    assert page.shown == 0


def test_the_histogram_counts_scores(page: Driver, items: List[ReviewItem]) -> None:
    page.enter("class", "0")
    label = page.find("#histogram").get_attribute("aria-label")
    n = sum(0.9 <= item.score < 0.95 for item in items if item.class_name == CLASSES[0])
    assert f"0.90 to 0.95: {n};" in label
    assert page.run("return document.querySelectorAll('#histogram rect').length") == 40


def test_all_that_are_shown_are_decided_at_once_and_undone_at_once(page: Driver) -> None:
    page.press("r")
    page.enter("scoreFrom", "0.9")
    many = page.shown
    page.click("#accept-shown")
    assert f"· {many:,} accepted · 1 rejected ·" in page.text("#counts")
    assert page.text("#message") == f"{many:,} accepted. Undo takes all of them back."
    page.click("#undo")
    assert " 0 accepted · 1 rejected" in page.text("#counts")


def test_progress_outlives_the_page(page: Driver) -> None:
    page.press("a", "r")
    page.browser.refresh()  # at once: what is not written yet is written on leaving
    assert " 1 accepted · 1 rejected" in page.text("#counts")
    assert page.run("return Object.keys(localStorage)") == ["seg_every_thing review run1"]


def test_a_browser_that_keeps_nothing_is_named(page: Driver) -> None:
    page.run("Storage.prototype.setItem = () => { throw new Error('full'); }")
    page.press("a")
    page.wait("document.querySelector('#message').textContent.includes('does not keep progress')")
    assert " 1 accepted" in page.text("#counts")


def test_another_window_of_the_same_run_is_taken_along(page: Driver) -> None:
    first = page.browser.current_window_handle
    url = page.browser.current_url
    page.browser.switch_to.new_window("tab")
    try:
        page.browser.get(url)
        page.press("a")
        page.browser.switch_to.window(first)
        page.wait("document.querySelector('#counts').textContent.includes(' 1 accepted')")
        page.press("r", "u", "n", "r")
        assert " 1 accepted · 1 rejected" in page.text("#counts")
    finally:
        for handle in page.browser.window_handles:
            if handle != first:
                page.browser.switch_to.window(handle)
                page.browser.close()
        page.browser.switch_to.window(first)


def test_decisions_are_downloaded_and_loaded_again(
    page: Driver, report: Path, items: List[ReviewItem]
) -> None:
    order = [item.annotation_id for item in worst_first(items)]
    page.press("a", "r", "r")
    path = page.download()
    decisions = {str(order[0]): "accept", str(order[1]): "reject", str(order[2]): "reject"}
    content = json.loads(path.read_text())
    assert content == {"version": 1, "source": "run1", "decisions": decisions}
    assert list(content["decisions"]) == sorted(decisions, key=int)
    assert read_decisions(path, "run1") == decisions
    page.open(report)
    assert " 0 accepted" in page.text("#counts")
    page.find("#file").send_keys(str(path))
    page.wait("document.querySelector('#message').textContent")
    assert page.text("#message") == "3 decisions loaded."
    assert " 1 accepted · 2 rejected" in page.text("#counts")
    page.press("u")
    assert page.text("#message") == "3 decisions taken back."
    assert " 0 accepted · 0 rejected" in page.text("#counts")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": 1, "source": "run2", "decisions": {}}, "it was made for another run"),
        ({"version": 2, "source": "run1", "decisions": {}}, "it is no file of decisions"),
        ({"version": 1, "source": "run1", "decisions": None}, "it is no file of decisions"),
        ({"version": 1, "source": "run1", "decisions": {"100": 1}}, "object 100 is neither"),
        (None, "it is no file of decisions"),
    ],
)
def test_other_files_change_nothing(
    page: Driver, tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    page.press("a")
    page.find("#file").send_keys(str(path))
    page.wait("document.querySelector('#message').textContent")
    assert f"Cannot load other.json: {message}" in page.text("#message")
    assert " 1 accepted · 0 rejected" in page.text("#counts")


def test_decisions_on_objects_that_are_not_here_are_counted(page: Driver, tmp_path: Path) -> None:
    path = tmp_path / "decisions.json"
    decisions = {"100": "accept", "5": "reject", "__proto__": "reject"}
    path.write_text(json.dumps({"version": 1, "source": "run1", "decisions": decisions}))
    page.find("#file").send_keys(str(path))
    page.wait("document.querySelector('#message').textContent")
    assert page.text("#message") == "1 decisions loaded; 2 are of objects that are not here."


def test_names_are_text_whatever_they_hold(
    driver: Driver, items: List[ReviewItem], tmp_path: Path
) -> None:
    evil = '<img src=x onerror="window.broken=1"></script><script>window.broken=1</script>\'\n'
    names = [evil, "\u05d0\u05d1\u202e\udcff", "__proto__"]
    hostile = [
        replace(item, annotation_id=name, class_name=name, file_name=name, score=None)
        for item, name in zip(items, names)
    ]
    driver.open(write_review(tmp_path, hostile, {"title": evil, "facts": {evil: evil}}))
    assert driver.run("return [window.broken, document.querySelectorAll('bdi img').length]") == [
        None,
        0,
    ]
    assert driver.text("#title") == driver.text("#facts dt") == evil
    assert driver.text("#name") == evil.replace("\n", "\\n")
    driver.press("a", "r", "a")
    decisions = read_decisions(driver.download())
    assert decisions == dict(zip(names, ["accept", "reject", "accept"]))
    driver.browser.refresh()
    assert " 2 accepted · 1 rejected" in driver.text("#counts")


def test_objects_without_score_or_picture_come_last_and_are_shown(
    driver: Driver, items: List[ReviewItem], tmp_path: Path
) -> None:
    lost = replace(items[0], score=None, image_path=tmp_path / "lost.jpg")
    driver.open(write_review(tmp_path / "report", [lost, *items[1:4]], {}))
    for order in ("worst", "best"):
        driver.enter("order", order)
        driver.press("\ue010")
        assert driver.selected == lost.annotation_id and driver.values()[0] == "–"
    assert driver.find("#stage .without-picture .box").is_displayed()
    driver.enter("scoreFrom", "0")
    assert driver.shown == 3


def test_a_page_without_objects_or_files_says_so(driver: Driver, tmp_path: Path) -> None:
    page = write_review(tmp_path, [], {})
    driver.open(page)
    assert driver.text("#nothing") == "There is nothing to review."
    assert driver.text("#counts").startswith("0 of 0 shown")
    (tmp_path / "review_files" / "data.js").unlink()
    driver.open(page)
    assert "review_files is missing" in driver.text("#message")


CONTRASTS = """
const light = (c) => {
  const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
};
const color = (text) => text.match(/[\\d.]+/g).map(Number);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const c = color(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
  }
  return [255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = {};
while (walker.nextNode()) {
  const e = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !e.checkVisibility({ visibilityProperty: true })) continue;
  const [a, b] = [color(getComputedStyle(e).color).slice(0, 3), ground(e)].map(light);
  const name = e.id || e.className || e.tagName;
  found[name] = Math.min(found[name] || 99, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
}
return found;
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_controls_have_names(page: Driver, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.press("a", "r", "p")
    # Colours that are still on their way are not those to be read.
    page.wait("document.getAnimations().length === 0")
    contrasts: Dict[str, float] = page.run(CONTRASTS)
    assert len(contrasts) > 20 and min(contrasts.values()) >= 4.5, contrasts
    unnamed = page.run(
        "const own = ['presentation', 'alert'];"
        "return [...document.querySelectorAll('button, input, select, svg, [role]')].filter(e =>"
        "  !(e.textContent.trim() || e.ariaLabel || e.labels?.length || own.includes(e.role))"
        ").map(e => e.outerHTML)"
    )
    assert unnamed == []
    assert page.find("#counts").get_attribute("aria-live") == "polite"
    page.press("\ue004")
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("width", "height"), [(320, 640), (390, 844), (800, 1000), (1366, 768)])
def test_the_page_fits_the_screen(page: Driver, width: int, height: int) -> None:
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics(width, height))
    try:
        page.browser.refresh()
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        for button in ("#accept", "#reject", "#next"):  # in sight without scrolling
            bottom = page.run(
                f"return document.querySelector('{button}').getBoundingClientRect().bottom"
            )
            assert bottom <= height
        page.click("#accept")
        assert " 1 accepted" in page.text("#counts")
    finally:
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics(1400, 900))


def test_a_mask_of_one_pixel_is_drawn(
    driver: Driver, items: List[ReviewItem], tmp_path: Path
) -> None:
    dot = CropMask.of(np.ones((1, 1), bool), 0, 0)
    driver.open(write_review(tmp_path, [replace(items[0], box=(0, 0, 1, 1), mask=dot)], {}))
    driver.wait("document.querySelector('#stage canvas').width === 9")
    data = driver.run(
        "return [...document.querySelector('#stage canvas').getContext('2d')"
        ".getImageData(0, 0, 9, 9).data]"
    )
    assert np.nonzero(data)[0].tolist() == [0, 1, 2, 3]

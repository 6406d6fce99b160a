"""The page in a browser: its plots, light and dark, wide and narrow, used by pointer, finger and keyboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmcl_fast import report

Open = Callable[..., Any]
SCATTER = "[data-figure][data-samples]"
LONELIEST_POINT = """(place, modality) => {
  const {xaxis, yaxis} = place._fullLayout, frame = place.getBoundingClientRect();
  const all = place.data.flatMap(trace => trace.x.map((x, n) =>
    ({name: trace.name, x: xaxis._offset + xaxis.d2p(x), y: yaxis._offset + yaxis.d2p(trace.y[n])})));
  const room = one => Math.min(...all.filter(other => other !== one).map(other =>
    Math.hypot(other.x - one.x, other.y - one.y)));
  const best = all.filter(one => one.name === modality).sort((a, b) => room(b) - room(a))[0];
  return [frame.left + best.x, frame.top + best.y];
}"""  # the position of the modality's point that is farthest from all others, so that none covers it


@pytest.fixture(scope="module")
def pages(whole_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    both = [whole_runs["comm"], whole_runs["finetune"]]
    return {
        "one": report.write(whole_runs["comm"], folder / "one.html"),
        "both": report.write(both, folder / "both.html"),
    }


@pytest.fixture(scope="module")
def show(browser: Any, pages: dict[str, Path]) -> Any:
    """Return a function that opens a page and waits for its plots: ``show("one", width=400)``.

    ``page.wrong`` lists messages on its console, errors, and requests to other addresses.
    """
    contexts = []
    addresses = {file.as_uri() for file in pages.values()}

    def make(name: str, width: int = 1300, height: int = 900, **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **options))
        page = contexts[-1].new_page()
        page.wrong = []
        page.on("console", lambda line: page.wrong.append(f"{line.type}: {line.text}"))
        page.on("pageerror", lambda fault: page.wrong.append(str(fault)))
        known = ("data:", *addresses)
        page.on("request", lambda request: request.url.startswith(known) or page.wrong.append(request.url))
        page.goto(pages[name].as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def shared_page(show: Open) -> Any:
    """Return the page of one run, which several tests share."""
    return show("one", color_scheme="light")


@pytest.fixture
def page(shared_page: Any) -> Iterator[Any]:
    yield shared_page
    shared_page.keyboard.press("Escape")
    shared_page.mouse.move(2, 2)
    assert not shared_page.wrong


def open_folds(page: Any, opened: bool = True) -> None:
    page.evaluate("opened => document.querySelectorAll('details').forEach(fold => fold.open = opened)", opened)


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [("one", 1600, "light"), ("one", 400, "dark"), ("both", 400, "light")]
)
def test_every_plot_is_drawn_and_nothing_is_wider_than_the_page(show: Open, name: str, width: int, scheme: str) -> None:
    page = show(name, width, color_scheme=scheme)
    count = 12 if name == "one" else 2 + 12 + 9
    for size in (width, 800, 2000 - width):
        page.set_viewport_size({"width": size, "height": 900})
        page.wait_for_timeout(300)  # plots resize late
        drawn = page.eval_on_selector_all(
            "[data-figure]",
            "places => places.map(place => place.querySelectorAll('.main-svg .trace, .main-svg .hm').length"
            " * (place.querySelector('.main-svg').clientWidth > 150))",
        )
        assert len(drawn) == count and all(drawn), drawn
        for opened in (True, False):
            open_folds(page, opened)
            inside, whole = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert inside <= whole, f"{size} pixels, folds open: {opened}"
    assert not page.wrong


def test_plots_follow_the_scheme(page: Any) -> None:
    look = "getComputedStyle(document.querySelector('[data-figure] .xtick text')).fill"
    light, paper = page.evaluate(look), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{look} !== {light!r}")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"{look} === {light!r}")


@pytest.mark.parametrize("modality", ["image", "video", "audio", "depth", "text"])
def test_pointing_at_a_sample_shows_it_and_marks_it_in_both_plots(page: Any, modality: str) -> None:
    place, box = page.locator(SCATTER).first, page.locator("#sample")
    place.scroll_into_view_if_needed()
    assert box.is_hidden()
    page.mouse.move(*place.evaluate(LONELIEST_POINT, modality), steps=2)
    box.wait_for()
    assert f"({modality})" in box.inner_text()
    if modality == "text":
        assert "word" in box.locator("q").inner_text()
    else:
        image = box.locator("img")
        width, height = image.evaluate("i => i.decode().then(() => [i.naturalWidth, i.naturalHeight])")
        assert width == (4 if modality == "video" else 1) * height
    assert page.locator(f"{SCATTER} .hovertext").count() == 2
    page.mouse.move(2, 2)
    box.wait_for(state="hidden")
    assert page.locator(f"{SCATTER} .hovertext").count() == 0


def test_samples_are_reached_by_keyboard(page: Any) -> None:
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate(f"document.activeElement.matches('{SCATTER}')"):
            break
    else:
        pytest.fail("no press of Tab comes to the plot")
    box = page.locator("#sample")
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        page.keyboard.press(key)
        box.wait_for()
        box.evaluate("box => Promise.all([...box.querySelectorAll('img')].map(image => image.decode()))")
        rect = box.bounding_box()
        assert min(rect["x"], rect["y"], 1300 - rect["x"] - rect["width"], 900 - rect["y"] - rect["height"]) >= 0
        seen.append(box.inner_html())
    assert seen[0] == seen[2] != seen[1]
    assert page.locator(f"{SCATTER} .hovertext").count() == 2
    page.keyboard.press("Escape")
    box.wait_for(state="hidden")


def test_a_finger_shows_a_sample(show: Open) -> None:
    page = show("one", 400, 800, has_touch=True, is_mobile=True)
    place = page.locator(SCATTER).first
    place.scroll_into_view_if_needed()
    axes = "place => [place._fullLayout.xaxis.range, place._fullLayout.yaxis.range]"
    before = place.evaluate(axes)
    page.touchscreen.tap(*place.evaluate(LONELIEST_POINT, "audio"))
    page.locator("#sample").wait_for()
    page.wait_for_timeout(500)  # a browser's made-up mouse events come after the tap
    assert page.locator("#sample").is_visible() and place.evaluate(axes) == before
    assert not page.wrong


def test_the_table_of_samples_has_their_pictures_once_it_is_open(page: Any) -> None:
    assert page.locator("td[data-sample] img").count() == 0
    page.locator("summary", has_text="Each sample").click()
    rows = page.locator("td[data-sample]")
    assert page.locator("td[data-sample] img").count() + page.locator("td[data-sample] q").count() == rows.count() > 40


def test_axe_finds_nothing(page: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install -r requirements-test.txt")
    for scheme, opened, rules in (("light", False, {}), ("dark", True, {"runOnly": ["color-contrast"]})):
        page.emulate_media(color_scheme=scheme)
        open_folds(page, opened)
        found = axe.Axe().run(page, {"exclude": [["[data-figure] svg"]]}, rules).response["violations"]
        assert not [(one["id"], one["nodes"][0]["html"][:300]) for one in found]

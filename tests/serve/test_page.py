"""The page needs no network, its fields have labels, and it works in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mmcl_fast.learning import Learner
from mmcl_fast.serve.bearer import BearerToken
from mmcl_fast.serve.page import render_page
from tests.serve.calls import ask, serve_in_thread

TOKEN = "a-secret-of-the-tests-0123456789"


class _Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.options: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "option" and data.strip():
            self.options.append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.found if tag in tags]


@pytest.fixture(scope="module")
def port(learner: Learner) -> Iterator[int]:
    with serve_in_thread(learner) as port:
        yield port


def test_it_needs_nothing_else_and_every_field_has_a_name(port: int) -> None:
    answer = ask(port, "/")
    text = answer.body.decode()
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "//" not in text  # no address elsewhere
    page = _Elements(text)
    assert not [one for one in page.all("link", "img", "iframe", "object") + page.all("script") if one]
    assert page.all("html")[0]["lang"] and "<title>" in text and page.all("main") and "color-scheme: light dark" in text
    labels = {one["for"] for one in page.all("label")}
    assert labels == {one["id"] for one in page.all("input", "textarea", "select")} and len(labels) == 5
    assert [one for tag, one in page.found if one.get("role") == "status"]
    policy = answer.headers["content-security-policy"]
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert content and base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy


def test_names_of_modalities_are_text() -> None:
    names = ["image", "{{ 7 * 7 }}", "</select><script>alert(1)</script>", '"x"']
    page = _Elements(render_page(names))
    assert page.options == ["automatic", *names] and len(page.all("script")) == 1


def find_browser() -> tuple[Any, str]:
    """Return the driver and the path of Chromium; skip the test where one is missing."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH")
    return driver, chromium


def test_the_page_asks_for_the_token_and_forgets_it_with_the_tab(learner: Learner, media: dict[str, Path]) -> None:
    driver, chromium = find_browser()
    complaints: list[str] = []
    with (
        serve_in_thread(learner, token=BearerToken(TOKEN), require_token=True) as port,
        driver.sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 400, "height": 900})
        page = context.new_page()
        page.on("pageerror", lambda fault: complaints.append(str(fault)))
        page.goto(f"http://127.0.0.1:{port}/")
        token = page.get_by_label("This server asks for a token")
        token.wait_for()
        assert not page.get_by_label("Texts, one a line").is_visible() and page.inner_text("#message") == ""
        assert page.evaluate("document.activeElement.id") == "token"
        for wrong in ("wrong-token-wrong-token", "with a space"):
            token.fill(wrong)
            page.keyboard.press("Enter")
            page.locator("#message", has_text="token").wait_for()
            assert "token" in page.inner_text("#message") and not page.get_by_label("Texts, one a line").is_visible()
        token.fill(TOKEN)
        page.get_by_role("button", name="Unlock").click()
        page.locator("#model", has_text="classes learned").wait_for()
        assert not token.is_visible() and page.evaluate("sessionStorage.length") == 1
        page.get_by_label("Files of any kind").set_input_files([media["image"]])
        page.wait_for_selector("article")
        assert "1 of 1 read" in page.inner_text("#message")
        page.reload()
        page.locator("#model", has_text="classes learned").wait_for()
        assert not page.locator("#links").is_visible()
        assert page.evaluate("localStorage.length") == 0 and not context.cookies() and TOKEN not in page.url
        page.evaluate("sessionStorage.setItem('mmcl-fast-token', 'the server has another one now')")
        page.get_by_label("Texts, one a line").fill("word00")
        page.get_by_role("button", name="Predict").click()
        token.wait_for()
        other = context.new_page()
        other.goto(f"http://127.0.0.1:{port}/")
        other.get_by_label("This server asks for a token").wait_for()
        browser.close()
    assert not complaints


def test_files_and_lines_are_answered_in_a_browser(port: int, media: dict[str, Path], tmp_path: Path) -> None:
    driver, chromium = find_browser()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    complaints: list[str] = []
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for scheme, width in (("light", 400), ("dark", 1600)):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda fault: complaints.append(str(fault)))
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator("#model", has_text="classes learned").wait_for()
            page.get_by_label("Texts, one a line").fill("word10 <b>word11</b>\n\nword00")
            page.get_by_label("Classes to show").fill("2")
            page.get_by_label("Files of any kind").set_input_files([media["image"], broken])
            page.wait_for_selector("article")
            names = [head.inner_text() for head in page.query_selector_all("article h2")]
            assert names == ["a.jpg", "broken.png", "text:1", "text:3"]
            assert "3 of 4 read" in page.inner_text("#message") and "broken.png: " in page.inner_text("article .fault")
            assert page.locator("article").nth(0).locator("ol li").count() == 2
            assert page.locator("blockquote").nth(0).inner_text() == "word10 <b>word11</b>"
            assert page.locator("article img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 80
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement !== document.body")
            page.close()
        browser.close()
    assert not complaints

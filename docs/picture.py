#!/usr/bin/env python3
"""README's picture of a report: ``python docs/picture.py runs/demo/report.html`` writes docs/report.png.

It shows three sections: what was remembered, the three classes with the largest drop, and where samples lie. The
pointer rests on one sample. It needs playwright (requirements-test.txt) and Chromium.
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

KEEP_SECTIONS = """() => {
  const main = document.querySelector('main'), kids = [...main.children];
  const at = title => kids.findIndex(kid => kid.tagName === 'H2' && kid.textContent === title);
  const parts = ['What it remembers', 'What it forgot', 'Where samples lie'].map(at);
  const kept = new Set(kids.slice(0, parts[0]).concat(...parts.map(part => kids.slice(part, part + 2))));
  kids.forEach(kid => kept.has(kid) || kid.remove());
  document.querySelectorAll('.tall tbody tr').forEach((row, place) => place > 2 && row.remove());
  document.querySelectorAll('summary').forEach(fold => fold.parentNode.remove());
  document.querySelector('.notes').remove();
  document.querySelector('footer').remove();
  dispatchEvent(new Event('resize'));
}"""
SAMPLE_POSITION = """plot => {
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout, {x, y} = plot.data[0];
  return [box.left + xaxis._offset + xaxis.d2p(x[3]), box.top + yaxis._offset + yaxis.d2p(y[3])];
}"""
WIDTH = 1500


def main(page_file: Path, out: Path) -> None:
    """Write the picture of a report to ``out``."""
    from PIL import Image
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = shutil.which("chromium") or driver.chromium.executable_path
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(page_file.resolve().as_uri())
        page.wait_for_selector("html[data-drawn]")
        page.evaluate(KEEP_SECTIONS)
        page.wait_for_timeout(800)
        page.set_viewport_size({"width": WIDTH, "height": page.evaluate("document.documentElement.scrollHeight")})
        page.wait_for_timeout(500)
        page.mouse.move(*page.locator("[data-figure][data-samples]").first.evaluate(SAMPLE_POSITION), steps=2)
        page.wait_for_timeout(700)
        picture = Image.open(io.BytesIO(page.screenshot()))
        browser.close()
    picture.convert("RGB").quantize(192).save(out, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("report.png"))

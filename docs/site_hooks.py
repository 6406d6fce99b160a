"""Hooks of mkdocs: pages from the code, repository files as pages, and formulas as MathML.

mkdocs.yml names this file. The hooks need no network. Every page that they add exists only in the built site.
"""

from __future__ import annotations

import contextlib
import html
import re
import sys
import unicodedata
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))  # mkdocs loads this file alone

import site_cli  # noqa: E402
import site_config  # noqa: E402
import site_formats  # noqa: E402
import site_repository  # noqa: E402

WRITERS = {"cli": site_cli.text, "config": site_config.text, "formats": site_formats.text}
MARK = re.compile(r"<!-- from the code: (\w+) -->")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
LETTER = re.compile(r'<mi mathvariant="(script|double-struck)">([A-Z])</mi>')
# In the page a drawing follows the site's own light and dark colours.
DRAWING = re.compile(r'<img[^>]*src="(?:\.\./)*(\w+\.svg)"[^>]*>')
# mkdocs knows no word after the language: ``no-run`` is for tests/docs.
NO_RUN = re.compile(r"^(```\w+) no-run\s*$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each file outside docs/ that a page links to."""
    for name, text in site_repository.pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in what comes from the code, and lead links to files outside docs/ to their pages."""
    markdown = NO_RUN.sub(r"\1", MARK.sub(lambda found: WRITERS[found[1]](), markdown))
    if page.file.generated_by:  # site_repository has done it
        return markdown
    return site_repository.relink(markdown, f"docs/{page.file.src_uri}")


def on_page_content(text: str, page: Any, config: Any, files: Files) -> str:
    """Turn formulas into MathML, which browsers draw without a script, and put drawings into the page itself."""
    text = FORMULA.sub(lambda found: _formula(found[2], found[1] == "div"), text)
    return DRAWING.sub(lambda found: (DOCS / found[1]).read_text(encoding="utf-8"), text)


def _formula(latex: str, block: bool) -> str:
    written = convert(html.unescape(latex).strip(), display="block" if block else "inline")
    if block:  # a wide formula scrolls, by the keyboard too
        written = written.replace("<math ", '<math tabindex="0" ', 1)
    return LETTER.sub(lambda found: f"<mi>{_letter(found[1], found[2])}</mi>", written)


def _letter(variant: str, letter: str) -> str:
    """A script or double-struck capital, such as \u211d. Browsers no longer read the attribute mathvariant."""
    word = "SCRIPT" if variant == "script" else "DOUBLE-STRUCK"
    for name in (f"MATHEMATICAL {word} CAPITAL {letter}", f"{word} CAPITAL {letter}"):
        with contextlib.suppress(KeyError):
            return unicodedata.lookup(name)
    return letter

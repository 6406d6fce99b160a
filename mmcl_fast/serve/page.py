"""The page to drop files on: one HTML text that loads nothing else, and its content security policy."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_fast.templates import make_environment

if TYPE_CHECKING:
    from jinja2 import Template

HERE = Path(__file__).parent


def render_page(modalities: Iterable[str]) -> str:
    """Return the page as HTML, with the modalities to choose from."""
    from markupsafe import Markup

    # Markup: the style and script are files of this package, and escaping would change their digests.
    return _template().render(
        modalities=list(modalities), style=Markup(_read("page.css")), script=Markup(_read("page.js"))
    )


@cache
def content_policy() -> str:
    """Return the value of Content-Security-Policy: the page runs its own style and script and no other.

    Browsers compare the SHA-256 of the text inside ``<style>`` and ``<script>`` with the ones named here.
    """
    return (
        f"default-src 'none'; style-src 'sha256-{_digest(_read('page.css'))}'; "
        f"script-src 'sha256-{_digest(_read('page.js'))}'; connect-src 'self'; form-action 'self'; img-src blob:; "
        "media-src blob:; base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _template() -> Template:
    return make_environment(HERE).get_template("page.html.j2")


@cache
def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

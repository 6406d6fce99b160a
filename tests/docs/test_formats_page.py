"""docs/formats.md is what its program writes of the table of formats as it is now."""

from __future__ import annotations

import importlib.util

from tests.docs.pages import DOCS


def test_the_page_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_formats", DOCS / "make_formats.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    assert module.page() == page, "the table of formats has changed: python docs/make_formats.py"
    assert "| HEIC | heic, heif, hif | convert it to JPEG or PNG |" in page

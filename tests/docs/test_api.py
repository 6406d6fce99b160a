"""docs/api.md is what its program writes of the docstrings as they are now, and every public name has one."""

from __future__ import annotations

import subprocess
import sys

from tests.docs.pages import DOCS, ROOT


def said(program: str) -> str:
    """In a process of its own: nothing is registered there but what ships."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {[str(ROOT), str(DOCS)]}\nimport make_api\n{program}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_is_current() -> None:
    assert said("print(make_api.page(), end='')") == (DOCS / "api.md").read_text(encoding="utf-8"), (
        "docstrings of public names have changed: python docs/make_api.py"
    )


def test_every_public_name_says_what_it_is() -> None:
    program = (
        "import importlib, inspect\n"
        "for m in map(importlib.import_module, make_api.MODULES):\n"
        "    for name in make_api.names(m):\n"
        "        value = inspect.unwrap(getattr(m, name))\n"
        "        if (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__: print(name)\n"
    )
    assert said(program) == ""

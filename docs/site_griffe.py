"""An extension of griffe, which reads docstrings for the API pages: it rewrites two forms that griffe does not know.

``rank, world: ...`` becomes an entry for ``rank`` and an entry for ``world`` with the same text. An indented block
after ``::`` becomes a fenced block of Python.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object

ENTRY = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)
BLOCK = re.compile(r"^( *)(.*)::\n\n((?:\1 +.*\n?|\n)+)", re.MULTILINE)


class ReadDocstrings(Extension):
    """Rewrite the docstrings of all objects before griffe looks for sections."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = rewrite(obj.docstring.value)


def rewrite(docstring: str) -> str:
    """A docstring whose entries describe one parameter each and whose blocks of code are fenced."""
    text = ENTRY.sub(lambda found: "\n".join(f"{found[1]}{n}: {found[3]}" for n in found[2].split(", ")), docstring)
    return BLOCK.sub(_fence, text)


def _fence(found: re.Match[str]) -> str:
    before = "**Example**" if found[2] == "Example" else f"{found[2]}:"
    code = textwrap.indent(textwrap.dedent(found[3]).strip(), found[1])
    return f"{found[1]}{before}\n\n{found[1]}```python\n{code}\n{found[1]}```\n\n"

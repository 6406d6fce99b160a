"""An extension of griffe, which reads the docstrings of the API pages: one entry may describe several parameters.

``rank, world: ...`` becomes an entry for ``rank`` and an entry for ``world`` with the same text.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ENTRY = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class SharedEntries(Extension):
    """Split entries such as ``a, b: text`` in the docstrings of all objects."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = split(obj.docstring.value)


def split(docstring: str) -> str:
    """A docstring whose entries describe one parameter each."""
    return ENTRY.sub(lambda found: "\n".join(f"{found[1]}{n}: {found[3]}" for n in found[2].split(", ")), docstring)

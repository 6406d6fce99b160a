"""Names of classes: which are the same, and which look the same to a reader."""

from __future__ import annotations

import unicodedata


def canonical(name: str) -> str:
    """The name in Unicode's composed form (NFC). Macs write ``é`` as two code points, other systems as one."""
    return name if unicodedata.is_normalized("NFC", name) else unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """What two names share that differ only in case, spaces, underscores, hyphens, width or invisible characters."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    words = unicodedata.normalize("NFKC", seen.casefold()).replace("_", " ").replace("-", " ")
    return " ".join(words.split())

"""Names of classes: which are the same, and which look the same to a reader."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence


def normalize_name(name: str) -> str:
    """The name in Unicode's composed form (NFC). Macs write ``é`` as two code points, other systems as one."""
    return name if unicodedata.is_normalized("NFC", name) else unicodedata.normalize("NFC", name)


def name_normalizer(classes: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """How the names of classes that were stored once are read: ``normalize_name``; as they are where two would become one.

    ``classes``: (modality, name) of each.
    """
    forms = {(modality, normalize_name(name)) for modality, name in classes}
    return normalize_name if len(forms) == len(set(classes)) else str


def fold_name(name: str) -> str:
    """What two names share that differ only in case, spaces, underscores, hyphens, width or invisible characters."""
    seen = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    words = unicodedata.normalize("NFKC", seen.casefold()).replace("_", " ").replace("-", " ")
    return " ".join(words.split())

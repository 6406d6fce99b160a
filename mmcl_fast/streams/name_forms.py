"""Forms of class names: one for names that are the same class, one for names that look the same to a reader."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence


def normalize_name(name: str) -> str:
    """Return the name in Unicode's composed form (NFC). macOS writes ``é`` as two code points, other systems as one."""
    return name if unicodedata.is_normalized("NFC", name) else unicodedata.normalize("NFC", name)


def name_normalizer(classes: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Return the function that brings stored class names to the form that streams use today.

    It is ``normalize_name``, unless that would make two of the classes one. Then names stay as they are.

    ``classes``: (modality, name) of each stored class.
    """
    forms = {(modality, normalize_name(name)) for modality, name in classes}
    return normalize_name if len(forms) == len(set(classes)) else str


def fold_name(name: str) -> str:
    """Return a form that is equal for names that look the same to a reader.

    It ignores case, width, invisible characters, and whether words are separated by spaces, underscores or hyphens.
    """
    visible = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    # Folding the case may give a form that is not normal any more, so names are normalised again.
    words = unicodedata.normalize("NFKC", visible.casefold()).replace("_", " ").replace("-", " ")
    return " ".join(words.split())

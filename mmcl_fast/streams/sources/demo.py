"""The place of the demo's media."""

from __future__ import annotations

import os
from pathlib import Path

from mmcl_fast.errors import StreamError

VARIABLE = "MMCL_FAST_DEMO"


def find_demo(root: str | Path | None = None) -> Path:
    """Return the path of the demo's manifest.

    Args:
        root: the folder of the demo. None: $MMCL_FAST_DEMO if it is set, else ./demo or the checkout's demo/.

    Raises:
        StreamError: it is not there. Other places are not searched where ``root`` or the variable names one.
    """
    configured = root or os.environ.get(VARIABLE)
    if configured:
        path = Path(configured) / "manifest.jsonl"
        if not path.is_file():
            source = "the folder given" if root else f"${VARIABLE}"
            raise StreamError(f"{path}: no demo manifest there ({source}): point it at the repository's demo/ folder")
        return path
    for folder in (Path("demo"), Path(__file__).resolve().parents[3] / "demo"):
        if (folder / "manifest.jsonl").is_file():
            return folder / "manifest.jsonl"
    raise StreamError(
        "demo media not found: they are the demo/ folder of the repository, not part of the "
        f"wheel; run from a checkout, or set {VARIABLE} to that folder"
    )

from __future__ import annotations

from pathlib import Path

import pytest

from tests.streams.helpers import put_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five classes of images and three of sounds, each with 4 training and 2 test files that do not decode."""
    root = tmp_path / "data"
    for modality, labels in (("image", "abcde"), ("audio", ("a", "x_y", "z"))):
        for label in labels:
            for split, count in (("train", 4), ("test", 2)):
                for i in range(count):
                    put_file(root, modality, split, label, f"{split}{i}")
    (root / "README.md").write_text("beside the folders")
    (root / "image" / ".hidden").mkdir()
    return root

"""A member of a tar may end the process that recognises its content. The check of files names it later."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmcl_fast import plugins
from mmcl_fast.media.engines import isolation
from mmcl_fast.media.engines.isolation import process
from mmcl_fast.streams.sources.tar_index import read_index

SNIFFER = str(Path(__file__).parents[2] / "serve/planted_sniffer.py")

if isolation.unavailable():
    pytest.skip(f"isolation: {isolation.unavailable()}", allow_module_level=True)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def test_a_member_that_kills_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.ENVIRONMENT_VARIABLE, SNIFFER)
    monkeypatch.setattr(process, "_server", None)
    members = {
        "0.png": png(np.zeros((4, 4, 3), np.uint8)),
        "1.png": b"planted abort",
        "2.png": png(np.full((4, 4), 900, np.uint16)),
        "3.jpg": b"planted abort",
    }
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    kinds = {name: kind for name, _, _, kind in read_index(tmp_path / "train.tar")}
    assert kinds == {"0.png": "image", "1.png": "image", "2.png": "depth", "3.jpg": "image"}
    process.fork_server().close()

"""A trained learner and a file of each modality for the tests of the server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.toy import write_folder

if TYPE_CHECKING:
    from mmcl_fast.learning import Learner

for package in ("starlette", "uvicorn", "python_multipart", "prometheus_client"):
    pytest.importorskip(package)


@pytest.fixture(scope="session")
def learner(place: Path) -> Learner:
    from mmcl_fast.learning import Learner

    return Learner.load(place / "run", device="cpu")


@pytest.fixture(scope="session")
def two_versions(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with a second version, which has learned depth too; to be read only."""
    from mmcl_fast import runs

    root = tmp_path_factory.mktemp("versions")
    shutil.copytree(place / "run", root / "run")
    write_folder(root / "more", classes=2, train=4, test=3, modalities=("depth",))
    runs.learn(root / "run", root / "more")
    return root / "run"


@pytest.fixture
def versions(two_versions: Path, tmp_path: Path) -> Path:
    """A copy of the run with two versions, whose current one is the first."""
    shutil.copytree(two_versions, tmp_path / "run")
    (tmp_path / "run/current.json").unlink()
    return tmp_path / "run"


@pytest.fixture(scope="session")
def media(place: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each modality; ``image-png`` and ``depth-npy`` are second files of their modalities."""
    import av
    import numpy as np
    import soundfile
    from PIL import Image

    root = tmp_path_factory.mktemp("media")
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (60, 80, 3), np.uint8)
    ramp = np.add.outer(np.arange(40), np.arange(50)) * 30 + 500
    found = {
        "image": root / "a.jpg",
        "image-png": next((place / "data/image/test/class_0").iterdir()),
        "video": root / "a.mp4",
        "audio": root / "a.wav",
        "depth": root / "a.png",
        "depth-npy": root / "a.npy",
        "text": next((place / "data/text/test/class_1").iterdir()),
    }
    Image.fromarray(picture).save(found["image"])
    Image.fromarray(ramp.astype(np.uint16)).save(found["depth"])
    np.save(found["depth-npy"], ramp / 1000)
    soundfile.write(found["audio"], rng.normal(0, 0.1, 16000), 16000)
    with av.open(str(found["video"]), "w") as video:
        stream = video.add_stream("mpeg4", rate=8)
        stream.width = stream.height = 48
        for i in range(8):
            frame = np.roll(picture[:48, :48], 5 * i, 0)
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        video.mux(stream.encode())
    return found

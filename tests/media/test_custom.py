"""A user's modality: registered, decoded, cached under its reader's code, and learned from a folder."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from mmcl_fast import media
from mmcl_fast.errors import ConfigError, MediaError, StreamError
from mmcl_fast.learning import Learner
from mmcl_fast.media.registry import REGISTRY, ModalityRegistry
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

READER = "import numpy as np\n\n\ndef read(file):\n    return np.loadtxt(file, delimiter=',', ndmin=2){scale}\n"


def reader(folder: Path, scale: str = ""):
    file = folder / "thermal.py"
    file.write_text(READER.format(scale=scale))
    found = importlib.util.spec_from_file_location("thermal", file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module.read


@pytest.fixture
def thermal(tmp_path: Path):
    media.register("thermal", reader(tmp_path))
    yield
    REGISTRY.unregister("thermal")


def write(file: Path, values: np.ndarray) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(file, values, delimiter=",")
    return file


def test_a_file_becomes_the_encoders_picture(tmp_path: Path, thermal: None) -> None:
    ramp = np.linspace(0, 1, 40)[None].repeat(30, 0)
    file = write(tmp_path / "a.csv", ramp)
    own_spec = media.VisualSpec(modality="thermal", size=20)
    data = media.decode(file, "thermal", own_spec)
    assert data.shape == (1, 3, 20, 20) and data.dtype == torch.float32
    shown = data[0, 0] * 0.5 + 0.5
    assert torch.allclose(shown, torch.linspace(0, 1, 20).expand(20, 20), atol=0.03)
    assert torch.equal(data, media.decode(file.read_bytes(), "thermal", own_spec))
    assert not torch.equal(data, media.decode(file, "thermal", own_spec, view=1))
    assert media.loader([], own_spec, backend="cpu").engine.name == "cpu"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1,2\n3,4\n", "gave numbers from 1 to 4: let it give 0 to 1"),
        ("nan,0\n0,0\n", "gave numbers from nan to nan"),
        ("a,b\n", "cannot be decoded as thermal"),
        ("", "the file is empty"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, thermal: None, text: str, what: str) -> None:
    file = tmp_path / "x.csv"
    file.write_text(text)
    with pytest.raises(MediaError, match="x.csv") as fault:
        media.check(file, "thermal")
    assert what in str(fault.value)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    for name in ("image", "Thermal", "a/b", ""):
        with pytest.raises(ConfigError, match="give a"):
            media.register(name, reader(tmp_path))
    with pytest.raises(ConfigError, match="source code is not to be found"):
        media.register("thermal", eval("lambda file: 0"))
    with pytest.raises(StreamError, match="unknown modality 'thermal'"):
        Stream.from_manifest(_manifest(tmp_path))


def _manifest(root: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for c in range(2):
        for split, count in (("train", 6), ("test", 4)):
            for i in range(count):
                ramp = np.linspace(0, 0.8, 32)[None].repeat(32, 0)
                plane = (ramp if c else ramp.T) + rng.random((32, 32)) * 0.1
                file = write(root / f"thermal/{split}/class_{c}/{i}.csv", plane)
                row = {"path": str(file.relative_to(root)), "modality": "thermal", "label": f"class_{c}"}
                rows.append(row | {"split": split})
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "manifest.jsonl"


def test_it_is_learned_beside_others_and_read_anew_by_a_changed_reader(tmp_path: Path, thermal: None) -> None:
    data = write_folder(tmp_path / "data", classes=2, modalities=("image",))
    _manifest(data)
    stream = Stream.from_folder(data)
    assert stream.modalities == ["image", "thermal"] and len(Stream.from_manifest(data / "manifest.jsonl")) == 1
    options = {"epochs": 2, "realignment": "trained", "steps": 20, "sampled_features": 32}
    encoder = ToyEncoder()
    learner = Learner(encoder, options=options, device="cpu", cache_dir=tmp_path / "cache", workers=0)
    for task in stream:
        learner.learn(task)
    result = learner.evaluate(stream.tasks, setting="agnostic")
    assert result.correct["agnostic"][1] >= 6  # of 8
    file = cast(Path, stream[1].test[0].path)
    assert learner.predict([file], modality="thermal")[0].labels[0] == ("thermal", "class_0")

    def learned_again() -> list[str]:
        encoder.trunk_calls.clear()
        again = Learner(encoder, options=options, device="cpu", cache_dir=tmp_path / "cache", workers=0)
        again.learn(stream[1])
        return encoder.trunk_calls

    assert learned_again() == []
    media.register("thermal", reader(tmp_path, " * 0.5"))
    assert len(learned_again()) >= 12


def test_the_list_of_modalities_shows_what_is_registered_and_cannot_be_changed(tmp_path: Path) -> None:
    built_in = ["image", "video", "audio", "depth", "text"]
    names = media.MODALITIES
    assert list(names) == built_in and repr(names) == repr(built_in)
    media.register("thermal", reader(tmp_path))
    try:
        assert list(names) == [*built_in, "thermal"] and names[-1] == "thermal" and len(names) == 6
        assert names.index("thermal") == 5 and "thermal" in names and names[:2] == ("image", "video")
        assert REGISTRY.visual_names() == ("image", "video", "audio", "depth", "thermal")
        assert not hasattr(names, "append")
        with pytest.raises(TypeError):
            names[0] = "radar"  # type: ignore[index]
    finally:
        REGISTRY.unregister("thermal")
    assert list(names) == built_in and "thermal" not in REGISTRY.source_hashes()
    with pytest.raises(ConfigError, match="thermal"):
        media.default_spec("thermal")


def test_each_registry_holds_its_own_modalities(tmp_path: Path) -> None:
    registry = ModalityRegistry()
    registry.register("thermal", reader(tmp_path))
    assert registry.names()[-1] == "thermal" and "thermal" not in media.MODALITIES

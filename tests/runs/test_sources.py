"""The same data from a folder, tars, a table and Parquet teach the same; [stream] and [media] of a config."""

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmcl_fast.config import load_config
from mmcl_fast.errors import ConfigError, MediaError, StreamError
from mmcl_fast.learning import Learner
from mmcl_fast.runs.make_stream import make_stream
from mmcl_fast.streams import Stream
from tests.streams.sources.table_files import save_table
from tests.toy import ToyEncoder, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data"), classes=2, train=5, test=3)


@pytest.fixture(scope="module")
def tars(folder, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("tars")
    for split in ("train", "val", "test"):
        with tarfile.open(root / f"{split}-000.tar", "w") as tar:
            for number, file in enumerate(sorted(folder.glob(f"*/{split}/*/*"))):
                modality, _, label, _name = file.relative_to(folder).parts
                (root / "cls").write_text(label)
                tar.add(file, f"{modality}/{number:04d}{file.suffix}")
                tar.add(root / "cls", f"{modality}/{number:04d}.cls")
    (root / "cls").unlink()
    return root


def learned(stream: Stream, **options) -> tuple[Learner, dict[str, list[int]]]:
    learner = Learner(ToyEncoder(), "ridge", **options)
    for task in stream:
        learner.learn(task)
    return learner, learner.evaluate(stream.tasks).correct


def test_tars_teach_what_their_folder_teaches(folder, tars):
    one, right = learned(Stream.from_folder(folder, order=["image:0", "depth:0", "text:0"]))
    other, same = learned(Stream.from_tar(tars, order=["image:0", "depth:0", "text:0"]))
    assert right == same
    for (name, tensor), (_, packed) in zip(sorted(one.contents()[0].items()), sorted(other.contents()[0].items())):
        assert torch.equal(tensor, packed), name


def test_a_table_teaches_what_its_files_teach(folder, tmp_path):
    rows = [(file.read_text(), file.parts[-2], file.parts[-3]) for file in sorted((folder / "text").glob("*/*/*"))]
    save_table(tmp_path / "a.csv", rows, ("text", "label", "split"))
    one, right = learned(Stream.from_folder(folder, order=["text:0"]))
    other, same = learned(Stream.from_table(tmp_path / "a.csv"))
    assert right == same and torch.equal(one.classes.embedding, other.classes.embedding)


def test_what_depth_maps_hold_goes_with_the_learner(folder, tmp_path):
    """Disparity read as disparity: the pictures of the depth maps that it came from."""
    scene = Path(tmp_path / "d")
    for file in (folder / "depth").glob("*/*/*"):
        target = scene / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        disparity = 2e7 / np.asarray(Image.open(file)).astype(np.float64)
        Image.fromarray(disparity.round().astype(np.uint16)).save(target)
    depth, right = learned(Stream.from_folder(folder, order=["depth:0"]))
    wrong, _ = learned(Stream.from_folder(scene))
    stated, same = learned(Stream.from_folder(scene), media={"depth_kind": "disparity"})
    want, good, bad = (
        learner.cache.tokens(learner.encoder, Stream.from_folder(root, order=["depth:0"])[0].test).query
        for learner, root in ((depth, folder), (stated, scene), (wrong, scene))
    )
    assert right == same and (good - want).norm() < 0.05 * (bad - want).norm()
    stated.save(tmp_path / "saved")
    again = Learner.load(tmp_path / "saved", encoder=ToyEncoder())
    assert again.settings["media"] == {"depth_kind": "disparity"}
    file = next((scene / "depth" / "test").rglob("*.png"))
    assert again.predict([file], modality="depth") == stated.predict([file], modality="depth")
    assert (
        again.predict([file], modality="depth")[0].probabilities
        != wrong.predict([file], modality="depth")[0].probabilities
    )


def test_limits_of_the_user(folder):
    with pytest.raises(MediaError, match="32 x 32 pixels, the limit is 1000: make it smaller or raise max_pixels"):
        learned(Stream.from_folder(folder), media={"max_pixels": 1000})
    with pytest.raises(ConfigError, match="media setting 'max_pixel'"):
        Learner(ToyEncoder(), "ridge", media={"max_pixel": 1000})


def build(*overrides: str) -> Stream:
    return make_stream(load_config("folder", overrides))


def test_every_source_of_a_config(folder, tars, tmp_path):
    rows = [(f"{c}{i}{s}", c, s) for c in "ab" for i in range(2) for s in ("train", "test")]
    save_table(tmp_path / "t.csv", rows, ("words", "kind", "part"))
    save_table(tmp_path / "n" / "train.csv", [(1 + i % 2, f"t{i}") for i in range(4)], header=False)
    save_table(tmp_path / "n" / "test.csv", [(1 + i % 2, f"u{i}") for i in range(4)], header=False)
    (tmp_path / "n" / "classes.txt").write_text("yes\nno\n")
    table = build(
        "stream.source=table",
        f"stream.path={tmp_path}/t.csv",
        "stream.text=words",
        "stream.label=kind",
        "stream.split=part",
    )
    assert table[0].classes == ("a", "b") and len(table[0].train) == 4
    numbers = build(
        "stream.source=table", f"stream.path={tmp_path}/n", "stream.text=2", "stream.label=1", "stream.header=false"
    )
    assert numbers[0].classes == ("no", "yes") and numbers[0].train[0].text == "t1"
    assert build(f"stream.path={folder}").modalities == ["image", "depth", "text"]
    packed = build("stream.source=tar", f"stream.path={tars}")
    assert packed.modalities == ["image", "depth", "text"] and len(packed[0].val) == 4
    stated = build(
        "stream.source=tar", f"stream.path.train={tars}/train-{{000..000}}.tar", f"stream.path.test={tars}/test-*.tar"
    )
    assert stated[0].train == packed[0].train and not stated[0].val


def test_paths_of_tars_are_the_files_own(tars, tmp_path):
    file = tmp_path / "sub" / "mine.toml"
    file.parent.mkdir()
    file.write_text('[stream]\nsource = "tar"\n[stream.path]\ntrain = "x-{0..9}.tar"\ntest = "y.tar"\n')
    assert load_config(file).stream.path == {
        "train": str(tmp_path / "sub" / "x-{0..9}.tar"),
        "test": str(tmp_path / "sub" / "y.tar"),
    }


@pytest.mark.parametrize(
    "overrides, error, part",
    [
        (
            ["stream.source=tars"],
            ConfigError,
            'stream.source: expected "demo", "folder", "manifest", "table", "tar" or "known"',
        ),
        (["stream.source=tar"], ConfigError, "stream.path: missing"),
        (["stream.path.train=a"], ConfigError, 'a table of splits is for source = "tar"'),
        (["stream.source=tar", "stream.path.trian=a.tar"], StreamError, "did you mean 'train'?"),
        (["stream.source=manifest", "stream.path=a", "stream.text=words"], ConfigError, "stream.text: not read where"),
        (["stream.source=tar", "stream.path=a", "stream.header=false"], ConfigError, "stream.header: not read where"),
        (["stream.text=[1.5]"], ConfigError, "stream.text"),
        (["media.max_pixels=0"], ConfigError, "media.max_pixels: expected a whole number from 1 to 178956970"),
        (["media.max_pixels=999999999"], ConfigError, "media.max_pixels: expected a whole number"),
        (["media.max_seconds=inf"], ConfigError, "media.max_seconds"),
        (["media.depth_kind=near"], ConfigError, 'media.depth_kind: expected "depth", "disparity"'),
        (["media.max_pixel=5"], ConfigError, "did you mean 'max_pixels'?"),
    ],
)
def test_faults_of_a_config(overrides, error, part):
    with pytest.raises(error) as caught:
        build(*overrides)
    assert part in str(caught.value), str(caught.value)

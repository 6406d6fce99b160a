"""Tars in the WebDataset convention: samples are byte ranges of them."""

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from mmcl_fast.errors import MediaError
from mmcl_fast.media import decode
from mmcl_fast.media.source import Slice, read_bytes
from mmcl_fast.streams import Stream
from mmcl_fast.streams.sources import tar_index
from mmcl_fast.streams.sources.tar import find_tars
from tests.streams.helpers import assert_refused, task_names
from tests.streams.sources.tar_files import pack, png, special_member, wav


def shard(start: int, count: int = 4, label="cat dog") -> list:
    return [
        pair
        for i in range(start, start + count)
        for pair in ((f"{i:04d}.png", png(i)), (f"{i:04d}.cls", label.split()[i % len(label.split())]))
    ]


@pytest.fixture
def tars(tmp_path, monkeypatch) -> Path:
    """Pictures and sounds of two classes each in two training shards and a test shard."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "data"
    for number, name in enumerate(("train-000", "train-001", "test-000")):
        sounds = [(f"s/{i}.wav", wav(i + 10 * number)) for i in range(2)]
        fields = [(f"s/{i}.json", {"label": ("bark", "horn")[i], "n": 3, "long": "x" * 999}) for i in range(2)]
        others = [("README", "beside"), ("m.pkl", b"never read")]
        pack(
            root / f"{name}.tar",
            [*shard(4 * number), *fields, *sounds, *others],
            (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)[number],
        )
    return root


def test_samples_are_byte_ranges(tars):
    stream = Stream.from_tar(tars, check=True)
    assert task_names(stream) == ["image-0", "audio-0"] and stream.root == tars
    assert stream[0].classes == ("cat", "dog") and stream[1].classes == ("bark", "horn")
    assert (len(stream[0].train), len(stream[0].test), len(stream[1].train)) == (8, 4, 4)
    sample = stream[0].train[0]
    assert sample.key == "train-000.tar/0000.png" and isinstance(sample.path, Slice)
    assert str(sample.path) == str(tars / sample.key)
    assert read_bytes(sample.path) == png(0)
    assert torch.equal(decode(sample.path, "image"), decode(png(0), "image"))
    assert all(decode(s.path, "audio").isfinite().all() for s in stream[1].test)


@pytest.mark.parametrize(
    "pattern, found",
    [
        ("train-{000..001}.tar", "train-000 train-001"),
        ("{train-001,test-000}.tar", "train-001 test-000"),
        ("*.tar", "test-000 train-000 train-001"),
        (".", "test-000 train-000 train-001"),
        ("train-00?.tar", "train-000 train-001"),
        ("train-001.tar", "train-001"),
        ("{train,test}-{000..000}.tar", "train-000 test-000"),
        ("{train-{000..001},test-000}.tar", "train-000 train-001 test-000"),
        ("train-00{0..2..2}.tar", "train-000 train-002"),
        ("{s..t}*-000.tar", None),
        ("tr*-{0..1,000}.tar", None),
    ],
)
def test_patterns(tars, monkeypatch, pattern, found):
    monkeypatch.chdir(tars)
    if found is None:
        assert_refused(lambda: find_tars(pattern), "no file matches")
    else:
        assert [file.stem for file in find_tars(pattern)] == found.split()


def test_patterns_that_are_refused(tars, tmp_path):
    for pattern, part in (
        (tars / "val-*.tar", "no file matches"),
        (tars / "a{1..9999999}.tar", "more than 100000"),
        (tars / "a{0..999}{0..999}.tar", "more than 100000"),
        (tars / "a{2..1}.tar", "smaller number"),
        (tars / "{a,b{0..1}}.tar", "a.tar: No such file"),
        (tars / "a{0..999999999999999999}.tar", "more than 100000"),  # refused before a name is made
        (tars / ("a" + "{0..9}" * 5000), "more than 100000"),
        (tars / ("{a," * 3000 + "b" + "}" * 3000), "nested too deeply"),
        (tars / "a{0..9}}.tar", "do not match"),
        (tars / "a}{0..1.tar", "do not match"),
        (tars / "a{1..\u0663}.tar", "write {000..012}"),
        (tars / "a{b}.tar", "write {000..012}"),
        (tars / "gone.tar", "gone.tar: No such file"),
        (tars / "train.tgz", "unpack it to a plain .tar"),
        (tars / "a{0..1.tar", "do not match"),
    ):
        assert_refused(lambda: Stream.from_tar(pattern), part)
    (tars / "[a]{1}.tar").write_bytes((tars / "test-000.tar").read_bytes())
    assert [file.name for file in find_tars(str(tars / "[a]{1}.tar"))] == ["[a]{1}.tar"]  # a file of that very name
    (tmp_path / "empty").mkdir()
    assert_refused(lambda: Stream.from_tar(tmp_path / "empty"), "no .tar below it")


def test_the_split_of_a_tar(tars, tmp_path):
    by_name = Stream.from_tar(tars)
    stated = Stream.from_tar({"train": tars / "train-{000..001}.tar", "test": str(tars / "test-*.tar")})
    assert stated.fingerprint == by_name.fingerprint
    (tars / "test").mkdir()
    (tars / "test-000.tar").rename(tars / "test" / "000.tar")
    assert len(Stream.from_tar(tars)[0].test) == 4
    (tars / "test" / "000.tar").rename(tars / "b.tar")
    assert_refused(lambda: Stream.from_tar(tars), "b.tar: neither its name nor the .json of '0008' says the split")
    assert len(Stream.from_tar({"train": tars / "train-*.tar", "test": tars / "b.tar"})[0].test) == 4
    assert_refused(
        lambda: Stream.from_tar({"train": tars, "test": tars / "b.tar"}), "b.tar: given for train and for test"
    )
    assert_refused(lambda: Stream.from_tar({"tset": tars}), "unknown split 'tset'")
    (tars / "b.tar").rename(tars / "train-test.tar")
    assert_refused(lambda: Stream.from_tar(tars), "train-test.tar: neither")
    one = pack(
        tmp_path / "own.tar",
        [
            pair
            for i, split in enumerate(("train", "test", "val", "train"))
            for pair in ((f"{i}.png", png(i)), (f"{i}.json", {"split": split, "label": "a"}))
        ],
    )
    task = Stream.from_tar(one)[0]
    assert [len(task.split(name)) for name in ("train", "val", "test")] == [2, 1, 1]


def test_modalities_by_name_content_and_field(tmp_path):
    data = io.BytesIO()
    np.save(data, np.ones((8, 8), np.float32))
    members = [
        ("a.png", png(0)),
        ("b.png", png(1, np.uint16)),
        ("c.npy", data.getvalue()),
        ("d.txt", "words"),
        ("e.jpg", png(2)),
        ("e.txt", "its caption"),
        ("f.rgb.png", png(3)),
        ("f.image.png", png(3)),
        ("f.depth.png", png(4, np.uint16)),
        ("g.png", b"broken"),
        ("h.ogg", b"OggS broken"),
        ("i.wav", wav(3)),
        ("i.md", "said"),
    ]
    for name in "abcdefghi":
        members.append((f"{name}.json", {"label": "q", **({"modality": "text"} if name == "i" else {})}))
    pack(tmp_path / "train.tar", members)
    shutil.copy(tmp_path / "train.tar", tmp_path / "test.tar")
    stream = Stream.from_tar(tmp_path)
    assert {task.modality: [s.key[10:] for s in task.train] for task in stream.tasks} == {
        "image": ["a.png", "e.jpg", "f.image.png", "g.png"],
        "depth": ["b.png", "c.npy", "f.depth.png"],
        "video": ["h.ogg"],
        "text": ["d.txt", "i.md"],
    }
    assert_refused(lambda: Stream.from_tar(tmp_path, check=True), "equal content in")


def test_numbers_as_classes(tars):
    members = [pair for i in range(4) for pair in ((f"{i}.png", png(i + 50)), (f"{i}.cls", str(i % 2)))]
    for split in ("train", "test"):
        pack(tars / "n" / f"{split}.tar", members)
    assert_refused(lambda: Stream.from_tar(tars / "n"), "the classes are numbers (0, 1")
    (tars / "n" / "classes.txt").write_text("cat\ndog\n")
    stream = Stream.from_tar(tars / "n")
    assert [s.label for s in stream[0].train] == ["cat", "cat", "dog", "dog"]
    for split in ("train", "test"):  # named sounds beside numbered pictures
        pack(tars / "n" / f"{split}.tar", [*members, ("s.wav", wav(1)), ("s.cls", "bark")])
    assert Stream.from_tar(tars / "n").classes == [("image", "cat"), ("image", "dog"), ("audio", "bark")]


@pytest.fixture
def scans(monkeypatch) -> list[str]:
    """Names of the tars that are read from end to end."""
    seen, real = [], tar_index._scan_tar
    monkeypatch.setattr(tar_index, "_scan_tar", lambda path: seen.append(path.name) or real(path))
    return seen


def test_the_index_is_made_once_and_again_when_the_tar_changes(tars, scans):
    first = Stream.from_tar(tars)
    assert scans == ["test-000.tar", "train-000.tar", "train-001.tar"]
    again = Stream.from_tar(tars)
    assert len(scans) == 3 and again.tasks == first.tasks
    info = (tars / "train-001.tar").stat()
    pack(tars / "train-001.tar", shard(40))
    os.utime(tars / "train-001.tar", ns=(info.st_atime_ns, info.st_mtime_ns + 1))
    assert {s.key for s in Stream.from_tar(tars)[0].train} >= {"train-001.tar/0040.png"} and len(scans) == 4
    index = tars / "test-000.tar.index.json"
    good = json.loads(index.read_text())
    for damage in (
        b"",
        b"{",
        b"[" * 100_000,
        json.dumps({**good, "members": [["a.png", 0, 10**9, "image"]]}).encode(),
        json.dumps({**good, "members": [["a.png", -5, 5, "image"]]}).encode(),
        json.dumps({**good, "format": 0}).encode(),
        json.dumps({**good, "members": [[1, 2]]}).encode(),
    ):
        before = len(scans)
        index.write_bytes(damage)
        assert len(Stream.from_tar(tars)[0].test) == 4 and scans[before:] == ["test-000.tar"]
    assert not list(tars.glob(".*"))  # nothing temporary is left


def test_a_folder_that_cannot_be_written(tars, scans, monkeypatch, tmp_path):
    real = tar_index._store_index
    monkeypatch.setattr(
        tar_index, "_store_index", lambda place, content: tars not in place.parents and real(place, content)
    )
    for _ in range(2):
        assert len(Stream.from_tar(tars)) == 2
    assert len(scans) == 3 and not list(tars.glob("*.json"))
    assert len(list((tmp_path / "cache" / "mmcl_fast" / "shards").iterdir())) == 3
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    assert len(Stream.from_tar(tars)) == 2 and len(scans) == 6


def test_no_code_in_a_tar_is_executed(tars, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    trap, objects = pickle.dumps(Trap()), io.BytesIO()
    np.save(objects, np.array([[Trap()]]), allow_pickle=True)
    members = [(f"{i}.{ending}", trap) for i, ending in enumerate(("pkl", "pickle", "pth", "pt", "pyd"))]
    members += [("z.npy", objects.getvalue()), ("z.cls", "a"), ("y.npy", trap), ("y.cls", "a")]
    for split in ("train", "test"):
        pack(tars / "t" / f"{split}.tar", members)
    for sample in Stream.from_tar(tars / "t")[0].train:
        with pytest.raises(MediaError, match="npy: "):
            decode(sample.path, "depth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "members, parts",
    [
        ([(special_member("0001.png", tarfile.SYMTYPE), b"")], ["member '0001.png'", "pack plain files only"]),
        ([(special_member("0001.png", tarfile.LNKTYPE), b"")], ["pack plain files only"]),
        ([(special_member("0001.png", tarfile.CHRTYPE), b"")], ["pack plain files only"]),
        ([(special_member("0001.png", tarfile.FIFOTYPE), b"")], ["pack plain files only"]),
        ([("../a.png", b"x")], ["member '../a.png' names a place outside the tar"]),
        ([("a/../../b.png", b"x")], ["names a place outside"]),
        ([("/etc/a.png", b"x")], ["names a place outside"]),
        ([("a\\b.png", b"x")], ["names a place outside"]),
        ([("caf\udce9.png", b"x")], ["half a character"]),
        ([("a.png", png(0)), ("a.cls", "q"), ("a.png", png(1))], ["member 'a.png' is there twice"]),
        ([("a.png", png(0))], ["sample 'a' has no class: add a .cls", "'label' to its .json"]),
        ([("a.png", png(0)), ("a.json", {"lable": "q"})], ["sample 'a' has no class"]),
        ([("a.jpgg", png(0)), ("a.cls", "q")], ["sample 'a' has a class but no item"]),
        (
            [("a.png", png(0)), ("a.jpg", png(1)), ("a.cls", "q")],
            ["sample 'a' has two items of image, a.png and a.jpg"],
        ),
        ([("a.png", png(0)), ("a.cls", b"\xff")], ["member 'a.cls' line 1: not UTF-8"]),
        ([("a.png", png(0)), ("a.cls", b" \r\n")], ["member 'a.cls'", "one line of UTF-8"]),
        ([("a.png", png(0)), ("a.cls", "q\nr")], ["one line of UTF-8"]),
        ([("a.png", png(0)), ("a.cls", b" " * (1 << 21))], ["member 'a.cls' has 2097152 bytes"]),
        ([("a.png", png(0)), ("a.json", b"{")], ["member 'a.json': not JSON"]),
        ([("a.png", png(0)), ("a.json", b"[" * 100_000)], ["member 'a.json': nested too deeply"]),
        ([("a.png", png(0)), ("a.json", b'{"label": 1, "label": 2}')], ["has the key 'label' twice"]),
        ([("a.png", png(0)), ("a.json", b"[1]")], ["not an object but list"]),
        ([("a.png", png(0)), ("a.json", {"label": "q", "modality": "picture"})], ["unknown modality 'picture'"]),
        ([("a.png", png(0)), ("a.json", {"label": "q", "split": "trian"})], ["did you mean 'train'?"]),
        (
            [("a.png", png(0)), ("a.wav", b"x"), ("a.json", {"label": "q", "modality": "video"})],
            ["sample 'a' has items of image, audio and the modality 'video' in its .json"],
        ),
        ([("a.wav", png(0)), ("a.json", {"label": "q", "modality": "image"})], ["a .wav file cannot be image"]),
        ([("a.png", b""), ("a.cls", "q")], ["train.tar/a.png: the file is empty"]),
        ([("dataset.json", {"name": "x"}), ("README", "x")], ["holds no sample", "0001.jpg with 0001.cls"]),
    ],
)
def test_members_that_are_refused(tars, members, parts):
    path = pack(tars / "m" / "train.tar", members)
    assert_refused(lambda: Stream.from_tar(path), "m/train.tar", *parts)


def test_damaged_tars(tars, tmp_path):
    import bz2
    import gzip
    import lzma

    path, whole = tmp_path / "train.tar", (tars / "train-000.tar").read_bytes()
    for packed, command in (
        (gzip.compress(whole), "gunzip"),
        (bz2.compress(whole), "bunzip2"),
        (lzma.compress(whole), "unxz"),
    ):
        path.write_bytes(packed)
        assert_refused(lambda: Stream.from_tar(path), "train.tar: samples of a compressed tar", f"{command} it first")
    second = 512 + 512 * -(-len(png(0)) // 512)  # where the second header is
    damaged = bytearray(whole)
    damaged[second + 100] ^= 0xFF
    for content in (b"", b"x" * 5000, whole[:700], whole[: second + 100], bytes(damaged), whole[: second + 512 + 1]):
        path.write_bytes(content)
        assert_refused(lambda: Stream.from_tar(path), "train.tar: ")
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    assert_refused(lambda: Stream.from_tar(str(tmp_path / "f*.tar")), "folder.tar: not a regular file: check the path")
    assert_refused(lambda: Stream.from_tar(tmp_path / "pipe.tar"), "pipe.tar: not a regular file")
    assert_refused(lambda: Stream.from_tar("a\0b.tar"), "null ")  # Python 3.13 says "null character"
    huge = tarfile.TarInfo("x" * 200 + ".png").tobuf(tarfile.GNU_FORMAT)
    lie = bytearray(huge[:512])
    lie[124:136] = b"77777777777\0"  # a name of 8 GB
    lie[148:156] = b"        "
    lie[148:156] = b"%06o\0 " % sum(lie)
    path.write_bytes(bytes(lie) + huge[512:] + whole)
    assert_refused(lambda: Stream.from_tar(path), "train.tar: not a valid tar", "pack it again")
    for cut in (whole.rstrip(b"\0"), whole[: -(len(whole) % 10240 or 512)]):  # the zeros at the end may be missing
        path.write_bytes(cut + b"\0" * (-len(cut) % 512))
        assert len(tar_index._scan_tar(path)) == 14


def test_other_names_than_ascii_and_long_ones(tmp_path):
    name = "é" * 90 + "/" + "ü" * 90
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for split in ("train", "test"):
            pack(tmp_path / f"{split}.tar", [(f"./{name}.png", png(0)), (f"{name}.cls", "Katze")], kind)
        assert Stream.from_tar(tmp_path)[0].train[0].key == f"train.tar/{name}.png"

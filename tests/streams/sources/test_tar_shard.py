"""Keys with dots, links in tars, and members that belong to no sample."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from mmcl_fast.media.source import read_bytes
from mmcl_fast.streams import Stream
from mmcl_fast.streams.findings import Findings
from tests.streams.helpers import assert_refused
from tests.streams.sources.tar_files import pack, png, special_member, wav


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def read(path: Path, **options) -> tuple[Stream, list[str]]:
    """Return the stream and the lines of the findings about members and tars."""
    found = Findings(collect=True)
    stream = Stream.from_tar(path, findings=found, **options)
    lines = [f.reason for f in found if f.kind in ("left-out", "passed-over", "row", "unreadable", "linked-twice")]
    return stream, lines


def keys(stream: Stream, split: str = "train") -> list[str]:
    return [sample.key for task in stream.tasks for sample in task.split(split)]


def pack_both_splits(tmp_path: Path, members: list) -> Path:
    """Pack these members as a training and as a test tar."""
    for split in ("train", "test"):
        pack(tmp_path / "tars" / f"{split}.tar", members)
    return tmp_path / "tars"


@pytest.mark.parametrize(
    "stem", ["22.05-cat-0", "a/22.05-cat-0", "v1.2.3", "a.b/c.d", "photo.final", "x..y", "2024.01.02"]
)
@pytest.mark.parametrize("note", ["cls", "json", "CLS"])
@pytest.mark.parametrize("ending", ["png", "PNG", "image.png"])
def test_keys_with_dots(tmp_path, stem, note, ending):
    """A class with the very same name shows where the key ends."""
    cat = {"label": "cat"} if note == "json" else "cat"
    dog = {"label": "dog"} if note == "json" else "dog"
    tars = pack_both_splits(
        tmp_path,
        [
            (f"{stem}.{ending}", png(0)),
            (f"{stem}.{note}", cat),
            (f"{stem}x.{ending}", png(1)),
            (f"{stem}x.{note}", dog),
        ],
    )
    stream, lines = read(tars)
    assert stream.classes == [("image", "cat"), ("image", "dog")] and not lines
    assert keys(stream) == [f"train.tar/{stem}.{ending}", f"train.tar/{stem}x.{ending}"]
    assert read_bytes(stream[0].train[1].path) == png(1)


def test_keys_with_dots_beside_parts_of_other_samples(tmp_path):
    members = [
        ("22.png", png(0)),
        ("22.cls", "cat"),
        ("22.05.png", png(1)),
        ("22.05.cls", "dog"),
        ("22.seg.png", png(2)),  # parts of sample 22 in other programs' endings
        ("22.box.json", {"x": 3}),
        ("22.all.json", "[1]"),
        ("22.rgb.wav", wav(1)),
        ("22.txt", "its caption"),
        ("22.pyd", b"\x80"),
        ("23.pyd", b"\x80"),
    ]
    stream, lines = read(pack_both_splits(tmp_path, members))
    assert keys(stream) == ["train.tar/22.png", "train.tar/22.05.png"]
    tar = tmp_path / "tars" / "test.tar"
    assert sorted(lines) == [
        f"{tar}: member '22.all.json' (and 1 more of .json) belongs to no sample: files with this ending are not read",
        f"{tar}: member '22.box.json' (and 1 more of .json) belongs to no sample, because its key ends at the "
        "first dot: add a .cls with the very same key, or remove the dots",
        f"{tar}: member '22.pyd' (and 3 more of .pyd) belongs to no sample: files with this ending are not read",
        f"{tar}: member '22.rgb.wav' (and 1 more of .wav) belongs to no sample, because its key ends at the "
        "first dot: add a .cls with the very same key, or remove the dots",
        f"{tar}: member '22.seg.png' (and 1 more of .png) belongs to no sample, because its key ends at the "
        "first dot: add a .cls with the very same key, or remove the dots",
        f"{tar}: member '22.txt' (and 1 more of .txt) is the caption of another item and is left out",
    ]


def test_hidden_members_and_members_without_an_item(tmp_path):
    members = [
        ("0.png", png(0)),
        ("0.cls", "cat"),
        ("._0.png", b"\0\5\x16\7"),  # macOS adds such a file to each file
        ("__MACOSX/._0.png", b"\0\5\x16\7"),
        (".DS_Store", b"x"),
        ("README", "x"),
        ("dataset.json", {"name": "x"}),
    ]
    stream, lines = read(pack_both_splits(tmp_path, members))
    tar = tmp_path / "tars" / "test.tar"
    assert keys(stream) == ["train.tar/0.png"]
    assert sorted(lines) == [
        f"{tar}: member '._0.png' (and 5 more) is hidden and is passed over",
        f"{tar}: member 'README' (and 1 more) belongs to no sample: files with this ending are not read",
        f"{tar}: member 'dataset.json' (and 1 more of .json) belongs to no sample: no item has its key",
    ]


def test_a_key_with_dots_and_its_class_under_the_first_dot(tmp_path):
    path = pack(tmp_path / "train.tar", [("22.05-cat.png", png(0)), ("22.cls", "cat")])
    assert_refused(lambda: Stream.from_tar(path), "sample '22' has a class but no item")


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_to_members(tmp_path, kind):
    """GNU tar packs the second name of a file as a hard link; a symbolic one may come before its target."""
    members = [
        (special_member("a/soft.png", tarfile.SYMTYPE, "../b/0.png"), b""),
        ("a/soft.cls", "cat"),
        ("b/0.png", png(0)),
        ("b/0.cls", "cat"),
        (special_member("b/hard.png", tarfile.LNKTYPE, "b/0.png"), b""),
        (special_member("b/hard.cls", tarfile.LNKTYPE, "./b/0.cls"), b""),
        (special_member("b/far.png", tarfile.SYMTYPE, "../a/soft.png"), b""),
        ("b/far.cls", "dog"),
        (special_member("latest", tarfile.SYMTYPE, "/somewhere/else"), b""),
        (special_member("fifo", tarfile.FIFOTYPE, ""), b""),
    ]
    pack(tmp_path / "tars" / "train.tar", members, kind)
    pack(tmp_path / "tars" / "test.tar", [("x.png", png(1)), ("x.cls", "cat"), ("y.png", png(2)), ("y.cls", "dog")])
    for _ in range(2):  # from the tar, and from its index
        stream, lines = read(tmp_path / "tars")
        assert keys(stream) == [f"train.tar/{name}.png" for name in ("a/soft", "b/0", "b/hard", "b/far")]
        assert all(read_bytes(sample.path) == png(0) for sample in stream[0].train)
        assert len(lines) == 1 and "'latest' (and 1 more)" in lines[0]


@pytest.mark.parametrize("target", ["a.png", "b.png", "../0.png", "gone.png", "/etc/passwd"])
def test_links_that_lead_to_no_member(tmp_path, target):
    members = [
        (special_member("a.png", tarfile.SYMTYPE, target), b""),
        (special_member("b.png", tarfile.SYMTYPE, "a.png"), b""),
        ("a.cls", "cat"),
    ]
    path = pack(tmp_path / "train.tar", members)
    assert_refused(
        lambda: Stream.from_tar(path), "train.tar: member ", "which is no file of the tar: pack plain files only"
    )


def test_classes_in_other_encodings_and_as_numbers(tmp_path):
    members = []
    for i, data in enumerate(("café".encode("utf-8-sig"), "café\r\n".encode("utf-16"), "cafe\u0301".encode())):
        members += [(f"{i}.png", png(i)), (f"{i}.cls", data)]
    fields = json.dumps({"label": "café"}, ensure_ascii=False)
    members += [
        ("3.png", png(3)),
        ("3.json", fields.encode("utf-8-sig")),
        ("4.png", png(4)),
        ("4.json", fields.encode("utf-16")),
    ]
    stream, _ = read(pack_both_splits(tmp_path, members))
    assert stream.classes == [("image", "café")] and len(stream[0].train) == 5
    numbers = [pair for i in range(4) for pair in ((f"{i}.png", png(i)), (f"{i}.json", {"label": 1.0 + i % 2}))]
    pack_both_splits(tmp_path, numbers)
    assert_refused(lambda: Stream.from_tar(tmp_path / "tars"), "the classes are numbers (1, 2")
    (tmp_path / "tars" / "classes.txt").write_text("cat\ndog\n")
    stream, _ = read(tmp_path / "tars")
    assert [sample.label for sample in stream[0].train] == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("label", [None, True, ["cat"], {"a": 1}, float("nan"), ""])
def test_fields_that_name_no_class(tmp_path, label):
    path = pack(tmp_path / "train.tar", [("a.png", png(0)), ("a.json", {"label": label})])
    assert_refused(lambda: Stream.from_tar(path), "sample 'a' has no class: add a .cls", "'label' to its .json")


def test_items_of_formats_that_are_not_read(tmp_path):
    path = pack(tmp_path / "train.tar", [("a.HEIC", b"x"), ("a.cls", "cat")])
    assert_refused(
        lambda: Stream.from_tar(path), "sample 'a' has a class but no item: a.HEIC is HEIC", "convert it to JPEG or PNG"
    )
    path = pack(tmp_path / "train.tar", [("a.pyd", b"x"), ("a.cls", "cat")])
    assert_refused(
        lambda: Stream.from_tar(path), "no item: add a member such as .jpg, .wav or .txt, for a.pyd is not read"
    )
    _, lines = read(pack_both_splits(tmp_path, [("a.heic", b"x"), ("0.png", png(0)), ("0.cls", "cat")]))
    assert lines[0].endswith(
        "'a.heic' (and 1 more of .heic) belongs to no sample: HEIC, which is not read: convert it to JPEG or PNG"
    )


def test_a_txt_beside_a_picture_is_no_class(tmp_path):
    path = pack(tmp_path / "train.tar", [("a.png", png(0)), ("a.txt", "cat")])
    assert_refused(lambda: Stream.from_tar(path), "sample 'a' has no class, because its .txt is a caption: add a .cls")


def test_the_stream_keeps_findings_about_unused_members(tmp_path):
    tars = pack_both_splits(tmp_path, [("0.png", png(0)), ("0.cls", "cat"), ("0.pyd", b"x")])
    (finding,) = [f for f in Stream.from_tar(tars).findings if f.kind == "left-out"]
    assert "member '0.pyd' (and 1 more of .pyd) belongs to no sample" in finding.reason


def test_every_sample_and_tar_with_an_error_is_found(tmp_path):
    good = [pair for i in range(3) for pair in ((f"{i}.png", png(i)), (f"{i}.cls", "cat"))]
    tars = pack_both_splits(tmp_path, [*good, ("a.png", png(7)), ("b.cls", "cat")])
    (tars / "train-1.tar").write_bytes(b"x" * 2000)
    pack(tars / "train-2.tar", [])
    stream, lines = read(tars)
    assert keys(stream) == [f"train.tar/{i}.png" for i in range(3)]
    for part in (
        "test.tar: sample 'a' has no class",
        "train.tar: sample 'a' has no class",
        "train.tar: sample 'b' has a class but no item",
        "train-1.tar: not a valid tar",
        "train-2.tar: holds no sample, because the tar is empty",
    ):
        assert sum(part in line for line in lines) == 1, lines
    assert_refused(
        lambda: Stream.from_tar(tars), "train-1.tar: not a valid tar", "(5 more: mmcl-fast data check lists them)"
    )


def test_tars_in_a_folder(tmp_path):
    good = [pair for i in range(3) for pair in ((f"{i}.png", png(i)), (f"{i}.cls", "cat"))]
    tars = pack_both_splits(tmp_path, good)
    (tars / "train.tar").rename(tars / "TRAIN-0.TAR")
    pack(tmp_path / "more" / "train-1.tar", good)
    (tars / "linked").symlink_to(tmp_path / "more")
    (tars / "again").symlink_to(tars)
    (tars / "@eaDir").mkdir()
    (tars / "@eaDir" / "train-2.tar").write_bytes(b"x")
    (tars / "._train-3.tar").write_bytes(b"x")
    stream, _ = read(tars)
    assert keys(stream) == [f"TRAIN-0.TAR/{i}.png" for i in range(3)] + [
        f"linked/train-1.tar/{i}.png" for i in range(3)
    ]
    for name in ("train-4.tgz", "train-4.tar.gz", "train-4.TAR.BZ2", "train-4.tar.zst"):
        (tars / name).write_bytes(b"x")
        assert_refused(
            lambda: Stream.from_tar(tars), f"{name}: samples of a compressed tar", "unpack it to a plain .tar"
        )
        (tars / name).unlink()


def test_member_names_in_other_forms(tmp_path):
    members = [(".//./a//0.png", png(0)), ("a/./0.cls", "cat"), (tarfile.TarInfo("a"), b"")]
    members[-1][0].type = tarfile.DIRTYPE
    stream, lines = read(pack_both_splits(tmp_path, members))
    assert keys(stream) == ["train.tar/a/0.png"] and not lines
    path = pack(tmp_path / "train.tar", [("a\\0.png", png(0))])
    assert_refused(lambda: Stream.from_tar(path), "member 'a\\\\0.png'", "pack it with / between folders")


def test_a_member_that_is_cut_short(tmp_path):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in (("a.cls", b"cat"), ("a.png", png(0) * 20)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "train.tar").write_bytes(data.getvalue()[:2200])
    assert_refused(
        lambda: Stream.from_tar(tmp_path / "train.tar"), "train.tar: member 'a.png' is cut short: copy the tar again"
    )

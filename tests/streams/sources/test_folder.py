"""Folders: links, system files, spellings of one name, files outside of the class folders."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Stream
from mmcl_fast.streams.findings import Findings

APART, COMPOSED = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))


def write(root: Path, counts: dict[str, int], ending: str = "txt") -> Path:
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            (root / folder / f"{i}.{ending}").write_text(f"{folder} number {i}")
    return root


def counts(stream: Stream) -> tuple[int, int]:
    return sum(len(task.train) for task in stream), sum(len(task.test) for task in stream)


def kinds_and_places(root: Path, **options: Any) -> list[tuple[str, str]]:
    """Return the kind of each finding and the name of its file, the most harmful first."""
    found = Findings(collect=True)
    Stream.from_folder(root, findings=found, **options)
    return [(finding.kind, Path(finding.path).name) for finding in found.sorted()]


def test_a_linked_folder_belongs_to_its_class(tmp_path: Path) -> None:
    root = write(tmp_path / "d", {"text/cat": 5, "text/dog": 5})
    write(tmp_path, {"more/in": 7})
    (root / "text/cat/more").symlink_to(tmp_path / "more")
    stream = Stream.from_folder(root)
    assert counts(stream) == (14, 3) and kinds_and_places(root) == []
    assert sum(s.key.startswith("text/cat/more/in/") and s.label == "cat" for s in stream[0]._samples) == 7
    before = {(s.key, s.split) for s in stream[0]._samples}
    (root / "text/cat/again").symlink_to(tmp_path / "more")
    (root / "text/cat/up").symlink_to(root)
    stream = Stream.from_folder(root)
    assert kinds_and_places(root) == [
        ("loop", "up"),
        ("linked-twice", "more"),
    ]  # again is read first, in the order of names
    assert counts(stream) == (14, 3) and len(before) == 17


def test_a_class_and_a_split_may_be_links(tmp_path: Path) -> None:
    root = write(tmp_path / "d", {"text/train/cat": 3, "text/test/cat": 1, "text/test/dog": 1})
    write(tmp_path, {"elsewhere/dogs": 4, "elsewhere/val/cat": 2})
    (root / "text/train/dog").symlink_to(tmp_path / "elsewhere/dogs")
    (root / "text/val").symlink_to(tmp_path / "elsewhere/val")
    task = Stream.from_folder(root)[0]
    assert (len(task.train), len(task.val), len(task.test)) == (7, 2, 2)
    assert {s.key for s in task.train if s.label == "dog"} == {f"text/train/dog/{i}.txt" for i in range(4)}


def test_a_class_that_links_to_another_class_is_found(tmp_path: Path) -> None:
    root = write(tmp_path, {"text/train/cat": 3, "text/test/cat": 1})
    (root / "text/test/dog").symlink_to(root / "text/train/cat")
    found = Findings(collect=True)
    Stream.from_folder(root, findings=found)
    shared = [finding for finding in found if finding.kind == "equal-in-splits"]
    pairs = [(f"text/test/dog/{i}.txt", (f"text/train/cat/{i}.txt",)) for i in range(3)]
    assert [(finding.key, finding.others) for finding in shared] == pairs


def test_broken_and_upward_links_to_class_folders_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "d", {"text/cat": 5})
    (root / "text/dog").symlink_to(tmp_path / "gone")
    (root / "text/up").symlink_to(root)
    assert kinds_and_places(root) == [("missing", "dog"), ("loop", "up")]
    (root / "text/cat/gone.txt").symlink_to(tmp_path / "gone.txt")
    found = Findings(collect=True)
    Stream.from_folder(root, findings=found)
    assert [(f.kind, f.modality, f.label) for f in found.sorted()][1] == ("missing", "text", "cat")
    (root / "text/cat/gone.txt").unlink()
    with pytest.raises(StreamError, match=r"text/dog: links to .*gone: No such file or directory: restore"):
        Stream.from_folder(root)
    (root / "text/dog").unlink()
    assert counts(Stream.from_folder(root)) == (4, 1)  # a loop is left out, the rest is learned


def test_system_files_are_no_samples_and_no_classes(tmp_path: Path) -> None:
    root = write(tmp_path, {"text/cat": 5, "text/cat/@eaDir": 3, "text/@eaDir/cat": 2, "text/#recycle/old": 2})
    write(root, {"@eaDir/text": 1, "#snapshot/text/cat": 4, "__MACOSX/text": 1, "lost+found": 0})
    for name in ("text/cat/Thumbs.db", "text/cat/._0.txt", "text/desktop.ini", "text/cat/.hidden.txt"):
        (root / name).write_text("left behind")
    stream = Stream.from_folder(root)
    assert counts(stream) == (4, 1) and stream[0].classes == ("cat",)
    found = Findings(collect=True)
    Stream.from_folder(root, findings=found)
    assert {finding.kind for finding in found} == {"passed-over"} and found.count("note") == 2
    assert [finding.reason.partition(" in all")[0].rpartition(" ")[2] for finding in found] == ["4", "7"]


@pytest.mark.parametrize("split", [True, False])
def test_two_spellings_of_a_name_are_one_class(tmp_path: Path, split: bool) -> None:
    places = (f"text/train/{COMPOSED}", f"text/test/{APART}") if split else (f"text/{COMPOSED}", f"text/{APART}")
    root = write(tmp_path, {places[0]: 6, places[1]: 4})
    if len(list((root / places[0]).parent.iterdir())) == 1 and not split:
        pytest.skip("this file system keeps one spelling")
    (root / "classes.json").write_text(f'{{"text": {{"{APART}": "a cup of coffee"}}}}')
    stream = Stream.from_folder(root)
    assert stream.classes == [("text", COMPOSED)] and stream[0].texts == ("a cup of coffee",)
    assert counts(stream) == ((6, 4) if split else (8, 2))
    assert all(Path(str(sample.path)).is_file() and sample.label == COMPOSED for sample in stream[0]._samples)
    assert kinds_and_places(root) == [("two-spellings", "")]


def test_media_files_outside_the_class_folders_are_named(tmp_path: Path) -> None:
    root = write(tmp_path, {"image/train/cat": 3, "image/test/cat": 1}, "png")
    for name in ("image/a.png", "image/train/b.PNG", "image/train/README.md", "image/labels.csv", "image/song.mp3"):
        (root / name).write_text(name)
    assert kinds_and_places(root) == [("left-out", "a.png"), ("left-out", "b.PNG")]
    assert counts(Stream.from_folder(root)) == (3, 1)
    write(root, {"text/train/cat": 2, "text/test/cat": 1})
    for name in ("text/readme.txt", "text/classes.txt", "text/train/LICENSE.txt", "text/train/stray.txt"):
        (root / name).write_text(name)
    assert kinds_and_places(root)[2:] == [("left-out", "stray.txt")]


def test_all_errors_are_found_and_the_worst_is_raised_with_their_number(tmp_path: Path) -> None:
    root = write(tmp_path, {"image/train/cat": 2, "image/test/cat": 1, "image/tset/cat": 1}, "png")
    write(root, {"audio/dog": 1, "audio/cow": 3, "imgae/cat": 1}, "wav")
    (root / "image/train/cat/notes.txt").write_text("about the pictures")
    (root / "image/train/cat/none.png").write_bytes(b"")
    (root / "image/train/cat/gone.png").symlink_to(root / "nowhere")
    assert kinds_and_places(root) == [
        ("unknown-modality", "imgae"),
        ("unknown-split", "tset"),
        ("wrong-modality", "notes.txt"),
        ("empty", "none.png"),
        ("missing", "gone.png"),
        ("too-few-files", "dog"),
    ]
    with pytest.raises(StreamError, match=r"unknown modality 'imgae' .*\(5 more: mmcl-fast data check lists them\)$"):
        Stream.from_folder(root)


def test_an_invalid_classes_json_does_not_hide_other_findings(tmp_path: Path) -> None:
    root = write(tmp_path, {"text/cat": 5, "text/dog": 1})
    (root / "classes.json").write_text("{")
    assert kinds_and_places(root) == [("class-texts", "classes.json"), ("too-few-files", "dog")]

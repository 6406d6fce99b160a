"""The walk below a folder: the files in order, and the problems that it reports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmcl_fast.streams.sources.folder_walk import list_subfolders, walk_files


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def walk(folder: Path, root: Path | None = None) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the files, and (kind, path) of each problems problem. All paths are relative to the folder."""
    problems: list[tuple[str, str]] = []
    files = walk_files(str(folder), lambda kind, path, _: problems.append((kind, path)), str(root) if root else None)
    return [os.path.relpath(f, folder) for f in files], [
        (kind, os.path.relpath(path, folder)) for kind, path in problems
    ]


def test_real_files_come_before_linked_ones(tmp_path: Path) -> None:
    write(tmp_path, "cat/2.txt", "cat/in/1.txt", "more/b.txt", "more/a.txt", "lone.txt")
    (tmp_path / "cat/0more").symlink_to(tmp_path / "more")
    (tmp_path / "cat/1.txt").symlink_to(tmp_path / "lone.txt")
    assert walk(tmp_path / "cat") == (["2.txt", "in/1.txt", "0more/a.txt", "0more/b.txt", "1.txt"], [])


def test_a_file_that_is_reached_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.txt", "more/a.txt", "more/in/b.txt")
    for name, target in (
        ("again.txt", "cat/0.txt"),  # a file that is there
        ("m1", "more"),
        ("m2", "more"),  # a second link to a folder
        ("inner", "more/in"),  # a part of a linked folder
        ("a.txt", "more/a.txt"),  # a file of a linked folder
        ("x.txt", "lone/x.txt"),
        ("y.txt", "lone/x.txt"),
    ):
        write(tmp_path, "lone/x.txt")
        (tmp_path / "cat" / name).symlink_to(tmp_path / target)
    files, problems = walk(tmp_path / "cat")
    assert files == ["0.txt", "inner/b.txt", "m1/a.txt", "x.txt"]
    assert problems == [("linked-twice", name) for name in ("m2", "a.txt", "again.txt", "y.txt")]


def test_hard_links_count_as_separate_files(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.txt")
    (tmp_path / "cat/1.txt").hardlink_to(tmp_path / "cat/0.txt")
    assert walk(tmp_path / "cat") == (["0.txt", "1.txt"], [])


@pytest.mark.parametrize("target", ["cat", "cat/in", ".", "image", "image/cat", "image/cat/in"])
def test_a_link_to_a_folder_above_itself_is_not_followed(tmp_path: Path, target: str) -> None:
    if not target.startswith("image"):
        target = {"cat": "image/cat", "cat/in": "image/cat/in", ".": "."}[target]
    write(tmp_path, "image/cat/in/0.txt", "image/dog/1.txt")
    (tmp_path / "image/cat/in/up").symlink_to(tmp_path / target)
    assert walk(tmp_path / "image/cat", tmp_path) == (["in/0.txt"], [("loop", "in/up")])
    (tmp_path / "image/cat/in/up").unlink()
    (tmp_path / "image/cat/in/up").symlink_to(os.path.relpath(tmp_path / target, tmp_path / "image/cat/in"))
    assert walk(tmp_path / "image/cat", tmp_path)[0] == ["in/0.txt"]


def test_loops_through_folders_outside_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "data/image/cat/0.txt", "data/image/dog/9.txt", "out/a/1.txt", "out/b/2.txt")
    for link, target in (("data/image/cat/a", "out/a"), ("out/a/b", "out/b"), ("out/b/a", "out/a")):
        (tmp_path / link).symlink_to(tmp_path / target)
    (tmp_path / "out/b/back").symlink_to(tmp_path / "data")
    files, problems = walk(tmp_path / "data/image/cat", tmp_path / "data")
    assert files == ["0.txt", "a/1.txt", "a/b/2.txt"]
    assert problems == [("loop", "a/b/a"), ("loop", "a/b/back")]


def test_a_link_upwards_inside_a_linked_class_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, "data/image/dog/9.txt", "cats/0.txt")
    (tmp_path / "data/image/cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats/all").symlink_to(tmp_path / "data/image")
    assert walk(tmp_path / "data/image/cat", tmp_path / "data") == (["0.txt"], [("loop", "all")])


def test_links_that_lead_nowhere_are_named(tmp_path: Path) -> None:
    write(tmp_path, "cat/0.txt")
    (tmp_path / "cat/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cat/self").symlink_to(tmp_path / "cat/self")
    os.mkfifo(tmp_path / "cat/pipe")
    (tmp_path / "cat/to_pipe").symlink_to(tmp_path / "cat/pipe")
    files, problems = walk(tmp_path / "cat")
    assert files == ["0.txt"] and sorted(problems) == [("missing", n) for n in ("gone", "pipe", "self", "to_pipe")]


def test_hidden_and_system_files_are_passed_over(tmp_path: Path) -> None:
    system_files = ["@eaDir/0.txt/THUMB.jpg", "Thumbs.db", ".DS_Store", "._0.txt", "in/desktop.ini", "__MACOSX/0.txt"]
    write(tmp_path, "0.txt", "in/1.txt", ".hidden.txt", "#recycle/2.txt", *system_files)
    (tmp_path / "z").symlink_to(tmp_path / ".hidden.txt")
    (tmp_path / "zz").symlink_to(tmp_path / "@eaDir")
    files, problems = walk(tmp_path)
    assert files[:2] == ["0.txt", "in/1.txt"] and {kind for kind, _ in problems} == {"passed-over"}
    assert {os.path.basename(path) for _, path in problems} == {
        "@eaDir", "Thumbs.db", ".DS_Store", "._0.txt", "desktop.ini", "__MACOSX", ".hidden.txt", "#recycle",
    }  # fmt: skip
    assert files[2:] == ["zz/0.txt/THUMB.jpg", "z"]  # a link by another name is what a user wants


def test_a_folder_that_can_t_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a/0.txt", "b/1.txt")
    scandir = os.scandir

    def refuse_access(path: str) -> object:
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_access)
    assert walk(tmp_path) == (["b/1.txt"], [("unreadable", "a")])


def test_subfolders_follow_links_but_not_upwards(tmp_path: Path) -> None:
    write(tmp_path, "image/cat/0.txt", "else/dog/1.txt", "image/note.txt")
    for name, target in (("dog", "else/dog"), ("up", "."), ("here", "image"), ("gone", "nowhere"), ("f", "note.txt")):
        (tmp_path / "image" / name).symlink_to(tmp_path / target)
    (tmp_path / "image/@eaDir").mkdir()
    problems: list[tuple[str, str]] = []
    folder = str(tmp_path / "image")
    names = list_subfolders(
        folder, lambda kind, path, _: problems.append((kind, os.path.basename(path))), str(tmp_path)
    )
    assert names == ["cat", "dog"]
    assert problems == [
        ("passed-over", "@eaDir"),
        ("missing", "f"),
        ("missing", "gone"),
        ("loop", "here"),
        ("loop", "up"),
    ]

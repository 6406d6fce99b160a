"""Names that systems leave behind, and a user's names that look similar."""

from __future__ import annotations

import pytest

from mmcl_fast.media.system_files import is_system_file

LEFT_BEHIND = (
    "@eaDir",
    "Thumbs.db",
    "THUMBS.DB",
    "ehthumbs.db",
    "desktop.ini",
    "Desktop.ini",
    ".DS_Store",
    "._photo.jpg",
    "__MACOSX",
    "Icon\r",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "LOST.DIR",
    "SYNOFILE_THUMB_M.jpg",
    "~$table.xlsx",
    ".~lock.table.csv#",
    ".stfolder",
    ".AppleDouble",
    ".ipynb_checkpoints",
    "__pycache__",
    "photo.jpg.part",
    "film.mp4.crdownload",
    "notes.txt~",
    "AlbumArt_{5FA05D35}_Large.jpg",
)
THE_USER_S = (
    "0.jpg",
    "thumbs.jpg",
    "thumbs",
    "eaDir",
    "recycle",
    "desktop.jpg",
    "part.jpg",
    "part",
    "IMG~1.JPG",
    "~.jpg",
    "lost and found",
    "icon",
    "album.jpg",
    "@home",
    "#1.png",
    "$5.png",
)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_systems_leave_behind(name: str) -> None:
    assert is_system_file(name)


@pytest.mark.parametrize("name", THE_USER_S)
def test_what_is_the_user_s(name: str) -> None:
    assert not is_system_file(name)

"""The user's cache folder, with and without a home folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmcl_fast.user_cache import home_folder, user_cache_folder
from tests.toy import write_folder

ROOT = Path(__file__).parents[1]
NO_SUCH_USER = "import pwd\ndef none(uid):\n    raise KeyError(uid)\npwd.getpwuid = none\n"


@pytest.fixture
def no_cache_home(monkeypatch, tmp_path) -> Path:
    """Unset XDG_CACHE_HOME and give the test a temporary directory. Returns the folder around both."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_the_home_folder_is_used_and_a_relative_xdg_cache_home_is_ignored(no_cache_home, monkeypatch):
    monkeypatch.setenv("HOME", str(no_cache_home / "home"))
    assert user_cache_folder() == no_cache_home / "home" / ".cache" / "mmcl_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache_folder() == no_cache_home / "home" / ".cache" / "mmcl_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(no_cache_home / "cache"))
    assert user_cache_folder() == no_cache_home / "cache" / "mmcl_fast"


@pytest.mark.parametrize("home", [None, "", "/", "relative"])
def test_without_a_home_the_user_gets_a_private_temporary_folder(no_cache_home, monkeypatch, home):
    def nameless(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nameless)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    assert home_folder() is None
    folder = user_cache_folder()
    assert folder == no_cache_home / "tmp" / f"mmcl_fast-{os.getuid()}" == user_cache_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_not_trusted(no_cache_home, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    planted = no_cache_home / "tmp" / f"mmcl_fast-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    folder = user_cache_folder()
    assert folder != planted and folder.parent == planted.parent and stat.S_IMODE(folder.stat().st_mode) == 0o700
    planted.rmdir()
    planted.symlink_to(no_cache_home)
    assert user_cache_folder() != planted


def test_a_job_without_home_or_name_learns_and_leaves_no_tilde(tmp_path):
    """Some batch systems start jobs without HOME and with a user id that has no entry."""
    (tmp_path / "nobody").mkdir()
    (tmp_path / "nobody" / "sitecustomize.py").write_text(NO_SUCH_USER)
    (tmp_path / "work").mkdir()
    write_folder(tmp_path / "data", modalities=("image",))
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    env |= {"PYTHONPATH": f"{tmp_path / 'nobody'}{os.pathsep}{ROOT}", "TMPDIR": str(tmp_path)}
    command = [
        sys.executable,
        "-m",
        "mmcl_fast",
        "train",
        tmp_path / "data",
        "--out",
        "r",
        "--set",
        "method.name=ridge",
    ]
    done = subprocess.run(command, cwd=tmp_path / "work", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["r"]
    assert list((tmp_path / f"mmcl_fast-{os.getuid()}" / "trunk").rglob("*.shard"))

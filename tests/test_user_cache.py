"""Where computed things are kept, for users with and without a home folder."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mmcl_fast.user_cache import home_folder, user_cache
from tests.toy import write_folder

ROOT = Path(__file__).parents[1]
NOBODY = "import pwd\ndef none(uid):\n    raise KeyError(uid)\npwd.getpwuid = none\n"


@pytest.fixture
def bare(monkeypatch, tmp_path) -> Path:
    """No XDG_CACHE_HOME, a temporary directory of the test's own."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def test_a_home_folder_is_taken_and_a_relative_cache_home_is_none(bare, monkeypatch):
    monkeypatch.setenv("HOME", str(bare / "home"))
    assert user_cache() == bare / "home" / ".cache" / "mmcl_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache() == bare / "home" / ".cache" / "mmcl_fast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(bare / "cache"))
    assert user_cache() == bare / "cache" / "mmcl_fast"


@pytest.mark.parametrize("home", [None, "", "/", "relative"])
def test_without_a_home_a_folder_of_the_users_own_in_the_temporary_directory(bare, monkeypatch, home):
    def nameless(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nameless)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)
    assert home_folder() is None
    folder = user_cache()
    assert folder == bare / "tmp" / f"mmcl_fast-{os.getuid()}" == user_cache()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_others_may_write_is_not_trusted(bare, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    planted = bare / "tmp" / f"mmcl_fast-{os.getuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    folder = user_cache()
    assert folder != planted and folder.parent == planted.parent and stat.S_IMODE(folder.stat().st_mode) == 0o700
    planted.rmdir()
    planted.symlink_to(bare)
    assert user_cache() != planted


def test_a_job_without_home_or_name_learns_and_leaves_no_tilde(tmp_path):
    """As batch systems start jobs: no HOME, and a user id that has no entry."""
    (tmp_path / "nobody").mkdir()
    (tmp_path / "nobody" / "sitecustomize.py").write_text(NOBODY)
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

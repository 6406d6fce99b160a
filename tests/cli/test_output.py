"""Standard streams as they may be: ASCII, closed, a pipe that nobody reads, a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
ROOT = Path(__file__).parents[2]


def shell(line: str, *words: object, **env: str) -> subprocess.CompletedProcess[bytes]:
    """A line of sh in which ``mmcl`` is the command and $1, $2, ... are the words."""
    command = f'mmcl() {{ "{sys.executable}" -m mmcl_fast "$@"; }}\n{line}'
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["sh", "-c", command, "sh", *map(str, words)], capture_output=True, env=os.environ | path | env, timeout=300
    )


@pytest.fixture(scope="module")
def peach(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture with a letter in its name that ASCII lacks."""
    picture = sorted((place / "data/image/test/class_0").iterdir())[0]
    return Path(shutil.copy(picture, tmp_path_factory.mktemp("names") / "pêche 桃 🍑.jpg"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_is_json_in_every_encoding(place: Path, peach: Path, encoding: str) -> None:
    done = shell('mmcl predict "$1" "$2" --format json', place / "run", peach, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding))["file"] == str(peach)
    if encoding != "utf-8":
        assert b"p\\u00eache \\u6843 \\ud83c\\udf51.jpg" in done.stdout


@pytest.mark.parametrize("form", ["table", "csv"])
def test_letters_that_the_output_lacks_are_escaped(place: Path, peach: Path, form: str) -> None:
    done = shell('mmcl predict "$1" "$2" --format $3', place / "run", peach, form, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert rb"p\xeache" in done.stdout.replace(b"\n", b"") and b"image" in done.stdout


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
@pytest.mark.parametrize("words", ["predict $1 $2", "predict $1 $2 --format csv", "cache ls", "--version", "--help"])
def test_a_full_disk_is_one_line(place: Path, peach: Path, tmp_path: Path, words: str) -> None:
    plain = shutil.copy(peach, tmp_path / "a.jpg")
    done = shell(f"mmcl {words} >/dev/full", place / "run", plain)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.decode().splitlines() if "predict: " not in line]
    assert line.startswith("error: standard output can't be written (No space left on device)")


def test_a_closed_output_is_one_line_and_no_other_file_takes_its_place(place: Path, peach: Path) -> None:
    done = shell('mmcl predict "$1" "$2" --quiet >&-', place / "run", peach)
    assert done.returncode == 2 and done.stderr.decode().startswith("error: standard output is closed")
    done = shell('mmcl predict "$1" "$2" --format json 2>&-', place / "run", peach)
    assert done.returncode == 0 and json.loads(done.stdout)["modality"] == "image"
    done = shell('mmcl predict "$1" - <&-', place / "run")
    assert done.returncode == 2 and b"no file and no line in it" in done.stderr


def test_a_pipe_that_nobody_reads_ends_the_command_quietly(place: Path, tmp_path: Path) -> None:
    done = shell('{ mmcl --help; echo "code $?" >&2; } | true')
    assert done.stderr.decode().splitlines() == ["code 141"]

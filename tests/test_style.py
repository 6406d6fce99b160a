"""Checks of the whole repository: ruff, mypy, plain sentences, the length of files, and names of classes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests import plain_words

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        pytest.param(("ruff", "check"), "make format repairs a part of these", id="findings"),
        pytest.param(("ruff", "format", "--diff"), "make format repairs these", id="layout"),
        pytest.param(("mypy",), "", id="types", marks=pytest.mark.slow),
    ],
)
def test_style(command: tuple[str, ...], advice: str) -> None:
    ended = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600)
    if ended.returncode:
        pytest.fail(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}{advice}", pytrace=False)


def checked_files() -> list[Path]:
    """Return the repository's files of code and text, without results of measurements."""
    folders = ("mmcl_fast", "kernels", "csrc", "benchmarks", "tests", "docs")
    files = [file for name in folders for file in sorted((ROOT / name).rglob("*"))]
    files += [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY", "demo/README")]
    files += [ROOT / "setup.py", *sorted((ROOT / "demo").glob("*.py"))]
    # An editable install links kernels/ into the package, so resolved paths count each file once.
    resolved = dict.fromkeys(file.resolve() for file in files if file.suffix in plain_words.SUFFIXES)
    return [file for file in resolved if not file.is_relative_to(ROOT / "benchmarks/results")]


def code_files() -> list[Path]:
    """Return the files of code, without tests."""
    return [file for file in checked_files() if file.suffix != ".md" and not file.is_relative_to(ROOT / "tests")]


def test_every_sentence_is_plain() -> None:
    found = [fault for file in checked_files() for fault in plain_words.faults(file)]
    if found:
        pytest.fail("\n".join([*found, "CONTRIBUTING.md says how a sentence reads"]), pytrace=False)


LONG = " ".join(["word"] * 26) + "."


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.md", f"A heading is not a sentence.\n\n{LONG}\n", "a.md:3: 26 words: word"),
        ("a.md", f"- {LONG}\n- Another entry.\n", "a.md:1: 26 words: word"),
        ("a.py", f'"""Return one.\n\n{LONG}\n"""\n', "a.py:3: 26 words: word"),
        ("a.py", f"x = 1\n# {LONG[:66]}\n# {LONG[66:]}\n", "a.py:2: 26 words: word"),
        ("a.py", 'def f():\n    """Return those of the others."""\n', "a.py:2: 'those of': Return"),
        ("a.py", 'def f():\n    """What a request takes."""\n', "a.py:2: begins with 'What': What a"),
        ("a.cu", f"int a;  // {LONG}\n", "a.cu:1: 26 words: word"),
        ("a.sh", f"#!/bin/sh\n# {LONG}\n", "a.sh:2: 26 words: word"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, name: str, text: str, fault: str) -> None:
    (tmp_path / name).write_text(text)
    found = [line.removeprefix(f"{tmp_path}/") for line in plain_words.faults(tmp_path / name)]
    assert len(found) == 1 and found[0].startswith(fault)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.md", f"A sentence.\n\n```\n{LONG}\n```\n\n| those of |\n|---|\n| {LONG} |\n\n# {LONG}\n"),
        ("a.md", f"See `{LONG}` and [a page](those-of-{'x' * 99}) and https://example.org/those-of.\n"),
        ("a.py", f'def f():\n    """Return one::\n\n        {LONG}\n\n    >>> f("{LONG}")\n    """\n'),
        ("a.py", f'x = "{LONG}"\n"""{LONG[:99]}"""  # {LONG[5:]}\n'),
        ("a.cu", f'const char* a = "{LONG}";  // {LONG[5:]}\n'),
        ("a.sh", f'#!/bin/sh\necho "{LONG}"  # {LONG[5:]}\n'),
    ],
)
def test_code_tables_and_addresses_are_no_sentences(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert not list(plain_words.faults(tmp_path / name))


def test_no_file_of_code_is_longer_than_400_lines() -> None:
    lengths = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8").count("\n") for file in code_files()}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_no_class_name_means_two_things() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for file in code_files():
        if file.is_relative_to(ROOT / "mmcl_fast") or file.is_relative_to(ROOT / "kernels"):
            for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE):
                places[name].append(str(file.relative_to(ROOT)))
    assert len(places) > 100
    assert not {name: files for name, files in places.items() if len(files) > 1}

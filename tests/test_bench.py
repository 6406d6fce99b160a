import subprocess
import sys

import pytest
from typer.testing import CliRunner

import mmcl_fast
from mmcl_fast import bench, cli
from mmcl_fast.ops.choice import TABLE


def test_bench_ops_hands_its_options_to_the_suite(monkeypatch):
    calls = []

    def run(command, cwd, env):
        calls.append((command, cwd, env))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(bench.subprocess, "run", run)
    result = CliRunner().invoke(cli.app, ["bench", "ops", "--select", "realign", "--write-table", "--seconds", "0.5"])
    assert result.exit_code == 3
    command, cwd, env = calls[0]
    assert command == [sys.executable, "-m", "benchmarks", "--select", "realign", "--write-table", str(TABLE)]
    assert (cwd / "benchmarks" / "test_ops.py").is_file() and env["BENCH_SECONDS"] == "0.5"


def test_bench_media_hands_its_options_to_the_suite(monkeypatch, tmp_path):
    calls = []

    def run(command, cwd, env):
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 4)

    monkeypatch.setattr(bench.subprocess, "run", run)
    words = ["bench", "media", "--modality", "image,text", "--out", "here", "--seconds", "2", "--data", str(tmp_path)]
    assert CliRunner().invoke(cli.app, words).exit_code == 4
    command, env = calls[0]
    assert command[1:] == ["-m", "benchmarks.media", "--modality", "image,text", "--select", "", "--out", "here"]
    assert env["BENCH_SECONDS"] == "2.0" and env["BENCH_DATA"] == str(tmp_path.resolve())
    missing = CliRunner().invoke(cli.app, ["bench", "media", "--data", str(tmp_path / "none")])
    assert missing.exit_code == 2 and "no such folder" in missing.stderr and len(calls) == 1


def test_bench_without_a_checkout_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mmcl_fast, "__file__", str(tmp_path / "mmcl_fast" / "__init__.py"))
    result = CliRunner().invoke(cli.app, ["bench", "ops"])
    assert result.exit_code == 2 and "checkout" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["bench", "media"], ["bench", "ops"]])
def test_help(words):
    text = CliRunner().invoke(cli.app, [*words, "--help"]).stdout
    assert f"mmcl-fast {' '.join(words)} --" in text

"""`mmcl-fast bench` passes its options on, and the media benchmark compares equal work."""

import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import mmcl_fast
from benchmarks import media, media_cases, media_files, media_stages, media_ways, test_media
from mmcl_fast import bench, cli
from mmcl_fast.media import decode, default_spec
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
    assert (cwd / "benchmarks" / "ops.py").is_file() and env["BENCH_SECONDS"] == "0.5"


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


@pytest.mark.parametrize(
    "name", ["image PNG 500x375", "audio WAV 16 kHz", "video MJPEG 224x224", "depth PNG 640x480", "text"]
)
def test_the_usual_way_and_ours_read_the_same(name, tmp_path):
    """A race must compare equal work: batches of the same shape and nearly the same numbers."""
    case = next(case for case in media_cases.CASES if case.name == name)
    path = case.paths(tmp_path)[0]
    assert case.paths(tmp_path)[0] == path  # found again, not written again
    readers = {
        "image": media_ways.pillow,
        "audio": media_ways.soundfile,
        "video": media_ways.pyav,
        "depth": media_ways.depth,
        "text": media_ways.text,
    }
    want, got = readers[case.modality](case.spec, 0)(path), decode(path, case.modality, case.spec)
    if case.modality == "text":
        assert got == want
        return
    # The rivals resample by another filter, convert by other flags, and take quantiles after the resize, not before.
    assert (got.squeeze(0) - want.squeeze(0)).abs().mean() < {"image": 0.01, "audio": 0.02, "depth": 0.1}.get(
        case.modality, 0.03
    )


def test_rows_of_a_small_epoch(tmp_path):
    paths = media_files.write_texts(tmp_path, np.random.default_rng(0), 8)
    rows = test_media.measure(media_ways.ways("text"), paths, default_spec("text"), 0, 4, seconds=0.01)
    assert "why" in rows["dali"] and rows["DataLoader + read_text"]["ratio"] == 1
    assert rows["cpu"]["rate"] > 0 and rows["cpu"]["rounds"] >= 3
    rows["cpu"]["stages"] = media_stages.stage_shares(paths, default_spec("text"), seconds=0.01)
    assert sum(rows["cpu"]["stages"].values()) == pytest.approx(1)
    info = [{"case": "text", "threads": 1, "rows": rows}]
    assert [line[2] for line in media.table_rows(info)] == ["**cpu**", "DataLoader + read_text"]
    assert media.ways_not_measured(info) == ["Not measured: dali: text is read by the cpu backend"]


def test_stages_of_a_picture_hold_its_time(tmp_path):
    paths = media_files.write_images(tmp_path, np.random.default_rng(0), "jpg", (640, 480), 2)
    shares = media_stages.stage_shares(paths, default_spec("image"), seconds=0.05)
    assert set(shares) == {"read", "decode", "resize", "normalise", "rest"} and sum(shares.values()) == pytest.approx(1)
    assert shares["decode"] > shares["read"]


def test_media_found_in_a_folder(tmp_path):
    for kind, write in (
        ("image", media_files.write_depth_maps),
        ("depth", media_files.write_depth_maps),
        ("b", media_files.write_texts),
    ):
        (tmp_path / kind / "a").mkdir(parents=True)
        write(tmp_path / kind / "a", np.random.default_rng(0), 2)
    (tmp_path / "strange.bin").write_bytes(bytes(range(256)))
    found = media_cases.find_cases(tmp_path)
    assert [(case.name, len(case.paths(tmp_path))) for case in found] == [
        ("image found", 2),
        ("depth found", 2),
        ("text found", 2),
    ]

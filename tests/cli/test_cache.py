"""mmcl-fast cache ls and clear, and the doctor's line about the cache."""

from __future__ import annotations

import json
import os
import time

import pytest
from typer.testing import CliRunner

from mmcl_fast import cli, doctor
from mmcl_fast.config import load_config
from mmcl_fast.errors import ConfigError
from mmcl_fast.feature_cache.cache import FeatureCache, default_folder
from tests.feature_cache.cached import texts
from tests.toy import ToyEncoder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The user's cache, with 12 samples of one encoder and 5 of another that were used 40 days ago."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for seed, count in ((0, 12), (1, 5)):
        encoder = ToyEncoder(seed)
        encoder.name = f"toy-{seed}"
        FeatureCache("auto").tokens(encoder, texts(count))
    for file in default_folder().glob("*/*.shard"):
        if "toy-1" in (file.parent / "about.json").read_text():
            os.utime(file, (time.time() - 40 * 86400,) * 2)
    return default_folder()


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["cache", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def names() -> list[str]:
    return [store["encoder"] for store in json.loads(run("ls", "--json"))["stores"]]


def test_ls(folder):
    found = json.loads(run("ls", "--json"))
    assert found["folder"] == str(folder)
    assert [(s["encoder"], s["device"], s["modality"], s["samples"], s["shards"]) for s in found["stores"]] == [
        ("toy-0", "cpu", "text", 12, 1),
        ("toy-1", "cpu", "text", 5, 1),
    ]
    assert found["stores"][0]["bytes"] > 0 and found["stores"][0]["used"] > found["stores"][1]["used"] + 39 * 86400
    shown = run("ls")
    assert "toy-0" in shown and "toy-1" in shown and "text" in shown and "GB in all" in shown
    assert json.loads(run("ls", "--json", "--folder", str(folder.parent)))["stores"] == []
    assert "no such folder" in run("ls", "--folder", str(folder / "none"), code=2)


def test_clear_takes_what_was_asked_for_and_nothing_else(folder):
    (folder / "notes.txt").write_text("mine")
    assert "--yes" in run("clear", code=2) and len(names()) == 2
    assert "cache ls" in run("clear", "--encoder", "toy-7", "--yes", code=2)
    assert "deleted 0 shards" in run("clear", "--older-than", "50", "--yes")
    assert "deleted 1 shards" in run("clear", "--older-than", "30", "--yes") and names() == ["toy-0"]
    assert "deleted 0 shards" in run("clear", "--encoder", "toy-0", "--older-than", "1", "--yes")
    store = json.loads(run("ls", "--json"))["stores"][0]["store"]
    assert "deleted 1 shards" in run("clear", "--encoder", store[:8], "--yes") and names() == []
    FeatureCache("auto").tokens(ToyEncoder(), texts(3))
    assert "deleted 1 shards" in run("clear", "--yes")
    assert [p.name for p in folder.rglob("*")] == ["notes.txt"]


def test_the_doctor_says_where_the_cache_is(folder, tmp_path, monkeypatch):
    def finding():
        return next(f for f in doctor.examine() if f.name == "feature cache")

    assert finding().state == "ok" and str(folder) in finding().about and "GB free" in finding().about
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert finding().state == "broken" and "XDG_CACHE_HOME" in finding().mend


def test_the_keys_of_the_config(tmp_path):
    assert load_config("demo").train.cache == "auto" and load_config("demo").train.cache_gb == 20
    changed = load_config("demo", ["train.cache=none", "train.cache_gb=0.5"]).train
    assert changed.cache is None and changed.cache_gb == 0.5
    assert load_config("demo", [f"train.cache={tmp_path}"]).train.cache == str(tmp_path)
    for wrong in ("0", "-1", "inf", "lots"):
        with pytest.raises(ConfigError, match="train.cache_gb.*above 0"):
            load_config("demo", [f"train.cache_gb={wrong}"])

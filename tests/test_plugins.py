"""Plugins: a method, an encoder and a modality from a file that the command names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmcl_fast import methods, plugins
from mmcl_fast.config import load_config
from mmcl_fast.config.template import config_to_toml
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from tests.toy import write_folder

PLUGIN = """
from dataclasses import dataclass

import numpy as np

from mmcl_fast import encoders, media, methods
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from neighbour import NAME


@dataclass(frozen=True)
class Options:
    strength: float = 2.0
    mine: int = 3


@methods.register
class Mine(ZeroShot):
    name = "mine"
    Options = Options


def make(name, device):
    from tests.toy import ToyEncoder
    return ToyEncoder()


encoders.register(NAME, make)
media.register("thermal", lambda file: np.load(file))
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Write plugin.py and a module beside it, and a stream without split folders, with a modality of the plugin."""
    import numpy as np

    (tmp_path / "plugin.py").write_text(PLUGIN)
    (tmp_path / "neighbour.py").write_text('NAME = "toy"\n')
    write_folder(tmp_path / "data", classes=2, train=4, test=3, modalities=("image",))
    rng = np.random.default_rng(0)
    for c in range(2):
        folder = tmp_path / "data/thermal" / f"class_{c}"
        folder.mkdir(parents=True)
        for i in range(5):
            np.save(folder / f"{i}.npy", rng.random((8, 8)) * (c + 1) / 2)
    return tmp_path


def command(place: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mmcl_fast", *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_a_run_of_all_that_is_ones_own(place: Path) -> None:
    overrides = ("--set", "method.name=mine", "--set", "encoder.name=toy", "--set", "train.device=cpu")
    command(place, "--use", "plugin.py", "train", "data", "--out", "run", "--quiet", *overrides)
    record = json.loads((place / "run/config.json").read_text())
    assert record["method"] == {"name": "mine", "options": {"strength": 2.0, "mine": 3}}
    assert record["stream"]["path"] == str(place / "data")
    file = "data/thermal/class_1/0.npy"
    output = command(
        place, "--use", "plugin.py", "predict", "run", file, "--modality", "thermal", "--format", "json", "-q"
    )
    assert json.loads(output)["labels"][0]["modality"] in ("image", "thermal")
    # A run folder names no plugin. Without --use the run is refused, with a line that says what to do.
    output = command(place, "predict", "run", file, code=2)
    assert "method.name = 'mine': no such method" in output and "--use FILE.py" in output
    # The processes that a sweep starts inherit the plugin.
    rows = ("--methods", "mine,mine:mine=4", "--seeds", "0", "--jobs", "1", "--quiet", *overrides[2:])
    assert "mine:mine=4" in command(place, "--use", "plugin.py", "compare", "data", *rows)


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("nowhere.py", "", "nowhere.py: no such file"),
        ("plugin.py", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("below/json.py", "", "another module is called json"),
        ("plugin.py", "from mmcl_fast import methods\nmethods.register(int)", "not a method; derive its class"),
        ("no_such_module", "", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_imported_is_one_line(tmp_path: Path, name: str, code: str, what: str) -> None:
    if not what.endswith("no such file") and name.endswith(".py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    words = ["--use", name, "doctor"]
    lines = [line for line in command(tmp_path, *words, code=2).splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and what in lines[0]


@dataclass(frozen=True)
class Bare:
    needed: int


def test_methods_that_cannot_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    with pytest.raises(ConfigError, match="give another"):
        methods.register(type("Own", (ZeroShot,), {"name": "comm"}))
    with pytest.raises(ConfigError, match="give another"):
        methods.register(type("Own", (ZeroShot,), {"name": "a b"}))
    with pytest.raises(ConfigError, match="the fields of Options all have defaults"):
        methods.register(type("Own", (ZeroShot,), {"name": "own", "Options": Bare}))
    kind = methods.register(type("Own", (ZeroShot,), {"name": "own"}))
    assert methods.method_class("own") is kind


def test_a_config_of_an_own_method_is_written_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Options:
        mine: int = 3

    globals()["Options"] = Options
    monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
    methods.register(type("Own", (ZeroShot,), {"name": "own", "Options": Options}))
    written = config_to_toml(load_config(place / "data", ["method.name=own"]), "own")
    assert "mine = 3" in written and "No description (a whole number; default 3)" in written


def test_words_name_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugins.ENVIRONMENT_VARIABLE, os.pathsep.join(["/a/own.py", "json"]))
    assert plugins.command_options() == ["--use", "/a/own.py", "--use", "json"]

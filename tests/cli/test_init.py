"""``mmcl-fast init`` and ``mmcl-fast options``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mmcl_fast.methods import METHODS
from mmcl_fast.methods.baselines.ridge import RidgeOptions
from mmcl_fast.methods.comm.options import CommOptions
from mmcl_fast.option_fields import search_space
from tests.cli.calls import call, error_of


def test_the_options_of_a_method_are_listed() -> None:
    said = " ".join(call("options", "ridge").stdout.split())
    assert "penalty" in said and "a number from 1e-06" in said and '"auto"' in said and "Ridge penalty" in said
    assert all(name in said for name in METHODS)
    listed = json.loads(call("options", "--json").stdout)
    assert [entry["key"] for entry in listed] == [f"method.options.{name}" for name in CommOptions.model_fields]
    of_comm = {entry["key"].rpartition(".")[2]: entry for entry in listed}
    assert of_comm["blending"]["default"] is True and of_comm["blending"]["expected"] == "true or false"
    assert of_comm["lr"]["search"] == search_space(CommOptions)["lr"].words and of_comm["blending"]["search"] == ""
    assert "tune searches" in said and search_space(RidgeOptions)["penalty"].words in said
    assert "zero_shot has no options" in call("options", "zero_shot").stdout
    assert "did you mean 'ridge'" in error_of(call("options", "rigde", code=2))


def test_a_config_is_written_for_the_method_that_is_set(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    call("init", "folder", "--set", "method.name=ewc", "--set", "method.options.strength=3", "--out", file)
    text = file.read_text()
    assert 'name = "ewc"' in text and "strength = 3.0" in text and "# Weight of the Fisher penalty" in text


def test_a_former_name_is_noted_in_one_line_on_the_command_line(tmp_path: Path) -> None:
    words = ["init", "folder", "--set", "method.options.draws=5", "--out", str(tmp_path / "mine.toml")]
    done = subprocess.run([sys.executable, "-m", "mmcl_fast", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: option draws is called sampled_features now; the former name still works\n"
    assert "\nsampled_features = 5\n" in (tmp_path / "mine.toml").read_text()

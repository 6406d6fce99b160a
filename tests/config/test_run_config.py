"""The config.json of a run folder: read back, damaged, and with keys of earlier versions."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from mmcl_fast.config import load_config, read_run_config, read_run_values, require_same_data
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.option_fields import FormerNameWarning


def test_the_config_of_a_run_comes_back(tmp_path: Path) -> None:
    loaded = load_config("demo", ["train.seed=4", "method.options.epochs=2"])
    (tmp_path / "config.json").write_text(json.dumps({**loaded.model_dump(mode="json"), "stream_fingerprint": "x"}))
    assert read_run_config(tmp_path) == loaded
    require_same_data(tmp_path, "x")
    with pytest.raises(RunError, match=r"config\.json: the data have changed since the run"):
        require_same_data(tmp_path, "y")
    (tmp_path / "config.json").unlink()
    with pytest.raises(RunError, match=r"no config\.json"):
        read_run_config(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not readable"), ("[]", "not a JSON object"), ("3", "not a JSON object"), ("[" * 100_000, "not readable")],
    ids=["cut", "list", "number", "deep"],
)
def test_a_damaged_config_of_a_run_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=rf"config\.json: {message}") as caught:
        read_run_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_run_without_the_fingerprint_of_its_stream_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(load_config("demo").model_dump(mode="json")))
    with pytest.raises(RunError, match=r"config\.json: no stream_fingerprint"):
        require_same_data(tmp_path, "x")


def write_run(folder: Path, options: dict) -> Path:
    """Write a config.json with options of COMM; returns the folder."""
    values = load_config("demo").model_dump(mode="json")
    values["method"]["options"] |= options
    (folder / "config.json").write_text(json.dumps({**values, "stream_fingerprint": "x"}))
    return folder


def test_former_names_of_options_are_read_without_a_warning(tmp_path: Path) -> None:
    values = load_config("demo").model_dump(mode="json")
    for former, name in (
        ("draws", "sampled_features"),
        ("token_rows", "token_scale_shift"),
        ("codes", "class_targets"),
    ):
        values["method"]["options"][former] = values["method"]["options"].pop(name)
    values["method"]["options"] |= {"draws": 7, "token_rows": False, "codes": "texts"}
    (tmp_path / "config.json").write_text(json.dumps({**values, "stream_fingerprint": "x"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = read_run_config(tmp_path).method.options
        assert read_run_values(tmp_path)["method"]["options"] == options
    assert (options["sampled_features"], options["token_scale_shift"], options["class_targets"]) == (7, False, "texts")
    assert not {"draws", "token_rows", "codes"} & options.keys()


def test_an_override_by_a_former_name_changes_a_run_with_a_warning(tmp_path: Path) -> None:
    run = write_run(tmp_path, {"sampled_features": 9})
    with pytest.warns(FormerNameWarning, match="option draws is called sampled_features now"):
        assert read_run_config(run, ["method.options.draws=5"]).method.options["sampled_features"] == 5


def test_a_key_of_a_run_that_is_not_valid_any_more_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: method\.options\.gone: comm has no such option"):
        read_run_config(write_run(tmp_path, {"gone": 1}))

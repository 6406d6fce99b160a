"""Configs: what ships is valid; what is wrong is named, with file and key, in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmcl_fast import config
from mmcl_fast.config import SHIPPED, build_config, load_config
from mmcl_fast.errors import ConfigError
from mmcl_fast.option_fields import FormerNameWarning


def test_every_shipped_config_is_valid_and_complete() -> None:
    names = {file.stem for file in SHIPPED.glob("*.toml")}
    assert {"demo", "folder", "clip"} <= names
    for name in names:
        loaded = load_config(name)
        values = json.loads(json.dumps(loaded.model_dump(mode="json")))
        assert build_config(values) == loaded
        assert values["method"]["options"], "the method's defaults belong to the record"


def test_overrides_are_toml_or_text() -> None:
    loaded = load_config(
        "demo",
        [
            "train.seed=3",
            'stream.order=["image:0", "text:0"]',
            "method.name=ridge",
            "train.evaluate=given",
            "stream.classes_per_task=none",
            "train.evaluate_unseen=false",
        ],
    )
    assert loaded.train.seed == 3 and loaded.stream.order == ["image:0", "text:0"]
    assert loaded.method.name == "ridge" and loaded.train.evaluate == "given"
    assert loaded.stream.classes_per_task is None and loaded.train.evaluate_unseen is False


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("train.sed=1", ["train.sed", "did you mean 'seed'?"]),
        ("trian.seed=1", ["trian", "did you mean 'train'?"]),
        ("train.seed=one", ["train.seed", "a whole number", '"one"']),
        ("train.seed=-1", ["train.seed", "a whole number from 0", "-1"]),
        ("train.seed=true", ["train.seed", "true"]),
        ("train.seed=1.5", ["train.seed", "1.5"]),
        (f"train.seed={2**63}", ["train.seed", "9223372036854775807", str(2**63)]),
        (f"stream.seed={2**63}", ["stream.seed", "9223372036854775807", str(2**63)]),
        ('stream.path="a\\u0000b"', ["--set", "stream.path", "not a path", "null byte"]),
        ('train.cache="a\\u0000b"', ["train.cache", "not a path"]),
        ("stream.path=~no_such_user_at_all/x", ["stream.path", "not a path"]),
        ("train.cache=3", ["train.cache", "temporary folder on disk"]),
        ("train.seed=" + "[" * 100_000, ["train.seed", "a whole number"]),
        ("train.device=cuda1", ["train.device", '"cuda1"']),
        ("train.device=cuda:01", ["train.device", '"cuda:01"']),
        ("train.device=tpu", ["train.device", '"cuda"', '"tpu"']),
        ("train.seed.x=1", ["train.seed", "not a table"]),
        ("stream=3", ["stream", "a table"]),
        ("stream.validation=1.0", ["stream.validation", "1.0"]),
        ("stream.order=[1]", ["stream.order", "[1]"]),
        ("encoder.prompt_blocks=some", ["encoder.prompt_blocks", '"all"']),
        ("method.name=com", ["method.name", "did you mean 'comm'?"]),
        ("method.options.epoch=1", ["method.options.epoch", "did you mean 'epochs'?"]),
        ("method.options.epochs=many", ["method.options.epochs", "a whole number from 0", '"many"']),
        ("seed", ["key=value"]),
    ],
)
def test_a_wrong_override_is_named_with_its_key(text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("demo", [text])
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message
    assert text.partition("=")[0].split(".")[0] in message


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[train]\nseeds = 1\n")
    with pytest.raises(ConfigError, match=r"mine\.toml: train\.seeds: .*did you mean 'seed'\?"):
        load_config(file)
    file.write_text("[train]\nseed = \n")
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML: .*line 2"):
        load_config(file)
    file.write_text('[stream]\npath = "a\\u0000b"\n')
    with pytest.raises(ConfigError, match=r"mine\.toml: stream\.path: .*not a path"):
        load_config(file)
    file.write_text("[train]\nseed = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"mine\.toml: not valid TOML: nested too deeply"):
        load_config(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine\.toml: cannot be read"):
        load_config(file)
    with pytest.raises(ConfigError, match=r"gone\.toml: no such file"):
        load_config(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load_config("dmo")


def test_a_byte_order_mark_is_read_over(tmp_path: Path) -> None:
    """As Notepad saves a file."""
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[stream]\r\nseed = 7\r\n")
    assert load_config(tmp_path / "a.toml").stream.seed == 7


def test_paths_of_a_file_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "mine.toml"
    file.write_text('[stream]\nsource = "folder"\npath = "data"\n[encoder]\nname = "openai/clip"\n')
    monkeypatch.chdir(tmp_path)
    assert load_config("sub/mine.toml").stream.path == str(tmp_path / "sub" / "data")
    assert load_config("sub/mine.toml", ["stream.path=data"]).stream.path == str(tmp_path / "data")
    assert load_config(file).encoder.name == "openai/clip"
    assert load_config(file, ["encoder.name=./model"]).encoder.name == str(tmp_path / "model")


def test_a_former_name_of_an_option_is_taken_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[method.options]\ntoken_rows = false\nsampled_features = 9\n")
    with pytest.warns(FormerNameWarning) as seen:
        options = load_config(file, ["method.options.draws=5"]).method.options
    assert (options["token_scale_shift"], options["sampled_features"]) == (False, 5)  # the override wins
    assert "token_rows" not in options and "draws" not in options
    assert {str(warning.message).split()[1] for warning in seen} == {"token_rows", "draws"}
    with pytest.warns(FormerNameWarning), pytest.raises(ConfigError, match=r"sampled_features: .* from 1, got 0"):
        load_config(file, ["method.options.draws=0"])


def test_functions_by_their_former_names_work_with_a_warning() -> None:
    for former, name in config.FORMER_NAMES.items():
        with pytest.warns(FormerNameWarning, match=f"{former} is called {name} now"):
            assert getattr(config, former) is getattr(config, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        config.nothing  # noqa: B018

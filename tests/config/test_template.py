"""``mmcl-fast init``: every key with a comment, read back as the same config."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mmcl_fast.config import load as config
from mmcl_fast.config import template
from mmcl_fast.config.schema import Config, Section
from mmcl_fast.methods import METHODS, options
from tests.cli.calls import call, error_of

SHIPPED = sorted(file.stem for file in config.SHIPPED.glob("*.toml"))


def fields(kind: type[Section] = Config):
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation)
        else:
            yield f"{kind.__name__}.{name}", field


@pytest.mark.parametrize("name", SHIPPED)
def test_a_written_config_is_the_shipped_one_with_every_key(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"mmcl-fast train {name}.toml" in call("init", name).stdout
    assert config.load(tmp_path / f"{name}.toml") == config.load(name)
    lines = (tmp_path / f"{name}.toml").read_text().splitlines()
    keys = [line.split(" = ")[0] for line in lines if " = " in line and not line.startswith("#")]
    own = dataclasses.fields(options(config.load(name).method.name))
    expected = [key.split(".")[1] for key, _ in fields() if key != "MethodSection.options"] + [f.name for f in own]
    assert sorted(keys) == sorted(expected)
    again = tmp_path / "again.toml"
    call("init", tmp_path / f"{name}.toml", "--out", again)
    assert config.load(again) == config.load(name)


def test_every_value_that_a_key_takes_comes_back(tmp_path: Path) -> None:
    changed = [
        "stream.source=tar",
        "stream.path.train=a b.tar",
        'stream.path.test="q\\"\\\\\\u007f\\u00e9.tar"',
        "stream.share={audio = 0.1}",
        'stream.order=["image:0", "audio:0"]',
        "train.cache=none",
        "train.keep_checkpoints=3",
        'train.track=["wandb"]',
        "method.name=ewc",
        "method.options.strength=1e-7",
        "encoder.prompt_blocks=all",
        "media.max_seconds=0.5",
        "encoder.name=./model",
    ]
    wanted = config.load("folder", changed)
    file = tmp_path / "mine.toml"
    file.write_text(template.text(wanted, "mine"), encoding="utf-8")
    assert config.load(file) == wanted


def test_every_key_and_option_says_what_it_is_for_and_its_limits() -> None:
    for name, field in fields():
        if name == "MethodSection.options":
            continue
        assert field.title and field.description, f"{name}: give it a title and a description"
        for limit in field.metadata:
            bound = getattr(limit, "ge", getattr(limit, "gt", getattr(limit, "le", getattr(limit, "lt", None))))
            assert bound is None or f"{bound:g}" in field.description or str(bound) in field.description, name
    for method in METHODS:
        for field in dataclasses.fields(options(method)):
            assert field.name in template.OPTIONS, f"{method}: say in OPTIONS what {field.name} is for"
    known = {field.name for method in METHODS for field in dataclasses.fields(options(method))}
    assert set(template.OPTIONS) == known


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("years of work")
    assert "another --out" in error_of(call("init", "--out", file, code=2))
    assert file.read_text() == "years of work"
    assert "nowhere" in error_of(call("init", "--out", tmp_path / "nowhere/mine.toml", code=2))
    assert "did you mean 'demo'" in error_of(call("init", "dmo", code=2))

"""``mmcl-fast init``: every key with a comment, read back as the same config."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmcl_fast.config import SHIPPED, load_config
from mmcl_fast.config.schema import Config, Section
from mmcl_fast.config.template import config_to_toml
from mmcl_fast.methods import METHODS, options
from mmcl_fast.methods.shared.options import option_model
from mmcl_fast.option_fields import expected_words
from tests.cli.calls import call, error_of
from tests.plain_words import MOST_WORDS, RIDDLES, sentences, words

NAMES = sorted(file.stem for file in SHIPPED.glob("*.toml"))


def fields(kind: type[Section] = Config):
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from fields(field.annotation)
        else:
            yield f"{kind.__name__}.{name}", field


def limits(field) -> list[float]:
    bounds = (getattr(limit, kind, None) for limit in field.metadata for kind in ("ge", "gt", "le", "lt"))
    return [bound for bound in bounds if bound is not None]


def check_described(name: str, field) -> None:
    assert field.description, f"{name}: say in its description what it is for"
    for sentence in sentences(field.description):
        assert words(sentence) <= MOST_WORDS and not RIDDLES.search(sentence), f"{name}: {sentence}"
    expected = expected_words(field)
    assert expected != "a value", f"{name}: say with Expected what it takes"
    for bound in limits(field):
        assert f"{bound:g}" in expected or str(bound) in expected, name


@pytest.mark.parametrize("name", NAMES)
def test_a_written_config_is_the_shipped_one_with_every_key(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"mmcl-fast train {name}.toml" in call("init", name).stdout
    assert load_config(tmp_path / f"{name}.toml") == load_config(name)
    lines = (tmp_path / f"{name}.toml").read_text().splitlines()
    keys = [line.split(" = ")[0] for line in lines if " = " in line and not line.startswith("#")]
    options_of = option_model(options(load_config(name).method.name)).model_fields
    expected = [key.split(".")[1] for key, _ in fields() if key != "MethodSection.options"] + list(options_of)
    assert sorted(keys) == sorted(expected)
    again = tmp_path / "again.toml"
    call("init", tmp_path / f"{name}.toml", "--out", again)
    assert load_config(again) == load_config(name)


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
    wanted = load_config("folder", changed)
    file = tmp_path / "mine.toml"
    file.write_text(config_to_toml(wanted, "mine"), encoding="utf-8")
    assert load_config(file) == wanted


def test_every_key_and_option_says_what_it_is_for_and_its_limits() -> None:
    for name, field in fields():
        if name == "MethodSection.options":
            continue
        check_described(name, field)
    for method in METHODS:
        for name, field in option_model(options(method)).model_fields.items():
            check_described(f"{method}: {name}", field)
            assert field.annotation not in (int, float) or limits(field), f"{method}: {name}: give it a limit"


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("years of work")
    assert "another --out" in error_of(call("init", "--out", file, code=2))
    assert file.read_text() == "years of work"
    assert "nowhere" in error_of(call("init", "--out", tmp_path / "nowhere/mine.toml", code=2))
    assert "did you mean 'demo'" in error_of(call("init", "dmo", code=2))

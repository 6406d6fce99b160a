"""The reference of keys: complete, and made from the fields alone."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from mmcl_fast.config import Config, build_config
from mmcl_fast.config.reference import all_entries, config_entries, markdown_table, option_entries, section_help
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import METHODS, MethodOptions
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from mmcl_fast.option_fields import Expected, FormerName, Symbol, Tunable


def flat(values: dict, path: str = "") -> dict[str, object]:
    """Full key -> value of nested tables; an empty table is a value."""
    out: dict[str, object] = {}
    for key, value in values.items():
        out |= flat(value, f"{path}{key}.") if isinstance(value, dict) and value else {path + key: value}
    return out


def test_the_entries_are_the_keys_and_the_defaults_of_a_config() -> None:
    keys = flat(Config().model_dump(mode="json"))
    del keys["method.options"]
    assert {entry.key: entry.default for entry in config_entries()} == keys
    assert all(entry.help and entry.expected for entry in config_entries())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_entries_of_a_method_are_the_options_of_its_config(method: str) -> None:
    options = build_config({"method": {"name": method}}).method.options
    assert {entry.name: entry.default for entry in option_entries(method)} == options
    assert all(entry.key == f"method.options.{entry.name}" and entry.help for entry in option_entries(method))
    assert all_entries()[method] == list(option_entries(method))


class CustomOptions(MethodOptions):
    size: Annotated[int, Field(ge=1), Symbol("n"), FormerName("width")] = Field(3, le=9, description="A size")
    kind: Literal["a", "b|c"] = Field("a", description="A kind")
    where: Annotated[str | None, Expected('a path, or "none"')] = Field(None, description="A place")


class SearchedOptions(MethodOptions):
    lr: Annotated[float, Tunable(0.01, 1)] = Field(0.1, description="A rate")
    kind: Literal["a", "b"] = Field("a", description="A kind")


def test_a_table_says_what_the_fields_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "custom", type("Custom", (ZeroShot,), {"name": "custom", "Options": CustomOptions}))
    entries = list(option_entries("custom"))
    assert [entry.former_name for entry in entries] == ["width", "", ""]
    assert markdown_table(entries).splitlines() == [
        "| option | symbol | values | default | what it does |",
        "|---|---|---|---|---|",
        "| `size` | $n$ | a whole number from 1 to 9 | `3` | A size |",
        '| `kind` |  | "a" or "b\\|c" | `"a"` | A kind |',
        '| `where` |  | a path, or "none" | `"none"` | A place |',
    ]
    assert markdown_table(entries[1:]).splitlines()[0] == "| option | values | default | what it does |"


def test_a_table_says_what_tune_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "custom", type("Custom", (ZeroShot,), {"name": "custom", "Options": SearchedOptions}))
    assert markdown_table(option_entries("custom")).splitlines() == [
        "| option | values | tune searches | default | what it does |",
        "|---|---|---|---|---|",
        "| `lr` | a number | 0.01 to 1, log | `0.1` | A rate |",
        '| `kind` | "a" or "b" |  | `"a"` | A kind |',
    ]


def test_sections_have_a_purpose_and_an_unknown_method_is_named() -> None:
    purposes = section_help()
    assert {"stream", "stream.datasets.image", "media", "encoder", "method", "train"} <= purposes.keys()
    assert all(purposes.values())
    with pytest.raises(ConfigError, match="did you mean 'ridge'"):
        list(option_entries("rigde"))

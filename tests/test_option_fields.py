"""Fields in words: accepted values, and the message for a wrong one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from mmcl_fast.config.loading import tomllib
from mmcl_fast.option_fields import Expected, FormerName, expected_words, toml, use_current_names, wrong_value


class Inner(BaseModel):
    x: int = 0


class Model(BaseModel):
    flag: bool = True
    whole: int = 0
    limited: int = Field(1, ge=1, le=5)
    positive: float = Field(1.0, gt=0)
    share: float = Field(0.0, ge=0, lt=1)
    one: Literal["a"] = "a"
    three: Literal["a", "b", 3] = "a"
    maybe: int | None = Field(None, ge=2)
    either: Annotated[int | Literal["all"], Field(ge=2)] = "all"
    words: str = ""
    table: dict[str, int] = {}
    inner: Inner = Inner()
    items: list[str] = []
    own: Annotated[str, Expected("a colour")] = "red"
    anything: Any = None
    renamed: Annotated[int, FormerName("old")] = 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flag", "true or false"),
        ("whole", "a whole number"),
        ("limited", "a whole number from 1 to 5"),
        ("positive", "a number above 0"),
        ("share", "a number from 0, below 1"),
        ("one", '"a"'),
        ("three", '"a", "b" or 3'),
        ("maybe", 'a whole number from 2 or "none"'),
        ("either", 'a whole number from 2 or "all"'),
        ("words", "text"),
        ("table", "a table"),
        ("inner", "a table"),
        ("items", "a list"),
        ("own", "a colour"),
        ("anything", "a value"),
    ],
)
def test_the_accepted_values_follow_from_type_and_limits(name: str, words: str) -> None:
    assert expected_words(Model.model_fields[name]) == words


def test_a_wrong_value_is_one_line_with_key_accepted_values_and_the_value() -> None:
    for value, shown in ((9, "9"), ("x" * 100, '"' + "x" * 76 + "...")):
        with pytest.raises(ValidationError) as caught:
            Model(limited=value)
        message = wrong_value("a.limited", Model.model_fields["limited"], caught.value.errors()[0])
        assert message == f"a.limited: expected a whole number from 1 to 5, got {shown}"


def test_of_a_former_and_a_present_name_the_later_one_counts() -> None:
    assert use_current_names(Model, {"old": 1, "flag": False}) == {"renamed": 1, "flag": False}
    assert use_current_names(Model, {"old": 1, "renamed": 2}) == {"renamed": 2}
    assert use_current_names(Model, {"renamed": 2, "old": 1}) == {"renamed": 1}


@pytest.mark.parametrize("value", [True, 3, 1e-7, 'a"b\\\x7fé\n', [1, ["x"]], {"a b": {"c": 1.5}}])
def test_toml_reads_a_written_value_back(value: object) -> None:
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value
    assert toml(None) == '"none"'

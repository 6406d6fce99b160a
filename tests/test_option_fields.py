"""Fields in words: accepted values, and the message for a wrong one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, create_model

from mmcl_fast.config.loading import tomllib
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import METHODS, options
from mmcl_fast.methods.shared.options import option_model
from mmcl_fast.option_fields import (
    Expected,
    FormerName,
    FormerValue,
    Tunable,
    TunableChoices,
    expected_words,
    search_space,
    toml,
    use_current_names,
    wrong_value,
)


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
    limited_or_word: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    words: str = ""
    table: dict[str, int] = {}
    inner: Inner = Inner()
    items: list[str] = []
    own: Annotated[str, Expected("a colour")] = "red"
    anything: Any = None
    renamed: Annotated[int, FormerName("old")] = 0
    revalued: Annotated[Literal["new", "other"], FormerValue("old", "new"), FormerName("older")] = "new"


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
        ("limited_or_word", 'a number above 0 or "auto"'),
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


def test_a_former_value_becomes_the_value_of_today() -> None:
    assert use_current_names(Model, {"revalued": "old", "words": "old"}) == {"revalued": "new", "words": "old"}
    assert use_current_names(Model, {"older": "old"}) == {"revalued": "new"}
    assert use_current_names(Model, {"revalued": "other"}) == {"revalued": "other"}


@pytest.mark.parametrize("value", [True, 3, 1e-7, 'a"b\\\x7fé\n', [1, ["x"]], {"a b": {"c": 1.5}}])
def test_toml_reads_a_written_value_back(value: object) -> None:
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value
    assert toml(None) == '"none"'


# ---- search spaces ----------------------------------------------------------------------------------------------


class Searched(BaseModel):
    lr: Annotated[float, Tunable(1e-3, 10)] = 0.1
    share: Annotated[float, Field(ge=0, le=1), Tunable(0, 1, log=False)] = 0.5
    rank: Annotated[int, Tunable(1, 100)] = 8
    width: Annotated[int, TunableChoices(500, 2000, 8000)] = 2000
    features: Annotated[Literal["z", "q", "zq"], TunableChoices("z", "zq")] = "zq"
    fixed: float = 1.0


def test_a_search_space_has_the_marked_fields() -> None:
    space = search_space(Searched)
    assert list(space) == ["lr", "share", "rank", "width", "features"]
    assert [found.words for found in space.values()] == [
        "0.001 to 10, log",
        "0 to 1",
        "1 to 100, log",
        "500, 2000 or 8000",
        '"z" or "zq"',
    ]


def test_positions_reach_both_ends_of_a_range_evenly() -> None:
    space = search_space(Searched)
    assert [space["lr"].value(p) for p in (0, 0.25, 0.5, 1)] == [0.001, 0.01, 0.1, 10]
    assert [space["share"].value(p) for p in (0, 1 / 3, 1)] == [0, 0.333, 1]
    values = [space["rank"].value(p) for p in (0, 0.5, 0.999999)]
    assert values == [1, 10, 100] and all(isinstance(value, int) for value in values)
    assert [space["width"].value(p) for p in (0, 0.33, 0.34, 0.67, 1)] == [500, 500, 2000, 8000, 8000]
    assert isinstance(Tunable(1, 4).value(0), float)


def test_what_lies_at_an_edge() -> None:
    space = search_space(Searched)
    for name, inside, at_edge in (
        ("lr", (0.0016, 0.1, 6.2), (0.001, 0.00158, 6.4, 10)),  # 5 % of four decades: a factor of 1.585
        ("share", (0.06, 0.94), (0, 0.05, 0.95, 1)),
        ("rank", (2, 79), (1, 80, 100)),
        ("width", (2000,), (500, 8000)),
        ("features", ("z", "zq"), ()),  # words have no order
    ):
        assert not any(space[name].at_edge(value) for value in inside), name
        assert all(space[name].at_edge(value) for value in at_edge), name
    assert not TunableChoices(3, 1, 2).at_edge(3) and not TunableChoices(False, True).at_edge(True)
    mixed = TunableChoices("auto", 0.1, 1, 10)
    assert mixed.at_edge(0.1) and mixed.at_edge(10) and not mixed.at_edge("auto") and not mixed.at_edge(1)
    assert space["lr"].at_edge(0) and space["lr"].at_edge(20) and not space["lr"].at_edge("auto")  # of a base config


@pytest.mark.parametrize(
    ("kind", "default", "message"),
    [
        (Annotated[float, Tunable(1.0, 1.0)], 1.0, "give low < high"),
        (Annotated[float, Tunable(0, 1)], 0.5, "low > 0 with log"),
        (Annotated[float, Tunable(0.1, 1, needs=("y", (1,)))], 0.5, "there is no such option"),
        (Annotated[float, Tunable(0.1, 1)], 0.01, "default 0.01 is not in its search space 0.1 to 1, log"),
        (Annotated[float, Field(le=1), Tunable(0.1, 2)], 0.5, "O.x: expected a number to 1, got 2"),
        (Annotated[int, TunableChoices(1)], 1, "two or more different values"),
        (Annotated[int, TunableChoices(1, 1)], 1, "two or more different values"),
        (Annotated[int, TunableChoices(1, 2)], 3, "default 3 is not in its search space 1 or 2"),
        (Annotated[Literal["a", "b"], TunableChoices("a", "c")], "a", 'O.x: expected "a" or "b", got "c"'),
    ],
)
def test_a_wrong_search_space_is_refused(kind: Any, default: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        search_space(create_model("O", x=(kind, default)))
    assert message in str(caught.value) and "O.x" in str(caught.value)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_search_space_of_a_method_holds_its_default_and_its_own_values(method: str) -> None:
    model = option_model(options(method))
    space = search_space(model)  # checks ranges, defaults and limits
    assert len(space) <= 4  # few trials cover few dimensions
    for name, found in space.items():
        assert all(model.model_validate({name: found.value(position)}) for position in (0.0, 0.3, 0.999))

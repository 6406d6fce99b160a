"""The trials of a search: the row's own options first, then different points all over the space."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from mmcl_fast.compare.trials import plan_search
from mmcl_fast.compare.variants import MethodVariant, parse_methods
from mmcl_fast.config import Config, load_config
from mmcl_fast.methods import METHODS, MethodOptions
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from mmcl_fast.option_fields import FormerName, FormerNameWarning, Tunable, TunableChoices


class Options(MethodOptions):
    lr: Annotated[float, Tunable(1e-4, 1.0), FormerName("rate")] = Field(0.01, description="A rate")
    size: Annotated[int, Tunable(1, 100, log=False)] = Field(10, description="A size")
    kind: Annotated[Literal["a", "b"], TunableChoices("a", "b")] = Field("a", description="A kind")
    flag: bool = Field(False, description="A flag")

    @model_validator(mode="after")
    def _small_b(self) -> Self:
        if self.kind == "b" and self.size > 50:
            raise ValueError("b is small")
        return self


class Choices(MethodOptions):
    kind: Annotated[Literal["a", "b", "c"], TunableChoices("a", "b", "c")] = Field("b", description="A kind")


class Dependent(MethodOptions):
    kind: Annotated[Literal["a", "b"], TunableChoices("a", "b")] = Field("a", description="A kind")
    rate: Annotated[float, Tunable(0.1, 10, needs=("kind", ("b",)))] = Field(1.0, description="A rate of b alone")


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Config:
    for name, kind in (("searched", Options), ("choices", Choices), ("dependent", Dependent)):
        monkeypatch.setitem(METHODS, name, type(name, (ZeroShot,), {"name": name, "Options": kind}))
    return load_config("demo", ["method.name=searched", "method.options={size = 20}"])


def row(text: str, base: Config) -> MethodVariant:
    return parse_methods(text, base)[0]


def test_the_first_trial_has_the_rows_own_options_and_all_differ(base: Config) -> None:
    search = plan_search(row("searched", base), base, 16, seed=0)
    assert search.options[0] == {"lr": 0.01, "size": 20, "kind": "a"}
    assert len({str(options) for options in search.options}) == 16
    assert not any(options["kind"] == "b" and options["size"] > 50 for options in search.options)
    assert {options["kind"] for options in search.options} == {"a", "b"}
    first, second = search.trials[:2]
    assert (first.name, first.folder) == ("searched, trial 0", "searched/trial-000")
    assert second.make_config(base, 0).method.options == search.options[1] | {"flag": False}


def test_trials_cover_the_space_evenly(base: Config) -> None:
    search = plan_search(row("searched:size=5:kind=a", base), base, 9, seed=0)
    assert list(search.space) == ["lr"] and {variant.options["size"] for variant in search.trials} == {5}
    eighths = {int(8 * search.space["lr"].position(options["lr"])) for options in search.options[1:]}  # type: ignore[union-attr]
    assert eighths == set(range(8))


def test_trials_depend_on_row_and_seed_and_more_begin_with_the_same(base: Config) -> None:
    few, many, other = (
        plan_search(row("searched", base), base, n, seed).options for n, seed in ((4, 0), (9, 0), (4, 1))
    )
    assert many[:4] == few and other[1:] != few[1:] and other[0] == few[0]
    flagged = plan_search(row("searched:flag=true", base), base, 4, 0)
    assert flagged.options[1:] != few[1:] and all(variant.options["flag"] for variant in flagged.trials)


def test_a_pinned_option_is_not_searched_whatever_its_name(base: Config) -> None:
    with pytest.warns(FormerNameWarning):
        search = plan_search(row("searched:rate=0.5", base), base, 5, 0)
        assert list(search.space) == ["size", "kind"]
        assert {variant.make_config(base, 0).method.options["lr"] for variant in search.trials} == {0.5}


def test_a_small_space_gives_fewer_trials(base: Config) -> None:
    assert plan_search(row("zero_shot", base), base, 16, 0).options == [{}]
    found = plan_search(row("choices", base), base, 16, 0).options
    assert found[0] == {"kind": "b"} and sorted(options["kind"] for options in found) == ["a", "b", "c"]
    assert plan_search(row("choices", base), base, 1, 0).options == [{"kind": "b"}]


def test_a_number_is_searched_only_where_it_has_an_effect(base: Config) -> None:
    search = plan_search(row("dependent", base), base, 6, 0)
    assert search.options[0] == {"kind": "a", "rate": 1.0}
    others = search.options[1:]  # a second trial with kind a would be the first one again
    assert len(others) == 5 and {options["kind"] for options in others} == {"b"}
    assert len({options["rate"] for options in others}) == 5
    assert search.with_effect(search.options[0]) == ["kind"] and search.with_effect(others[0]) == ["kind", "rate"]
    assert plan_search(row("dependent:kind=a", base), base, 6, 0).options == [{}]
    assert len(plan_search(row("dependent:kind=b", base), base, 6, 0).options) == 6
    assert plan_search(row("dependent:rate=2", base), base, 6, 0).options == [{"kind": "a"}, {"kind": "b"}]

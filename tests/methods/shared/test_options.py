"""A method's options: one declaration that is checked, renamed and written out; custom methods have their own."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from mmcl_fast import methods
from mmcl_fast.errors import ConfigError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.methods import METHODS, MethodOptions, make_options, option_values, options, register, upgrade_options
from mmcl_fast.methods.baselines.zero_shot import ZeroShot
from mmcl_fast.methods.comm.method import CommOptions
from mmcl_fast.methods.shared.options import option_model
from mmcl_fast.option_fields import FormerNameWarning, former_names
from tests.toy import ToyEncoder


@dataclass(frozen=True)
class PlainOptions:
    """Options as a dataclass. Some have the names of options in mmcl_fast, with limits that are not theirs."""

    penalty: float = 0.0
    rank: int = 0
    epochs: int = -1
    kind: Literal["a", "b"] = "a"
    sizes: list[int] = field(default_factory=lambda: [1])
    copy: bool = True  # also the name of a method of pydantic's models

    def __post_init__(self) -> None:
        if self.rank > 9:
            raise ValueError("rank: more than 9; lower it")


class ModelOptions(MethodOptions):
    penalty: float = Field(0.0, ge=-1, description="A penalty")
    draws: int = 3


def custom(kind: type, monkeypatch: pytest.MonkeyPatch) -> str:
    """Register a custom method with options of a kind, for this test alone; returns its name."""
    monkeypatch.setattr(methods, "METHODS", METHODS | {})
    register(type("Custom", (ZeroShot,), {"name": "custom", "Options": kind}))
    return "custom"


def test_options_are_checked_by_name_type_and_limits() -> None:
    assert make_options("comm", {"rank": 4, "lr": 1}).lr == 1.0
    assert type(make_options("comm", {"lr": 1}).lr) is float
    assert make_options("comm", None) == CommOptions()
    for values, words in (
        ({"rnak": 4}, r"method\.options\.rnak: comm has no such option; did you mean 'rank'"),
        ({"rank": "x"}, r'method\.options\.rank: expected a whole number from 1, got "x"'),
        ({"rank": True}, "a whole number from 1, got true"),
        ({"rank": 4.0}, "a whole number from 1, got 4.0"),
        ({"relevance": "magic"}, 'expected "analytic" or "mlp", got "magic"'),
        ({"prompts": 1}, 'expected true or false or "auto", got 1'),
        ({"prompts": "yes"}, 'expected true or false or "auto", got "yes"'),
        ({"lambda_max": 0.5}, "comm has this option no more; prompt_prior now says"),
        ({"tau": 0.0}, "a number from 1e-06, got 0.0"),
        ({"lr": float("nan")}, "a number from 0 to 10, got NaN"),
        ({"lr": float("inf")}, "a number from 0 to 10, got Infinity"),
        ({"rank": 0}, "from 1, got 0"),
        ({"shrink": 2.0}, "a number from 0 to 1, got 2.0"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            make_options("comm", values)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'comm'"):
        methods.method_class("com")


def test_options_stay_as_they_were_made() -> None:
    chosen = make_options("ridge", {})
    with pytest.raises(ValidationError, match="frozen"):
        chosen.penalty = 1.0
    with pytest.raises(ValidationError):
        CommOptions(rank=0)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_options_come_back_from_json(method: str) -> None:
    values = json.loads(json.dumps(option_values(options(method)())))
    assert make_options(method, values) == options(method)()
    assert list(values) == list(option_model(options(method)).model_fields)


# Of types that several methods share: whichever method has such an option takes its former name too.
SHARED = {"token_rows": "token_scale_shift", "text_rows": "text_scale_shift", "rows_lr": "scale_shift_lr"}
COMM = SHARED | {"codes": "class_targets", "codes_lr": "class_targets_lr", "draws": "sampled_features"}
FORMER = {
    "comm": COMM,
    "comm_abstract": COMM,
    "dns": {"source": "features"},
    "joint": {"token_rows": "token_scale_shift"},
    "ranpac": {"source": "features", "held_out": "penalty"},
    "ridge": {"source": "features"},
    "s_prompts": SHARED,
    "slca": {"draws": "sampled_features"},
}


def test_former_names_are_taken_with_a_warning_and_from_saved_runs_without() -> None:
    for name in METHODS:
        found, known = former_names(option_model(options(name))), FORMER.get(name, {})
        assert known.items() <= found.items() and found.items() <= (known | SHARED).items(), name
    old = {"token_rows": False, "rows_lr": 0.5, "codes": "texts", "draws": 7}
    with pytest.warns(FormerNameWarning) as seen:
        chosen = make_options("comm", old)
    assert (chosen.token_scale_shift, chosen.scale_shift_lr, chosen.class_targets, chosen.sampled_features) == (
        False,
        0.5,
        "texts",
        7,
    )
    assert str(seen[0].message) == "option token_rows is called token_scale_shift now; the former name still works"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_options("comm", upgrade_options("comm", old)) == chosen
    with pytest.warns(FormerNameWarning):
        assert CommOptions(draws=7).sampled_features == 7  # type: ignore[call-arg]


@pytest.mark.parametrize("method", ["comm", "comm_abstract"])
def test_a_former_value_is_taken_with_a_warning_and_from_saved_runs_without(method: str) -> None:
    with pytest.warns(FormerNameWarning) as seen:
        assert make_options(method, {"start": "ridge"}).start == "closed"
    assert [str(w.message) for w in seen] == ['start = "ridge" is called "closed" now; the former value still works']
    assert upgrade_options(method, {"start": "ridge"}) == {"start": "closed"}
    with pytest.raises(ConfigError, match=r'start: expected "closed" or "zero", got "none"'):
        make_options(method, {"start": "none"})


@pytest.mark.parametrize("method", ["comm", "comm_abstract"])
def test_removed_options_are_explained_and_left_out_of_saved_runs(method: str) -> None:
    old = {"lambda_max": 1.0, "sigma": 0.5, "epochs": 3}
    with pytest.raises(ConfigError, match=rf"method\.options\.lambda_max: {method} has this option no more"):
        make_options(method, old)
    assert make_options(method, upgrade_options(method, old)).epochs == 3


def test_of_two_names_the_later_one_counts() -> None:
    for values, wanted in (({"draws": 3, "sampled_features": 4}, 4), ({"sampled_features": 4, "draws": 3}, 3)):
        with pytest.warns(FormerNameWarning):
            assert make_options("comm", values).sampled_features == wanted


def test_a_wrong_value_under_a_former_name_is_named_by_the_name_of_today() -> None:
    words = r"options\.sampled_features: .* from 1, got 0"
    with pytest.warns(FormerNameWarning), pytest.raises(ConfigError, match=words):
        make_options("slca", {"draws": 0})


@pytest.mark.parametrize("kind", [PlainOptions, ModelOptions])
def test_a_custom_method_is_checked_by_its_own_options_alone(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its default ``penalty = 0.0`` may be passed, though methods of mmcl_fast want more than 0."""
    name = custom(kind, monkeypatch)
    chosen = make_options(name, {"penalty": 0.0})
    assert type(chosen) is kind and chosen.penalty == 0.0
    assert make_options(name, option_values(chosen)) == chosen
    with pytest.raises(ConfigError, match=r"method\.options\.penalty: expected a number.*, got \"x\""):
        make_options(name, {"penalty": "x"})
    with pytest.raises(ConfigError, match=r"custom has no such option; did you mean 'penalty'"):
        make_options(name, {"penaltie": 1.0})


def test_options_of_a_dataclass_have_the_types_of_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        option_model.cache_clear()
        name = custom(PlainOptions, monkeypatch)
    assert make_options(name, {"copy": False}).copy is False
    chosen = make_options(name, {"rank": 0, "epochs": -1, "kind": "b", "sizes": [2, 3], "penalty": -5})
    assert chosen == PlainOptions(-5.0, 0, -1, "b", [2, 3]) and type(chosen.penalty) is float
    for values, words in (
        ({"kind": "c"}, 'expected "a" or "b", got "c"'),
        ({"rank": 1.5}, "expected a whole number, got 1.5"),
        ({"sizes": ["x"]}, "options.sizes: expected a list"),
        ({"penalty": float("inf")}, "expected a number, got Infinity"),
        ({"rank": 10}, r"method\.options: rank: more than 9; lower it"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_options(name, values)


def test_a_custom_option_may_have_a_former_name_of_another_method(monkeypatch: pytest.MonkeyPatch) -> None:
    name = custom(ModelOptions, monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_options(name, {"draws": 5}).draws == 5


@dataclass(frozen=True)
class NoDefault:
    needed: int


class NoModelDefault(MethodOptions):
    needed: int


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (NoDefault, r"NoDefault\.needed: has no default; the fields of Options all have defaults"),
        (NoModelDefault, r"NoModelDefault\.needed: has no default"),
        (dict, "derive a method's Options from mmcl_fast.methods.MethodOptions"),
        (None, "derive a method's Options from mmcl_fast.methods.MethodOptions"),
    ],
)
def test_options_that_cannot_be_checked_are_refused_at_once(
    kind: type, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        custom(kind, monkeypatch)
    assert "\n" not in str(caught.value)


def test_a_learner_saved_under_former_names_loads_without_a_warning(tmp_path: Path) -> None:
    chosen = {"draws": 5, "token_rows": False, "codes": "texts", "epochs": 3}
    with pytest.warns(FormerNameWarning):
        learner = Learner(ToyEncoder(), "comm", options=chosen, device="cpu")
    assert not chosen.keys() - {"epochs"} & learner.settings["options"].keys()
    tensors, values = learner.contents()
    options = {key: value for key, value in values["options"].items() if key not in FORMER["comm"].values()}
    checkpoint.write(tmp_path / "saved", tensors, values | {"options": options | chosen})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Learner.load(tmp_path / "saved", encoder=ToyEncoder(), device="cpu")
    assert again.settings["options"]["sampled_features"] == 5 and again.settings["options"]["class_targets"] == "texts"
    assert again.method.options.token_scale_shift is False and again.method.options.epochs == 3

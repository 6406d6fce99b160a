"""The base class of a method's options, and the types of options that several methods have.

An option is declared once, as a field with a type, limits, a default and a description. Its check, the config that
``mmcl-fast init`` writes, ``mmcl-fast options METHOD`` and the tables of the documentation all come from that field.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from mmcl_fast.errors import ConfigError, suggest
from mmcl_fast.option_fields import (
    FormerName,
    FormerNameWarning,
    Symbol,
    former_names,
    former_values,
    use_current_names,
    wrong_value,
)

TINY = 1e-6  # the smallest value of options that a formula divides by


class MethodOptions(BaseModel):
    """Base of a method's options. A subclass declares each option as a field with a default.

    A value must have the field's type: a float takes whole numbers too, nothing else is converted. Floats are finite.
    Options can't be changed after they are made.

    Attributes:
        removed: option of an earlier version -> what to write in its place, a clause for the error's message. The
            records of saved runs may still have it.

    Example::

        class AnchoredOptions(MethodOptions):
            epochs: Epochs = 6
            hold: float = Field(1.0, ge=0, description="Weight of the distance to the last prompt")
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        arbitrary_types_allowed=True,
    )

    removed: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _use_current_names(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for former, name in former_names(cls).items():
            if former in values:
                warnings.warn(
                    f"option {former} is called {name} now; the former name still works",
                    FormerNameWarning,
                    stacklevel=2,
                )
        for name, value in former_values(cls, values).items():
            warnings.warn(
                f'{name} = "{value.former}" is called "{value.current}" now; the former value still works',
                FormerNameWarning,
                stacklevel=2,
            )
        return use_current_names(cls, values)


@cache
def option_model(kind: Any) -> type[BaseModel]:
    """The pydantic model of a method's options. Options that are a frozen dataclass get a model from its fields.

    Raises:
        ConfigError: ``kind`` is neither, a field has no default, or pydantic can't handle its type.
    """
    if isinstance(kind, type) and issubclass(kind, MethodOptions):
        model: type[BaseModel] = kind
    elif isinstance(kind, type) and dataclasses.is_dataclass(kind):
        try:
            hints = get_type_hints(kind)
            fields: dict[str, Any] = {f.name: (hints[f.name], _field_of(f)) for f in dataclasses.fields(kind)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a field such as ``copy`` hides a method of the model
                model = create_model(kind.__name__, __base__=MethodOptions, **fields)
        except Exception as fault:  # whatever a user's types raise
            reason = str(fault).splitlines()[0]
            raise ConfigError(f"{kind.__name__}: its fields can't be checked ({reason}); use plain types") from fault
    else:
        raise ConfigError(f"Options = {kind!r}: derive a method's Options from mmcl_fast.methods.MethodOptions")
    missing = [name for name, field in model.model_fields.items() if field.is_required()]
    if missing:
        raise ConfigError(f"{kind.__name__}.{missing[0]}: has no default; the fields of Options all have defaults")
    return model


def _field_of(field: dataclasses.Field[Any]) -> Any:
    """A pydantic field with the default of a dataclass's field."""
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return Field(default_factory=field.default_factory)
    return ...


def check_options(kind: Any, method: str, values: Mapping[str, Any]) -> Any:
    """Check values by name against a class of options, and build it.

    Args:
        kind: a ``MethodOptions`` class or a frozen dataclass.
        method: the method's name, for messages.
        values: options by name; missing ones get their defaults. Former names are taken, with a warning.

    Raises:
        ConfigError: names the option, the values that it accepts, and the value that was given.
    """
    model = option_model(kind)
    known = {*model.model_fields, *former_names(model)}
    for key in values:
        if advice := getattr(model, "removed", {}).get(key):
            raise ConfigError(f"method.options.{key}: {method} has this option no more; {advice}")
        if key not in known:
            raise ConfigError(
                f"method.options.{key}: {method} has no such option; {suggest(key, model.model_fields, 0.6)}"
            )
    try:
        checked = model.model_validate(dict(values))
        if isinstance(checked, kind):
            return checked
        return kind(**{name: getattr(checked, name) for name in checked.model_fields_set})
    except ValidationError as fault:
        error = fault.errors()[0]
        name = str(error["loc"][0]) if error["loc"] else ""
        key = f"method.options.{name}" if name else "method.options"
        raise ConfigError(wrong_value(key, model.model_fields.get(name), error)) from None
    except ValueError as fault:  # of a dataclass's __post_init__
        raise ConfigError(f"method.options: {fault}") from None


def option_values(options: Any) -> dict[str, Any]:
    """Return the options of a method as JSON values by name."""
    return options.model_dump(mode="json") if isinstance(options, BaseModel) else dataclasses.asdict(options)


# ---- options that several methods have ----------------------------------------------------------------------------

PromptLength = Annotated[int, Field(ge=1, le=512, description="Tokens of a prompt"), Symbol("L")]
Epochs = Annotated[int, Field(ge=0, description="Passes over a task's samples")]
BatchSize = Annotated[int, Field(ge=1, description="Samples of a training step, of all processes together")]
LearningRate = Annotated[float, Field(ge=0, le=10)]
PromptRate = Annotated[LearningRate, Field(description="Largest learning rate of the prompts")]
ClassifierRate = Annotated[LearningRate, Field(description="Largest learning rate of the classifier")]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(ge=TINY)]
RidgePenalty = Annotated[
    Positive, Field(description="Ridge penalty, relative to the mean of the Gram matrix's diagonal"), Symbol(r"\lambda")
]
ChosenPenalty = Annotated[
    Literal["auto"] | Annotated[float, Field(ge=TINY)],
    Field(
        description="Ridge penalty, relative to the mean of the Gram matrix's diagonal. auto: generalised "
        "cross-validation chooses it after each task"
    ),
    Symbol(r"\lambda"),
]
RelevancePenalty = Annotated[
    Positive,
    Field(description="Ridge penalty of the relevance function, relative to the mean of the Gram matrix's diagonal"),
    Symbol(r"\lambda_R"),
]
TokenScaleShift = Annotated[
    bool,
    Field(description="A prompt also scales and shifts the trunk's tokens; false: it is a prefix alone"),
    FormerName("token_rows"),
]
TextScaleShift = Annotated[
    bool,
    Field(description="Prompts of text scale and shift tokens too, where a token's position says little"),
    FormerName("text_rows"),
]
ScaleShiftRate = Annotated[
    LearningRate, Field(description="Largest learning rate of the scales and shifts of tokens"), FormerName("rows_lr")
]
CovarianceShrinkage = Annotated[
    float,
    Field(
        ge=TINY, le=1, description="Share of a multiple of the identity, with the same mean variance, in the covariance"
    ),
    Symbol("e"),
]
ReadingPromptCount = Annotated[
    int,
    Field(
        ge=0,
        le=16,
        description="Further prompts under which a sample is embedded: the prompts of modalities that came earlier, "
        "and random ones. 0: none",
    ),
    Symbol("K"),
]
ScaleShiftRank = Annotated[
    int,
    Field(
        ge=0,
        description="Rank of a training's change of the scales and shifts: directions that all channels of a position "
        "move along. 0: every number moves by itself",
    ),
    Symbol("k"),
]

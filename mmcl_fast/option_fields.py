"""Fields of pydantic models in words: accepted values, purpose, and the message for a wrong value.

The ``description`` of a field says what it is for. The accepted values follow from its type and limits, unless an
``Expected`` in its annotation names them. Sections of a config and options of methods are both described this way.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from mmcl_fast.errors import ConfigError

EDGE = 0.05  # the share of a range that counts as its edge, at both ends
LONGEST_VALUE = 80  # characters of a wrong value in a message
SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: '"none"'}
LIMITS = {Ge: ("ge", "from"), Gt: ("gt", "above"), Le: ("le", "to"), Lt: ("lt", "below")}
Marker = TypeVar("Marker")


@dataclass(frozen=True)
class Expected:
    """The values of a field in words, where type and limits do not say them: ``Annotated[str, Expected("a path")]``."""

    words: str


@dataclass(frozen=True)
class FormerName:
    """A name that a field had in earlier versions; configs and saved runs may still use it."""

    name: str


@dataclass(frozen=True)
class FormerValue:
    """A value of a field that had another name in earlier versions; configs and saved runs may still use it.

    Attributes:
        former: the value of earlier versions.
        current: the same value of today.
    """

    former: str
    current: str


class FormerNameWarning(FutureWarning):
    """A field was given by the name of an earlier version, or its value was."""


@dataclass(frozen=True)
class Symbol:
    """The symbol of a field in the formulas of the documentation, as LaTeX."""

    latex: str


@dataclass(frozen=True)
class Tunable:
    """The range of a number that ``mmcl-fast tune`` searches: ``Annotated[float, Tunable(1e-4, 1.0)]``.

    Attributes:
        low, high: its ends; both can be chosen.
        log: search the logarithm of the number. ``low`` is above 0 then.
        needs: (another option, its values) with which the number has an effect, such as
            ``("adaptation", ("scale_shift",))``; None: it always has. With other values it is not searched.
        whole: only whole numbers are chosen; ``search_space`` sets it for a field of whole numbers.
    """

    low: float
    high: float
    log: bool = True
    needs: tuple[str, tuple[Any, ...]] | None = None
    whole: bool = False

    @property
    def words(self) -> str:
        """The range in words, such as "0.0001 to 1, log"."""
        return f"{self.low:g} to {self.high:g}" + (", log" if self.log else "")

    def value(self, position: float) -> float | int:
        """Return the number at a position from 0 (``low``) to 1 (``high``), rounded to 3 significant digits."""
        low, high = map(self._scaled, (self.low, self.high))
        scaled = low + position * (high - low)
        number = float(f"{math.exp(scaled) if self.log else scaled:.3g}")
        number = min(max(number, self.low), self.high)
        return round(number) if self.whole else float(number)

    def position(self, value: float) -> float:
        """Return the position of a number in the range, the inverse of ``value``."""
        low, high = map(self._scaled, (self.low, self.high))
        return (self._scaled(value) - low) / (high - low)

    def has_effect(self, options: Mapping[str, Any]) -> bool:
        """Return whether the number changes anything beside the other options of its method."""
        return self.needs is None or options[self.needs[0]] in self.needs[1]

    def at_edge(self, value: Any) -> bool:
        """Return whether a number lies in the outer 5 % of the range, at either end, or beyond; False for words."""
        if not _is_number(value):
            return False
        return not self.low < value < self.high or not EDGE < self.position(value) < 1 - EDGE

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.log else value


@dataclass(frozen=True, init=False)
class TunableChoices:
    """The values of an option that ``mmcl-fast tune`` tries: ``Annotated[int, TunableChoices(500, 2000, 8000)]``."""

    values: tuple[Any, ...]

    def __init__(self, *values: Any):
        object.__setattr__(self, "values", values)

    @property
    def words(self) -> str:
        """The values in words, such as ``500, 2000 or 8000``."""
        return _join(map(toml, self.values))

    def value(self, position: float) -> Any:
        """Return the value at a position from 0 to 1; each has an equal share of the positions."""
        return self.values[min(int(position * len(self.values)), len(self.values) - 1)]

    def has_effect(self, options: Mapping[str, Any]) -> bool:
        """Return True: choices are always searched."""
        return True

    def at_edge(self, value: Any) -> bool:
        """Return whether a value is the first or the last one of the numbers among the choices, if these ascend."""
        numbers = [choice for choice in self.values if _is_number(choice)]
        return _is_number(value) and numbers == sorted(numbers) and value in (*numbers[:1], *numbers[-1:])


SearchSpace = dict[str, Tunable | TunableChoices]  # name of an option -> what tune tries of it


def search_space(model: type[BaseModel]) -> SearchSpace:
    """Return what ``mmcl-fast tune`` searches of a method's options: option name -> marker, in the fields' order.

    Raises:
        ConfigError: a range is empty or its logarithm does not exist, or there are fewer than two choices. Or a range
            needs an option that does not exist. Or the default is outside the space, or the field does not accept one
            of the values.
    """
    space: SearchSpace = {}
    for name, field in model.model_fields.items():
        found = marker(field, Tunable) or marker(field, TunableChoices)
        if found is None:
            continue
        where, default = f"{model.__name__}.{name}", default_of(field)
        if isinstance(found, Tunable):
            if not found.low < found.high or (found.log and found.low <= 0):
                raise ConfigError(f"{where}: Tunable({found.words}): give low < high, and low > 0 with log")
            if found.needs and found.needs[0] not in model.model_fields:
                raise ConfigError(f"{where}: Tunable(needs={found.needs}): there is no such option; correct its name")
            if float not in (field.annotation, *get_args(field.annotation)):
                found = replace(found, whole=True)
            inside = _is_number(default) and found.low <= default <= found.high
            tried: tuple[Any, ...] = (found.low, found.high)
        else:
            tried = found.values
            if len(set(map(toml, tried))) < max(2, len(tried)):
                raise ConfigError(f"{where}: TunableChoices({found.words}): give two or more different values")
            inside = default in tried
        if not inside:
            raise ConfigError(f"{where}: the default {toml(default)} is not in its search space {found.words}; add it")
        for value in tried:
            try:
                model.model_validate({name: value})
            except ValidationError as fault:
                raise ConfigError(f"search space: {wrong_value(where, field, fault.errors()[0])}") from None
        space[name] = found
    return space


def marker(field: FieldInfo, kind: type[Marker]) -> Marker | None:
    """Return a field's last annotation of a kind, such as ``Expected``, or None."""
    found = [item for item in field.metadata if isinstance(item, kind)]
    return found[-1] if found else None


def expected_words(field: FieldInfo) -> str:
    """Return the accepted values of a field, for example ``a number from 0 to 1`` or ``"cpu" or "cuda"``."""
    given = marker(field, Expected)
    return given.words if given else _join(_alternatives(field.annotation, _limits(field)))


def default_of(field: FieldInfo) -> Any:
    """Return the default value of a field."""
    return field.get_default(call_default_factory=True, validated_data={})


def former_names(model: type[BaseModel]) -> dict[str, str]:
    """Return former name -> name of all fields of a model that were renamed."""
    found = {name: marker(field, FormerName) for name, field in model.model_fields.items()}
    return {former.name: name for name, former in found.items() if former}


def former_values(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, FormerValue]:
    """Return name -> its ``FormerValue``, for each of the fields in ``values`` that has a former value there."""
    found = {name: marker(model.model_fields[name], FormerValue) for name in values if name in model.model_fields}
    return {name: former for name, former in found.items() if former and values[name] == former.former}


def use_current_names(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace former names of fields and former values by today's. Of two names of a field the later one counts."""
    renamed, out = former_names(model), dict[str, Any]()
    for key, value in values.items():
        name = renamed.get(key, key)
        out.pop(name, None)
        out[name] = value
    return out | {name: former.current for name, former in former_values(model, out).items()}


def wrong_value(key: str, field: FieldInfo | None, error: Mapping[str, Any]) -> str:
    """Return the message for one error of pydantic: the key, the accepted values, and the value that was given.

    Args:
        key: the field's full name, such as ``train.seed``; it begins the message.
        field: the field at fault; None where a validator refused several fields together.
        error: an item of ``ValidationError.errors()``.
    """
    if field is None:
        return f"{key}: {error['msg'].removeprefix('Value error, ')}"
    given = json.dumps(error["input"], default=str, ensure_ascii=False)
    given = given if len(given) <= LONGEST_VALUE else given[: LONGEST_VALUE - 3] + "..."
    return f"{key}: expected {expected_words(field)}, got {given}"


def toml(value: Any) -> str:
    """Return a value as TOML writes it; None is ``"none"``."""
    if value is None:
        return '"none"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace(
            "\x7f", "\\u007f"
        )  # JSON allows DEL in a string, TOML doesn't
    return json.dumps(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _limits(field: FieldInfo) -> str:
    """Return the limits of a number, such as ``from 0 to 1``; empty without any."""
    words: list[str] = []
    for kind, (attribute, word) in LIMITS.items():
        limit = marker(field, kind)
        if limit is not None:
            words.append(f"{word} {getattr(limit, attribute)}")
    return ", ".join(words) if marker(field, Lt) else " ".join(words)  # "from 0, below 1", but "from 0 to 1"


def _alternatives(annotation: Any, limits: str) -> list[str]:
    """Return the values, or kinds of values, of a type, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return [toml(value) for value in args]
    if origin is Annotated:  # a member of a union with limits of its own
        member = FieldInfo.from_annotation(annotation)
        return _alternatives(member.annotation, _limits(member))
    if origin in (Union, types.UnionType):
        return [words for arg in args for words in _alternatives(arg, limits)]
    if annotation in (int, float) and limits:
        return [f"{SCALARS[annotation]} {limits}"]
    if annotation in SCALARS:
        return [SCALARS[annotation]]
    kind = origin or annotation
    if kind is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return ["a table"]
    return ["a list" if kind in (list, tuple, set, frozenset) else "a value"]


def _join(words: Iterable[str]) -> str:
    """``a, b or c``."""
    *some, last = words
    return f"{', '.join(some)} or {last}" if some else last

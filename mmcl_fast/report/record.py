"""What a report needs of summary.json and metrics.jsonl, and what is wrong with a damaged one."""

from __future__ import annotations

from typing import Annotated, Any, Optional

from pydantic import BaseModel, ConfigDict, Strict, ValidationError, model_validator

Number = Optional[float]  # None: not evaluated
_Loose = Strict(False)  # JSON has lists where these are tuples
_TakenFor = Annotated[tuple[Annotated[tuple[str, str], _Loose], int], _Loose]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Task(_Part):
    name: str
    modality: str
    classes: list[str]
    test_by_class: list[int] | None = None  # none in runs of older versions


class _Values(_Part):
    """Metrics by name; which ones there are is not fixed here."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]


class _Metrics(_Values):
    per_modality: dict[str, _Values] = {}


class _Setting(_Part):
    R: list[list[Number]]
    metrics: _Metrics


class _Shares(_Part):
    modalities: list[str]
    matrix: list[list[float]]

    @model_validator(mode="after")
    def _square(self) -> _Shares:
        count = len(self.modalities)
        if [len(row) for row in self.matrix] != [count] * count:
            raise ValueError(f"contributions.matrix is not {count} rows of {count}, as its modalities need")
        return self


class _Summary(_Part):
    tasks: list[_Task]
    settings: dict[str, _Setting]
    formulas: dict[str, str] = {}
    notes: list[str] = []
    contributions: _Shares | None = None

    @model_validator(mode="after")
    def _sizes(self) -> _Summary:
        count = len(self.tasks)
        for name, setting in self.settings.items():
            if len(setting.R) != count + 1 or any(len(row) != count for row in setting.R):
                raise ValueError(f"settings.{name}.R is not {count + 1} rows of {count}, as its tasks need")
        return self


class _Event(_Part):
    event: str
    seconds: dict[str, float] = {}
    counts: dict[str, int] = {}


class _TaskEvent(_Event):
    task: int
    name: str


class _Evaluation(_Event):
    after: int
    setting: str
    by_class: list[Optional[list[int]]] | None = None
    taken_for: list[list[list[_TakenFor]]] | None = None


class _Contributions(_Event, _Shares):
    after: int


EVENTS: dict[str, type[_Event]] = {"task": _TaskEvent, "evaluation": _Evaluation, "contributions": _Contributions}


def fault_of_summary(values: dict[str, Any]) -> str | None:
    """What is wrong with a summary, its place first, or None."""
    return _fault(_Summary, values)


def fault_of_event(value: Any) -> str | None:
    """What is wrong with an event of metrics.jsonl, its place first, or None."""
    kind = value.get("event") if isinstance(value, dict) else None
    return _fault(EVENTS.get(kind, _Event) if isinstance(kind, str) else _Event, value)


def _fault(model: type[BaseModel], value: Any) -> str | None:
    try:
        model.model_validate(value)
    except ValidationError as faults:
        first = faults.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":
            return str(first["ctx"]["error"])
        wrong = "missing" if first["type"] == "missing" else first["msg"].lower()
        return f"{place}: {wrong}" if place else "not a JSON object"
    return None

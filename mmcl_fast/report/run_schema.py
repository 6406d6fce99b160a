"""The values of summary.json and metrics.jsonl that a report needs, as pydantic models that find damage."""

from __future__ import annotations

from typing import Annotated, Any, Optional

from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, model_validator

Number = Optional[float]  # None: not evaluated
_AcceptList = Strict(False)  # JSON has lists, no tuples
# ((modality, class), how often)
_ConfusionCount = Annotated[tuple[Annotated[tuple[str, str], _AcceptList], int], _AcceptList]


class _StrictModel(BaseModel):
    model_config = ConfigDict(strict=True)


class _SummaryTask(_StrictModel):
    name: str
    modality: str
    classes: list[str]
    test_by_class: list[int] | None = None  # missing in runs of older versions


class _Values(_StrictModel):
    """Metrics by name. Any names are accepted: a custom method may add some."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Number]


class _Metrics(_Values):
    per_modality: dict[str, _Values] = {}


class _Setting(_StrictModel):
    R: list[list[Number]]
    metrics: _Metrics


class _ContributionMatrix(_StrictModel):
    modalities: list[str]
    matrix: list[list[float]]

    @model_validator(mode="after")
    def _check_square(self) -> _ContributionMatrix:
        count = len(self.modalities)
        if [len(row) for row in self.matrix] != [count] * count:
            raise ValueError(f"contributions.matrix is not {count} rows of {count}, as its modalities need")
        return self


class _StateBytes(_StrictModel):
    fixed: int
    of_classes: int
    classes: int
    all_data: bool


class _Summary(_StrictModel):
    tasks: list[_SummaryTask]
    settings: dict[str, _Setting]
    formulas: dict[str, str] = {}
    notes: list[str] = []
    contributions: _ContributionMatrix | None = None
    state_bytes: _StateBytes | None = None  # missing in runs of older versions

    @model_validator(mode="after")
    def _check_sizes(self) -> _Summary:
        count = len(self.tasks)
        for name, setting in self.settings.items():
            if len(setting.R) != count + 1 or any(len(row) != count for row in setting.R):
                raise ValueError(f"settings.{name}.R is not {count + 1} rows of {count}, as its tasks need")
        return self


class _Event(_StrictModel):
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
    taken_for: list[list[list[_ConfusionCount]]] | None = None


class _Contributions(_Event, _ContributionMatrix):
    after: int


class _Unknown(_Event):
    after: int
    modality: str
    known: int
    new: int
    auroc: float
    flagged: Annotated[list[int], Field(min_length=100, max_length=100)]


EVENTS: dict[str, type[_Event]] = {
    "task": _TaskEvent,
    "evaluation": _Evaluation,
    "contributions": _Contributions,
    "unknown": _Unknown,
}


def find_summary_fault(values: dict[str, Any]) -> str | None:
    """Return the first fault of a summary as ``place: what is wrong``, or None."""
    return _find_fault(_Summary, values)


def find_event_fault(value: Any) -> str | None:
    """Return the first fault of an event of metrics.jsonl as ``place: what is wrong``, or None."""
    kind = value.get("event") if isinstance(value, dict) else None
    return _find_fault(EVENTS.get(kind, _Event) if isinstance(kind, str) else _Event, value)


def _find_fault(model: type[BaseModel], value: Any) -> str | None:
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

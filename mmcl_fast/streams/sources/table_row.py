"""A row of a table, and what is asked of its columns."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from mmcl_fast.errors import StreamError


class TableRow(NamedTuple):
    """``where`` (file and line or row) begins messages; ``values`` by column."""

    where: str
    number: int
    values: dict[str, Any]


# Takes the names of the columns and returns those to read, or raises StreamError.
ColumnChoice = Callable[[list[str]], Collection[str]]


def select_columns(names: list[str], choice: ColumnChoice | None, where: str, advice: str) -> list[str]:
    """The columns to read, in their order. Raises StreamError where one of them is there twice."""
    asked = set(choice(names) if choice else filter(None, names))
    twice = next((name for name in names if name in asked and names.count(name) > 1), None)
    if twice is not None:
        raise StreamError(f"{where}: two columns named {twice!r}: rename one{advice}")
    return [name for name in names if name in asked]

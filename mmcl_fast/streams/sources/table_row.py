"""The row of a table, and the choice of the columns to read."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from mmcl_fast.errors import StreamError


class TableRow(NamedTuple):
    """One row of a table.

    Attributes:
        where: the file and its line or row. Messages begin with it.
        number: the number of the line or row, from 1.
        values: column name -> value.
    """

    where: str
    number: int
    values: dict[str, Any]


# Takes the names of all columns and returns the names of those to read, or raises StreamError.
ColumnChoice = Callable[[list[str]], Collection[str]]


def select_columns(names: list[str], choice: ColumnChoice | None, where: str, advice: str) -> list[str]:
    """Return the columns to read, in their order. Without a choice these are all columns that have a name.

    ``where`` begins and ``advice`` ends the message.

    Raises:
        StreamError: two columns have the name of a column to read.
    """
    chosen = set(choice(names) if choice else filter(None, names))
    twice = next((name for name in names if name in chosen and names.count(name) > 1), None)
    if twice is not None:
        raise StreamError(f"{where}: two columns named {twice!r}: rename one{advice}")
    return [name for name in names if name in chosen]

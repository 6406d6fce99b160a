"""Rows of Parquet files: only the columns that are asked for are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sources.table_row import ColumnChoice, TableRow, select_columns

if TYPE_CHECKING:
    import pyarrow

BATCH = 1024  # rows
FILES = "save the media as files with a manifest, or as tars"

Reader = Callable[[Any, str], Any]  # a value and where it stands -> the value to use


def read_parquet(path: Path, wanted: ColumnChoice | None) -> Iterator[TableRow]:
    """The rows, a batch of a row group at a time; a null is None.

    Strings, whole numbers, floats, decimals and booleans are read, whether plain or as categories; bytes are read as
    UTF-8. A column that Hugging Face's datasets mark as a ClassLabel holds the names of its classes. Without ``wanted``
    all columns of these kinds are read. Raises OSError, and StreamError naming file, column and row.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise StreamError(f"{path}: Parquet needs the package pyarrow: pip install 'mmcl-fast[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = _chosen(path, schema, wanted or _all_simple(schema))
            classes = _class_names(schema)
            readers = {name: _reader(path, schema.field(name), classes.get(name)) for name in names}
            number = 0
            for batch in file.iter_batches(BATCH, columns=names):
                columns = [batch.column(batch.schema.names.index(name)).to_pylist() for name in names]
                for values in zip(*columns):
                    number += 1
                    where = f"{path} row {number}"
                    row = {
                        name: None if value is None else readers[name](value, where)
                        for name, value in zip(names, values)
                    }
                    yield TableRow(where, number, row)
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise StreamError(f"{path}: not readable as Parquet ({reason}): write the file again") from None


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns; none where it can't be read."""
    try:
        import pyarrow
        from pyarrow import parquet

        try:
            return list(parquet.read_schema(path).names)
        except (pyarrow.ArrowException, OSError):
            return []
    except ImportError:
        return []


def _chosen(path: Path, schema: pyarrow.Schema, choice: ColumnChoice) -> list[str]:
    try:
        return select_columns(schema.names, choice, str(path), "")
    except StreamError:
        media = next((field for field in schema if _holds_media(field.type)), None)
        if media is None:
            raise
        raise StreamError(
            f"{path}: column {media.name!r} holds media, which are not read from Parquet: {FILES}"
        ) from None


def _holds_media(kind: pyarrow.DataType) -> bool:
    """Whether it is what Hugging Face's datasets keep pictures and sounds in: bytes with a path."""
    return str(kind).startswith("struct<") and "bytes: " in str(kind)


def _all_simple(schema: pyarrow.Schema) -> ColumnChoice:
    return lambda names: [name for name in names if name and names.count(name) == 1 and _kind(schema.field(name).type)]


def _kind(kind: pyarrow.DataType) -> str:
    """ "plain", "bytes", or "" for what no field of a sample can hold."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    kind = getattr(kind, "storage_type", kind)
    name = str(kind)  # the views' tests are missing in older versions
    if name in ("binary", "large_binary", "binary_view"):
        return "bytes"
    simple = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    text = name in ("string", "large_string", "string_view")
    return "plain" if text or any(test(kind) for test in simple) else ""


def _reader(path: Path, field: pyarrow.Field, classes: list[str] | None) -> Reader:
    kind = _kind(field.type)
    if not kind:
        advice = "name another column, or write it as text"
        if _holds_media(field.type):
            advice = FILES
        raise StreamError(f"{path}: column {field.name!r} holds {_short(field.type)}, not text: {advice}")
    if kind == "bytes":
        return _text_of(field.name)
    return _name_of(field.name, classes) if classes else lambda value, where: value


def _short(kind: pyarrow.DataType) -> str:
    said = " ".join(str(kind).split())
    return said if len(said) <= 60 else said[:57] + "..."


def _text_of(column: str) -> Reader:
    def read(value: bytes, where: str) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise StreamError(f"{where}: {column!r} holds bytes that are not UTF-8: write it as text") from None

    return read


def _name_of(column: str, classes: list[str]) -> Reader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, int):
            return value
        if value == -1:  # datasets' own mark of a sample without a label
            return None
        if not 0 <= value < len(classes):
            raise StreamError(
                f"{where}: {column!r} is {value}, but the file names {len(classes)} classes from 0: correct it"
            )
        return classes[value]

    return read


def _class_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """Column -> names of its classes, as Hugging Face's datasets keep them in the metadata of a schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if isinstance(feature, dict)
            and feature.get("_type") == "ClassLabel"
            and isinstance(feature.get("names"), list)
            and all(isinstance(name, str) for name in feature["names"])
        }
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}

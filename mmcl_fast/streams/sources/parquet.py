"""The rows of Parquet files. Only the columns that are asked for are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_fast.errors import StreamError
from mmcl_fast.streams.sources.table_row import ColumnChoice, TableRow, select_columns

if TYPE_CHECKING:
    import pyarrow

BATCH_ROWS = 1024
MEDIA_ADVICE = "save the media as files with a manifest, or as tars"

ValueReader = Callable[[Any, str], Any]  # takes a value and its place in the file, returns the value to use


def read_parquet(path: Path, choice: ColumnChoice | None) -> Iterator[TableRow]:
    """Yield the rows, reading a batch of them at a time. A null is None.

    Strings, whole numbers, floats, decimals and booleans are read, plain or as categories. Bytes are read as UTF-8. In
    a column that Hugging Face's datasets mark as a ClassLabel, numbers become class names. ``choice``: as in
    ``read_table_rows``; None takes all columns of these types.

    Raises:
        OSError: the file can't be read.
        StreamError: one line that names the file, the column and the row.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise StreamError(f"{path}: Parquet needs the package pyarrow: pip install 'mmcl-fast[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            names = _select_columns(path, schema, choice or _choose_simple_columns(schema))
            classes = _class_names(schema)
            readers = {name: _value_reader(path, schema.field(name), classes.get(name)) for name in names}
            number = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=names):
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
    """Return the column names of a Parquet file; none where the file can't be read."""
    try:
        import pyarrow
        from pyarrow import parquet

        try:
            return list(parquet.read_schema(path).names)
        except (pyarrow.ArrowException, OSError):
            return []
    except ImportError:
        return []


def _select_columns(path: Path, schema: pyarrow.Schema, choice: ColumnChoice) -> list[str]:
    try:
        return select_columns(schema.names, choice, str(path), "")
    except StreamError:
        media = next((field for field in schema if _holds_media(field.type)), None)
        if media is None:
            raise
        raise StreamError(
            f"{path}: column {media.name!r} holds media, which are not read from Parquet: {MEDIA_ADVICE}"
        ) from None


def _holds_media(arrow_type: pyarrow.DataType) -> bool:
    """Whether this is the type in which Hugging Face's datasets keep images and sounds: bytes with a path."""
    return str(arrow_type).startswith("struct<") and "bytes: " in str(arrow_type)


def _choose_simple_columns(schema: pyarrow.Schema) -> ColumnChoice:
    return lambda names: [
        name for name in names if name and names.count(name) == 1 and _content_kind(schema.field(name).type)
    ]


def _content_kind(arrow_type: pyarrow.DataType) -> str:
    """Return "plain" or "bytes"; "" for a type that no field of a sample can have."""
    from pyarrow import types

    if types.is_dictionary(arrow_type):
        arrow_type = arrow_type.value_type
    arrow_type = getattr(arrow_type, "storage_type", arrow_type)
    name = str(arrow_type)  # older versions of pyarrow have no test for the view types
    if name in ("binary", "large_binary", "binary_view"):
        return "bytes"
    simple = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, types.is_decimal)
    is_text = name in ("string", "large_string", "string_view")
    return "plain" if is_text or any(test(arrow_type) for test in simple) else ""


def _value_reader(path: Path, field: pyarrow.Field, classes: list[str] | None) -> ValueReader:
    kind = _content_kind(field.type)
    if not kind:
        advice = "name another column, or write it as text"
        if _holds_media(field.type):
            advice = MEDIA_ADVICE
        raise StreamError(f"{path}: column {field.name!r} holds {_short_name(field.type)}, not text: {advice}")
    if kind == "bytes":
        return _decode_bytes_of(field.name)
    return _name_numbers_of(field.name, classes) if classes else lambda value, where: value


def _short_name(arrow_type: pyarrow.DataType) -> str:
    name = " ".join(str(arrow_type).split())
    return name if len(name) <= 60 else name[:57] + "..."


def _decode_bytes_of(column: str) -> ValueReader:
    def read(value: bytes, where: str) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise StreamError(f"{where}: {column!r} holds bytes that are not UTF-8: write it as text") from None

    return read


def _name_numbers_of(column: str, classes: list[str]) -> ValueReader:
    def read(value: Any, where: str) -> Any:
        if not isinstance(value, int):
            return value
        if value == -1:  # how Hugging Face's datasets mark a sample without a label
            return None
        if not 0 <= value < len(classes):
            raise StreamError(
                f"{where}: {column!r} is {value}, but the file names {len(classes)} classes from 0: correct it"
            )
        return classes[value]

    return read


def _class_names(schema: pyarrow.Schema) -> dict[str, list[str]]:
    """Return column -> class names, which Hugging Face's datasets keep in the metadata of a schema."""
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

"""Tables in the formats that are read."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

ROWS = [
    ("Stocks, up", 'He said "buy"\nand bought.', "business", "train"),
    ("Goal", "A match.", "sport", "train"),
    ("Rates", "They rose — again.", "business", "test"),
    ("Race", "It was run.", "sport", "test"),
]
NAMES = ("title", "body", "class", "split")


def save_table(path: Path, rows=ROWS, names=NAMES, **options) -> Path:
    """Write a table in the format of the ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [dict(zip(names, row)) for row in rows]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(records), path, row_group_size=3)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            tabs: dict[str, Any] = {}
            if path.suffix == ".tsv":
                tabs = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
            writer = csv.writer(file, **tabs)
            if options.get("header", True):
                writer.writerow(names)
            writer.writerows([str(v).replace("\n", " ") for v in row] if tabs else row for row in rows)
    return path

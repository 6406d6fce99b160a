"""Parquet: types of columns, and columns that nobody asked for."""

import decimal
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mmcl_fast.streams import Stream
from mmcl_fast.streams.sources.table_reader import read_table_rows
from tests.streams.helpers import assert_refused

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

TEXTS = ["cats purr", "cats nap", "dogs bark", "dogs dig"]
LABELS = ["cat", "cat", "dog", "dog"]
SPLITS = ["train", "test", "train", "test"]


def save(path: Path, metadata=None, **columns) -> Path:
    """A table of four texts; ``columns`` come instead or besides."""
    given = {"label": LABELS, "text": TEXTS, "split": SPLITS, **columns}
    table = pa.table(given)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def samples(path: Path) -> list[tuple[str, str, str]]:
    stream = Stream.from_table(path)
    return sorted((s.label, s.text, s.split) for task in stream.tasks for s in task.train + task.test)


EXPECTED = sorted(zip(LABELS, TEXTS, SPLITS))


def test_only_the_chosen_columns_are_read(tmp_path):
    others = {
        "written": pa.array([1_700_000_000_000_000_001 + i for i in range(4)], pa.timestamp("ns")),
        "day": pa.array([datetime(2024, 1, 1, tzinfo=UTC)] * 4, pa.timestamp("ns", "UTC")),
        "took": pa.array([1] * 4, pa.duration("ns")),
        "image": pa.array([{"bytes": b"x", "path": "a.png"}] * 4),
        "tags": pa.array([["a"], [], None, ["b"]]),
        "pairs": pa.array([[("a", 1)]] * 4, pa.map_(pa.string(), pa.int64())),
        "text.more": pa.array(["x"] * 4),
        "": pa.array(["x"] * 4),
    }
    assert samples(save(tmp_path / "a.parquet", **others)) == EXPECTED
    rows = list(read_table_rows(tmp_path / "a.parquet"))
    assert rows[2].values == {"label": "dog", "text": "dogs bark", "split": "train", "text.more": "x"}
    assert (rows[2].number, rows[2].where) == (3, f"{tmp_path / 'a.parquet'} row 3")


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.int32(), pa.large_string()),
    ],
    ids=str,
)
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
def test_types_of_text(tmp_path, kind, compression):
    plain = {"label": LABELS, "text": TEXTS, "split": SPLITS}
    if pa.types.is_dictionary(kind):
        columns = {name: pa.array(values).cast(kind.value_type).dictionary_encode() for name, values in plain.items()}
    else:
        columns = {name: pa.array(values).cast(kind) for name, values in plain.items()}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", compression=compression, row_group_size=3)
    assert samples(tmp_path / "a.parquet") == EXPECTED


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 1, 2, 2], pa.int8()),
        pa.array([1, 1, 2, 2], pa.uint64()),
        pa.array([1.0, 1.0, 2.0, 2.0], pa.float32()),
        pa.array([1.0, 1.0, 2.0, 2.0]),
        pa.array([decimal.Decimal("1.00"), decimal.Decimal("1.00"), decimal.Decimal(2), decimal.Decimal(2)]),
        pa.array(["1.0", "1.0", "2.0", "2.0"]).dictionary_encode(),
        pa.array([1, 1, 2, 2]).dictionary_encode(),
    ],
    ids=lambda column: str(column.type)[:40],
)
def test_numbers_as_labels_need_names(tmp_path, column):
    path = save(tmp_path / "a.parquet", label=column)
    assert_refused(lambda: Stream.from_table(path), "the classes are numbers (1, 2", "classes.txt")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert samples(path) == EXPECTED


@pytest.mark.parametrize(
    "column, parts",
    [
        (
            pa.array([1, 2, 3, 4], pa.timestamp("ns")),
            ["column 'label' holds timestamp[ns], not text", "another column"],
        ),
        (pa.array([1, 2, 3, 4], pa.date32()), ["holds date32[day], not text"]),
        (pa.array([["a"]] * 4), ["column 'label' holds list<", "not text"]),
        (pa.array([{"bytes": b"x", "path": "a"}] * 4), ["column 'label' holds struct<", "save the media as files"]),
        (pa.array([True, True, False, False]), ["row 1: 'label' is bool, not text"]),
        (pa.array([1.0, 1.5, 2.0, 2.0]), ["row 2: 'label' is float, not text"]),
        (pa.array(["a", None, "b", "b"]), ["row 2: 'label' is empty: fill it or remove the row"]),
        (pa.array([1.0, None, 2.0, 2.0]), ["row 2: 'label' is empty"]),
        (pa.array([1.0, float("nan"), 2.0, 2.0]), ["row 2: 'label' is empty"]),
        (pa.nulls(4), ["row 1: 'label' is empty"]),
        (pa.array([b"a", b"\xe9", b"b", b"b"]), ["row 2: 'label' holds bytes that are not UTF-8"]),
    ],
    ids=lambda column: str(getattr(column, "type", ""))[:30],
)
def test_column_types_that_are_no_labels(tmp_path, column, parts):
    path = save(tmp_path / "a.parquet", label=column)
    assert_refused(lambda: Stream.from_table(path), "a.parquet", *parts)


def test_a_column_that_is_there_twice(tmp_path):
    table = pa.table([LABELS, TEXTS, SPLITS, TEXTS], names=["label", "text", "split", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert_refused(lambda: Stream.from_table(tmp_path / "a.parquet"), "a.parquet: two columns named 'text': rename one")
    table = pa.table([LABELS, TEXTS, SPLITS, [1] * 4, [2] * 4], names=["label", "text", "split", "x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert samples(tmp_path / "a.parquet") == EXPECTED


def hugging_face(names) -> dict[str, str]:
    features = {"label": {"names": names, "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def test_the_names_of_hugging_faces_class_labels(tmp_path):
    path = save(tmp_path / "a.parquet", hugging_face(["bird", "cat", "dog"]), label=[1, 1, 2, 2])
    assert samples(path) == EXPECTED
    save(path, hugging_face(["bird", "cat", "dog"]), label=[1, 1, -1, 2])
    assert_refused(lambda: Stream.from_table(path), "a.parquet row 3: 'label' is empty")
    save(path, hugging_face(["cat", "dog"]), label=[1, 1, 2, 2])
    assert_refused(lambda: Stream.from_table(path), "row 3: 'label' is 2, but the file names 2 classes from 0")
    for broken in ({"huggingface": "{"}, {"huggingface": "[]"}, hugging_face(3), {"huggingface": '{"info": null}'}):
        save(path, broken, label=[1, 1, 2, 2])
        assert_refused(lambda: Stream.from_table(path), "the classes are numbers (1, 2")


def test_a_split_in_several_files(tmp_path):
    """As Hugging Face's hub keeps them: train-00000-of-00002.parquet."""
    for i, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        save(tmp_path / f"{name}.parquet", text=[f"{text} {i}" for text in TEXTS])
    stream = Stream.from_table(tmp_path)
    assert (len(stream[0].train), len(stream[0].test)) == (8, 4)
    assert stream[0].train[2].key == "train-00001-of-00002.parquet:1"


def test_media_inside_parquet_are_not_read(tmp_path):
    """As Hugging Face's datasets keep pictures and sounds."""
    column = pa.array([{"bytes": b"x", "path": "a.png"}] * 4)
    table = pa.table({"image": column, "label": LABELS, "split": SPLITS})
    pq.write_table(table, tmp_path / "a.parquet")
    for read in (Stream.from_table, Stream.from_manifest):
        assert_refused(
            lambda read=read: read(tmp_path / "a.parquet"),
            "a.parquet: column 'image' holds media, which are not read from Parquet: save the media as files",
        )

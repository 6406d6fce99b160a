"""Text samples from rows of CSV, TSV, JSONL and Parquet; manifests in Parquet."""

import csv
import json
from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Stream
from mmcl_fast.streams.findings import Findings
from mmcl_fast.streams.sources.text_table import is_text_table
from tests.streams.helpers import assert_refused, manifest_records, write_manifest
from tests.streams.sources.table_files import ROWS, save_table


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_of_a_file(tmp_path, ending):
    path = save_table(tmp_path / f"news.{ending}")
    stream = Stream.from_table(path, text="title, body", label="class")
    assert stream.modalities == ["text"] and stream[0].classes == ("business", "sport")
    first = stream[0].train[0]
    break_ = " " if ending == "tsv" else "\n"
    assert (first.modality, first.path, first.label) == ("text", None, "business")
    assert first.text == f'Stocks, up He said "buy"{break_}and bought.'
    assert [s.text for s in stream[0].test] == ["Rates They rose — again.", "Race It was run."]
    assert [s.key for s in stream[0].train] == {
        "csv": ["news.csv:2", "news.csv:4"],
        "tsv": ["news.tsv:2", "news.tsv:3"],
    }.get(ending, [f"news.{ending}:1", f"news.{ending}:2"])
    assert stream.fingerprint == Stream.from_table(path, text=["title", "body"], label="class", check=True).fingerprint


def test_a_folder_of_tables_named_by_their_split_without_header_and_with_numbers(tmp_path):
    """As AG News comes: "class","title","text" with classes from 1 and their names in classes.txt."""
    train = [(1 + i % 4, f"Title {i}", f"Words {i}") for i in range(40)]
    save_table(tmp_path / "train.csv", train, header=False)
    save_table(
        tmp_path / "test.csv", [(4, "T", "four"), (1, "T", "one"), (2, "T", "two"), (3, "T", "three")], header=False
    )
    (tmp_path / "classes.txt").write_text("World\nSports\nBusiness\nSci/Tech\n")
    options = {"text": "2,3", "label": "1", "header": False}
    stream = Stream.from_table(tmp_path, **options, classes_per_task=2, check=True)
    assert [task.classes for task in stream.tasks] == [("Business", "Sci/Tech"), ("Sports", "World")]
    assert [s.text for s in stream[1].test] == ["T two", "T one"] and stream[1].train[0].key == "train.csv:2"
    moved = [Stream.from_table(tmp_path, **options, validation=0.2, seed=seed).fingerprint for seed in (0, 0, 1)]
    assert moved[0] == moved[1] != moved[2]
    # The same classes counted from 0.
    for name, rows in (("train", train), ("test", train[:4])):
        zeros = [(c - 1, f"{b} {name}") for c, _, b in rows]
        save_table(tmp_path / "zero" / f"{name}.jsonl", zeros, ("label", "text"))
    (tmp_path / "zero" / "classes.txt").write_text("World\nSports\nBusiness\nSci/Tech\n")
    zero = Stream.from_table(tmp_path / "zero")
    assert [s.label for s in zero[0].train] == [s.label for task in stream.tasks for s in task.train]


def test_tables_in_the_folder_layout(folder):
    plain = Stream.from_folder(folder)
    save_table(folder / "text" / "train.csv", [row[1:3] for row in ROWS[:2]], ("text", "label"))
    save_table(folder / "text" / "test.jsonl", [row[1:3] for row in ROWS[2:]], ("text", "label"))
    stream = Stream.from_folder(folder)
    assert stream.modalities == ["image", "audio", "text"] and stream[2].classes == ("business", "sport")
    assert [s.key for s in stream[2].train] == ["text/train.csv:2", "text/train.csv:4"]
    (folder / "text" / "train" / "sport").mkdir(parents=True)
    (folder / "text" / "train" / "sport" / "more.txt").write_text("another match")
    both = Stream.from_folder(folder)
    assert [s.key for s in both[2].train] == ["text/train.csv:2", "text/train.csv:4", "text/train/sport/more.txt"]
    assert both.tasks[0] == plain[0]
    save_table(folder / "text" / "train.csv", [row[1:3] for row in ROWS[:2]], ("words", "kind"))
    assert_refused(lambda: Stream.from_folder(folder), "text/train.csv: no column 'text'", "'words', 'kind'")
    save_table(folder / "text" / "test.jsonl", [row[1:3] for row in ROWS[2:]], ("words", "kind"))
    assert Stream.from_folder(folder, text="words", label="kind")[2].classes == ("business", "sport")
    save_table(folder / "text" / "tests.csv")
    assert_refused(lambda: Stream.from_folder(folder), "tests.csv", "did you mean 'test'?")


def test_numbers_need_names(tmp_path):
    rows = [(f"words {i} {split}", i, split) for i in (0, 1, 2) for split in ("train", "test")]
    path = save_table(tmp_path / "a.csv", rows, ("text", "label", "split"))
    assert_refused(lambda: Stream.from_table(path), "the classes are numbers (0, 1, 2", "classes.txt", "one per line")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert_refused(lambda: Stream.from_table(path), "classes.txt: 2 names do not fit the labels 0 to 2")
    (tmp_path / "classes.txt").write_text("a\nb\na\n")
    assert_refused(lambda: Stream.from_table(path), "classes.txt: 'a' is on two lines")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert Stream.from_table(path)[0].classes == ("a", "b", "c")
    save_table(
        path, [(t, i + 1, s) for t, i, s in rows], ("text", "label", "split")
    )  # 1 to 3 of four: from 0 or from 1?
    assert_refused(lambda: Stream.from_table(path), "4 names do not fit the labels 1 to 3")
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    assert_refused(lambda: Stream.from_table(path), "classes.txt line 1: not UTF-8")
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(json.dumps({"text": {str(i): f"number {i}" for i in (1, 2, 3)}}))
    assert Stream.from_table(path)[0].texts == ("number 1", "number 2", "number 3")


@pytest.mark.parametrize(
    "content, parts",
    [
        (b"", ["no samples"]),
        (b"text,lable,split\nx,a,train\n", ["a.csv: no column 'label'", "did you mean 'lable'?", "label = ..."]),
        (
            b"text;lable;split\nx;a;train\n",
            ["no column 'label' (did you mean 'lable'?) among 'text', 'lable', 'split'"],
        ),
        (b"x y,a,train\nz,a,test\n", ["no column 'text' among 'x y', 'a', 'train'", "header = false"]),
        (b"text,label\nx,a\n", ["no column 'split' to tell train from test", "train.csv and test.csv"]),
        (b"text,label,spilt\nx,a,train\n", ["no column 'split' (did you mean 'spilt'?)"]),
        (b"text,text,label,split\nx,y,a,train\n", ["line 1: two columns named 'text'"]),
        (b"text,label,split\nx,a,trian\n", ["line 2: unknown split 'trian'", "did you mean 'train'?"]),
        (b'text,label,split\n"x\ny",a,train\nz,a\n', ["line 4: 2 fields where the first line has 3"]),
        (
            b"text,label,split\nx,y,a,train\n",
            ["line 2: 4 fields where the first line has 3: put fields that hold commas"],
        ),
        (b'text,label,split\n"x,a,train\n', ["line 2: unexpected end of data", "quotes"]),
        (b'text,label,split\n"x"y,a,train\n', ["line 2", "expected after"]),
        (b"text,label,split\nx,a,train\ncaf\xe9,a,train\n", ["line 3: not UTF-8: save the file as UTF-8"]),
        (b"text,label,split\n ,a,train\n", ["line 2: 'text' is empty: fill it or remove the row"]),
        (b"text,label,split\nx,,train\n", ["line 2: 'label' is empty"]),
        (b"text,label,split\nx\0,a,train\n", ["line 2"]),
        (b"text,label,split\nx,a,train\n", ["has no test split"]),
    ],
)
def test_faults_of_csv(tmp_path, content, parts):
    (tmp_path / "a.csv").write_bytes(content)
    assert_refused(lambda: Stream.from_table(tmp_path / "a.csv"), *parts)


@pytest.mark.parametrize(
    "line, parts",
    [
        ('{"text": "x", "lable": "a", "split": "train"}', ["line 2: 'label' is missing", "did you mean 'lable'?"]),
        ('{"text": "x", "label": 1.5, "split": "train"}', ["line 2: 'label' is float, not text"]),
        ('{"text": ["x"], "label": "a", "split": "train"}', ["line 2: 'text' is list, not text"]),
        ('{"text": null, "label": "a", "split": "train"}', ["line 2: 'text' is empty"]),
        ('{"text": "\\ud800", "label": "a", "split": "train"}', ["line 2: 'text'", "half a character"]),
        ('{"text": "x", "label": true, "split": "train"}', ["line 2: 'label' is bool"]),
        ("[1]", ["line 2: not an object"]),
        ("{", ["line 2: not a JSON object"]),
    ],
)
def test_faults_of_jsonl(tmp_path, line, parts):
    (tmp_path / "a.jsonl").write_text('{"text": "w", "label": "a", "split": "test"}\n' + line + "\n")
    assert_refused(lambda: Stream.from_table(tmp_path / "a.jsonl"), "a.jsonl", *parts)


def test_files_and_folders_that_are_not_tables(tmp_path):
    assert_refused(lambda: Stream.from_table(tmp_path / "gone.csv"), "gone.csv: No such file")
    (tmp_path / "a.xlsx").write_text("x")
    assert_refused(
        lambda: Stream.from_table(tmp_path / "a.xlsx"), "a.xlsx: not a table", ".csv, .tsv, .jsonl, .parquet"
    )
    assert_refused(lambda: Stream.from_table(tmp_path), "no table there", "train.csv and test.csv")
    save_table(tmp_path / "train.csv", ROWS[:2])
    assert_refused(lambda: Stream.from_table(tmp_path, text="body", label="class"), "text has no test split")
    save_table(tmp_path / "test.csv", ROWS[:2])
    Stream.from_table(tmp_path, text="body", label="class")
    assert_refused(
        lambda: Stream.from_table(tmp_path, text="body", label="class", check=True), "equal content in", "test.csv:2"
    )


def test_a_long_field_and_the_limit_of_others(tmp_path):
    before = csv.field_size_limit()
    save_table(
        tmp_path / "a.csv", [("w" * 300_000, "a", split) for split in ("train", "test")], ("text", "label", "split")
    )
    assert len(Stream.from_table(tmp_path / "a.csv")[0].train[0].text) == 300_000
    assert_refused(lambda: Stream.from_table(tmp_path / "gone.csv"), "gone.csv")
    assert csv.field_size_limit() == before


def test_a_manifest_in_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    records = [{**line, "text": None} for line in manifest_records(folder)]
    records += [
        {"text": f"words {i}", "modality": "text", "label": "q", "split": split, "path": None}
        for i, split in enumerate(("train", "test"))
    ]
    same = Stream.from_manifest(
        write_manifest(folder, [{k: v for k, v in r.items() if v is not None} for r in records])
    )

    def save_as(records) -> Path:
        table = pyarrow.Table.from_pylist(records).append_column("bytes", pyarrow.array([b"x"] * len(records)))
        parquet.write_table(table, folder / "all.parquet", row_group_size=7)
        return folder / "all.parquet"

    path = save_as(records)
    stream = Stream.from_manifest(path)
    assert stream.fingerprint == same.fingerprint
    assert Stream.from_manifest(path, check=True).tasks == stream.tasks
    for change, parts in (
        ({"modality": "imgae"}, ["row 3: unknown modality 'imgae'", "did you mean 'image'?"]),
        ({"label": None}, ["row 3: 'label' is missing"]),
        ({"path": "../x.png"}, ["row 3: path '../x.png' leaves"]),
        ({"path": records[0]["path"]}, ["row 3", "is already on row 1", "one of the two rows"]),
    ):
        save_as([{**r, **change} if i == 2 else r for i, r in enumerate(records)])
        assert_refused(lambda: Stream.from_manifest(path), "all.parquet", *parts)
    path.write_bytes(path.read_bytes()[:-30])
    assert_refused(lambda: Stream.from_manifest(path), "all.parquet: not readable as Parquet")
    path.write_bytes(b"")
    assert_refused(lambda: Stream.from_manifest(path), "all.parquet: not readable as Parquet")


def test_parquet_without_its_package(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (folder / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(StreamError, match=r"a.parquet: Parquet needs the package pyarrow: pip install"):
        Stream.from_manifest(folder / "a.parquet")


@pytest.mark.parametrize(
    "name, advice", [("test.csv.gz", "unpack it"), ("test.xlsx", "CSV UTF-8"), ("test.json", ".jsonl")]
)
def test_a_split_in_another_format_only(tmp_path, name, advice):
    save_table(tmp_path / "train.csv", ROWS[:2])
    (tmp_path / name).write_bytes(b"x")
    assert_refused(lambda: Stream.from_table(tmp_path, text="body", label="class"), f"{name}: not a table of", advice)
    save_table(tmp_path / "test.csv", ROWS[2:])
    assert len(Stream.from_table(tmp_path, text="body", label="class")[0].test) == 2


def test_every_row_with_an_error_is_found(tmp_path):
    rows = [*ROWS, ("", "", "sport", "train"), ("a", "b", "", "train"), ("a", "b", "sport", "tset")]
    path = save_table(tmp_path / "a.csv", rows)
    found = Findings(collect=True)
    stream = Stream.from_table(path, text="title, body", label="class", findings=found)
    assert (len(stream[0].train), len(stream[0].test)) == (2, 2)
    assert [finding.reason.partition(": ")[0] for finding in found if finding.kind == "row"] == [
        f"{path} line {number}" for number in (7, 8, 9)
    ]
    assert_refused(
        lambda: Stream.from_table(path, text="title, body", label="class"),
        "a.csv line 7: 'title, body' is empty",
        "(2 more: mmcl-fast data check lists them)",
    )


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    "columns, table",
    [
        (("label", "text", "split"), True),
        (("words", "kind", "part"), True),
        (("label", "text", "split", "path"), True),
        (("modality", "label", "text", "split"), False),
        (("modality", "label", "path", "split"), False),
        (("label", "path", "split"), False),
    ],
)
def test_tables_and_manifests_are_distinguished_by_their_columns(tmp_path, ending, columns, table):
    assert is_text_table(save_table(tmp_path / f"a.{ending}", [("x",) * len(columns)], columns)) is table


@pytest.mark.parametrize("name, table", [("a.csv", True), ("a.jsonl", False), ("a.parquet", False), ("a.xlsx", False)])
def test_unreadable_files_are_distinguished_by_their_ending(tmp_path, name, table):
    (tmp_path / name).write_bytes(b"\xff")
    assert is_text_table(tmp_path / name) is table

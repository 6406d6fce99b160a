"""CSV and TSV as spreadsheets, pandas and R write them."""

import codecs
from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Stream
from mmcl_fast.streams.sources.delimited import MOST_LINES_OF_FIELD
from mmcl_fast.streams.sources.table_reader import read_table_rows
from tests.streams.helpers import assert_refused


def values(path: Path, content: str | bytes, **options) -> list[tuple[int, list[str]]]:
    """Line number and fields of each row of a file that holds ``content``."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [(row.number, list(row.values.values())) for row in read_table_rows(path, **options)]


def texts(path: Path, content: str | bytes, **options) -> list[str]:
    """Texts of the table's samples, training ones first."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    stream = Stream.from_table(path, **options)
    return [sample.text for task in stream.tasks for sample in task.train + task.test]


ROWS = [("text", "label", "split"), ("a, b; c|d", "q", "train"), ("e", "q", "test")]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("mark", ["", "sep={}\r\n"])
def test_the_separator_is_found(tmp_path, ending, separator, mark):
    """Semicolons as Excel writes them where the comma is the decimal sign; its own line ``sep=;`` too."""
    lines = [separator.join(f'"{field}"' if separator in field else field for field in row) for row in ROWS]
    content = mark.format(separator) + "\r\n".join(lines) + "\r\n"
    assert texts(tmp_path / f"a{ending}", content) == ["a, b; c|d", "e"]
    first = Stream.from_table(tmp_path / f"a{ending}")[0].train[0]
    assert first.key == f"a{ending}:{3 if mark else 2}"


def test_the_separator_without_a_header(tmp_path):
    content = "1;Hello, world;train\n2;Bye;train\n1;Hi, you, there;test\n2;So long;test\n"
    (tmp_path / "classes.txt").write_text("first\nsecond\n")
    options = {"header": False, "label": "1", "text": "2", "split": "3"}
    assert texts(tmp_path / "a.csv", content, **options) == ["Hello, world", "Bye", "Hi, you, there", "So long"]
    content = '"1","Hello; world","train"\n"2","Bye; you","train"\n"1","a; b","test"\n"2","c; d","test"\n'
    assert texts(tmp_path / "a.csv", content, **options) == ["Hello; world", "Bye; you", "a; b", "c; d"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_encodings_that_excel_writes(tmp_path, encoding):
    """CSV UTF-8 has a mark; "Unicode text" is UTF-16 with tabs."""
    data = "text\tlabel\tsplit\r\ncafé\tq\ttrain\r\nthé\tq\ttest\r\n".encode(encoding)
    data = (codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b"") + data
    assert texts(tmp_path / "a.csv", data) == texts(tmp_path / "a.tsv", data) == ["café", "thé"]


def test_the_encoding_of_old_windows_programs_is_named(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label,split\nx,a,train\ncafé,a,test\n".encode("cp1252"))
    assert_refused(
        lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv line 3: not UTF-8", "byte 0xe9 is 'é' in Windows-1252"
    )
    (tmp_path / "a.csv").write_bytes("text,label,split\n".encode("utf-16-le"))
    assert_refused(lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv: UTF-16 without a byte order mark")
    (tmp_path / "a.csv").write_bytes(b"PK\x03\x04 a workbook")
    assert_refused(lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv: not text but", "Excel", "CSV UTF-8")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_the_lines_of_messages(tmp_path, end):
    content = end.join(["text,label,split", '"one', 'two",q,train', "", " , , ", "three,q,test", "four,q,tset", ""])
    (tmp_path / "a.csv").write_bytes(content.encode())
    assert_refused(lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv line 7: unknown split 'tset'")
    assert texts(tmp_path / "a.csv", content.replace("tset", "test")) == [f"one{end}two", "three", "four"]


@pytest.mark.parametrize(
    "header, row",
    [
        (",text,label,split", "0,x,q,{}"),  # pandas' index
        (",text,,label,split,", "0,x,,q,{},"),
        ("text,label,split,,", "x,q,{},,"),  # a spreadsheet's empty columns
        ("text,label,split,,", "x,q,{}"),
        ("text,label,split", "x,q,{},,,"),
        (" text , label,split ", 'x, "q" ,{} '.replace('" ', '"')),
        ("a,text,a,label,split,a", "1,x,2,q,{},3"),  # twice, but not asked for
    ],
)
def test_columns_that_are_not_read(tmp_path, header, row):
    content = f"{header}\n{row.format('train')}\n{row.format('test')}\n"
    assert texts(tmp_path / "a.csv", content) == ["x", "x"]
    assert texts(tmp_path / "a.tsv", content.replace(",", "\t").replace('"', "")) == ["x", "x"]


def test_a_chosen_column_that_is_there_twice(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,split,text\nx,a,train,y\n")
    assert_refused(lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv line 1: two columns named 'text': rename one")


@pytest.mark.parametrize(
    "row, parts",
    [
        ("x,q", ["line 3: 2 fields where the first line has 3: give the row all its fields"]),
        ("1,x,q,train", ["line 3: 4 fields where the first line has 3", "if the first column has no name"]),
        ("x,y,q,train", ["line 3: 4 fields where the first line has 3", "hold commas"]),
        ('"x""y"z,q,train', ["line 3", "double those in it"]),
        ('"x,q,train\ny,q,test', ["line 3: unexpected end of data"]),
    ],
)
def test_rows_that_do_not_fit(tmp_path, row, parts):
    (tmp_path / "a.csv").write_text(f"text,label,split\nw,q,train\n{row}\n")
    assert_refused(lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv", *parts)


@pytest.mark.parametrize(
    "field, text",
    [
        ('"the vet said ""fine"" twice"', 'the vet said "fine" twice'),
        ('dogs dig holes 5" deep', 'dogs dig holes 5" deep'),
        ('"lone', '"lone'),
        ('lone"', 'lone"'),
        ('"so" he said', '"so" he said'),
        ('he said "so"', 'he said "so"'),
        ('"""so"" he said"', '"so" he said'),
        ('"odd " quote"', '"odd " quote"'),
        ('"a tab\there"', "a tab\there"),
        ('"a line\nhere"', "a line\nhere"),
        ('"a line\r\nand ""more""\r\n\r\nhere"', 'a line\r\nand "more"\r\n\r\nhere'),
        ('""', ""),
        ('"', '"'),
        ('""""', '"'),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_quotes_in_tsv(tmp_path, field, text, place):
    """A field is quoted as pandas does if its quotes are whole; otherwise it stands as it is."""
    rows = [["p", "q", "r"], ["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"]]
    rows[2][place] = field
    found = values(tmp_path / "a.tsv", "\n".join("\t".join(row) for row in rows) + "\n")
    rows[2][place] = text
    assert [fields for _, fields in found] == rows[1:]
    assert found[2][0] == 4 + field.count("\n")


def test_two_lone_quotes_in_tsv_are_not_a_quoted_field(tmp_path):
    """Every line is a whole row by itself."""
    assert values(tmp_path / "a.tsv", 'p\tq\n1\t"two\n3\tfour"\n5\t"six\n') == [
        (2, ["1", '"two']),
        (3, ["3", 'four"']),
        (4, ["5", '"six']),
    ]
    assert values(tmp_path / "a.tsv", 'p\tq\n"one\ttwo"\n"three"\t"four"\n') == [
        (2, ['"one', 'two"']),
        (3, ["three", "four"]),
    ]


def test_many_lone_quotes_in_a_long_tsv(tmp_path):
    count = 3 * MOST_LINES_OF_FIELD
    found = values(tmp_path / "a.tsv", "p\tq\n" + '1\t"two\n' * count)
    assert len(found) == count and found[-1] == (count + 1, ["1", '"two'])


def test_what_pandas_writes_is_read(tmp_path):
    """``to_csv`` with tabs and with commas, as pandas 2 and 3 print it."""
    data = '\ttext\tlabel\tsplit\n0\t"a\tb"\tq\ttrain\n1\t"c\nd ""e"""\tq\ttrain\n2\tf, g\tq\ttest\n'
    assert texts(tmp_path / "a.tsv", data) == ["a\tb", 'c\nd "e"', "f, g"]
    data = ',text,label,split\n0,a\tb,q,train\n1,"c\nd ""e""",q,train\n2,"f, g",q,test\n'
    assert texts(tmp_path / "a.csv", data) == ["a\tb", 'c\nd "e"', "f, g"]


@pytest.mark.parametrize(
    "name, advice",
    [
        ("a.xlsx", "save its sheet as CSV UTF-8"),
        ("a.ods", "save its sheet as CSV UTF-8"),
        ("a.csv.gz", "unpack it first"),
        ("a.json", "one JSON object per line"),
        ("a.ndjson", "end in .jsonl"),
        ("a.txt", "end in .tsv"),
        ("a.feather", "as Parquet"),
        ("a.doc", "give a file of .csv, .tsv, .jsonl, .parquet"),
    ],
)
def test_other_endings(tmp_path, name, advice):
    (tmp_path / name).write_text("x")
    assert_refused(
        lambda: Stream.from_table(tmp_path / name), f"{name}: not a table of .csv, .tsv, .jsonl, .parquet", advice
    )


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\n \n,,\n", b"text,label,split\n\n"])
def test_a_table_without_rows(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    assert_refused(
        lambda: Stream.from_table(tmp_path / "a.csv"), "a.csv: no samples: expected a header and a row for each"
    )


def test_a_field_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mmcl_fast.streams.sources.delimited.LONGEST_FIELD", 100)
    (tmp_path / "a.csv").write_text('text,label,split\nx,q,train\n"' + "y" * 200 + ",q,test\n")
    with pytest.raises(StreamError, match="line 3: a field of more than 100 characters: close its quotes"):
        Stream.from_table(tmp_path / "a.csv")


@pytest.mark.parametrize("content", ['[{"text": "x"}]', "[\n{\n"])
def test_a_json_array_is_no_jsonl(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    assert_refused(lambda: Stream.from_table(tmp_path / "a.jsonl"), "line 1", "not an array of them", "lines=True")

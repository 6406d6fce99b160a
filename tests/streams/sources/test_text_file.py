"""Encodings, byte order marks and line ends of text files; JSON in them."""

import json
from pathlib import Path

import pytest

from mmcl_fast.errors import StreamError
from mmcl_fast.streams import Stream
from mmcl_fast.streams.sources.text_file import decode, parse_json, read_lines
from tests.streams.helpers import assert_refused, manifest_records

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("encoding", [*ENCODINGS, "big-endian"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_in_every_encoding_and_with_every_line_end(tmp_path, encoding, end):
    text = end.join(("café", "", "日本\u2028\x0b語", ""))
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "big-endian" else text.encode(encoding)
    (tmp_path / "a.txt").write_bytes(data)
    assert list(read_lines(tmp_path / "a.txt")) == [(1, "café"), (2, ""), (3, "日本\u2028\x0b語")]
    assert decode(data, "a.txt") == text


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_class_texts_of_every_encoding(folder: Path, encoding: str):
    (folder / "classes.json").write_bytes(json.dumps({"image": {"a": "é"}}, ensure_ascii=False).encode(encoding))
    assert Stream.from_folder(folder)[0].texts[:2] == ("é", "b")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_manifest_of_every_encoding(folder: Path, encoding: str):
    text = "\r\n".join(json.dumps(line) for line in manifest_records(folder)) + "\r\n\r\n"
    (folder / "manifest.jsonl").write_bytes(text.encode(encoding))
    assert [len(task.train) for task in Stream.from_manifest(folder).tasks] == [12, 20]


@pytest.mark.parametrize(
    "data, parts",
    [
        (b"a\r\nb\rc\nd caf\xe9\n", ["a.txt line 4: not UTF-8", "byte 0xe9 is 'é' in Windows-1252"]),
        (b"x" * (1 << 20) + b"\r\nb\n\x81\n", ["a.txt line 3: not UTF-8: save the file as UTF-8"]),
        ("words".encode("utf-16-le"), ["a.txt: UTF-16 without a byte order mark"]),
        ("words".encode("utf-16-be"), ["a.txt: UTF-16 without a byte order mark"]),
        (b"\xff\xfe\x00\xd8x", ["a.txt: not valid UTF-16"]),
        (b"PK\x03\x04....", ["a.txt: not text but", "Excel", "CSV UTF-8"]),
        (b"\x1f\x8b......", ["gunzip it first"]),
    ],
)
def test_files_that_are_not_text(tmp_path, data, parts):
    (tmp_path / "a.txt").write_bytes(data)
    assert_refused(lambda: list(read_lines(tmp_path / "a.txt")), *parts)
    assert_refused(lambda: decode(data, "a.txt"), *parts) if not data.startswith(
        (b"PK", b"\x1f", b"w", b"\0")
    ) else None


@pytest.mark.parametrize(
    "text, part",
    [
        ('{"b": {"a": 1, "a": 2}, "c": 2, "b": 3}', "'b' twice: keep one"),
        ("[" * 100_000, "nested too deeply: an object"),
        ("{'a': 1}", "not JSON"),
    ],
)
def test_json_that_is_refused(text, part):
    with pytest.raises(StreamError, match=part):
        parse_json(text, "a.json", "an object")


def test_repeated_keys_of_inner_objects_are_allowed_by_default():
    text = '{"a": {"b": 1, "b": 3}, "c": [{"d": 1, "d": 2}]}'
    assert parse_json(text, "a.json", "an object") == {"a": {"b": 3}, "c": [{"d": 2}]}
    with pytest.raises(StreamError, match="'b' twice: keep one"):
        parse_json(text, "a.json", "an object", deep=True)


def test_a_mark_in_the_middle_of_a_file(tmp_path):
    """As ``cat`` joins two files that Notepad saved."""
    lines = [json.dumps({"label": "q", "text": split, "split": split}) for split in ("train", "test")]
    (tmp_path / "a.jsonl").write_text("".join(f"\ufeff{line}\n" for line in lines))
    (tmp_path / "a.csv").write_text("\ufefflabel,text,split\nq,train,train\n\ufeffq,test,test\n")
    (tmp_path / "a.tsv").write_text("\ufefflabel\ttext\tsplit\nq\ttrain\ttrain\n\ufeffq\ttest\ttest\n")
    for name in ("a.jsonl", "a.csv", "a.tsv"):
        stream = Stream.from_table(tmp_path / name)
        assert stream[0].classes == ("q",) and [s.text for s in stream[0].test] == ["test"]


def test_a_class_that_has_two_texts(folder: Path):
    (folder / "classes.json").write_text('{"image": {"a": "an apple", "a": "an ant"}}')
    assert_refused(lambda: Stream.from_folder(folder), "classes.json: an object has the key 'a' twice")

"""The rules that find groups of samples, and the errors of rules that find none."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from mmcl_fast.errors import ConfigError
from mmcl_fast.streams import Sample, Stream, path_patterns
from mmcl_fast.streams.grouping import Grouping, Rule, parse_rule


def texts(*names: str, group: str = "") -> list[Sample]:
    return [Sample("text", "a", None, name, "train", name, group) for name in names]


def groups(rule: str, samples: list[Sample], **options: object) -> dict[str, str]:
    return Grouping(parse_rule(rule), **options).group_names(samples, Path("data"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", Rule()),
        ("column:speaker", Rule("column", "speaker")),
        ("regex:a:(b)", Rule("regex", "a:(b)")),
        ("duplicates", Rule("duplicates")),
    ],
)
def test_rules(text: str, rule: Rule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize(
    "text", ["colum:x", "column", "column:", "regex:", "duplicates:0.9", "speaker", ":", "regex:("]
)
def test_a_wrong_rule_names_the_option(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^stream\.group: "):
        parse_rule(text)


def test_a_pattern_gives_its_first_group_or_its_match() -> None:
    samples = texts("rec1_a.wav", "rec1_b.wav", "rec22_a.wav", "other.wav")
    expected = {"rec1_a.wav": "rec1", "rec1_b.wav": "rec1", "rec22_a.wav": "rec22"}
    assert groups("regex:^(rec[0-9]+)_", samples) == expected
    assert groups("regex:rec[0-9]+", samples) == expected
    # A group that takes no part in the match, or that is empty, is no group.
    assert groups("regex:other|(rec[0-9]+)", samples) == expected
    assert groups("regex:rec(2*)", samples) == {"rec22_a.wav": "22"}


def test_a_pattern_sees_paths_and_both_unicode_forms(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Zoë")
    place = tmp_path / "audio" / name / "1.wav"
    sample = Sample("audio", "a", place, None, "train", "an id", "")
    found = Grouping(parse_rule("regex:^audio/(Zoë)/")).group_names([sample], tmp_path)
    assert found == {"an id": unicodedata.normalize("NFC", "Zoë")}


def test_a_pattern_that_would_take_years_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(path_patterns, "SECONDS", 3.0)
    samples = texts("one.wav", "a" * 60 + "b", "two.wav")
    with pytest.raises(
        ConfigError, match=r"^stream\.group: '\^\(a\+\)\+\$' was not done with a{60}b after 3 s; write it"
    ):
        groups("regex:^(a+)+$", samples)
    assert groups("regex:^(a+)b$", samples) == {"a" * 60 + "b": "a" * 60}


def test_a_pattern_meets_any_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line breaks, and bytes that are no UTF-8. A module of the user's own folder is not used."""
    (tmp_path / "re.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    samples = texts("one\n7.wav", "b\udcff_7.wav", '"\\x_8.wav')
    assert groups(r"regex:(\d)[.]wav$", samples) == dict(zip((s.key for s in samples), "778"))
    assert groups("regex:^b(.)", samples) == {"b\udcff_7.wav": "\udcff"}


def test_a_rule_that_finds_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"stream\.group: data: 'x\+' matches none of 2 paths, such as a"):
        groups("regex:x+", texts("a", "b"))
    with pytest.raises(ConfigError, match=r"stream\.group: data: column 'who' is empty in every row"):
        groups("column:who", texts("a", "b"))


def test_groups_that_share_a_sample_are_one() -> None:
    samples = [*texts("a", "b", group="one"), *texts("c", group="two"), *texts("d", "e")]
    assert groups("", samples) == {"a": "one", "b": "one", "c": "two"}
    found = groups("", samples, find_similar=lambda some: [(1, 2), (3, 4)])
    assert found == {"a": "one", "b": "one", "c": "one", "d": "d", "e": "d"}


def test_equal_content_is_one_group_but_empty_files_are_not(tmp_path: Path) -> None:
    samples = []
    for name, content in {"a": "same", "b": "same", "c": "else", "d": "", "e": ""}.items():
        (tmp_path / name).write_text(content)
        samples.append(Sample("text", name, tmp_path / name, None, "train", name))
    samples.append(Sample("text", "a", tmp_path / "gone", None, "train", "gone"))
    assert groups("", samples, equal_content=True) == {"a": "a", "b": "a"}


def test_what_a_run_has_found_counts(tmp_path: Path) -> None:
    samples = texts("a", "b", group="of the data")
    grouping = Grouping(parse_rule("regex:none of them"), names={"a": "x"})
    assert grouping.group_names(samples, tmp_path) == {"a": "x"}
    found, names = Grouping(names={}).apply(samples, tmp_path, True)  # a run of an older version
    assert names == {} and [sample.group for sample in found] == ["of the data", "of the data"]


def test_a_column_of_a_table(tmp_path: Path) -> None:
    rows = (
        "text,label,split,who\none a,x,train,7\ntwo b,x,train,7.0\nthree c,x,test,8\nfour d,y,train,\nfive e,y,test, \n"
    )
    (tmp_path / "t.csv").write_text(rows)
    stream = Stream.from_table(tmp_path / "t.csv", grouping=Grouping(parse_rule("column:who")))
    assert {s.text: s.group for s in stream.samples if s.group} == {"one a": "7", "two b": "7.0", "three c": "8"}
    with pytest.raises(ConfigError, match=r"stream\.group: .*t\.csv has no column 'whom' \(did you mean 'who'\?\)"):
        Stream.from_table(tmp_path / "t.csv", grouping=Grouping(parse_rule("column:whom")))


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_field_of_a_manifest(tmp_path: Path, ending: str) -> None:
    rows = [("one", "train", "7"), ("two", "train", "NaN"), ("three", "test", '""' if ending == "jsonl" else "")]
    if ending == "jsonl":
        line = '{"text": "%s", "split": "%s", "who": %s, "modality": "text", "label": "x", "group": "not read"}\n'
        text = "".join(line % row for row in rows)
    else:
        text = "text,split,who,modality,label\n" + "".join(f"{a},{b},{c},text,x\n" for a, b, c in rows)
        text = text.replace("NaN", "")
    (tmp_path / f"m.{ending}").write_text(text)
    stream = Stream.from_manifest(tmp_path / f"m.{ending}", grouping=Grouping(parse_rule("column:who")))
    assert {s.text: s.group for s in stream.samples} == {"one": "7", "two": "", "three": ""}
    with pytest.raises(ConfigError, match=r"^stream\.group: "):
        Stream.from_manifest(tmp_path / f"m.{ending}", grouping=Grouping(parse_rule("column:nobody")))

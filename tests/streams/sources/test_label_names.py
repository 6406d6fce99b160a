"""Labels that are numbers, truth values or stand for nothing."""

import json
import unicodedata

import pytest

from mmcl_fast.streams import Stream
from tests.streams.helpers import assert_refused
from tests.streams.sources.table_files import save_table

NAMES = ("text", "label", "split")


def table(tmp_path, labels, name="a.csv"):
    """A table with a training and a test row of each label."""
    rows = [(f"{split} {i}", label, split) for i, label in enumerate(labels) for split in ("train", "test")]
    return save_table(tmp_path / name, rows, NAMES)


@pytest.mark.parametrize("labels", [("1.0", "2.0"), ("1", "2."), ("01", "02"), ("1e0", "2E+0"), ("+1", "2,0")])
def test_whole_numbers_need_names_however_they_are_written(tmp_path, labels):
    path = table(tmp_path, labels)
    assert_refused(
        lambda: Stream.from_table(path), "the classes are numbers (1, 2", "put their names into", "classes.txt"
    )
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert [sample.label for sample in Stream.from_table(path)[0].train] == ["cat", "dog"]
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "classes.json").write_text(json.dumps({"text": {"1": "a cat", "2": "a dog"}}))
    assert Stream.from_table(path)[0].texts == ("a cat", "a dog")


def test_one_number_in_two_spellings_is_one_class(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    stream = Stream.from_table(table(tmp_path, ("1", "1.0", "2", "02.0")))
    assert stream[0].classes == ("cat", "dog") and len(stream[0].train) == 4


@pytest.mark.parametrize("value", [1.0, 2])
def test_numbers_of_jsonl(tmp_path, value):
    path = table(tmp_path, (value, 3.0), "a.jsonl")
    assert_refused(lambda: Stream.from_table(path), f"the classes are numbers ({value:.0f}, 3")
    path = table(tmp_path, (value, 1.5), "a.jsonl")
    assert_refused(lambda: Stream.from_table(path), "a.jsonl line 3: 'label' is float, not text")
    path = table(tmp_path, (value, float("nan")), "a.jsonl")
    assert_refused(lambda: Stream.from_table(path), "a.jsonl line 3: 'label' is empty")
    path = table(tmp_path, (value, float("inf")), "a.jsonl")
    assert_refused(lambda: Stream.from_table(path), "a.jsonl line 3: 'label' is float")


@pytest.mark.parametrize("labels, odd", [(("-1", "1"), "-1"), (("0.5", "1"), "0.5"), (("1e30", "2"), "1e30")])
def test_other_numbers_need_names_too(tmp_path, labels, odd):
    path = table(tmp_path, labels)
    assert_refused(lambda: Stream.from_table(path), f"the classes are numbers, {odd} among them", "classes.json")
    (tmp_path / "classes.json").write_text(json.dumps({"text": dict.fromkeys(labels, "words")}))
    assert set(Stream.from_table(path)[0].classes) == set(labels)


def test_numbers_among_words_are_words(tmp_path):
    assert Stream.from_table(table(tmp_path, ("1.0", "catch 22")))[0].classes == ("1.0", "catch 22")


def test_truth_values_need_names(tmp_path):
    path = table(tmp_path, ("True", "False"))
    assert_refused(lambda: Stream.from_table(path), "the classes are truth values (False, True)", "classes.json")
    (tmp_path / "classes.json").write_text(json.dumps({"text": {"True": "an ironic tweet", "False": "a plain tweet"}}))
    assert Stream.from_table(path)[0].texts == ("a plain tweet", "an ironic tweet")


@pytest.mark.parametrize("label", ["NaN", "nan", "NULL", "None", "<NA>", "\\N", "#N/A", "N/A"])
def test_a_label_that_means_no_value_is_refused(tmp_path, label):
    path = table(tmp_path, ("cat", label))
    assert_refused(
        lambda: Stream.from_table(path), f"a.csv:4: the label {label!r} means a missing value", "classes.json"
    )
    (tmp_path / "classes.json").write_text(json.dumps({"text": {label: "nothing of the kind"}}))
    assert "nothing of the kind" in Stream.from_table(path)[0].texts


def test_other_spellings_of_none_are_classes(tmp_path):
    assert Stream.from_table(table(tmp_path, ("NONE", "favor", "none")))[0].classes == ("NONE", "favor", "none")


def test_two_forms_of_one_name_are_one_class(tmp_path):
    forms = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    stream = Stream.from_table(table(tmp_path, (*forms, "tea")))
    assert stream[0].classes == ("café", "tea") and len(stream[0].train) == 3

"""Manifests: the files that they name, and values that are none."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from mmcl_fast.streams import Stream
from mmcl_fast.streams.findings import Findings
from tests.streams.helpers import assert_refused, manifest_records, write_manifest
from tests.streams.sources.table_files import save_table

PLACES = ("photos/cat/0.png", "photos/cat/1.png", "photos/cat/2.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with three pictures."""
    for place in PLACES:
        file = tmp_path / "data" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(place)
    return tmp_path / "data"


def manifest(root: Path, *paths: str, **fields) -> Path:
    """A line for each path; the last one is tested on."""
    records = [
        {"path": path, "modality": "image", "label": "cat", "split": "test" if path is paths[-1] else "train", **fields}
        for path in paths
    ]
    return write_manifest(root, records)


def keys(path: Path) -> list[str]:
    stream = Stream.from_manifest(path)
    samples = [sample for task in stream.tasks for sample in task.train + task.test]
    assert all(Path(str(s.path)).samefile(stream.root / s.key) for s in samples if s.path)
    return [sample.key for sample in samples]


@pytest.mark.parametrize(
    "spelled",
    [
        "./photos/cat/0.png",
        "photos//cat/./0.png",
        "photos/../photos/cat/0.png",
        "../data/photos/cat/0.png",
        "{root}/photos/cat/0.png",
        "{root}/../data/photos/cat/0.png",
        "{above}/link/photos/cat/0.png",  # absolute, by another name of the folder
        "inner/cat/0.png",
        "photos/linked.png",
    ],
)
def test_spellings_of_a_file_inside(root, spelled):
    (root.parent / "link").symlink_to(root)
    (root / "inner").symlink_to("photos")
    (root / "photos" / "linked.png").symlink_to(root / PLACES[0])
    path = spelled.format(root=root, above=root.parent)
    expected = spelled if spelled.startswith(("inner", "photos/linked")) else PLACES[0]
    assert keys(manifest(root, path, PLACES[1])) == [expected, PLACES[1]]


def test_a_folder_that_is_a_link_itself(root):
    (root.parent / "link").symlink_to(root)
    manifest(root, f"{root}/{PLACES[0]}", f"{root.parent}/link/{PLACES[1]}", PLACES[2])
    assert keys(root.parent / "link" / "manifest.jsonl") == list(PLACES)


def test_a_manifest_in_the_current_folder(root, monkeypatch):
    manifest(root, f"{root}/{PLACES[0]}", PLACES[1])
    monkeypatch.chdir(root)
    assert keys(Path("manifest.jsonl")) == list(PLACES[:2])


@pytest.mark.parametrize(
    "spelled, parts",
    [
        ("photos\\cat\\0.png", ["write / for \\", "photos/cat/0.png"]),
        ("photos\\cat\\gone.png", ["write / for \\", "photos/cat/gone.png"]),
        ("C:\\data\\photos\\cat\\0.png", ["drive of Windows", "write 'photos/cat/0.png'"]),
        ("C:/elsewhere/x.png", ["drive of Windows", "relative to"]),
        ("file://{root}/photos/cat/0.png", ["is a URL: write 'photos/cat/0.png'"]),
        ("https://example.org/x.png", ["is a URL: put the file into"]),
        ("s3://bucket/photos/cat/0.png", ["is a URL: write 'photos/cat/0.png'"]),
        ("photos/cat%2F0.png", ["No such file", "write 'photos/cat/0.png'"]),
        ("photos/cat/0.png ", ["No such file", "write 'photos/cat/0.png'"]),
        ("photos/Cat/0.PNG", ["No such file", "write 'photos/cat/0.png'"]),
        ("data/photos/cat/0.png", ["No such file", "write 'photos/cat/0.png'"]),
        ("/home/somebody/photos/cat/0.png", ["leaves the manifest's folder", "write 'photos/cat/0.png'"]),
        ("/etc/hostname", ["leaves the manifest's folder", "move the file into"]),
        ("../secret.png", ["leaves the manifest's folder", "move the file into"]),
        ("photos/out.png", ["leaves the manifest's folder by a link to", "outside.png", "copy the file into"]),
        ("away/outside.png", ["leaves the manifest's folder by a link to", "copy the file into"]),
        ("photos/gone.png", ["is a link to nowhere.png", "No such file", "restore the file"]),
        ("photos/loop.png", ["is a link to loop.png", "restore the file"]),
        ("photos/none.png", ["No such file or directory: restore the file or remove its entry"]),
        ("photos/cat", ["is a folder: name a file in it"]),
        (".", ["is a folder"]),
    ],
)
def test_paths_that_name_no_file_inside(root, spelled, parts):
    (root.parent / "outside.png").write_text("x")
    (root / "photos" / "out.png").symlink_to(root.parent / "outside.png")
    (root / "photos" / "gone.png").symlink_to("nowhere.png")
    (root / "photos" / "loop.png").symlink_to("loop.png")
    (root / "away").symlink_to(root.parent)
    path = manifest(root, PLACES[1], spelled.format(root=root))
    assert_refused(lambda: Stream.from_manifest(path), "manifest.jsonl line 2: path ", *parts)


def test_a_file_with_exactly_the_given_name_goes_first(root):
    for name in ("a\\b.png", "c%20d.png", "e .png", "file:", "C:"):
        (root / name).write_text(name)
    assert keys(manifest(root, "a\\b.png", "c%20d.png", "e .png", PLACES[0])) == [
        "a\\b.png",
        "c%20d.png",
        "e .png",
        PLACES[0],
    ]


@pytest.mark.parametrize("on_disk, listed", [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
@pytest.mark.parametrize("absolute", [False, True])
def test_names_in_either_unicode_form(root, on_disk, listed, absolute):
    """A Mac writes é as two code points; the archive that it was packed with may not."""
    there, said = (unicodedata.normalize(form, "café/thé.png") for form in (on_disk, listed))
    (root / there).parent.mkdir()
    (root / there).write_text("x")
    assert keys(manifest(root, f"{root}/{said}" if absolute else said, PLACES[0])) == [there, PLACES[0]]


def test_one_file_in_two_spellings(root):
    for other in ("./" + PLACES[0], f"photos/../{PLACES[0]}", f"{root}/{PLACES[0]}"):
        path = manifest(root, PLACES[0], other, PLACES[1])
        assert_refused(
            lambda: Stream.from_manifest(path), "line 2", f"'{PLACES[0]}' is already on line 1, in the train split"
        )
    os.link(root / PLACES[0], root / "photos" / "CAT0.png")  # as on a file system that ignores case
    os.link(root / PLACES[0], root / "photos" / "cat0.PNG")
    path = manifest(root, "photos/CAT0.png", PLACES[1], "photos/cat0.PNG", PLACES[2])
    assert_refused(lambda: Stream.from_manifest(path), "line 3: path 'photos/cat0.PNG' is the file on line 1: keep one")
    assert len(keys(manifest(root, "photos/CAT0.png", PLACES[0], PLACES[1]))) == 3


def test_two_files_in_two_unicode_forms(root):
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    for name in names:
        (root / name).write_text(name)
    assert keys(manifest(root, *names, PLACES[0])) == [*names, PLACES[0]]


@pytest.mark.parametrize("null", [None, float("nan")])
def test_null_means_no_value(root, null):
    """As pandas writes rows of texts beside rows of files."""
    records = [
        {"path": place, "text": null, "task": "a", "id": i, "modality": "image", "label": "cat", "split": split}
        for i, (place, split) in enumerate(zip(PLACES, ("train", "train", "test")))
    ]
    records += [
        {
            "path": null,
            "text": f"{split} words",
            "task": 7,
            "id": split,
            "modality": "text",
            "label": " e ",
            "split": split,
        }
        for split in ("train", "test")
    ]
    stream = Stream.from_manifest(write_manifest(root, records))
    assert [task.name for task in stream.tasks] == ["a", "7"] and stream[1].classes == ("e",)
    assert [sample.key for sample in stream[0].train] == ["0", "1"]
    records[1] = {**records[1], "path": null}
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(root, records)),
        "line 2: 'path' must be a string",
        "'path' or 'text'",
    )


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_manifests_in_other_tables(root, ending):
    columns = ("path", "text", "modality", "label", "split", "note")
    nothing = None if ending == "parquet" else ""
    rows = [(place, nothing, "image", "cat", split, "n") for place, split in zip(PLACES, ("train", "train", "test"))]
    rows += [(nothing, f"{split} words", "text", "e", split, nothing) for split in ("train", "test")]
    path = save_table(root / f"all.{ending}", rows, columns)
    assert keys(path)[:3] == list(PLACES)
    assert keys(path.rename(root / f"manifest.{ending}").parent) == keys(root / f"manifest.{ending}")
    save_table(path, [row[2:] for row in rows], columns[2:])
    unit = "row 1" if ending == "parquet" else "line 2"
    assert_refused(lambda: Stream.from_manifest(path), unit, "give either 'path' or 'text'")
    save_table(path, rows, ("path", "text", "modalty", "label", "split", "note"))
    assert_refused(lambda: Stream.from_manifest(path), "no column 'modality' (did you mean 'modalty'?)", "add it")


@pytest.mark.parametrize(
    "fields, parts",
    [
        ({"label": 7}, ["'label' must be a string that is not empty, not int", "the class's name"]),
        ({"label": "nan"}, ["the label 'nan' means a missing value", "classes.json"]),
        ({"label": None}, ["'label' is missing"]),
        ({"id": 1.5}, ["'id' must be a string", "not float"]),
        ({"task": True}, ["'task' must be a string", "not bool"]),
        ({"path": ["a"]}, ["'path' must be a string", "not list"]),
        ({"group": ["a"]}, ["'group' must be a string", "not list"]),
    ],
)
def test_fields_that_are_no_strings(root, fields, parts):
    records = [json.loads(line) for line in manifest(root, *PLACES).read_text().splitlines()]
    records[1] |= fields
    assert_refused(lambda: Stream.from_manifest(write_manifest(root, records)), "manifest.jsonl line 2: ", *parts)


def test_a_field_that_is_there_twice(root):
    line = manifest(root, *PLACES).read_text().replace('"label": "cat"', '"label": "cat", "label": "dog"', 1)
    assert_refused(
        lambda: Stream.from_manifest(write_manifest(root, [line])), "line 1: an object has the key 'label' twice"
    )


@pytest.mark.parametrize(
    ("fields", "group"),
    [
        ({}, ""),
        ({"source": "shop.example"}, ""),  # a note, which all samples may share
        ({"source": "apple/3", "group": "tree 1"}, "tree 1"),
        ({"group": 7}, "7"),
    ],
)
def test_the_group_of_a_sample(root, fields, group):
    samples = Stream.from_manifest(manifest(root, *PLACES, **fields)).tasks[0].test
    assert [sample.group for sample in samples] == [group]


def test_every_line_with_an_error_is_found(folder):
    records = manifest_records(folder)
    records[1]["split"], records[3]["path"], records[5]["modality"] = "trian", "gone.wav", "sound"
    found = Findings(collect=True)
    stream = Stream.from_manifest(write_manifest(folder, records), findings=found)
    assert sum(len(task.train) + len(task.test) for task in stream.tasks) == len(records) - 3
    reasons = [finding.reason for finding in found if finding.kind in ("row", "missing")]
    for number, part in ((2, "unknown split 'trian'"), (4, "No such file"), (6, "unknown modality 'sound'")):
        assert any(f"line {number}: " in reason and part in reason for reason in reasons), reasons
    assert_refused(lambda: Stream.from_manifest(folder), "(2 more: mmcl-fast data check lists them)")

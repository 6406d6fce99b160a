"""``mmcl-fast predict`` on files, folders and lines of text, some of them broken."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmcl_fast.errors import ConfigError, MediaError
from mmcl_fast.learning import Learner, Line, find_inputs, predict
from mmcl_fast.learning.predict_inputs import find_files
from mmcl_fast.learning.unknown import UnknownScores
from tests.cli.calls import call, error_of


@pytest.fixture
def mixed(place: Path, tmp_path: Path) -> Path:
    """Write six readable files with the wrong suffixes, two broken files and a hidden one."""
    root = tmp_path / "mixed"
    (root / "b").mkdir(parents=True)
    (root / ".hidden").write_text("not looked at")
    pictures = sorted((place / "data/image/test/class_0").iterdir())
    notes = sorted((place / "data/text/test/class_1").iterdir())
    for i in range(3):
        shutil.copy(pictures[i], root / f"{i}.txt")
        shutil.copy(notes[i], root / "b" / f"{i}.png")
    (root / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (root / "unknown.jpg").write_bytes(bytes(range(256)))
    return root


def test_a_folder_in_order_with_its_faults(place: Path, mixed: Path) -> None:
    result = call("predict", place / "run", mixed, "--top", "2", "--json", "--batch-size", "2", code=1)
    found = json.loads(result.stdout)
    names = [str(Path(one["file"]).relative_to(mixed)) for one in found]
    assert names == ["0.txt", "1.txt", "2.txt", "unknown.jpg", "b/0.png", "b/1.png", "b/2.png", "b/broken.png"]
    assert [one["modality"] for one in found] == ["image"] * 3 + [None] + ["text"] * 3 + [None]
    for name, one in zip(names, found):
        if "un" in name or "broken" in name:
            assert name in one["error"] and one["labels"] == [] and one["contributions"] is None
            continue
        probabilities = [label["probability"] for label in one["labels"]]
        assert one["error"] is None and len(probabilities) == 2
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(one["contributions"].values()) == pytest.approx(1, abs=1e-4)
    assert "2 of 8" in error_of(result)


def test_inputs_are_found_in_the_order_given_and_not_before_they_are_asked_for(mixed: Path) -> None:
    stdin = io.BytesIO(b"\xef\xbb\xbfone\n\n two \xff\n")
    found = find_inputs([str(mixed / "0.txt"), "-", mixed / "b", "gone.png"], stdin)
    assert next(found) == mixed / "0.txt" and stdin.tell() == 0
    names = [mixed / "b" / name for name in ("0.png", "1.png", "2.png", "broken.png")]
    assert list(found) == [Line("stdin:1", "one"), Line("stdin:3", "two \udcff"), *names, Path("gone.png")]


def test_a_folder_s_links_and_leavings(tmp_path: Path) -> None:
    for name in ("all/b/0.png", "all/Thumbs.db", "all/@eaDir/0.png", "all/.x", "more/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name, target in (
        ("a", "more"),
        ("again", "more"),
        ("up", "."),
        ("gone.png", "nowhere"),
        ("c.png", "all/b/0.png"),
    ):
        (tmp_path / "all" / name).symlink_to(tmp_path / target)
    assert [str(path.relative_to(tmp_path)) for path in find_files(tmp_path / "all")] == [
        "all/b/0.png",
        "all/a/1.png",
        "all/gone.png",  # a broken link is reported with the other errors
    ]


def test_every_format_says_the_same(place: Path, mixed: Path) -> None:
    words = ["predict", place / "run", mixed, mixed / "gone.png", "--top", "2", "--quiet"]
    value = json.loads(call(*words, "--json", code=1).stdout)
    lines = [json.loads(line) for line in call(*words, "--format", "json", code=1).stdout.splitlines()]
    assert lines == value and "gone.png" in value[-1]["error"]
    rows = list(csv.DictReader(io.StringIO(call(*words, "--format", "csv", code=1).stdout)))
    good = [(one, label) for one in value for label in one["labels"]]
    assert [row["status"] for row in rows].count("error") == 3 and len(rows) == len(good) + 3
    good_rows = [row for row in rows if row["status"] == "ok"]
    assert [row["rank"] for row in good_rows] == ["1", "2"] * 6
    for row, (one, label) in zip(good_rows, good):
        assert (row["file"], row["class"], row["class_modality"]) == (one["file"], label["class"], label["modality"])
        assert float(row["probability"]) == pytest.approx(label["probability"], rel=1e-4)
        assert [part.split("=")[0] for part in row["contributions"].split(";")] == list(one["contributions"])
    assert {row["error"] for row in rows} - {""} == {one["error"] for one in value} - {None}
    table = call(*words, code=1).stdout
    assert "taken for" in table and "class_0 (image)" in table and table.count("error:") == 3


def test_lines_of_standard_input_beside_files(place: Path, mixed: Path) -> None:
    line = (mixed / "b/1.png").read_text()
    words = ["predict", place / "run", mixed / "0.txt", "-", mixed / "b/1.png", "--json"]
    found = json.loads(call(*words, input=f"{line}\n\n  \nword11 word12\n").stdout)
    assert [Path(one["file"]).name for one in found] == ["0.txt", "stdin:1", "stdin:4", "1.png"]
    assert [one["modality"] for one in found] == ["image", "text", "text", "text"]
    assert found[1]["labels"] == found[3]["labels"]
    found = json.loads(call(*words, input=b"\xef\xbb\xbfword10\n\xff\xfe no text\nword11", code=1).stdout)
    assert [one["file"] for one in found[1:-1]] == ["stdin:1", "stdin:2", "stdin:3"]
    assert [one["error"] for one in found[1:-1]] == [None, "stdin:2: not UTF-8: convert it", None]
    assert "no line in it" in error_of(call("predict", place / "run", "-", input="\n", code=2))


def test_texts_given_compete_in_place_of_the_classes_learned(place: Path, mixed: Path) -> None:
    words = ["predict", place / "run", mixed / "0.txt", "--top", "9", "--json"]
    learned = json.loads(call(*words).stdout)[0]
    texts = [label["class"] for label in learned["labels"] if label["modality"] == "image"]
    again = json.loads(call(*words, "--classes", f"{texts[0]}, a new thing ,{texts[0]}").stdout)[0]
    assert {label["class"] for label in again["labels"]} == {texts[0], "a new thing"}
    assert {label["modality"] for label in again["labels"]} == {None}
    assert sum(label["probability"] for label in again["labels"]) == pytest.approx(1)
    assert again["contributions"] == learned["contributions"]
    assert "no text in it" in error_of(call(*words, "--classes", " , ", code=2))


def test_bad_input_is_refused_before_anything_is_read(place: Path, mixed: Path) -> None:
    words = ["predict", place / "run", mixed / "0.txt"]
    assert "did you mean 'image'" in error_of(call(*words, "--modality", "imag", code=2))
    assert "'json'" in error_of(call(*words, "--format", "jsn", code=2))
    (mixed / "empty").mkdir()
    assert "no file" in error_of(call("predict", place / "run", mixed / "empty", code=2))
    result = call(*words, "--modality", "text", "--json", code=1)
    assert "image" in json.loads(result.stdout)[0]["error"]


def test_python_raises_or_reports_and_reads_no_further_than_asked(place: Path, mixed: Path) -> None:
    learner = Learner.load(place / "run", device="cpu")
    files: list[str | Path | Line] = [mixed / "0.txt", mixed / "unknown.jpg", mixed / "b/0.png", Line("mine", "word10")]
    assert "no words" in learner.predict([Line("empty", " ")], on_error="report")[0].error
    with pytest.raises(MediaError, match="unknown.jpg"):
        learner.predict(files)
    assert [p.error is None for p in learner.predict(files, on_error="report")] == [True, False, True, True]
    wrong: tuple[dict[str, Any], ...] = (
        {"on_error": "skip"},
        {"batch_size": 0},
        {"top_k": 0},
        {"modality": "smell"},
        {"classes": []},
    )
    for options in wrong:
        with pytest.raises(ConfigError):
            learner.predictions(files, **options)
    one = [learner.predict([file])[0] for file in (files[0], files[2])]
    many = learner.predict([files[0], files[2]] * 5, batch_size=3)
    for i, p in enumerate(many):
        assert p.labels == one[i % 2].labels
        assert p.probabilities == pytest.approx(one[i % 2].probabilities, rel=1e-3)

    drawn = []
    endless = (drawn.append(i) or Line(str(i), f"word{i}") for i in range(10**9))
    found = learner.predictions(endless, batch_size=4)
    assert [next(found).file for _ in range(50)] == [str(i) for i in range(50)]
    assert len(drawn) <= 50 + 2 * predict.BATCHES_AHEAD * 4


def test_a_method_that_does_not_score_texts_says_so(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    call("train", place / "mine.toml", "--out", out, "--set", "method.name=ridge", "--set", "method.options={}", "-q")
    picture = next((place / "data/image/test/class_0").iterdir())
    line = error_of(call("predict", out, picture, "--classes", "cat,dog", code=2))
    assert "ridge" in line and "comm" in line
    assert json.loads(call("predict", out, picture, "--json").stdout)[0]["contributions"] is None


def test_files_of_no_class_are_flagged_in_every_format(
    place: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures get a score above the limit, texts one below it."""
    monkeypatch.setattr(
        UnknownScores,
        "__call__",
        lambda self, tokens, modality: [0.97 if modality == "image" else 0.3] * len(tokens.query),
    )
    files = (mixed / "0.txt", mixed / "b/0.png")
    words = ("predict", place / "run", *files, "--top", "1", "--unknown")
    found = json.loads(call(*words, "0.05", "--json").stdout)
    assert [(one["unknown"], one["is_unknown"]) for one in found] == [(0.97, True), (0.3, False)]
    assert all(one["labels"] for one in found)  # what it would be else
    rows = list(csv.DictReader(io.StringIO(call(*words, "0.05", "--format", "csv").stdout)))
    assert [(row["status"], row["unknown"]) for row in rows] == [("unknown", "0.97"), ("ok", "0.3")]
    assert "none of the classes: stranger than 97.0%" in " ".join(call(*words, "0.05").stdout.split())
    assert "none of the classes" not in call(*words, "0.02").stdout
    plain = json.loads(call("predict", place / "run", *files, "--json").stdout)
    assert "is_unknown" not in plain[0] and plain[0]["unknown"] == 0.97


def test_a_limit_for_unknown_files_is_checked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = next((place / "data/image/test/class_0").iterdir())
    assert "between 0 and 1" in error_of(call("predict", place / "run", file, "--unknown", "2", code=2))
    words = ("predict", place / "run", file, "--unknown", "0.1")
    assert "leave out --classes" in error_of(call(*words, "--classes", "a cat,a dog", code=2))
    monkeypatch.setattr(UnknownScores, "from_state", classmethod(lambda cls, *state: cls()))
    assert "learned by an earlier version" in error_of(call(*words, code=2))

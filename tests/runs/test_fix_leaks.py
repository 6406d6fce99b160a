"""`data check --fix`: samples that leak are left out of training, nothing is deleted, and everything can come back."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from mmcl_fast.errors import RunError, StreamError, UserError
from mmcl_fast.runs import fix_leaks as module
from mmcl_fast.runs.fix_leaks import fix_leaks, undo_moves
from mmcl_fast.streams import check_data
from mmcl_fast.streams.grouping import Grouping, parse_rule
from mmcl_fast.streams.leaks import Leak, find_leaks
from tests.cli.calls import call, error_of
from tests.toy import write_folder


def leaks(source: Path, rule: str = "") -> list[Leak]:
    return find_leaks(check_data(source, grouping=Grouping(parse_rule(rule), equal_content=True)))


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; a test picture and a validation picture of class_0 are in its training split too."""
    root = write_folder(tmp_path / "data", classes=2, train=4, test=2, modalities=("image",))
    shutil.copy(root / "image/test/class_0/0.png", root / "image/train/class_0/ä copy.png")
    shutil.copy(root / "image/test/class_0/0.png", root / "image/val/class_1/copy.png")
    shutil.copy(root / "image/val/class_0/1.png", root / "image/train/class_0/other.png")
    return root


LEAVE = {"image/train/class_0/ä copy.png", "image/val/class_1/copy.png", "image/train/class_0/other.png"}


def test_files_are_moved_and_come_back(root: Path) -> None:
    before = files(root)
    found = leaks(root)
    assert {leak.leaves.key for leak in found} == LEAVE and not any(leak.stuck for leak in found)
    assert files(root) == before
    fix = fix_leaks(str(root), found)
    assert fix.written == str(root / ".left_out/1") and len(fix.left_out) == 3 and not fix.stuck
    after = files(root)
    assert {key for key in before if key not in after} == LEAVE
    assert all(after[f".left_out/1/{key}"] == before[key] for key in LEAVE)
    assert leaks(root) == []
    shutil.move(root, root.with_name("elsewhere"))  # the list has relative paths
    assert undo_moves(root.with_name("elsewhere") / ".left_out/1") == 3
    assert files(root.with_name("elsewhere")) == before


def test_the_command_lists_fixes_and_brings_back(root: Path) -> None:
    before = files(root)
    listed = call("data", "check", root, "-q", code=1)
    assert "3 samples leak" in listed.stdout and files(root) == before
    found = json.loads(call("data", "check", root, "-q", "--json", code=1).stdout)
    assert {leak["leaves"]["key"] for leak in found["leaks"]} == LEAVE and "fixed" not in found
    done = json.loads(call("data", "check", root, "-q", "--json", "--fix").stdout)
    assert done["fixed"]["left_out"] == 3 and {leak["leaves"]["key"] for leak in done["leaks"]} == LEAVE
    clean = json.loads(call("data", "check", root, "-q", "--json").stdout)
    assert clean["leaks"] == [] and clean["modalities"][0]["train"] == 8
    assert done["fixed"]["undo"] == f"mmcl-fast data undo {root / '.left_out/1'}"
    assert call("data", "undo", root / ".left_out/1").stdout == "3 files are back\n"
    assert files(root) == before
    assert "not a list of moves" in error_of(call("data", "undo", root / ".left_out/1", code=2))


def test_a_group_leaks_too(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", classes=2, train=4, test=2, modalities=("image",))
    for split in ("train", "test"):
        for i in range(2):
            os.rename(root / f"image/{split}/class_0/{i}.png", root / f"image/{split}/class_0/rec7_{split}{i}.png")
    assert leaks(root) == []
    found = leaks(root, "regex:(rec[0-9]+)_")
    assert {leak.leaves.key.rpartition("/")[2] for leak in found} == {"rec7_train0.png", "rec7_train1.png"}
    assert {leak.kind for leak in found} == {"group-in-splits"}
    call("data", "check", root, "-q", "--group", "regex:(rec[0-9]+)_", "--fix")
    assert leaks(root, "regex:(rec[0-9]+)_") == []
    assert "no rule" in error_of(call("data", "check", root, "-q", "--group", "recording", code=2))


def test_a_class_keeps_its_last_training_files(root: Path) -> None:
    shutil.rmtree(root / "image/train/class_1")
    (root / "image/train/class_1").mkdir()
    shutil.copy(root / "image/test/class_1/0.png", root / "image/train/class_1/only.png")
    fix = fix_leaks(str(root), leaks(root))
    assert [leak.leaves.key for leak in fix.stuck] == ["image/train/class_1/only.png"]
    assert "no training file left" in fix.stuck[0].stuck and (root / "image/train/class_1/only.png").exists()


def test_a_failure_in_the_middle_loses_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename, calls = files(root), os.rename, []

    def fail(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(module.os, "rename", fail)
    with pytest.raises(
        RunError, match=r"can't be moved \(Permission denied\); 1 of 3 files were; bring them back with:"
    ):
        fix_leaks(str(root), leaks(root))
    monkeypatch.undo()
    found = files(root)
    assert sorted(found.values()) == sorted([*before.values(), found[".left_out/1/moves.jsonl"]])
    fix_leaks(str(root), leaks(root))
    assert (root / ".left_out/2/moves.jsonl").exists()
    assert undo_moves(root / ".left_out/1/moves.jsonl") == 1 and undo_moves(root / ".left_out/2") == 2
    assert files(root) == before


def test_a_file_that_is_there_again_is_not_overwritten(root: Path) -> None:
    fix_leaks(str(root), leaks(root))
    place = root / "image/train/class_0/other.png"
    place.write_bytes(b"new")
    with pytest.raises(RunError, match=r"other\.png: is there again"):
        undo_moves(root / ".left_out/1")
    assert place.read_bytes() == b"new" and (root / "image/train/class_0/ä copy.png").exists()
    place.unlink()
    assert undo_moves(root / ".left_out/1") == 1 and place.stat().st_size > 3


@pytest.mark.parametrize(
    "line", ["", "[]", '{"from": "../x", "to": "y"}', '{"from": "/x", "to": "y"}', '{"from": 1}', "x"]
)
def test_a_list_of_moves_that_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / ".left_out/1").mkdir(parents=True)
    (tmp_path / ".left_out/1/moves.jsonl").write_text(line + "\n")
    if line:
        with pytest.raises(RunError, match="not a list of moves"):
            undo_moves(tmp_path / ".left_out/1")


def test_a_file_behind_a_link_out_of_the_folder_stays(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "image/train/class_0", tmp_path / "outside")
    (root / "image/train/class_0").symlink_to(tmp_path / "outside")
    fix = fix_leaks(str(root), leaks(root))
    assert {leak.leaves.key for leak in fix.stuck} == {k for k in LEAVE if "train" in k}
    assert len(fix.left_out) == 1 and (tmp_path / "outside/other.png").exists()


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("folder", [False, True])
def test_tables_are_written_anew_beside_the_old_ones(tmp_path: Path, ending: str, folder: bool) -> None:
    rows = [
        ("one\nof two lines", "a", "train"),
        ("said twice", "a", "train"),
        ("two", "b", "train"),
        ("said twice", "a", "test"),
        ("three", "b", "test"),
    ]
    place = tmp_path / "t"
    place.mkdir()

    def write(file: Path, chosen: list[tuple[str, str, str]]) -> None:
        if ending == "parquet":
            pyarrow = pytest.importorskip("pyarrow")
            from pyarrow import parquet

            parquet.write_table(pyarrow.table(dict(zip(("text", "label", "split"), zip(*chosen)))), file)
        elif ending == "jsonl":
            lines = [json.dumps(dict(zip(("text", "label", "split"), row))) for row in chosen]
            file.write_text("\n\n".join(lines) + "\n")
        else:
            mark = {"csv": ",", "tsv": "\t"}[ending]
            file.write_text(
                "\ufeff"
                + mark.join(("text", "label", "split"))
                + "\n"
                + "".join(f'"{a}"{mark}{b}{mark}{c}\n' for a, b, c in chosen),
                encoding="utf-8",
            )

    if folder:
        for split in ("train", "test"):
            write(place / f"{split}.{ending}", [row for row in rows if row[2] == split])
        source, target = place, tmp_path / "t-fixed"
    else:
        write(place / f"all.{ending}", rows)
        source, target = place / f"all.{ending}", place / f"all.fixed.{ending}"
    before = files(place)
    found = leaks(source)
    assert [leak.stays.split for leak in found] == ["test"]
    fix = fix_leaks(str(source), found)
    assert fix.written == str(target) and not fix.undo
    assert {k: v for k, v in files(place).items() if ".fixed." not in k} == before
    report = check_data(target)
    assert report.passed and report.stream is not None
    assert sorted((s.text or "", s.split) for s in report.stream.samples) == sorted(
        (text, split) for text, _, split in rows if (text, split) != ("said twice", "train")
    )
    with pytest.raises(UserError, match="is there already"):
        fix_leaks(str(source), found)


def test_a_manifest_is_written_anew(root: Path) -> None:
    rows = [
        {"path": str(f.relative_to(root)), "modality": "image", "split": f.parts[-3], "label": f.parts[-2]}
        for f in sorted(root.rglob("*.png"))
    ]
    (root / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "m.toml").write_text('[stream]\nsource = "manifest"\npath = "m.jsonl"\n')
    done = json.loads(call("data", "check", root / "m.toml", "-q", "--json", "--fix").stdout)
    lines = (root / "m.fixed.jsonl").read_text().splitlines()
    assert done["fixed"]["written"] == str(root / "m.fixed.jsonl") and len(lines) == len(rows) - 3
    assert leaks(root / "m.fixed.jsonl") == []


def test_other_sources_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "x.toml").write_text('[stream]\nsource = "demo"\n')
    with pytest.raises(StreamError, match="no one path"):
        fix_leaks(str(root / "x.toml"), leaks(root))
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars/train.tar").write_bytes(b"")
    with pytest.raises(StreamError, match="not tar"):
        fix_leaks(str(tmp_path / "tars"), leaks(root))

"""A row that has other tasks than the other rows: one task per modality."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from mmcl_fast.compare import compare
from mmcl_fast.errors import StreamError
from tests.compare.in_process import without_workers
from tests.toy import write_folder

ONE_TASK = "ridge:stream.classes_per_task=none"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    write_folder(tmp_path / "data", classes=2, train=4, test=3, modalities=("image", "text"))
    (tmp_path / "mine.toml").write_text(
        '[stream]\nsource = "folder"\npath = "data"\nclasses_per_task = 1\norder = "random"\ncheck = false\n'
        '[encoder]\nname = "toy"\n[train]\ndevice = "cpu"\ncache = "cache"\n'
    )
    return tmp_path / "mine.toml"


def test_tables_have_rows_with_one_task_per_modality(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_workers(monkeypatch)
    out = tmp_path / "out"
    results = compare(config, ["ridge", ONE_TASK], "0,1", out)
    many, one = results["rows"]
    assert one["stream"] == {"classes_per_task": "none"} and many["stream"] == {}
    assert [len(row["cells"][0]["tasks"]) for row in (many, one)] == [4, 2]
    drawn = [[task["classes"] for task in cell["tasks"]] for cell in many["cells"]]
    assert drawn[0] != drawn[1]  # each seed has other tasks
    whole, of_one = many["statistics"]["agnostic"], one["statistics"]["agnostic"]
    for metric in ("avg", "forgetting", "bwt", "fwt"):  # say nothing beside a row that has other tasks
        assert of_one[metric] is None and whole[metric]["mean"] is not None
        assert of_one["per_modality"]["image"].get(metric) is None
    assert one["statistics"]["agnostic"]["last"]["difference"]["difference"]["samples"] == 12
    assert any("one task per modality: learned other tasks than ridge" in note for note in results["notes"])
    for row in (many, one):
        last = row["statistics"]["agnostic"]["last"]["mean"]
        by_modality = row["statistics"]["agnostic"]["per_modality"]
        assert last == pytest.approx((by_modality["image"]["last"]["mean"] + by_modality["text"]["last"]["mean"]) / 2)
    names = {line["row"] for line in csv.DictReader((out / "table.csv").open())}
    assert names == {"ridge", "ridge, one task per modality"}
    for name in ("table.md", "table.tex", "report.html"):
        assert "one task per modality" in (out / name).read_text()
    assert json.loads((out / "results.json").read_text()) == results
    again = compare(config, ["ridge", ONE_TASK], "0,1", out, reference=ONE_TASK)  # learns nothing
    assert again["reference"] == "ridge, one task per modality"
    found = again["rows"][0]["statistics"]["agnostic"]
    assert "difference" in found["last"] and "difference" not in found["avg"]


def test_a_stream_that_fits_the_other_rows_alone_is_named(config: Path, tmp_path: Path) -> None:
    order = 'stream.order=["image:1", "text:0"]'
    with pytest.raises(StreamError, match=f"^--methods {ONE_TASK}: order names 'image:1'"):
        compare(config, ["ridge", ONE_TASK], "0", tmp_path / "out", overrides=[order])
    both = f"{ONE_TASK}:stream.order=blocks"
    with pytest.raises(StreamError, match="^order names"):
        compare(config, [both, "ridge"], "0", tmp_path / "out", overrides=['stream.order=["image:9"]'])

"""`mmcl-fast tune` and `compare --tuned` with the toy encoder, in real worker processes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from mmcl_fast.cli.compare import tune as tune_command
from mmcl_fast.compare import compare, processes, tune
from mmcl_fast.compare.tuned_options import read_tuned
from mmcl_fast.compare.tuning import write_tuned
from mmcl_fast.errors import ConfigError, RunError
from mmcl_fast.methods import METHODS
from tests.compare.in_process import without_workers
from tests.compare.limited import Limited
from tests.compare.test_compare import call, worker
from tests.toy import write_folder

REGISTER = "from mmcl_fast.methods import register; from tests.compare.limited import Limited; register(Limited)"
HOLD_OUT = "stream.validation=0.5"
ROWS = "limited,limited:known=3,zero_shot,limited:known=0:unused=0.5"  # the last one fails


@pytest.fixture(autouse=True)
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "limited", Limited)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tune")
    data = write_folder(root / "data", classes=2, train=6, test=3, modalities=("image", "text"))
    for folder in data.glob("*/val"):
        shutil.rmtree(folder)
    (root / "mine.toml").write_text(
        '[stream]\nsource = "folder"\npath = "data"\nclasses_per_task = 1\norder = "random"\ncheck = false\n'
        '[encoder]\nname = "toy"\n'
        '[train]\ndevice = "cpu"\ncache = "cache"\nevaluate = "given"\n'
    )
    return root / "mine.toml"


@pytest.fixture(scope="module")
def tuned(config: Path) -> Path:
    """Return the folder of a finished search with four trials."""
    out = config.parent / "tuned"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "COMMAND", worker(REGISTER))
        patch.setitem(METHODS, "limited", Limited)
        words = ("tune", config, "--methods", ROWS, "--trials", 4, "--jobs", 1, "--out", out, "--set", HOLD_OUT)
        result = call(*words, code=2)
    assert "(10/10 cells)" in result.stderr and f"written: {out}/tuned.json, tuned.md" in result.stdout
    assert "1 cells failed, first limited:known=0:unused=0.5, trial 0, seed 0: ValueError: nothing" in result.stderr
    assert result.stdout.startswith((out / "tuned.md").read_text())
    return out


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))


def test_the_best_trial_on_validation_samples_is_chosen(tuned: Path) -> None:
    values = json.loads((tuned / "tuned.json").read_text())
    free, pinned, fixed, failed = values["rows"]
    assert (values["trials"], values["seeds"]) == (4, [0])
    assert [len(row["trials"]) for row in values["rows"]] == [4, 4, 1, 1]
    for row in (free, pinned, fixed):
        for trial in row["trials"]:
            folder = tuned / trial["folder"] / "seed-0"
            summary = json.loads((folder / "summary.json").read_text())
            assert trial["mean"] == trial["values"]["0"] == summary["settings"]["agnostic"]["metrics"]["last"]
            config = json.loads((folder / "config.json").read_text())
            assert trial["options"].items() <= config["method"]["options"].items()
            assert config["stream"]["test_on"] == "val" and config["stream"]["shuffle_classes"] is True
            assert list(summary["settings"]) == ["agnostic"] and not (folder / "checkpoints").exists()
    means = [trial["mean"] for trial in free["trials"]]
    assert max(means) > means[0] and free["best"] == means.index(max(means))
    assert free["chosen"] == free["trials"][free["best"]]["options"] and free["trials"][0]["options"]["known"] == 2
    assert free["space"] == {"known": "2 or 4", "unused": "0.01 to 1, log"}
    assert len({trial["mean"] for trial in pinned["trials"]}) == 1  # unused changes nothing
    assert pinned["best"] == 0 and pinned["chosen"] == {"unused": 0.1}  # the earliest of equals
    assert fixed["chosen"] == {} and fixed["edges"] == []
    assert failed["chosen"] is failed["best"] is None and list(values["failed"]) == [
        f"{failed['name']}, trial 0, seed 0"
    ]


def test_an_optimum_at_the_edge_is_named(tuned: Path) -> None:
    values = read_tuned(tuned)
    free = values["rows"][0]
    assert free["chosen"]["known"] == 4 and "known" in free["edges"]
    text = write_tuned(values)
    assert "- limited: known = 4 lies at the edge of its search space 2 or 4; a wider space" in text
    assert (
        f"| limited | 4 | {free['trials'][0]['mean']:.1f} | {free['trials'][free['best']]['mean']:.1f} | known" in text
    )
    assert "| zero_shot | 1 |" in text and "nothing to search" in text
    assert "| limited:known=0:unused=0.5 | 1 | – | – | all trials failed |" in text
    assert "- failed: limited:known=0:unused=0.5, trial 0, seed 0: ValueError" in text


def test_finished_trials_are_not_learned_again(config: Path, tuned: Path, no_worker: None) -> None:
    before = (tuned / "tuned.json").read_text()
    rows = ROWS.split(",")[:3]
    again = tune(config, rows, 4, "0", tuned, overrides=[HOLD_OUT])
    assert again["rows"] == json.loads(before)["rows"]
    assert again == json.loads((tuned / "tuned.json").read_text())
    one = tune(config, "limited:known=3", 4, "0", tuned, overrides=[HOLD_OUT])
    assert [row["name"] for row in one["rows"]] == [rows[1], rows[0], rows[2], ROWS.split(",")[3]]  # the others stay
    fewer = tune(config, "zero_shot", 1, "0", tuned, overrides=[HOLD_OUT])
    assert [row["name"] for row in fewer["rows"]] == ["zero_shot"]  # the others had more trials
    (tuned / "tuned.json").write_text(before)


def test_compare_takes_the_chosen_options(config: Path, tuned: Path, tmp_path: Path, monkeypatch) -> None:
    without_workers(monkeypatch)
    words = ("compare", config, "--methods", "limited,zero_shot", "--seeds", "0", "--out", tmp_path / "out")
    result = call(*words, "--tuned", tuned, "--set", "stream.late=image")
    values = json.loads((tmp_path / "out" / "results.json").read_text())
    free = values["rows"][0]
    assert (free["title"], free["name"]) == ("limited, tuned", "limited") and free["options"]["known"] == 4
    assert free["tuned"]["chosen"].items() <= free["options"].items()
    assert (tmp_path / "out" / "limited-tuned" / "seed-0" / "summary.json").is_file()
    table = (tmp_path / "out" / "table.md").read_text()
    assert "- limited, tuned: known = 4 lies at the edge of its search space 2 or 4" in table
    assert "options chosen on validation samples in 1 to 4 trials a row, seeds 0" in table
    for text in (table, result.stderr):
        assert 'warning: the rows were tuned with another config: stream.late was null, is "image"' in text


def test_a_row_that_was_not_tuned_is_named(config: Path, tuned: Path, tmp_path: Path, no_worker: None) -> None:
    with pytest.raises(ConfigError) as caught:
        compare(config, "limited,ridge", "0", tmp_path / "out", tuned=tuned)
    command = f"mmcl-fast tune CONFIG --methods ridge --trials 4 --seeds 0 --out {tuned}"
    assert str(caught.value) == f"{tuned}/tuned.json: ridge: no such row; tune it with: {command}"
    with pytest.raises(
        RunError, match=r"tuned\.json: no such file; give the --out folder of a finished mmcl-fast tune"
    ):
        compare(config, "ridge", "0", tmp_path / "out", tuned=tmp_path)
    (tmp_path / "tuned.json").write_text('{"rows": [{}]}')
    with pytest.raises(RunError, match="not the file of mmcl-fast tune"):
        compare(config, "ridge", "0", tmp_path / "out", tuned=tmp_path)


def test_a_stream_without_validation_samples_is_refused(config: Path, tmp_path: Path, no_worker: None) -> None:
    result = call("tune", config, "--methods", "zero_shot", "--out", tmp_path / "out", code=2)
    assert "stream.validation = 0.0: task text-0 has no validation sample" in result.stderr
    assert "--set stream.validation=0.2" in result.stderr and not (tmp_path / "out").exists()
    result = call("tune", config, "--methods", "zero_shot", "--trials", 0, "--out", tmp_path / "out", code=2)
    assert "--trials 0: give a number from 1 to 1000" in result.stderr


def test_the_defaults_of_command_and_function_agree() -> None:
    import inspect

    command, function = inspect.signature(tune_command).parameters, inspect.signature(tune).parameters
    for name in ("trials", "seeds", "jobs"):
        assert command[name].default == function[name].default

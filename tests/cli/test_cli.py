"""The commands, end to end over small real files and a small CLIP in the Hugging Face format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmcl_fast.streams.sample import Task
from tests.cli.calls import call, error_of
from tests.streams.sources.tar_files import pack, png


def test_train_writes_the_run_and_says_where(place: Path, tmp_path: Path) -> None:
    result = call("train", place / "mine.toml", "--out", tmp_path / "run")
    for part in ("R, setting agnostic", "R, setting given", "forgetting", "R[T,i]", "report.html", "1 image-0"):
        assert part in result.stdout, part
    assert "task 2/2" in result.stderr
    for name in (
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
        "checkpoints/task-002/model.safetensors",
    ):
        assert (tmp_path / "run" / name).is_file(), name
    assert (tmp_path / "run" / "report.html").stat().st_size > 1_000_000


def test_same_command_same_numbers_and_json_alone(place: Path, tmp_path: Path) -> None:
    result = call("train", place / "mine.toml", "--out", tmp_path / "run", "--quiet", "--json")
    printed = json.loads(result.stdout)
    stored = json.loads((place / "run" / "summary.json").read_text())
    assert printed["settings"] == stored["settings"] and result.stderr == ""


def test_a_finished_run_resumes_to_the_same_summary(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "task-002")
    (tmp_path / "run" / "summary.json").unlink()
    call("train", place / "mine.toml", "--out", tmp_path / "run", "--quiet", "--resume")
    again, stored = (json.loads((folder / "run" / "summary.json").read_text()) for folder in (tmp_path, place))
    assert again["settings"] == stored["settings"]


def test_a_run_folder_that_is_not_this_run_is_refused(place: Path, tmp_path: Path) -> None:
    run, toml = place / "run", place / "mine.toml"
    assert "--resume" in error_of(call("train", toml, "--out", run, code=2))
    other = error_of(call("train", toml, "--out", run, "--resume", "--set", "train.seed=9", code=2))
    assert "train.seed was 0, is 9" in other
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "config.json" in error_of(call("train", toml, "--out", tmp_path / "full", "--resume", code=2))
    assert (tmp_path / "full" / "letter.txt").read_text() == "mine"


def test_evaluate_agrees_with_the_last_row_of_r(place: Path) -> None:
    found = json.loads(call("evaluate", place / "run", "--json", "--quiet", "--device", "cpu").stdout)
    stored = json.loads((place / "run" / "summary.json").read_text())
    for setting, accuracy in found["accuracy"].items():
        assert accuracy == pytest.approx(stored["settings"][setting]["R"][-1])
    text = call("evaluate", place / "run", "--split", "val", "--setting", "given", "-q", "--device", "cpu").stdout
    assert "val split after 2 of 2 tasks" in text and "given, own classes" in text and "agnostic" not in text


def test_evaluate_refuses_data_that_changed_since_the_run(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "data", tmp_path / "data")
    shutil.copytree(place / "run", tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    values = json.loads(file.read_text())
    values["stream"]["path"] = str(tmp_path / "data")
    file.write_text(json.dumps(values))
    words = ["evaluate", tmp_path / "run", "--json", "--quiet", "--device", "cpu"]
    moved = json.loads(call(*words).stdout)
    assert moved["count"] == [6, 6]  # the same data in another place are the same data
    (tmp_path / "data/image/test/class_1/0.png").unlink()
    line = error_of(call(*words, code=2))
    assert "the data have changed since the run" in line and "restore" in line and str(file) in line


@pytest.mark.parametrize("name", ["cuda1", "cuda:", "cuda:01", "cuda:x", "cuda:999", "cpu\n", "cuda:\u0661"])
@pytest.mark.parametrize("count", [0, 8])
def test_a_device_that_is_none_is_refused_with_or_without_gpus(
    place: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    picture = next((place / "data/image/test/class_0").iterdir())
    for words in (["evaluate", place / "run"], ["predict", place / "run", picture]):
        assert "device 'c" in error_of(call(*words, "--device", name, code=2))


def test_report_of_several_runs(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    call("report", place / "run", place / "run", "--out", out)
    assert "side by side" in out.read_text()[:400]
    assert "--out" in error_of(call("report", place / "run", place / "run", code=2))
    assert "summary.json" in error_of(call("report", tmp_path, code=2))


@pytest.mark.parametrize(
    "content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n cut short"], ids=["empty", "misnamed", "cut"]
)
def test_a_broken_file_stops_training_before_it_begins(place: Path, tmp_path: Path, content: bytes) -> None:
    shutil.copytree(place / "data", tmp_path / "data")
    (tmp_path / "data/image/test/class_1/9.png").write_bytes(content)
    line = error_of(
        call(
            "train", place / "mine.toml", "--out", tmp_path / "run", "--set", f"stream.path={tmp_path / 'data'}", code=2
        )
    )
    assert "9.png" in line and not (tmp_path / "run" / "checkpoints").exists()


def test_what_is_left_out_of_the_data_is_said_before_learning(place: Path, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        members = [
            (f"{split}-{name}{i}.{end}", data)
            for i in range(2)
            for number, name in enumerate(("cat", "dog"))
            for end, data in (("png", png(4 * seed + 2 * i + number)), ("cls", name))
        ]
        pack(tmp_path / "tars" / f"{split}.tar", [*members, (f"{split}-note.xyz", b"of no format")])
    words = ["--set", "stream.source=tar", "--set", f"stream.path={tmp_path / 'tars'}", "--set", "method.name=ridge"]
    result = call("train", place / "mine.toml", "--out", tmp_path / "run", *words, "--set", "method.options={}")
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "note.xyz" in warnings[0] and "1 more" in warnings[0]


def test_broken_files_are_skipped_where_the_config_says_so(place: Path, tmp_path: Path) -> None:
    """The same numbers as from data without those files; a resumed run keeps to its list."""
    shutil.copytree(place / "data", tmp_path / "data")
    names = ["image/train/class_0/1.png", "image/test/class_1/2.png", "text/val/class_0/0.txt"]
    for name in names:
        (tmp_path / "data" / name).write_bytes(b"\xff" + name.encode())
    out = tmp_path / "run"
    words = ["train", place / "mine.toml", "--set", f"stream.path={tmp_path / 'data'}"]
    skip = ["--set", "stream.on_broken=skip"]
    line = error_of(call(*words, "--out", out, code=2))
    assert "1.png" in line and "2 more" in line and 'stream.on_broken = "skip"' in line and not out.exists()
    for name in names:  # broken files are often equal to each other
        (tmp_path / "data" / name).write_bytes(b"" if "test" in name else b"\xff not found")
    result = call(*words, *skip, "--out", out)
    assert "3 of 36 samples do not decode" in result.stderr and "3 samples do not decode" in result.stdout
    listed = [json.loads(row) for row in (out / "skipped.jsonl").read_text().splitlines()]
    assert [row["key"] for row in listed] == names and all(row["path"] in row["reason"] for row in listed)
    assert "3 samples do not decode" in (out / "report.html").read_text()

    shutil.rmtree(out / "checkpoints" / "task-002")
    (tmp_path / "data" / names[0]).write_bytes((place / "data" / names[0]).read_bytes())  # mended: still left out
    (tmp_path / "data" / names[1]).unlink()
    resumed = call(*words, *skip, "--out", out, "--resume", "-q")
    assert "3 samples do not decode" in resumed.stdout
    assert "3 samples do not decode" in call("evaluate", out, "-q").stdout

    for name in (names[0], names[2]):
        (tmp_path / "data" / name).unlink()
    call(*words, "--out", tmp_path / "clean", "-q")
    rows = [json.loads((run / "summary.json").read_text())["settings"] for run in (out, tmp_path / "clean")]
    assert rows[0] == rows[1]


def test_data_check_lists_every_fault(place: Path, tmp_path: Path) -> None:
    assert "every file decodes" in call("data", "check", place / "data", "-q").stdout
    shutil.copytree(place / "data", tmp_path / "data")
    for name in ("8.png", "9.png"):
        (tmp_path / "data/image/val/class_1" / name).write_bytes(f"{name} is no picture".encode())
    out = tmp_path / "broken.jsonl"
    result = call("data", "check", tmp_path / "data", "--json", "-q", "--out", out, code=1)
    found = json.loads(result.stdout)
    assert [fault["key"] for fault in found["faults"]] == [f"image/val/class_1/{i}.png" for i in (8, 9)]
    assert [json.loads(line) for line in out.read_text().splitlines()] == found["faults"]
    assert result.stderr.splitlines() == [f"error: {fault['reason']}" for fault in found["faults"]]
    assert "nowhere" in error_of(call("data", "check", place / "data", "-q", "-o", tmp_path / "nowhere/x", code=2))
    assert [(m["modality"], m["classes"], m["train"]) for m in found["modalities"]] == [("image", 2, 8), ("text", 2, 8)]
    (tmp_path / "data/text/test/class_1/0.txt").write_text((tmp_path / "data/text/train/class_1/0.txt").read_text())
    lines = call("data", "check", tmp_path / "data", "-q", code=1).stderr.splitlines()
    assert len(lines) == 3 and "equal content" in lines[0]
    config = ["data", "check", place / "mine.toml", "-q", "--set", f"stream.path={tmp_path / 'data'}"]
    assert call(*config, code=1).stderr.splitlines() == lines
    assert "no config" in error_of(call("data", "check", tmp_path / "data", "--set", "stream.seed=1", code=2))
    (tmp_path / "data/image/val/class_1/9.png").write_bytes(b"")
    assert call("data", "check", tmp_path / "data", "-q", code=1).stderr.count("9.png: the file is empty") == 1
    assert "nowhere" in error_of(call("data", "check", tmp_path / "nowhere", code=2))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["train", "dmo", "--out", "x"], ["did you mean 'demo'"]),
        (["train", "demo", "--out", "x", "--set", "train.sed=1"], ["--set train.sed=1", "'seed'"]),
        (["train", "demo", "--out", "x", "--set", "train.device=cuda:99"], ["cuda:99", "doctor"]),
        (["train", "folder", "--out", "x"], ["stream.path"]),
        (
            ["train", "demo", "--out", "x", "--set", "stream.on_broken=skip", "--set", "stream.check=false"],
            ["--set stream.on_broken=skip", "stream.check = true"],
        ),
        (["train", "demo", "--out", "x", "--set", "stream.on_broken=ignore"], ['"error"', '"skip"']),
        (["evaluate", "nowhere"], ["nowhere", "config.json"]),
        (["evaluate", "nowhere", "--split", "tset"], ["--split", "'test'"]),
        (["predict", "nowhere", __file__], ["nowhere"]),
    ],
)
def test_bad_input_is_one_line_and_two(words, parts, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = error_of(call(*words, code=2))
    assert all(part in line for part in parts), line
    assert list(tmp_path.iterdir()) == []


def test_a_model_folder_without_weights_is_named(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    line = error_of(
        call(
            "train",
            place / "mine.toml",
            "--out",
            tmp_path / "run",
            "--set",
            f"encoder.name={tmp_path / 'empty'}",
            code=2,
        )
    )
    assert "empty" in line and not (tmp_path / "run" / "checkpoints").exists()


def test_debug_shows_the_traceback() -> None:
    result = call("train", "dmo", "--out", "x", "--debug", code=2)
    assert "Traceback" in result.stderr and "ConfigError" in result.stderr


def test_an_interrupt_says_how_to_go_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmcl_fast.learning import Learner

    learn = Learner.learn
    done: list[Task] = []

    def interrupted(self, task):
        if done:
            raise KeyboardInterrupt
        done.append(task)
        return learn(self, task)

    words = ["train", place / "mine.toml", "--out", tmp_path / "run", "--set", "train.workers=1", "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "learn", interrupted)
        result = call(*words, code=130)
    assert f"mmcl-fast train --resume {tmp_path / 'run'}" in result.stderr
    call(*words, "--resume")
    again, stored = (json.loads((folder / "run" / "summary.json").read_text()) for folder in (tmp_path, place))
    assert again["settings"] == stored["settings"]


def test_the_program_itself_ends_with_two_and_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmcl_fast.cli", "data", "check", str(tmp_path)],
        text=True,
        capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_a_fault_of_the_program_is_a_traceback_and_three(monkeypatch, capsys) -> None:
    from mmcl_fast import cli, doctor

    monkeypatch.setattr(doctor, "examine", lambda: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["mmcl-fast", "doctor"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 3 and "ZeroDivisionError" in capsys.readouterr().err

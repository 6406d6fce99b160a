"""`mmcl-fast compare` and `ablate` with the toy encoder, on real files in real worker processes."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from mmcl_fast import atomic_files, cli, distributed, progress, runs
from mmcl_fast.compare import ablate, compare, display, processes, variants
from mmcl_fast.compare.cell import Cell
from mmcl_fast.config import load_config
from mmcl_fast.errors import ConfigError
from mmcl_fast.learning import learner
from mmcl_fast.report import tables
from mmcl_fast.runs.folder import SKIPPED
from tests.compare.in_process import without_workers
from tests.toy import ToyEncoder, write_folder

ROOT = Path(__file__).resolve().parents[2]
WORKER = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from mmcl_fast.compare import worker
from mmcl_fast.learning import learner
from tests.toy import ToyEncoder
learner.load_encoder = lambda name, **options: ToyEncoder()
{before}
worker.main()
"""
FATAL = """
from mmcl_fast.methods.baselines.finetune import Finetune
from mmcl_fast.methods.baselines.ridge import RidgeMethod
def die(self, data, classes): os.kill(os.getpid(), signal.SIGKILL)
def wrong(self, data, classes): raise ValueError("no such thing")
RidgeMethod.learn, Finetune.learn = die, wrong
"""
HELD = """
from mmcl_fast.methods.comm.method import Comm
real = Comm.learn
def held(self, data, classes):
    if data.index == {task}:
        time.sleep(600)
    return real(self, data, classes)
Comm.learn = held
"""


def worker(before: str = "") -> tuple[str, ...]:
    return sys.executable, "-c", WORKER.format(root=str(ROOT), before=before)


def call(*words: object, code: int = 0):
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compare")
    write_folder(root / "data", classes=2, train=4, test=3, modalities=("image", "text"))
    (root / "mine.toml").write_text(
        '[stream]\nsource = "folder"\npath = "data"\nclasses_per_task = 1\norder = "random"\n[encoder]\nname = "toy"\n'
        "[method.options]\nepochs = 1\nsteps = 5\nsampled_features = 32\nbatch_size = 8\n"
        '[train]\ndevice = "cpu"\ncache = "cache"\n'
    )
    return root / "mine.toml"


@pytest.fixture(scope="module")
def swept(config: Path) -> Path:
    """Return the folder of a finished sweep of comm and ridge with two seeds, learned two cells at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "COMMAND", worker())
        result = call(
            "compare",
            config,
            "--methods",
            "comm,ridge",
            "--seeds",
            "0..1",
            "--jobs",
            2,
            "--out",
            config.parent / "sweep",
        )
    assert "(4/4 cells)" in result.stderr and "task 4/4" in result.stderr
    return config.parent / "sweep"


def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))


def outcome(folder: Path) -> dict:
    summary = json.loads((folder / "summary.json").read_text())
    summary.pop("seconds")
    return summary


def wait_for(what, seconds: float = 180.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


def free(out: Path) -> bool:
    with open(out / atomic_files.LOCK) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# ---- learning cells ---------------------------------------------------------------------------------------------


def test_a_cell_is_the_run_that_train_would_make(config: Path, swept: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(learner, "load_encoder", lambda name, **options: ToyEncoder())
    alone = load_config(config, ["stream.seed=1", "train.seed=1", "stream.shuffle_classes=true"])
    runs.learn_stream(alone, tmp_path / "alone")
    assert outcome(tmp_path / "alone") == outcome(swept / "comm" / "seed-1")
    assert len(list((swept / "comm" / "seed-1" / "checkpoints").iterdir())) == 2
    assert outcome(swept / "comm" / "seed-0")["tasks"] != outcome(swept / "comm" / "seed-1")["tasks"]  # order, classes


def test_the_files_hold_every_seed(swept: Path) -> None:
    values = json.loads((swept / "results.json").read_text())
    assert [row["name"] for row in values["rows"]] == ["comm", "ridge"]
    assert [row["title"] for row in values["rows"]] == ["COMM (ours)", "ridge"] and values["reference"] == "COMM (ours)"
    assert values["rows"][0]["features"] == "zq+4" and values["rows"][0]["tuned"] is None
    for row in values["rows"]:
        assert [cell["seed"] for cell in row["cells"]] == [0, 1]
        for cell in row["cells"]:
            kept = outcome(swept / row["name"] / f"seed-{cell['seed']}")
            assert cell["folder"] == f"{row['name']}/seed-{cell['seed']}"
            assert cell["settings"] == kept["settings"] and cell["tasks"] == kept["tasks"]
            assert cell["seconds"]["evaluation"] > 0 and cell["environment"]["python"]
    lines = list(csv.DictReader((swept / "table.csv").open()))
    a, b = (outcome(swept / "ridge" / f"seed-{n}")["settings"]["given"]["metrics"]["avg"] for n in (0, 1))
    line = next(
        x for x in lines if (x["row"], x["setting"], x["modality"], x["metric"]) == ("ridge", "given", "", "avg")
    )
    assert float(line["mean"]) == pytest.approx((a + b) / 2) and line["seeds"] == "2"
    assert float(line["high"]) - float(line["mean"]) == pytest.approx(12.7062 * abs(a - b) / 2, rel=1e-4)  # t, 1 df
    for name, part in (("table.md", "Chaudhry"), ("table.tex", r"\toprule"), ("report.html", "Plotly.react")):
        assert part in (swept / name).read_text(), name


def test_what_was_found_can_be_kept(swept: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "benchmarks" / "evidence.py"
    subprocess.run([sys.executable, script, swept, tmp_path / "kept"], check=True)
    values, kept = json.loads((swept / "results.json").read_text()), json.loads((tmp_path / "kept.json").read_text())
    for row in values["rows"]:
        for cell in row["cells"]:
            whole = cell["settings"]["given"]["R"][-1]
            assert kept[row["name"]][str(cell["seed"])]["given"][-1] == [x and round(x, 2) for x in whole]
    again = subprocess.run(
        [sys.executable, script, "--check", tmp_path / "kept"], check=True, capture_output=True, text=True
    ).stdout
    last = values["rows"][1]["statistics"]["given"]["last"]
    assert last["over"] == "seeds and test samples" and f"| ridge | given | {tables.format_mean(last)} |" in again
    table = (tmp_path / "kept.md").read_text()
    assert table.endswith((swept / "table.md").read_text()) and "thread" in table


def test_finished_cells_are_taken_as_they_are(config: Path, swept: Path, monkeypatch) -> None:
    no_worker(monkeypatch)
    before = (swept / "results.json").read_text()
    result = call("compare", config, "--methods", "comm,ridge", "--seeds", "0,1", "--jobs", 4, "--out", swept)
    assert "4 of 4 cells are finished already" in result.stderr and "begins" not in result.stderr
    assert (swept / "results.json").read_text() == before and "| ridge | 2 |" in result.stdout
    result = call(
        "compare",
        config,
        "--methods",
        "ridge,comm",
        "--seeds",
        "1",
        "--out",
        swept,
        "--reference",
        "ridge",
        "--json",
        "--quiet",
    )
    assert json.loads(result.stdout)["reference"] == "ridge" and result.stderr == ""
    (swept / "results.json").write_text(before)


def test_python_compares_as_the_command_does(config: Path, swept: Path, monkeypatch, capsys) -> None:
    no_worker(monkeypatch)
    before = (swept / "results.json").read_text()
    results = compare(config, ["comm", "ridge"], range(2), swept)
    assert results == json.loads(before) == json.loads((swept / "results.json").read_text())
    assert capsys.readouterr() == ("", "")  # no display was given
    again = compare(load_config(config), "ridge,comm", "0..1", swept, reference="ridge", title="mine")
    assert again["reference"] == "ridge" and "<h1>mine</h1>" in (swept / "report.html").read_text()
    with pytest.raises(ConfigError, match="the config is made already"):
        compare(load_config(config), "comm", "0", swept, overrides=["train.workers=0"])
    wrong: tuple[tuple[Any, Any, int], ...] = (([], "0", 1), ("comm", [], 1), ("comm", [-1], 1), ("comm", "0", 0))
    for methods, seeds, jobs in wrong:
        with pytest.raises(ConfigError, match=r"--methods|--seeds|--jobs"):
            compare(config, methods, seeds, swept, jobs=jobs)
    with pytest.raises(ConfigError, match="--switches promts"):
        ablate(config, ["promts"], "0", swept)
    (swept / "results.json").write_text(before)


def test_another_config_is_refused_with_the_difference(config: Path, swept: Path, monkeypatch) -> None:
    no_worker(monkeypatch)
    words = ("compare", config, "--methods", "ridge,comm", "--seeds", "0..3", "--out", swept)
    result = call(*words, "--set", "method.options.epochs=2", code=2)
    assert "comm/seed-0/config.json: another config: method.options.epochs was 1, is 2" in result.stderr
    assert "begins" not in result.stderr and not (swept / "ridge" / "seed-2").exists()


def test_a_failing_cell_does_not_stop_the_others(config: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "COMMAND", worker(FATAL))
    result = call(
        "compare",
        config,
        "--methods",
        "ridge,finetune:epochs=1,zero_shot",
        "--seeds",
        "0",
        "--out",
        tmp_path / "out",
        code=2,
    )
    assert "2 cells failed" in result.stderr and "| zero_shot | z | 1 |" in result.stdout
    assert re.search(r"\| ridge \| \w+ \| 0 \| – \|", result.stdout) and "was ended by SIGKILL" in result.stdout
    assert "ValueError: no such thing" in result.stdout
    assert "Traceback" in (tmp_path / "out" / "finetune-epochs-1" / "seed-0.log").read_text()


def end_after(task: int, words: list[str], out: Path, signum: int) -> tuple[int, str]:
    """Run a sweep in a process and send it a signal when comm with seed 0 has learned this many tasks.

    Returns:
        Its exit code and its standard error.
    """
    process = os.fork()
    if not process:
        sys.stderr = open(out.with_suffix(".stderr"), "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            cli.app(words)
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(cast(int, end.code))
        finally:
            os._exit(99)
    under_way = out / "comm" / "seed-0" / "metrics.jsonl"
    wait_for(lambda: under_way.is_file() and f'"task": {task}' in under_way.read_text())
    os.kill(process, signum)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), out.with_suffix(".stderr").read_text()


def test_a_sweep_that_is_ended_goes_on(config: Path, swept: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    words = ["compare", str(config), "--methods", "ridge,comm", "--seeds", "0..1", "--jobs", "1", "--out", str(out)]
    monkeypatch.setattr(processes, "COMMAND", worker(HELD.format(task=1)))
    code, errors = end_after(1, words, out, signal.SIGINT)
    assert code == 130 and free(out)  # no process is left
    assert shlex.split(errors.split("go on with: ")[1].splitlines()[0]) == ["mmcl-fast", *words]
    before = (out / "ridge" / "seed-0" / "summary.json").stat().st_mtime_ns
    monkeypatch.setattr(processes, "COMMAND", worker(HELD.format(task=3)))
    assert end_after(3, words, out, signal.SIGKILL)[0] == -signal.SIGKILL
    wait_for(lambda: free(out))  # the worker follows
    assert not (out / "comm" / "seed-0" / "summary.json").exists() and not (out / "ridge" / "seed-1").exists()
    monkeypatch.setattr(processes, "COMMAND", worker())
    result = call(*words)
    assert "1 of 4 cells" in result.stderr and "comm, seed 0: goes on" in result.stderr
    assert "comm, seed 0: task 1/4" not in result.stderr and "comm, seed 1: task 1/4" in result.stderr
    assert (out / "ridge" / "seed-0" / "summary.json").stat().st_mtime_ns == before
    for cell in ("comm/seed-0", "comm/seed-1", "ridge/seed-0", "ridge/seed-1"):
        assert outcome(out / cell) == outcome(swept / cell)


def test_a_folder_in_use_is_refused(config: Path, swept: Path, monkeypatch) -> None:
    no_worker(monkeypatch)
    with atomic_files.lock_folder(swept):
        result = call("compare", config, "--methods", "comm", "--seeds", "0", "--out", swept, code=2)
    assert "in use by process" in result.stderr
    result = call("compare", config, "--methods", "comm", "--seeds", "0", "--out", swept / "comm" / "seed-0", code=2)
    assert "is a run folder" in result.stderr


def test_broken_files_are_found_before_anything_is_learned(config: Path, tmp_path: Path, monkeypatch) -> None:
    root = write_folder(tmp_path / "data", classes=2, train=4, test=3, modalities=("image", "text"))
    file = root / "image" / "train" / "class_0" / "0.png"
    file.write_bytes(file.read_bytes()[:60])
    words = (
        "compare",
        config,
        "--methods",
        "ridge",
        "--seeds",
        "0..1",
        "--out",
        tmp_path / "out",
        "--set",
        f"stream.path={root}",
    )
    assert "0.png" in call(*words, code=2).stderr and not (tmp_path / "out").exists()
    monkeypatch.setattr(processes, "COMMAND", worker())
    result = call(*words, "--set", "stream.on_broken=skip")
    assert "1 samples do not decode" in result.stdout
    call(*words, "--set", "stream.on_broken=skip")
    assert "0.png" in (tmp_path / "out" / "ridge" / "seed-1" / SKIPPED).read_text()


def test_ablate_throws_switches(config: Path, tmp_path: Path, monkeypatch) -> None:
    without_workers(monkeypatch)
    words = ("ablate", config, "--switches", "drift,assimilation,prompt_blocks", "--seeds", "3", "--out", tmp_path)
    result = call(*words, "--set", "method.options.drift=false", "--set", "stream.classes_per_task=none")
    assert "drift: left out: the config already has this change" in result.stderr
    values = json.loads((tmp_path / "results.json").read_text())
    base = values["rows"][0]
    changed = {
        row["title"]: {
            key: value
            for key, value in (row["options"] | row["encoder"]).items()
            if value != (base["options"] | base["encoder"])[key]
        }
        for row in values["rows"]
    }
    assert changed == {
        "COMM (ours)": {},
        "no intra-modal assimilation": {"aggregation": False, "self_regularisation": 0.0},
        "prompt_blocks 1": {"prompt_blocks": 1},
        "prompt_blocks all": {"prompt_blocks": "all"},
    }
    assert all(len(row["cells"]) == 1 for row in values["rows"]) and values["failed"] == {}


def test_a_terminal_shows_all_cells_and_those_under_way(config: Path, tmp_path: Path) -> None:
    from rich.console import Console

    base = load_config(config)
    cell = Cell(variants.parse_methods("ridge", base)[0], 4, base, tmp_path / "seed-4")
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=150)
    bars = progress.Bars(console)
    with display.SweepDisplay(bars, 3, 1) as sweep_display:
        sweep_display.begin(cell)
        sweep_display.progress(cell, {"learned": 2, "tasks": 9, "doing": "text-1: decode and trunk 7/20"})
        bars._bars.refresh()
        shown = written.getvalue()
        sweep_display.end(cell, "lost")
    for part in ("all cells", "1/3", "ridge, seed 4", "2/9", "decode and trunk 7/20"):
        assert part in shown, part
    assert "ridge, seed 4: failed: lost (2/3 cells)" in written.getvalue()


def test_a_pipe_gets_lines_for_begin_task_and_end(config: Path, tmp_path: Path) -> None:
    base, written = load_config(config), io.StringIO()
    cell = Cell(variants.parse_methods("ridge", base)[0], 4, base, tmp_path / "seed-4")
    with display.SweepDisplay(progress.Lines(written), 3, 1) as sweep_display:
        sweep_display.begin(cell)
        for learned, doing in ((0, "text-1: decode and trunk"), (1, ""), (1, "text-2: prompts")):
            sweep_display.progress(cell, {"learned": learned, "tasks": 9, "doing": doing})
        sweep_display.end(cell, None)
    assert written.getvalue().splitlines() == [
        "ridge, seed 4: begins",
        "ridge, seed 4: task 1/9",
        "ridge, seed 4: finished (2/3 cells)",
    ]


def test_cells_beside_each_other_share_the_memory(monkeypatch) -> None:
    assert distributed.processes_per_machine() == 1
    monkeypatch.setenv(distributed.CONCURRENT_RUNS, "4")
    assert distributed.processes_per_machine() == 4


def test_ablate_is_of_comm(config: Path, tmp_path: Path) -> None:
    ridge = ("--set", "method.name=ridge", "--set", "method.options={}")
    result = call("ablate", config, "--out", tmp_path, *ridge, code=2)
    assert "method.name = 'ridge'" in result.stderr
    result = call("compare", config, "--methods", "comm", "--reference", "com", "--out", tmp_path, code=2)
    assert "--reference com: no such row; did you mean 'comm'?" in result.stderr

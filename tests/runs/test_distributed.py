"""Several processes learn a stream together, with the statistics and metrics of one process.

One death ends all of them, and a stopped run goes on with any number of processes. ``process_groups.py`` makes the
runs, and ``ranks.py`` the ones of the command line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mmcl_fast.learning import checkpoint
from mmcl_fast.runs.prediction_file import PREDICTIONS_FILE
from tests.runs.killing import outcome
from tests.runs.process_groups import CASES
from tests.toy import write_folder
from tests.warm_python import warm_executable

pytestmark = pytest.mark.slow  # a dozen runs of several processes
ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.runs.process_groups", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def outcomes(runs):
    return json.loads((runs / "outcomes.json").read_text())


def learned(run: Path) -> tuple[dict[str, torch.Tensor], dict, list[dict]]:
    tensors, values = checkpoint.read(checkpoint.find_latest(run))
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return tensors, values, [e for e in events if e["event"] == "evaluation"]


def within(one: Path, several: Path) -> None:
    """The same counts, metrics within one answer, prompts and means within rounding."""
    (a, values, rows), (b, others, others_rows) = learned(one), learned(several)
    assert a.keys() == b.keys() and values["state"] == others["state"]
    for key in a:
        if key.split("/")[-1] == "mean" or "/prompt/" in key or "/row/" in key:
            # The classifier starts at 0, so a prompt's first gradients are tiny. Adam enlarges them, rounding included.
            atol = 2e-4 if "/prompt/" in key else 2e-5
            torch.testing.assert_close(b[key], a[key], rtol=0, atol=atol, msg=lambda text: f"{key}: {text}")
    if "method/realign/down" in a:  # one of them can be turned against the other; their product says what they do
        expected, found = (t["method/realign/down"] @ t["method/realign/up"] for t in (a, b))
        assert float((expected - found).abs().max()) < 2e-3 * float(expected.abs().max())
    assert len(rows) == len(others_rows)
    for row, other in zip(rows, others_rows):
        assert row["count"] == other["count"]
        assert all(abs((x or 0) - (y or 0)) <= 1 for x, y in zip(row["correct"], other["correct"]))


def test_sums_and_shares_are_the_same_for_any_number_of_processes(outcomes):
    digests = {word for world in (1, 2, 3, 4) for word in outcomes[f"sums-{world}"]}
    assert len(digests) == 1 and len(digests.pop()) == 64


@pytest.mark.parametrize("world", [2, 4])
def test_statistics_are_the_same_bits(runs, world):
    one, values, _ = learned(runs / "bare-1")
    several, others, _ = learned(runs / f"bare-{world}")
    assert values["state"] == others["state"]  # the counts too
    exact = [key for key in one if "/realign/" not in key]
    parts = {key.split("/")[1] for key in exact if key.startswith("method/")}
    assert parts == {"relevance", "memory", "row", "penalty_share"}
    assert all(torch.equal(one[key], several[key]) for key in exact)


@pytest.mark.parametrize(
    ("case", "world"),
    [("whole", 2), ("whole", 4), ("bare", 4), ("loops", 2), ("finetune", 2), ("joint", 2), ("adapted", 2)],
)
def test_metrics_equal_a_single_process(runs, outcomes, case, world):
    within(runs / f"{case}-1", runs / f"{case}-{world}")
    digests = {word.split()[1] for word in outcomes[f"{case}-{world}"]}
    assert len(outcomes[f"{case}-{world}"]) == world and len(digests) == 1  # every process ends with the same bits
    assert json.loads((runs / f"{case}-{world}" / "environment.json").read_text())["processes"] == world


@pytest.mark.parametrize("case", ["ridge", "fecam"])
def test_a_method_that_only_sums_moments_is_the_same_bits(runs, outcomes, case):
    assert outcome(runs / f"{case}-1") == outcome(runs / f"{case}-2")
    one, two = ((runs / f"{case}-{world}" / PREDICTIONS_FILE).read_bytes() for world in (1, 2))
    assert one == two
    assert set(CASES) == {"whole", "bare", "loops", "finetune", "ridge", "joint", "fecam", "adapted"}


def test_each_sample_goes_through_the_trunk_once(outcomes):
    calls = [int(word.split()[0]) for word in outcomes["whole-4"]]
    alone = int(outcomes["whole-1"][0].split()[0])
    # Batches are filled up, also the small ones of validation samples, hence not equal.
    assert all(c < alone for c in calls) and sum(calls) < 2.5 * alone
    assert [word.split()[0] for word in outcomes["whole-2"]] == ["0", "0"]  # other processes find what one has cached


@pytest.mark.parametrize(
    ("name", "ended", "checkpoints"),
    [
        ("killed-1", ["PeerLost", "SIGKILL"], ["inside-001-000003", "inside-001-000004"]),
        ("stopped", ["RunStopped: SIGTERM", "RunStopped: SIGTERM"], ["inside-001-000002", "inside-001-000003"]),
        ("full", ["RunError", "RunError"], ["inside-001-000001"]),
    ],
)
def test_an_ended_run_goes_on_to_the_same_bits(runs, outcomes, name, ended, checkpoints):
    assert [word[: len(start)] for word, start in zip(outcomes[name], ended)] == ended
    assert outcomes[f"{name} checkpoints"] == checkpoints
    assert outcome(runs / name) == outcome(runs / "whole-2")


def test_the_first_process_can_die_and_another_number_goes_on(runs, outcomes):
    assert outcomes["killed-0"][0] == "SIGKILL" and all(
        "another process of this run ended" in w for w in outcomes["killed-0"][1:]
    )
    within(runs / "whole-1", runs / "killed-0")


def test_every_process_reports_a_broken_file(outcomes):
    assert len(outcomes["broken"]) == 4 and len(set(outcomes["broken"])) == 1
    assert outcomes["broken"][0].startswith("MediaError: ") and ".png" in outcomes["broken"][0]


def test_a_method_for_one_process_is_refused(outcomes):
    line = "ConfigError: method finetune: learns in one process only; leave out --devices or torchrun"
    assert outcomes["one only"] == [line, line]


# ---- the command line -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    root = write_folder(folder / "data", classes=2, modalities=("image", "text"))
    file = folder / "mine.toml"
    file.write_text(
        f'[stream]\nsource = "folder"\npath = "{root}"\n[method.options]\nepochs = 1\nsteps = 20\n'
        f'[train]\ndevice = "cpu"\ncheckpoint_every = 5\ncache = "{folder / "cache"}"\n'
    )
    return file


def command(
    *words: object, runner: tuple[str, ...] = (), python: str | None = None, **environment: str
) -> subprocess.Popen:
    return subprocess.Popen(
        [python or warm_executable(), *runner, "-m", "tests.runs.ranks", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**ENVIRONMENT, **environment},
    )


def test_devices_end_together_and_go_on(config, tmp_path):
    out = tmp_path / "run"
    train = command("train", config, "--out", out, "--devices", 2, "-q", RANKS_KILL="1,12")
    _, stderr = train.communicate(timeout=300)
    assert train.returncode == 2
    assert stderr == (
        "error: process 1 of 2 was ended by SIGKILL; the others were ended and what was saved is as it "
        f"was: go on with: mmcl-fast train --resume {out} --devices 2\n"
    )
    train = command("train", "--resume", out, "--devices", 2, "-q", "--json")
    stdout, stderr = train.communicate(timeout=300)
    assert (train.returncode, stderr) == (0, "")
    assert json.loads(stdout)["settings"]["agnostic"]["R"][-1] is not None and (out / "report.html").is_file()


def test_torchrun_says_how_to_go_on(config, tmp_path):
    out = tmp_path / "run"
    runner = ("-m", "torch.distributed.run", "--nproc-per-node", "2")
    words = ("train", config, "--out", out, "-q")
    train = command(*words, runner=runner, python=sys.executable, RANKS_KILL="0,12")
    _, stderr = train.communicate(timeout=300)
    assert train.returncode == 1
    assert f"go on with: mmcl-fast train --resume {out}\n" in stderr


def test_processes_end_with_the_command_that_started_them(config, tmp_path):
    out = tmp_path / "run"
    train = command("train", config, "--out", out, "--devices", 2, "-q", "--set", "method.options.steps=1000000")
    limit = time.monotonic() + 240
    while time.monotonic() < limit and not list(out.glob("checkpoints/inside-*")):
        time.sleep(0.1)
    train.send_signal(signal.SIGKILL)
    train.communicate(timeout=300)  # returns when nobody holds its standard error any more
    again = command("train", "--resume", out, "-q", RANKS_TERM="0,3")
    _, stderr = again.communicate(timeout=300)
    assert again.returncode == 143 and "in use" not in stderr


@pytest.mark.parametrize("seconds", [0.5, 6.0])
def test_a_signal_to_the_command_reaches_all(config, tmp_path, seconds):
    train = command(
        *("train", config, "--out", tmp_path / "run", "--devices", 2, "-q", "--set", "method.options.steps=1000000"),
        python=sys.executable,  # its children are looked for
    )
    limit = time.monotonic() + 240
    while time.monotonic() < limit and not children(train.pid):
        time.sleep(0.05)
    time.sleep(seconds)  # while they start, and while they learn or are about to
    train.send_signal(signal.SIGINT)
    _, stderr = train.communicate(timeout=300)
    assert train.returncode == 130 and "stopped: go on with: mmcl-fast train " in stderr and "--devices 2" in stderr


def test_several_processes_learn_more_together(tmp_path):
    """The same bits and comparison as one process, and the exit code of a refused version."""
    first = write_folder(tmp_path / "first", classes=2, modalities=("image",))
    more = write_folder(tmp_path / "more", classes=2, modalities=("text",))
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[stream]\nsource = "folder"\npath = "{first}"\n[method]\nname = "ridge"\n[train]\ndevice = "cpu"\n'
        f'cache = "{tmp_path / "cache"}"\n'
    )
    train = command("train", file, "--out", tmp_path / "run", "-q")
    assert train.wait(300) == 0
    found = []
    for devices in (1, 2):
        learn = command("learn", tmp_path / "run", more, "--devices", devices, "-q", "--json")
        stdout, stderr = learn.communicate(timeout=300)
        assert learn.returncode == 0, stderr
        found.append(json.loads(stdout))
        rollback = command("rollback", tmp_path / "run", "--to", 1)
        assert rollback.wait(300) == 0
    assert [f["version"] for f in found] == [2, 3] and found[0]["comparison"] == found[1]["comparison"]
    assert outcome(tmp_path / "run/versions/2") == outcome(tmp_path / "run/versions/3")
    assert json.loads((tmp_path / "run/versions/3/environment.json").read_text())["processes"] == 2
    wrong = command("learn", tmp_path / "run", tmp_path / "nothing", "--devices", 2, "-q")
    _, stderr = wrong.communicate(timeout=300)
    assert wrong.returncode == 2 and stderr.count("error:") == 1 and "nothing" in stderr


def children(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def test_devices_are_checked(config, tmp_path):
    from mmcl_fast.cli import launch
    from mmcl_fast.errors import ConfigError

    with pytest.raises(ConfigError, match="--devices 0: give a number from 1"):
        launch.check_device_count(0, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match="torchrun has started"):
            launch.check_device_count(2, "cpu")
        patch.setenv("WORLD_SIZE", "1")
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        launch.check_device_count(2, "auto")
        with pytest.raises(ConfigError, match="torch finds 2 CUDA GPUs here"):
            launch.check_device_count(3, "auto")
        with pytest.raises(ConfigError, match="one GPU for each process"):
            launch.check_device_count(2, "cuda:1")

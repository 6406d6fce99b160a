"""benchmarks/gpu.sh with a stand-in for Python: its steps, limits and summary, without building or measuring."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
case "$*" in
  "- cuda") printf 'Fake GPU, sm_90, torch 2.11\\n90a\\n' ;;
  *setup.py*) echo "archs $MMCL_FAST_CUDA_ARCHS" >>"$CALLS" ;;
  *small_gpu\\ triton*) echo "loss 33x70x48 float32: error 3.0e-01 wrong"; exit 1 ;;
  *small_gpu*) echo "loss 33x70x48 float32: error 1.0e-07" ;;
  *"-m pytest"*) eval "$TESTS" ;;
  *"-m benchmarks "*) echo "alignment_loss 1x1x1 cuda bfloat16: floor 0.100 ms; *cuda 0.200" ;;
esac
"""
TOOL = """#!/usr/bin/env bash
echo "tool $*" >>"$CALLS"
echo "loss 66x130x512 bfloat16: error 1.0e-03"
echo "ERROR SUMMARY: 0 errors"
echo "  lts__t_bytes.sum Gbyte 1.5"
"""


@pytest.fixture
def script(tmp_path):
    """Return ``start(*steps, tools, **settings)``, which starts a run.

    It returns the process, the folder of results, and the file of all calls of Python and tools.
    """

    def start(*steps: str, tools: bool = False, **settings: str):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name, text in (("python", PYTHON), *(((n, TOOL) for n in ("ncu", "compute-sanitizer")) if tools else ())):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (tmp_path / "calls").touch()
        env = os.environ | {
            "PATH": f"{folder}:/usr/bin:/bin",
            "PYTHON": str(folder / "python"),
            "CALLS": str(tmp_path / "calls"),
            "TESTS": 'echo "== 5 passed in 1s =="',
            "WHEELS": str(tmp_path / "none"),
        }
        command = ["bash", str(ROOT / "benchmarks" / "gpu.sh"), "results", *steps]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=env | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return process, tmp_path / "results", tmp_path / "calls"

    return start


def test_every_step_says_how_it_ended_and_a_failure_does_not_stop_the_others(script):
    process, results, calls = script(tools=True)
    printed, _ = process.communicate(timeout=60)
    summary = (results / "summary.txt").read_text()
    assert process.returncode == 1
    for line in (
        "Fake GPU, sm_90, torch 2.11",
        "build: ok",
        "smoke triton: FAILED with exit code 1",
        "    loss 33x70x48 float32: error 3.0e-01 wrong",
        "smoke cuda: ok",
        "test: ok",
        "    == 5 passed in 1s ==",
        "sanitize memcheck: exit code 0",
        "sanitize racecheck: exit code 0",
        "    alignment_loss 1x1x1 cuda bfloat16: floor 0.100 ms; *cuda 0.200",
        "profile, counters: ok",
        "NOT all steps ended well",
    ):
        assert line in summary, f"{line}\n{summary}"
        assert line in printed
    order = [line.split(":")[0] for line in summary.splitlines() if line[0] != " "]
    assert [n for n in order if n in ("build", "smoke cuda", "test", "ops")] == ["build", "smoke cuda", "test", "ops"]
    asked = calls.read_text()
    assert "archs 90a" in asked and "-m pip" not in asked
    assert "lts__t_bytes" in (results / "counters.txt").read_text()
    assert len(list(results.iterdir())) <= 8 and len(printed) < 12000


def test_only_the_steps_asked_for(script):
    process, results, calls = script("test")
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert "small_gpu" not in calls.read_text() and "all steps ended well" in (results / "summary.txt").read_text()


def test_a_step_that_hangs_is_stopped_and_the_next_ones_share_what_is_left(script):
    process, results, _ = script("test", "ops", TESTS="sleep 60", GPU_SECONDS="7")
    process.communicate(timeout=60)
    summary = (results / "summary.txt").read_text()
    assert process.returncode == 1 and "test: STOPPED" in summary and "ops: NOT RUN, the time was up" in summary


def test_a_run_that_is_cut_off_keeps_its_summary(script):
    process, results, _ = script("smoke", "test", TESTS="echo begun; sleep 60")
    for _ in range(300):
        if (results / "log.txt").is_file() and "begun" in (results / "log.txt").read_text():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    summary = (results / "summary.txt").read_text()
    assert process.returncode == 143 and "smoke cuda: ok" in summary and "CUT OFF" in summary


def test_without_a_folder_it_says_what_is_missing(tmp_path):
    done = subprocess.run(["bash", str(ROOT / "benchmarks" / "gpu.sh")], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "no folder for the results" in done.stderr

"""The stand-in for python acts as python does."""

import os
import signal
import subprocess
import time

import pytest

from tests.warm_python import warm_executable


def started(program: str, *words: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [warm_executable(), "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_arguments_folder_environment_and_output(tmp_path):
    program = "import os, sys; print(sys.argv, os.getcwd(), os.environ['WORD']); print('e', file=sys.stderr)"
    out, err = started(program, "a b", cwd=tmp_path, env={**os.environ, "WORD": "w"}).communicate(timeout=60)
    assert (out, err) == (f"['-c', 'a b'] {tmp_path} w\n", "e\n")


@pytest.mark.parametrize("flags", [["-P", "-S"], ["-u"], ["-W", "ignore"]])
def test_flags(flags):
    done = subprocess.run([warm_executable(), *flags, "-c", "print(1)"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "1\n")


@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("sys.exit('why')", 1), ("1 / 0", 1), ("pass", 0)])
def test_exit_codes(end, code):
    running = started(f"import sys; {end}")
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert ("why" in err) == ("why" in end) and ("ZeroDivisionError" in err) == ("/" in end)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_death_by_a_signal_looks_like_one(number):
    running = started(
        f"import os, signal; signal.signal({number}, 0) if {number} != 9 else 0; os.kill(os.getpid(), {number})"
    )
    running.communicate(timeout=60)
    assert running.returncode == -number


def test_signals_reach_the_fork():
    program = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: exit(7))\n"
    program += "print('on', flush=True)\ntime.sleep(60)"
    running = started(program)
    assert running.stdout.readline() == "on\n"
    running.terminate()
    assert running.wait(60) == 7


def test_a_killed_caller_takes_the_fork_with_it():
    running = started("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    fork = int(running.stdout.readline())
    running.kill()
    running.wait(60)
    limit = time.monotonic() + 60
    while os.path.exists(f"/proc/{fork}"):
        assert time.monotonic() < limit
        time.sleep(0.05)

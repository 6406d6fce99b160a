"""The launcher of ``train --devices`` says how to go on, whatever its processes could still say."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from mmcl_fast.cli import launch
from mmcl_fast.cli.common import CommandStopped

# A process that waits for SIGINT and then ends with the exit code of its rank.
WAITER = """
import os, signal, sys, pathlib
code = int(sys.argv[1].split(",")[int(os.environ["RANK"])])
signal.signal(signal.SIGINT, lambda *_: sys.exit(code))
pathlib.Path(sys.argv[2], os.environ["RANK"]).touch()
while True: signal.pause()
"""


@pytest.mark.parametrize("codes", ["2,130", "2,2", "-9,130"])  # rank 0 saw the other's end first, or was killed
def test_the_command_says_how_to_go_on_where_rank_0_could_not(codes, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", WAITER))
    send_when_ready(tmp_path)
    with pytest.raises(CommandStopped, match="go on with: the same command"):
        launch.run_processes([codes, str(tmp_path)], 2, lambda: "the same command")


def test_rank_0_has_said_it(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "COMMAND", (sys.executable, "-c", WAITER))
    send_when_ready(tmp_path)
    assert launch.run_processes(["130,2", str(tmp_path)], 2, lambda: "the same command") == 130


def send_when_ready(folder):
    """Send this process SIGINT once both processes wait for it."""

    def send():
        limit = time.monotonic() + 60
        while time.monotonic() < limit and len(list(folder.iterdir())) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=send, daemon=True).start()

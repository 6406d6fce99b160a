"""A stand-in for ``python`` that forks a process which has imported torch already.

On a slow processor a fresh interpreter takes four seconds to import torch. A page of docs/ runs dozens of commands, and
most of them start a decoding process too. So ``WarmPython`` starts one interpreter, and ``command`` writes a program
that asks it for a fork. The fork has the caller's arguments, folder, environment and open files. It gets the caller's
signals, and ends if the caller is killed. But it is no child of the caller, and stays outside its process group.

The program understands ``-c``, ``-m``, ``-u``, ``-W`` and the name of a file. ``-P`` and ``-S`` change nothing.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MOST_FILES = 64  # open files that a caller may pass on
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, sys
asks = socket.socket(socket.AF_UNIX)
asks.connect({address!r})
own = asks.fileno()
files = [f for f in map(int, os.listdir("/proc/self/fd")) if f != own and os.path.exists(f"/proc/self/fd/{{f}}")]
sent = json.dumps([{words!r} + sys.argv[1:], os.getcwd(), dict(os.environ), files, {program!r}]).encode()
asks.sendmsg([len(sent).to_bytes(4, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
asks.sendall(sent)
child = int.from_bytes(asks.recv(4), "big")
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, _: os.kill(child, number))
for file in files:
    if file > 2:
        os.close(file)
status = asks.recv(4)
if len(status) < 4:
    sys.exit("the warm interpreter ended")
status = int.from_bytes(status, "big", signed=True)
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


class WarmPython:
    """An interpreter with torch and the package imported, which forks on demand.

    It ends with the process that starts it.
    """

    def __init__(self) -> None:
        folder = tempfile.mkdtemp()
        self.address = f"{folder}/warm"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm_python", self.address],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        atexit.register(shutil.rmtree, folder, True)
        atexit.register(self.process.kill)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def command(self, file: Path, words: list[str], program: Path | None = None) -> Path:
        """Write a program that runs ``python WORDS ARGUMENTS`` in a fork.

        Args:
            file: the program to write.
            words: arguments before the caller's.
            program: what ``sys.executable`` is in the fork; None: the program itself.
        """
        values = {"python": sys.executable, "address": self.address, "words": words}
        file.write_text(CLIENT.format(**values, program=str(program or file)))
        file.chmod(0o755)
        return file


@functools.cache
def warm_python() -> WarmPython:
    """Return the one of this process; the first call takes as long as importing torch."""
    return WarmPython()


@functools.cache
def warm_executable() -> str:
    """Return a program for tests to start in place of ``sys.executable``."""
    warm = warm_python()
    return str(warm.command(Path(f"{warm.address}-python"), []))


def _serve(address: str) -> None:
    """Answer callers until killed."""
    import transformers  # noqa: F401

    import mmcl_fast.cli
    import mmcl_fast.learning
    import mmcl_fast.media.readers.cpu
    import mmcl_fast.runs.training  # noqa: F401

    with socket.socket(socket.AF_UNIX) as listens:
        listens.bind(address)
        listens.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that watch a fork
        while True:
            asked, _ = listens.accept()
            if not os.fork():
                listens.close()
                _watch(asked)
            asked.close()


def _watch(asked: socket.socket) -> None:
    """Fork once more, and tell the caller how the fork ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, ancillary, _, _ = asked.recvmsg(4, socket.CMSG_SPACE(4 * MOST_FILES))
    given = array.array("i", b"".join(bytes(data) for _, _, data in ancillary))
    sent = b""
    while len(sent) < int.from_bytes(length, "big"):
        sent += asked.recv(1 << 16)
    values = json.loads(sent)
    child = os.fork()
    if not child:
        asked.close()
        _become(given.tolist(), *values)
    for file in given:
        os.close(file)
    asked.sendall(child.to_bytes(4, "big"))
    ended = os.pidfd_open(child)
    if asked.fileno() in select.select([asked.fileno(), ended], [], [])[0]:  # the caller was killed
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(OSError):  # the caller was killed
        asked.sendall(status.to_bytes(4, "big", signed=True))
    os._exit(0)


def _become(
    given: list[int], words: list[str], folder: str, environment: dict[str, str], files: list[int], program: str
) -> None:
    """Become the process that the caller asked for."""
    free = max(files) + 1  # first out of the way of the numbers that they get
    moved = [fcntl.fcntl(old, fcntl.F_DUPFD, free) for old in given]
    for old in given:
        os.close(old)
    for old, new in zip(moved, files, strict=True):
        os.dup2(old, new)
        os.close(old)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.executable = program
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(os.dup(f), mode) for f, mode in ((0, "r"), (1, "w"), (2, "w")))
    code = 0
    try:
        _run(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    _exit(code)


def _exit(code: Any) -> None:
    """End as an interpreter does, with the functions of ``atexit``."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def _run(words: list[str]) -> None:
    """Run ``python WORDS``."""
    words = list(words)
    while words[0] in ("-u", "-W", "-P", "-S"):
        del words[: 2 if words[0] == "-W" else 1]
    if words[0] == "-c":
        sys.argv, sys.path[0:0] = ["-c", *words[2:]], [""]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv, sys.path[0:0] = words[1:], [os.getcwd()]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(words[0])))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1])

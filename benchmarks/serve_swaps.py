"""Swap the version of a server under load: no request may be lost, and each answer names the version that gave it.

python -m benchmarks.serve_swaps RUN [--requests N] [--clients N] [--swaps N]

RUN has two versions or more. ``mmcl-fast serve RUN --watch`` runs in a process of its own. Clients send test files of
the run, each on its own connection, while the pointer moves between the newest two versions. Before the load each
version answers each file alone. An answer is wrong if it differs from the answer that the version it names gave alone.
The program prints one JSON object, and ends with 1 if a request was lost, an answer was wrong, or a swap is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.serve_client import TOLERANCE, Client
from mmcl_fast.learning.current_version import version_folder
from mmcl_fast.learning.versions import version_numbers
from mmcl_fast.runs.task_file import TASKS_FILE, read_tasks
from mmcl_fast.runs.versions import set_current

PATIENCE = 300.0  # seconds for one swap; a server that takes longer has stopped watching


def choose_bodies(run: Path, count: int = 24) -> list[bytes]:
    """Return test files of the run's newest version, of all its tasks in turn."""
    tasks = read_tasks(version_folder(run, version_numbers(run)[-1]) / TASKS_FILE).tasks
    turns = itertools.zip_longest(*(task.test for task in tasks))
    files = [sample.path for turn in turns for sample in turn if sample is not None and sample.path is not None]
    return [Path(str(file)).read_bytes() for file in files[:count]]


def best(answer: dict[str, Any]) -> tuple[str, float]:
    """Return the best class of an answer and its probability."""
    label = answer["items"][0]["labels"][0]
    return f"{label['modality']}/{label['class']}", label["probability"]


def served_version(port: int) -> int:
    """Return the version that the server names in /version."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/version") as reply:
        return json.load(reply)["version"]


async def move(port: int, run: Path, number: int) -> None:
    """Move the pointer, and wait until the server serves that version."""
    await asyncio.to_thread(set_current, run, number)
    until = time.monotonic() + PATIENCE
    while await asyncio.to_thread(served_version, port) != number:
        if time.monotonic() > until:
            raise TimeoutError(f"version {number} is not served after {PATIENCE:.0f} s")
        await asyncio.sleep(0.02)


async def swap_under_load(port: int, run: Path, bodies: list[bytes], requests: int, clients: int, swaps: int) -> dict:
    """Send requests while the pointer moves, evenly over the load; return what happened.

    Args:
        bodies: the files to send.
        requests: number of requests; more are sent if the last swap takes longer.
        clients: connections at once.
        swaps: moves of the pointer.
    """
    versions = version_numbers(run)[-2:]
    alone: dict[int, list[tuple[str, float]]] = {}
    for number in versions:
        await move(port, run, number)
        client = Client(port)
        alone[number] = [best(json.loads((await client.request(body))[1])) for body in bodies]
        client.close()
    sent = answered = wrong = done = 0
    lost: Counter[str] = Counter()
    by_version: Counter[int] = Counter()
    start = time.perf_counter()

    async def swap() -> None:
        nonlocal done
        for turn in range(1, swaps + 1):
            while answered < turn * requests / (swaps + 1):
                await asyncio.sleep(0.01)
            await move(port, run, versions[(turn + 1) % 2])
            done += 1

    swapping = asyncio.create_task(swap())

    async def work() -> None:
        nonlocal sent, answered, wrong
        client = Client(port)
        while sent < requests or not swapping.done():
            turn = sent % len(bodies)
            sent += 1
            try:
                status, data = await client.request(bodies[turn])
            except (OSError, asyncio.IncompleteReadError, ValueError) as fault:
                lost[type(fault).__name__] += 1
                continue
            answered += 1
            if status != 200:
                lost[str(status)] += 1
                continue
            answer = json.loads(data)
            by_version[answer["version"]] += 1
            name, share = alone[answer["version"]][turn]
            found, probability = best(answer)
            wrong += found != name or abs(probability - share) > TOLERANCE
        client.close()

    await asyncio.gather(*(work() for _ in range(clients)))
    await swapping
    differ = sum(a != b for a, b in zip(alone[versions[0]], alone[versions[1]]))
    return {
        "requests": sent,
        "clients": clients,
        "swaps": done,
        "lost": dict(lost),
        "answers by version": {str(number): by_version[number] for number in versions},
        "answers of no version": sum(by_version.values()) - sum(by_version[number] for number in versions),
        "wrong for the version named": wrong,
        "files whose answer differs between the versions": f"{differ} of {len(bodies)}",
        "seconds": round(time.perf_counter() - start, 1),
    }


def is_good(found: dict, swaps: int) -> bool:
    """Return whether no request was lost, every answer is the one of its version, and all swaps happened."""
    faults = found["lost"] or found["answers of no version"] or found["wrong for the version named"]
    return not faults and found["swaps"] == swaps


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_swaps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a run folder with two versions or more")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--swaps", type=int, default=20)
    chosen = parser.parse_args()
    words = [sys.executable, "-m", "mmcl_fast", "serve", str(chosen.run), "--watch", "--port", "0"]
    words += ["--max-concurrent", str(2 * chosen.clients)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            address = re.search(r":(\d+) ", first)
            assert address, first
            load = (chosen.requests, chosen.clients, chosen.swaps)
            found = asyncio.run(swap_under_load(int(address[1]), chosen.run, choose_bodies(chosen.run), *load))
        finally:
            server.terminate()
    print(json.dumps({**found, "exit code of the server": server.returncode}, indent=1))
    return int(not is_good(found, chosen.swaps) or server.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())

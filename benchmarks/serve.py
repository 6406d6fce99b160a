"""Measure ``mmcl-fast serve`` under many clients over loopback with files of all modalities, with and without batching.

python -m benchmarks.serve RUN [--out NAME] [--clients N] [--seconds S]

The server runs on two cores, in a new process for each setting: once with its default batches and once with batches of
one item. All clients are one process on the other cores, if there are any. Each client keeps its connection, and sends
the next file as soon as it has the answer. The files are from the demo's test split.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from benchmarks import suite

ROOT = Path(__file__).parents[1]
SERVER_CORES, FILES_PER_MODALITY = 2, 40
WAYS = {"batches of up to 32": (), "no batching": ("--max-batch", "1")}
COLUMNS = [
    "way",
    "clients",
    "seconds",
    "requests/s",
    "p50, ms",
    "p95, ms",
    "p99, ms",
    "errors",
    "wrong",
    "items a batch",
    "server's cores",
    "clients' cores",
    "resident, MB",
    "peak, MB",
    "growth, MB",
    "times no batching",
]


def choose_files(seed: int = 0) -> list[tuple[str, str]]:
    """Return (modality, path) of ``FILES_PER_MODALITY`` test files of each of the demo's modalities, shuffled."""
    rng, by_modality = random.Random(seed), dict[str, list[str]]()
    for line in (ROOT / "demo/manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] == "test":
            by_modality.setdefault(row["modality"], []).append(str(ROOT / "demo" / row["path"]))
    chosen = [
        (m, path)
        for m, paths in sorted(by_modality.items())
        for path in rng.sample(paths, min(FILES_PER_MODALITY, len(paths)))
    ]
    rng.shuffle(chosen)
    return chosen


def read_counters(port: int) -> dict[str, float]:
    """Return the numbers of /metrics that have no labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def _find_number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1])


def _resident_bytes(process: int) -> int:
    return 1024 * _find_number(r"VmRSS:\s*(\d+)", Path(f"/proc/{process}/status").read_text())


def measure(
    run: str, options: Sequence[str], clients: int, seconds: float, settings: Mapping[str, str] | None = None
) -> dict:
    """Measure one server under load.

    Args:
        options: options of ``mmcl-fast serve``.
        settings: environment variables of the server.

    Returns:
        The values that ``benchmarks.serve_client`` prints, and values of the server, such as "start-up s", the time
        until it answers.
    """
    free = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "mmcl_fast", "serve", run, "--port", "0", "--max-concurrent", str(2 * clients)]
    words, environment = [*command, *options], {**os.environ, **(settings or {})}
    started = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as server:
        try:
            os.sched_setaffinity(server.pid, free[:SERVER_CORES])
            assert server.stdout is not None
            port = _find_number(r":(\d+) ", server.stdout.readline())
            ready = time.perf_counter() - started
            job = json.dumps({"port": port, "clients": clients, "seconds": seconds, "files": choose_files()})
            client = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serve_client", job], stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            os.sched_setaffinity(client.pid, free[SERVER_CORES:] or free)
            assert client.stdout is not None
            client.stdout.readline()  # the load begins
            before, start, resident = read_counters(port), time.perf_counter(), []
            while time.perf_counter() < start + seconds:
                time.sleep(min(0.5, seconds / 10))
                resident.append(_resident_bytes(server.pid))
            out, _ = client.communicate(timeout=seconds + 120)
            after = read_counters(port)
        finally:
            server.terminate()
    of_clients = json.loads(out)
    spent = {name: after[name] - before[name] for name in after}
    return {
        **of_clients,
        "exit code": server.returncode,
        "start-up s": ready,
        "batches": spent["mmcl_fast_batch_items_count"],
        "batch": spent["mmcl_fast_batch_items_sum"] / max(1, spent["mmcl_fast_batch_items_count"]),
        "server CPU s": spent["process_cpu_seconds_total"],
        "resident MB": [round(size / 1e6, 1) for size in resident],
    }


def quantile(times: Sequence[float], share: float) -> float:
    """Return a quantile of sorted seconds, in ms."""
    return 1e3 * times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


def growth(resident: Sequence[float]) -> float:
    """Return the median of the last third minus the median of the second: the first third meets new batch sizes."""
    part = max(1, len(resident) // 3)
    return statistics.median(resident[-part:]) - statistics.median(resident[part : 2 * part] or resident)


def make_rows(results: list[dict]) -> list[list[str]]:
    """Return a row of the table for each result, with the columns ``COLUMNS``."""
    alone = next((r["answers"] / r["seconds"] for r in results if r["way"] == "no batching"), float("nan"))
    table = []
    for r in results:
        times, rate = sorted(chain.from_iterable(r["latencies"].values())), r["answers"] / r["seconds"]
        table.append(
            [
                r["way"],
                str(r["clients"]),
                f"{r['seconds']:.0f}",
                f"{rate:.1f}",
                *(f"{quantile(times, share):.0f}" for share in (0.5, 0.95, 0.99)),
                str(sum(r["errors"].values())),
                str(r["wrong"]),
                f"{r['batch']:.2f}",
                f"{r['server CPU s'] / r['seconds']:.2f}",
                f"{r['client CPU s'] / r['seconds']:.2f}",
                f"{statistics.median(r['resident MB']):.0f}",
                f"{max(r['resident MB']):.0f}",
                f"{growth(r['resident MB']):+.1f}",
                f"{rate / alone:.2f}",
            ]
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run folder of `mmcl-fast train demo`")
    parser.add_argument("--out", help="name under benchmarks/results, default serve-<date>")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds of load for each setting")
    chosen = parser.parse_args()
    results = []
    for way, options in WAYS.items():
        results.append(
            {"way": way, "clients": chosen.clients, **measure(chosen.run, options, chosen.clients, chosen.seconds)}
        )
        print(f"{way}: {make_rows(results)[-1][3]} requests/s", flush=True)
    facts = suite.run_facts(
        "serve-cpu", cores=min(SERVER_CORES, len(os.sched_getaffinity(0))), media="the demo's test split"
    )
    kinds = [
        f"{r['way']}: " + ", ".join(f"{m} p50 {quantile(t, 0.5):.0f} ms" for m, t in r["latencies"].items())
        for r in results
    ]
    name = suite.result_name(chosen.out, "serve")
    print(suite.write_results(name, facts, results, COLUMNS, make_rows(results), kinds))
    return int(any(r["errors"] or r["wrong"] or r["exit code"] or not r["answers"] for r in results))


if __name__ == "__main__":
    sys.exit(main())

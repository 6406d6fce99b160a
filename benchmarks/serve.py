"""Load on ``mmcl-fast serve``: many clients over loopback with files of all modalities, with and without batching.

python -m benchmarks.serve RUN [--out NAME] [--clients N] [--seconds S]

The server runs on two cores (the clients on the others, where there are any), once with its own settings and once with
a batch of one item, in a process of its own each time. The clients are one other process: each sends the next file as
soon as it has its answer, over a connection that it keeps. The files are of the demo's test split.
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
CORES, PER_MODALITY = 2, 40
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


def files(seed: int = 0) -> list[tuple[str, str]]:
    """(modality, path) of ``PER_MODALITY`` test files of each of the demo's modalities, mixed."""
    rng, kinds = random.Random(seed), dict[str, list[str]]()
    for line in (ROOT / "demo/manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["split"] == "test":
            kinds.setdefault(row["modality"], []).append(str(ROOT / "demo" / row["path"]))
    chosen = [
        (m, path) for m, paths in sorted(kinds.items()) for path in rng.sample(paths, min(PER_MODALITY, len(paths)))
    ]
    rng.shuffle(chosen)
    return chosen


def figures(port: int) -> dict[str, float]:
    """The numbers of /metrics that have no labels."""
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1])


def _resident(process: int) -> int:
    return 1024 * _number(r"VmRSS:\s*(\d+)", Path(f"/proc/{process}/status").read_text())


def measure(
    run: str, options: Sequence[str], clients: int, seconds: float, settings: Mapping[str, str] | None = None
) -> dict:
    """One server under load; see ``benchmarks.serve_client`` for what the clients tell.

    ``settings``: variables of the server's environment. "start-up s" is the time until it answers.
    """
    free = sorted(os.sched_getaffinity(0))
    command = [sys.executable, "-m", "mmcl_fast", "serve", run, "--port", "0", "--max-concurrent", str(2 * clients)]
    words, environment = [*command, *options], {**os.environ, **(settings or {})}
    started = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as server:
        try:
            os.sched_setaffinity(server.pid, free[:CORES])
            assert server.stdout is not None
            port = _number(r":(\d+) ", server.stdout.readline())
            ready = time.perf_counter() - started
            asked = json.dumps({"port": port, "clients": clients, "seconds": seconds, "files": files()})
            client = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.serve_client", asked], stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            os.sched_setaffinity(client.pid, free[CORES:] or free)
            assert client.stdout is not None
            client.stdout.readline()
            before, start, resident = figures(port), time.perf_counter(), []
            while time.perf_counter() < start + seconds:
                time.sleep(min(0.5, seconds / 10))
                resident.append(_resident(server.pid))
            out, _ = client.communicate(timeout=seconds + 120)
            after = figures(port)
        finally:
            server.terminate()
    told = json.loads(out)
    spent = {name: after[name] - before[name] for name in after}
    return {
        **told,
        "exit code": server.returncode,
        "start-up s": ready,
        "batches": spent["mmcl_fast_batch_items_count"],
        "batch": spent["mmcl_fast_batch_items_sum"] / max(1, spent["mmcl_fast_batch_items_count"]),
        "server CPU s": spent["process_cpu_seconds_total"],
        "resident MB": [round(size / 1e6, 1) for size in resident],
    }


def quantile(times: Sequence[float], share: float) -> float:
    """Of sorted seconds, in ms."""
    return 1e3 * times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


def growth(resident: Sequence[float]) -> float:
    """Median of the last third less median of the second: in the first, batches of all sizes are met."""
    part = max(1, len(resident) // 3)
    return statistics.median(resident[-part:]) - statistics.median(resident[part : 2 * part] or resident)


def lines(results: list[dict]) -> list[list[str]]:
    """Columns as in COLUMNS."""
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
    parser.add_argument("--seconds", type=float, default=60.0, help="of load, for each way")
    chosen = parser.parse_args()
    results = []
    for way, options in WAYS.items():
        results.append(
            {"way": way, "clients": chosen.clients, **measure(chosen.run, options, chosen.clients, chosen.seconds)}
        )
        print(f"{way}: {lines(results)[-1][3]} requests/s", flush=True)
    facts = suite.about("serve-cpu", cores=min(CORES, len(os.sched_getaffinity(0))), media="the demo's test split")
    kinds = [
        f"{r['way']}: " + ", ".join(f"{m} p50 {quantile(t, 0.5):.0f} ms" for m, t in r["latencies"].items())
        for r in results
    ]
    print(suite.keep(suite.named(chosen.out, "serve"), facts, results, COLUMNS, lines(results), kinds))
    return int(any(r["errors"] or r["wrong"] or r["exit code"] or not r["answers"] for r in results))


if __name__ == "__main__":
    sys.exit(main())

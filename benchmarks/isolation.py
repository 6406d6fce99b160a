"""Measure what decoding in workers costs: in `mmcl-fast serve`, in the check of files, and at start-up.

python -m benchmarks.isolation RUN [--out NAME] [--clients N] [--seconds S] [--rounds R]

Both settings take turns, so that other load on the machine slows both. The table has the median round of each setting.

- The files are the demo. One long check reads them again and again, with as many workers as cores.
- The start-up of a check is measured with one picture in a new process.
- The start-up of serve is the time until it prints its address.
- A replacement is the time from the death of a worker until a new worker has answered.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import serve, suite

WAYS = {"in this process": "0", "in workers": "1"}  # MMCL_FAST_ISOLATE
COLUMNS = ["what", "unit", *WAYS, "workers to this process", "rounds"]
Rounds = dict[str, list[float]]


def check_rates(rounds: int, seconds: float) -> dict[str, Rounds]:
    """Return the files that ``mmcl_fast.streams.file_check`` checks in a second, by modality and in all."""
    from mmcl_fast import distributed
    from mmcl_fast.streams import Sample
    from mmcl_fast.streams.file_check import check_files

    rows = [json.loads(line) for line in (serve.ROOT / "demo/manifest.jsonl").read_text().splitlines()]
    samples = [
        Sample(r["modality"], r["label"], serve.ROOT / "demo" / r["path"], None, r["split"], r["path"])
        for r in rows
        if "path" in r
    ]
    kinds = {m: [s for s in samples if s.modality == m] for m in ("image", "video", "audio", "depth")}
    found: dict[str, Rounds] = {}
    for isolate in WAYS.values():  # starts the server of workers and imports the decoders, outside the measurement
        check_files([some[0] for some in kinds.values()], settings={"isolate": isolate == "1"})

    def spent(some: list[Sample], isolate: str) -> float:
        begun = time.perf_counter()
        faults = check_files(some, workers=distributed.available_cores(), settings={"isolate": isolate == "1"})
        assert not faults, faults[0]
        return time.perf_counter() - begun

    for name, some in {**kinds, "all of the demo": samples}.items():
        rates: Rounds = {way: [] for way in WAYS}
        some = some * math.ceil(seconds / spent(some, "0"))  # one long check, since its start-up is measured separately
        for _ in range(rounds):
            for way, isolate in WAYS.items():
                rates[way].append(len(some) / spent(some, isolate))
        found[f"check, {name}"] = rates
    starts: Rounds = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, isolate in WAYS.items():
            starts[way].append(check_start(kinds["image"][0].path, isolate))
    return found | {"start-up of a check": starts}


def check_start(file: object, isolate: str) -> float:
    """Return the seconds that a new process takes to check one picture, without its imports."""
    code = (
        "import time, torch\n"
        "from mmcl_fast import media; from mmcl_fast.streams.file_check import check_files\n"
        "from mmcl_fast.streams import Sample\n"
        "begun = time.perf_counter()\n"
        f"assert not check_files([Sample('image', 'a', {str(file)!r}, None, 'train', 'a')], workers=2)\n"
        "print(time.perf_counter() - begun)\n"
    )
    env = os.environ | {"MMCL_FAST_ISOLATE": isolate}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    return float(done.stdout)


def replacement_times(rounds: int) -> list[float]:
    """Return the milliseconds from a worker's death until another worker has answered."""
    import signal

    from mmcl_fast.media.engines.isolation import Pool

    file, taken = next(path for modality, path in serve.choose_files() if modality == "image"), []
    with Pool(1) as pool:
        for _ in range(rounds):
            pool.check(file, "image")
            (worker,) = pool._alive
            os.kill(worker.process, signal.SIGKILL)
            begun = time.perf_counter()
            pool.check(file, "image")
            taken.append(1e3 * (time.perf_counter() - begun))
    return taken


def serve_rates(run: str, clients: int, seconds: float, rounds: int) -> tuple[dict[str, Rounds], list[dict]]:
    """Return the requests a second and the start-up seconds of the server, and all values that were measured."""
    rates: Rounds = {way: [] for way in WAYS}
    starts: Rounds = {way: [] for way in WAYS}
    results = []
    for _ in range(rounds):
        for way, isolate in WAYS.items():
            result = serve.measure(run, (), clients, seconds, {"MMCL_FAST_ISOLATE": isolate})
            results.append({"way": way, "clients": clients, **result})
            rates[way].append(result["answers"] / result["seconds"])
            starts[way].append(result["start-up s"])
            print(f"{way}: {rates[way][-1]:.1f} requests/s, batches of {result['batch']:.1f}", flush=True)
    return {f"serve, {clients} clients": rates, "start-up of serve": starts}, results


def make_row(what: str, rounds: Rounds) -> list[str]:
    """Return a row of the table, with the columns ``COLUMNS``."""
    here, there = (statistics.median(rounds[way]) for way in WAYS)
    unit = "s" if what.startswith("start") else "requests/s" if what.startswith("serve") else "files/s"
    return [what, unit, f"{here:.4g}", f"{there:.4g}", f"{there / here:.2f}", str(len(rounds["in workers"]))]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.isolation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", help="a run folder of `mmcl-fast train demo`")
    parser.add_argument("--out", help="name under benchmarks/results, default isolation-<date>")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds of load for each setting and round")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    measured = check_rates(chosen.rounds, min(3.0, chosen.seconds))
    for what, rounds in measured.items():
        print(" ".join(make_row(what, rounds)[:5]), flush=True)
    served, results = serve_rates(str(Path(chosen.run).resolve()), chosen.clients, chosen.seconds, chosen.rounds)
    measured |= served
    new = replacement_times(5 * chosen.rounds)
    batch = statistics.median(r["batch"] for r in results if r["way"] == "in workers")
    notes = [
        f"Items a batch of serve in workers: {batch:.1f}.",
        f"A worker is replaced in {statistics.median(new):.0f} ms (median of {len(new)}).",
    ]
    results = [{k: v for k, v in r.items() if k not in ("latencies", "resident MB")} for r in results]
    kept = [*results, {"rounds": measured, "replacement ms": new}]
    table = [make_row(what, rounds) for what, rounds in measured.items()]
    facts = suite.run_facts("isolation-cpu", cores=serve.SERVER_CORES, media="the demo")
    print(suite.write_results(suite.result_name(chosen.out, "isolation"), facts, kept, COLUMNS, table, notes))
    return int(any(r["errors"] or r["wrong"] or r["exit code"] or not r["answers"] for r in results))


if __name__ == "__main__":
    sys.exit(main())

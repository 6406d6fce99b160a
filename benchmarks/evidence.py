"""Store the results of a sweep: its table, and the accuracy matrix of every cell.

    mmcl-fast compare demo --methods comm,ridge --seeds 0..4 --out runs/demo
    python benchmarks/evidence.py runs/demo benchmarks/results/evidence-demo

writes ``evidence-demo.md`` and ``evidence-demo.json``: method -> seed -> setting -> R, accuracies in %.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

PACKAGES = ("mmcl-fast", "torch", "numpy")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the folder of a comparison or an ablation")
    parser.add_argument("out", type=Path, help="files to write, without their ending")
    args = parser.parse_args()
    if not (args.sweep / "results.json").is_file():
        raise SystemExit(f"{args.sweep}: no results.json: give the --out folder of mmcl-fast compare or ablate")
    results = json.loads((args.sweep / "results.json").read_text())
    head = f"# {args.out.name}\n\n{describe_machines(results)}.\n\n{describe_costs(results)}\n\n"
    args.out.with_suffix(".md").write_text(head + (args.sweep / "table.md").read_text())
    args.out.with_suffix(".json").write_text(json.dumps(accuracy_matrices(results), separators=(",", ":")) + "\n")
    print(f"written: {args.out}.md, {args.out}.json")


if __name__ == "__main__":
    main()

"""Runs benchmarks/test_ops.py, prints one table, keeps JSON and Markdown, and can write the table of
backends.

python -m benchmarks [--out NAME] [--write-table FILE] [--select EXPRESSION]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import suite

COLUMNS = [
    "case",
    "device",
    "dtype",
    "who",
    "ms (median)",
    "10-90 %",
    "graph ms",
    "TFLOP/s",
    "GB/s",
    "share of floor",
    "peak MB",
    "times ours",
]


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().replace("NVIDIA ", "")
    return f"cpu-{torch.get_num_threads()}-threads"


def lines(results: list[dict]) -> list[list[str]]:
    def number(row: dict, key: str, digits: int) -> str:
        return f"{row[key]:.{digits}f}" if key in row else ""

    table = []
    for info in results:
        for who, row in info["rows"].items():
            head = [info["case"], info["device"], info["dtype"], f"**{who}**" if who == info["ours"] else who]
            if "why" in row:
                table.append([*head, f"({row['why']})", *[""] * 7])
                continue
            spread = f"{row['q10']:.3f}-{row['q90']:.3f}"
            table.append(
                [
                    *head,
                    number(row, "median", 3),
                    spread,
                    number(row, "graph_ms", 3),
                    number(row, "tflops", 3),
                    number(row, "gbs", 1),
                    number(row, "floor_share", 2),
                    number(row, "peak_mb", 1),
                    number(row, "ratio", 2),
                ]
            )
    return table


def choices(results: list[dict]) -> dict:
    """The fastest of our backends by operation, device and dtype, with limits on the size (classes, or ranks
    M r)."""
    best: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for info in results:
        times = {
            who: row["median"]
            for who, row in info["rows"].items()
            if who in ("cpp", "triton", "cuda") and "median" in row
        }
        spent = best.setdefault((info["op"], f"{info['device']}/{info['dtype']}"), {}).setdefault(info["size"], {})
        for who, ms in times.items():
            spent[who] = spent.get(who, 0.0) + ms
    made: dict[str, dict[str, list]] = {}
    for (op, key), sizes in best.items():
        rows: list[dict[str, Any]] = [
            {"up_to": size, "backend": min(sums, key=sums.__getitem__)} for size, sums in sorted(sizes.items()) if sums
        ]
        if not rows:
            continue
        merged = [
            r
            for r, after in zip(rows, [*rows[1:], None], strict=True)
            if after is None or after["backend"] != r["backend"]
        ]
        merged[-1]["up_to"] = None
        made.setdefault(op, {})[key] = merged
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", help="name under benchmarks/results, default <machine>-<date>, a new one")
    parser.add_argument("--select", default="", help="pytest -k expression, such as 'realign' or '1024x1000'")
    parser.add_argument("--write-table", type=Path, help="merge the fastest backends into this table.json")
    chosen = parser.parse_args()
    code, results = suite.run("test_ops.py", chosen.select)
    if not results:
        return code or 1
    facts = suite.about(
        machine(),
        threads=torch.get_num_threads(),
        clock="processor time" if machine() == "cpu-1-threads" else "wall time",
    )
    print(suite.keep(suite.named(chosen.out, machine()), facts, results, COLUMNS, lines(results)))
    if chosen.write_table:
        old = json.loads(chosen.write_table.read_text()) if chosen.write_table.is_file() else {}
        for op, entries in choices(results).items():
            old.setdefault(op, {}).update(entries)
        chosen.write_table.write_text(json.dumps(old, indent=1) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

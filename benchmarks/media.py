"""Runs benchmarks/test_media.py, prints one table, keeps JSON and Markdown.

python -m benchmarks.media [--out NAME] [--modality NAMES] [--select EXPRESSION]

"ratio" is items a second over those of the first DataLoader in the same rows; "CPU share" is processor time, worker
processes included, over wall time and cores; "where the time goes" is of one item on one thread of the cpu backend.
"""

from __future__ import annotations

import argparse
import os
import sys

import torch

from benchmarks import suite

COLUMNS = [
    "case",
    "threads",
    "way",
    "items/s",
    "10-90 %",
    "ratio",
    "CPU ms an item",
    "CPU share",
    "where the time goes",
]


def machine(threads: int) -> str:
    device = torch.cuda.get_device_name().replace("NVIDIA ", "") if torch.cuda.is_available() else "cpu"
    return f"media-{device}-{threads}-threads"


def lines(results: list[dict]) -> list[list[str]]:
    table = []
    for info in results:
        for way, row in info["rows"].items():
            if "why" in row:
                continue
            head = [info["case"], str(info["threads"]), f"**{way}**" if way in ("cpu", "dali") else way]
            stages = [f"{stage} {share:.0%}" for stage, share in row.get("stages", {}).items() if share >= 0.03]
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            table.append(
                [
                    *head,
                    f"{row['rate']:.4g}",
                    f"{row['q10']:.4g}-{row['q90']:.4g}",
                    ratio,
                    f"{row['cpu_ms']:.3g}",
                    f"{row['cpu_share']:.0%}",
                    ", ".join(stages),
                ]
            )
    return table


def missing(results: list[dict]) -> list[str]:
    """The ways that could not run, each with its reason, once."""
    return sorted(
        {f"Not measured: {way}: {row['why']}" for info in results for way, row in info["rows"].items() if "why" in row}
    )


def show(table: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(*COLUMNS)
    for row in table:
        shown.add_row(*(escape(cell.strip("*")) for cell in row), style="bold" if row[2].startswith("**") else None)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media", description=__doc__)
    parser.add_argument("--out", help="name under benchmarks/results, default <machine>-<date>, a new one")
    parser.add_argument("--modality", default="", help="such as 'image' or 'image,audio'; default all")
    parser.add_argument("--select", default="", help="pytest -k expression, such as 'JPEG' or '1-threads'")
    chosen = parser.parse_args()
    names = " or ".join(chosen.modality.split(",")) if chosen.modality else ""
    select = " and ".join(f"({part})" for part in (names, chosen.select) if part)
    code, results = suite.run_cases("test_media.py", select)
    if not results:
        return code or 1
    facts = suite.run_facts(
        machine(max(info["threads"] for info in results)), media=os.environ.get("BENCH_DATA") or "written from a seed"
    )
    table = lines(results)
    absent = missing(results)
    suite.write_results(suite.result_name(chosen.out, facts["machine"]), facts, results, COLUMNS, table, absent)
    show(table)
    print(*absent, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

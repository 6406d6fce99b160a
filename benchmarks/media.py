"""Run benchmarks/test_media.py, print one table, and write it as JSON and Markdown.

python -m benchmarks.media [--out NAME] [--modality NAMES] [--select EXPRESSION]

Columns of the table:

- ratio: items a second, divided by the items a second of the case's first DataLoader.
- CPU share: processor time of all processes, divided by elapsed time and by the number of cores.
- where the time goes: the stages of decoding one item on one thread of the cpu backend.
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


def machine_name(threads: int) -> str:
    """Return the name of a measurement on this machine: "media-<GPU or cpu>-<threads>-threads"."""
    device = torch.cuda.get_device_name().replace("NVIDIA ", "") if torch.cuda.is_available() else "cpu"
    return f"media-{device}-{threads}-threads"


def table_rows(results: list[dict]) -> list[list[str]]:
    """Return a row of cells for each way that ran, columns as in ``COLUMNS``.

    Args:
        results: the ``extra_info`` of each case of benchmarks/test_media.py.
    """
    table = []
    for info in results:
        for way, row in info["rows"].items():
            if "why" in row:
                continue
            first = [info["case"], str(info["threads"]), f"**{way}**" if way in ("cpu", "dali") else way]
            stages = [f"{stage} {share:.0%}" for stage, share in row.get("stages", {}).items() if share >= 0.03]
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            table.append(
                [
                    *first,
                    f"{row['rate']:.4g}",
                    f"{row['q10']:.4g}-{row['q90']:.4g}",
                    ratio,
                    f"{row['cpu_ms']:.3g}",
                    f"{row['cpu_share']:.0%}",
                    ", ".join(stages),
                ]
            )
    return table


def ways_not_measured(results: list[dict]) -> list[str]:
    """Return one line for each way that could not run, with the reason."""
    return sorted(
        {f"Not measured: {way}: {row['why']}" for info in results for way, row in info["rows"].items() if "why" in row}
    )


def print_table(table: list[list[str]]) -> None:
    """Print rows of ``table_rows``; our own ways are bold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    printed = Table(*COLUMNS)
    for row in table:
        printed.add_row(*(escape(cell.strip("*")) for cell in row), style="bold" if row[2].startswith("**") else None)
    Console(width=None if sys.stdout.isatty() else 160).print(printed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media", description=__doc__)
    parser.add_argument(
        "--out", help="name of the files in benchmarks/results; default: <machine>-<date>, numbered if taken"
    )
    parser.add_argument("--modality", default="", help="such as 'image' or 'image,audio'; default: all")
    parser.add_argument("--select", default="", help="pytest -k expression, such as 'JPEG' or '1-threads'")
    chosen = parser.parse_args()
    names = " or ".join(chosen.modality.split(",")) if chosen.modality else ""
    select = " and ".join(f"({part})" for part in (names, chosen.select) if part)
    code, results = suite.run_cases("test_media.py", select)
    if not results:
        return code or 1
    facts = suite.run_facts(
        machine_name(max(info["threads"] for info in results)),
        media=os.environ.get("BENCH_DATA") or "written from a seed",
    )
    table = table_rows(results)
    notes = ways_not_measured(results)
    suite.write_results(suite.result_name(chosen.out, facts["machine"]), facts, results, COLUMNS, table, notes)
    print_table(table)
    print(*notes, sep="\n")
    return code


if __name__ == "__main__":
    sys.exit(main())

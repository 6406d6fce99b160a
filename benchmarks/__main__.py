"""The operations' benchmark. It prints each case when it is measured, writes JSON and Markdown, and fills table.json.

python -m benchmarks [--out NAME] [--folder FOLDER] [--select WORDS] [--limit SECONDS] [--write-table FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import cases, ops, suite

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
OURS = ("cpp", "triton", "cuda")
ENDED_PROCESS = "ended the process, or did not end in time"


def machine() -> str:
    """Return the GPU's name, or the number of CPU threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().replace("NVIDIA ", "")
    return f"cpu-{torch.get_num_threads()}-threads"


def table_lines(results: list[dict]) -> list[list[str]]:
    """Return a line of the Markdown table for each case and competitor."""

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


def summary_line(info: dict) -> str:
    """Return one line for a case: every competitor's ms, the fastest first, then the reasons of the others."""
    timed = sorted((row["median"], who) for who, row in info["rows"].items() if "median" in row)
    times = [f"{'*' if who == info['ours'] else ''}{who} {ms:.3f}" for ms, who in timed]
    missing = [f"{who}: {row['why'][:60]}" for who, row in info["rows"].items() if "why" in row]
    lacking = f" | {'; '.join(missing)}" if missing else ""
    return f"{info['label']}: floor {info['floor_ms']:.3f} ms; {', '.join(times)}{lacking}"


def backend_times(results: list[dict]) -> dict[str, list[dict]]:
    """Return the entries of mmcl_fast/ops/table.json: the keys of a case, and ms of each backend of ours."""
    made: dict[str, list[dict]] = {}
    for info in results:
        ms = {who: info["rows"][who]["median"] for who in OURS if "median" in info["rows"].get(who, {})}
        if not ms:
            continue
        device = info["device"]
        if device == "cuda":
            device = "sm_{}{}".format(*info["capability"])
        row = {"device": device, **{name: info[name] for name in ("dtype", "grads", "sizes")}, "ms": ms}
        made.setdefault(info["op"], []).append(row)
    return made


def merge_table(table: Path, made: dict[str, list[dict]]) -> None:
    """Put entries into the table; an entry of the same case is replaced."""
    old: dict[str, list[dict]] = json.loads(table.read_text()) if table.is_file() else {}

    def key(row: dict) -> tuple:
        return row["device"], row["dtype"], row["grads"], tuple(row["sizes"])

    for op, rows in made.items():
        new = {key(row) for row in rows}
        old[op] = [row for row in old.get(op, []) if key(row) not in new] + rows
    listed = [
        f' "{op}": [' + "".join(f"\n  {json.dumps(row)}," for row in rows).rstrip(",") + ("\n ]" if rows else "]")
        for op, rows in old.items()
    ]
    table.write_text("{\n" + ",\n".join(listed) + "\n}\n")


class Results:
    """The results in their folder, written after every case, so that a run that is cut off loses none.

    The file <name>.now names the competitor that runs. If its process ends, the next process does not try it again.
    """

    def __init__(self, folder: Path, name: str, again: bool):
        self.folder, self.name = folder, name
        self.running = folder / f"{name}.now"
        self.measured: list[dict] = []
        self.lost: dict[str, dict[str, str]] = {}  # for each case: competitor -> reason
        file = folder / f"{name}.json"
        if again and file.is_file():
            old = json.loads(file.read_text())
            self.measured, self.lost = old["results"], old["about"].get("lost", {})
        if again and self.running.is_file():
            label, who = json.loads(self.running.read_text())
            self.lost.setdefault(label, {}).setdefault(who, ENDED_PROCESS)

    def mark_running(self, label: str, who: str) -> None:
        """Note the case and the competitor that run now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.running.write_text(json.dumps([label, who]))

    def write(self, requested: list[str]) -> str:
        """Write the files and return the Markdown; requested: the labels of all cases that this run shall measure."""
        done = {info["label"] for info in self.measured}
        missing = [label for label in requested if label not in done]
        facts = suite.run_facts(
            machine(),
            threads=torch.get_num_threads(),
            clock="processor time" if machine() == "cpu-1-threads" else "wall time",
        )
        notes = [f"Not measured: {'; '.join(missing)}"] if missing else []
        notes.append(
            "floor: the longer of arithmetic at the measured product rate and least bytes at the measured copy rate"
        )
        if self.lost:
            facts["lost"] = self.lost
        return suite.write_results(
            self.name, facts, self.measured, COLUMNS, table_lines(self.measured), notes, self.folder
        )


def work(chosen: argparse.Namespace, folder: Path) -> int:
    """Measure the cases that are not measured yet.

    Returns:
        the exit code: 0, 3 if nothing was measured, 75 if a competitor left the GPU unusable for this process.
    """
    results, until = Results(folder, chosen.out, chosen.again), time.monotonic() + chosen.limit
    requested = cases.select_cases(cases.all_cases(), chosen.select)
    labels = [cases.label(case) for case in requested]
    done = {info["label"] for info in results.measured}
    start_timer = ops.end_after() if torch.cuda.is_available() else lambda who: None
    for case in requested:
        label = cases.label(case)
        if label in done or "all together" in results.lost.get(label, {}):
            continue
        if time.monotonic() > until:
            print(f"stopped after {chosen.limit:.0f} s; the rest was not measured", flush=True)
            break

        def watch(who: str, label: str = label) -> None:
            results.mark_running(label, who)
            start_timer(who)

        try:
            info = ops.measure_case(case, chosen.seconds, results.lost.get(label, {}), watch)
        except ops.DeviceLost as gone:
            who, why = gone.args
            results.lost.setdefault(label, {})[who] = f"{why} (the GPU was unusable afterwards)"
            results.write(labels)
            results.running.unlink(missing_ok=True)
            return 75
        except Exception as error:  # a case whose inputs cannot be made, perhaps for lack of memory
            print(f"{label}: {ops.describe_error(error)}", flush=True)
            results.lost.setdefault(label, {})["all together"] = ops.describe_error(error)
            continue
        if torch.cuda.is_available():
            info["capability"] = list(torch.cuda.get_device_capability())
        results.measured.append(info)
        results.write(labels)
        print(summary_line(info), flush=True)
        if chosen.write_table:
            merge_table(chosen.write_table, backend_times([info]))
    results.running.unlink(missing_ok=True)
    if not results.measured:
        print(f"error: no case was measured; --select {chosen.select!r} fits {len(requested)}", file=sys.stderr)
        return 3
    text = results.write(labels)
    if not chosen.quiet:
        print(text)
    return 0


def supervise(command: list[str], seconds: float, most: int = 20) -> int:
    """Run the worker, again if it ended early: a kernel that hangs or crashes ends one process only.

    Returns:
        the last exit code.
    """
    until, code = time.monotonic() + seconds, 1
    for attempt in range(most):
        left = max(1.0, until - time.monotonic())
        try:
            code = subprocess.run([*command, "--limit", f"{left:.0f}", *(["--again"] if attempt else [])]).returncode
        except KeyboardInterrupt:
            return 130
        if code in (0, 2, 3) or time.monotonic() > until:
            break
    return code


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--out", help="name of the results, default <machine>-<date>, a new one")
    parser.add_argument("--folder", type=Path, default=suite.HERE / "results", help="default benchmarks/results")
    parser.add_argument("--select", default="", help="words of a case: 'realign and not float32', '1024x1000'")
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("BENCH_SECONDS", "2")), help="per case")
    parser.add_argument("--limit", type=float, default=1e6, help="seconds after which no further case begins")
    parser.add_argument("--write-table", type=Path, help="merge the measured backends into this table.json")
    parser.add_argument("--quiet", action="store_true", help="a line for each case, and no table")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    chosen = parse()
    chosen.out = suite.result_name(chosen.out, machine()) if not chosen.worker else chosen.out
    if chosen.worker:
        return work(chosen, chosen.folder)
    given: dict[str, Any] = {
        "--select": chosen.select,
        "--seconds": chosen.seconds,
        "--write-table": chosen.write_table,
    }
    words = [str(word) for name, value in given.items() if value is not None for word in (name, value)]
    command = [sys.executable, "-m", "benchmarks", "--worker", "--out", chosen.out, "--folder", str(chosen.folder)]
    return supervise([*command, *words, *(["--quiet"] if chosen.quiet else [])], chosen.limit)


if __name__ == "__main__":
    sys.exit(main())

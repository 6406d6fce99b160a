"""The operations' benchmark: prints every case when it is measured, keeps JSON and Markdown, and can write the table
of measured backends.

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
FAILED_TO_END = "ended the process, or did not end in time"


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


def brief(info: dict) -> str:
    """One line of a case: every competitor's ms, the fastest first, then why the others have none."""
    timed = sorted((row["median"], who) for who, row in info["rows"].items() if "median" in row)
    said = [f"{'*' if who == info['ours'] else ''}{who} {ms:.3f}" for ms, who in timed]
    missing = [f"{who}: {row['why'][:60]}" for who, row in info["rows"].items() if "why" in row]
    lacking = f" | {'; '.join(missing)}" if missing else ""
    return f"{info['label']}: floor {info['floor_ms']:.3f} ms; {', '.join(said)}{lacking}"


def choices(results: list[dict]) -> dict[str, list[dict]]:
    """Rows of mmcl_fast/ops/table.json: what a case is found by, and ms of each backend of ours."""
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


def merge(table: Path, made: dict[str, list[dict]]) -> None:
    """Put rows into the table; a row of the same case is replaced."""
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


class Kept:
    """The results in their folder: written after every case, so that a run that is cut off loses none."""

    def __init__(self, folder: Path, name: str, again: bool):
        self.folder, self.name = folder, name
        self.now = folder / f"{name}.now"
        self.results: list[dict] = []
        self.lost: dict[str, dict[str, str]] = {}
        file = folder / f"{name}.json"
        if again and file.is_file():
            old = json.loads(file.read_text())
            self.results, self.lost = old["results"], old["about"].get("lost", {})
        if again and self.now.is_file():
            label, who = json.loads(self.now.read_text())
            self.lost.setdefault(label, {}).setdefault(who, FAILED_TO_END)

    def trying(self, label: str, who: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.now.write_text(json.dumps([label, who]))

    def write(self, asked: list[str]) -> str:
        """The files anew; returns the Markdown."""
        done = {info["label"] for info in self.results}
        missing = [label for label in asked if label not in done]
        facts = suite.about(
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
        return suite.keep(self.name, facts, self.results, COLUMNS, lines(self.results), notes, self.folder)


def work(chosen: argparse.Namespace, folder: Path) -> int:
    """Measure what is not measured yet; 3: nothing was, 75: a competitor made the GPU unusable for this process."""
    kept, until = Kept(folder, chosen.out, chosen.again), time.monotonic() + chosen.limit
    asked = cases.chosen(cases.all_cases(), chosen.select)
    labels = [cases.label(case) for case in asked]
    done = {info["label"] for info in kept.results}
    patience = ops.patience() if torch.cuda.is_available() else lambda who: None
    for case in asked:
        label = cases.label(case)
        if label in done or "all together" in kept.lost.get(label, {}):
            continue
        if time.monotonic() > until:
            print(f"stopped after {chosen.limit:.0f} s; the rest was not measured", flush=True)
            break

        def watch(who: str, label: str = label) -> None:
            kept.trying(label, who)
            patience(who)

        try:
            info = ops.run(case, chosen.seconds, kept.lost.get(label, {}), watch)
        except ops.DeviceLost as gone:
            who, why = gone.args
            kept.lost.setdefault(label, {})[who] = f"{why} (the GPU was unusable afterwards)"
            kept.write(labels)
            kept.now.unlink(missing_ok=True)
            return 75
        except Exception as error:  # a case that cannot be made at all, for want of memory perhaps
            print(f"{label}: {ops.reason(error)}", flush=True)
            kept.lost.setdefault(label, {})["all together"] = ops.reason(error)
            continue
        if torch.cuda.is_available():
            info["capability"] = list(torch.cuda.get_device_capability())
        kept.results.append(info)
        kept.write(labels)
        print(brief(info), flush=True)
        if chosen.write_table:
            merge(chosen.write_table, choices([info]))
    kept.now.unlink(missing_ok=True)
    if not kept.results:
        print(f"error: no case was measured; --select {chosen.select!r} fits {len(asked)}", file=sys.stderr)
        return 3
    text = kept.write(labels)
    if not chosen.quiet:
        print(text)
    return 0


def supervise(command: list[str], seconds: float, most: int = 20) -> int:
    """Run the worker again where it was ended before its time: a kernel that hangs or crashes ends one process only."""
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
    chosen.out = suite.named(chosen.out, machine()) if not chosen.worker else chosen.out
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

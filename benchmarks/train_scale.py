"""Scaling of training over the processes of ``train --devices``: the same stream, learned by 1, 2, 4, ... processes.

Each run starts with an empty feature cache. With N as the largest number of processes, every process has cores // N
threads, also in the run with one process. Efficiency is t(1) / (n t(n)) for each phase. The times are rank 0's, with
its waiting for the others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PHASES = {  # a phase's name in the run's summary, and in the table
    "decode and trunk": "first pass",
    "prompts": "prompts",
    "re-alignment": "re-alignment",
    "evaluation": "evaluation",
}
COLUMNS = [
    "processes",
    "threads each",
    *(f"{name}, {what}" for name in PHASES.values() for what in ("s", "efficiency")),
    "last, %",
]


def process_counts(largest: int) -> list[int]:
    """Return 1, 2, 4, ... and ``largest``."""
    return sorted({*(1 << k for k in range(largest.bit_length())), largest})


def measure(
    encoder: str, settings: dict, largest: int, command: tuple[str, ...] = (sys.executable, "-m", "mmcl_fast")
) -> list[dict]:
    """Return one result for each number of processes: seconds by phase, samples and accuracy; or "why" it failed.

    Args:
        encoder: name or folder of the encoder.
        settings: data, classes_per_task, options and device, as for ``benchmarks.train_rows``.
        largest: the largest number of processes.
        command: starts the command line.
    """
    threads = max(1, (os.cpu_count() or 1) // largest)
    results = []
    for count in process_counts(largest):
        result = {"encoder": encoder, "processes": count, "threads": threads}
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            overrides = [
                f"encoder.name={encoder}",
                f"train.device={settings['device']}",
                f"train.cache={folder}/cache",
                "train.evaluate_unseen=false",
                *(f"method.options.{key}={value}" for key, value in settings["options"].items()),
                "train.seed=0",
                f"stream.classes_per_task={settings['classes_per_task']}",
                'stream.order="random"',
            ]
            if settings["data"] != "demo":
                overrides += ["stream.source=folder", f"stream.path={settings['data']}"]
            ended = subprocess.run(
                [
                    *command,
                    "train",
                    "demo",
                    "--out",
                    str(out),
                    "--devices",
                    str(count),
                    "--quiet",
                    "--json",
                    *(word for text in overrides for word in ("--set", text)),
                ],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )
            if ended.returncode:
                lines = ended.stderr.splitlines()
                result["why"] = f"exit code {ended.returncode}: {lines[-1] if lines else 'no message'}"
            else:
                summary = json.loads(ended.stdout)
                result |= {
                    "seconds": {PHASES[k]: v for k, v in summary["seconds"].items() if k in PHASES},
                    "trained": sum(task["train"] for task in summary["tasks"]),
                    "last": summary["settings"]["agnostic"]["metrics"]["last"],
                }
        results.append(result)
        print(f"{count} processes: {result.get('why') or result['seconds']}", flush=True)
    return results


def table(results: list[dict]) -> list[list[str]]:
    """Return a row of cells for each result, columns as in ``COLUMNS``."""
    rows, one_process = [], results[0].get("seconds")
    for result in results:
        row = [str(result["processes"]), str(result["threads"])]
        for name in PHASES.values():
            seconds = result.get("seconds", {}).get(name)
            row.append("" if seconds is None else f"{seconds:.2f}")
            row.append(
                "" if seconds is None or not one_process else f"{one_process[name] / seconds / result['processes']:.2f}"
            )
        rows.append([*row, f"{result['last']:.1f}" if "last" in result else f"({result['why']})"])
    return rows

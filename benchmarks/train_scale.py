"""How training scales over the processes of ``train --devices``: the same stream, learned by 1, 2, 4, ... processes.

Each has an empty trunk cache and every process, also the one alone, as many threads: cores // N. Efficiency is
t(1) / (n t(n)), phase by phase, times as the first process takes them, waiting for the others included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PHASES = {
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


def counts(most: int) -> list[int]:
    """1, 2, 4, ... and ``most``."""
    return sorted({*(1 << k for k in range(most.bit_length())), most})


def measure(
    encoder: str, asked: dict, most: int, command: tuple[str, ...] = (sys.executable, "-m", "mmcl_fast")
) -> list[dict]:
    """One result for each number of processes: seconds by phase, samples and accuracy, or why there are none.

    Args:
        asked: data, classes_per_task, options and device, as for the rows of the table.
    """
    threads = max(1, (os.cpu_count() or 1) // most)
    results = []
    for count in counts(most):
        result = {"encoder": encoder, "processes": count, "threads": threads}
        with tempfile.TemporaryDirectory() as folder:
            out, settings = (
                Path(folder) / "run",
                [
                    f"encoder.name={encoder}",
                    f"train.device={asked['device']}",
                    f"train.cache={folder}/cache",
                    "train.evaluate_unseen=false",
                ],
            )
            settings += [f"method.options.{key}={value}" for key, value in asked["options"].items()]
            settings += [
                "train.seed=0",
                f"stream.classes_per_task={asked['classes_per_task']}",
                'stream.order="random"',
            ]
            settings += ["stream.source=folder", f"stream.path={asked['data']}"] if asked["data"] != "demo" else []
            done = subprocess.run(
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
                    *(word for text in settings for word in ("--set", text)),
                ],
                capture_output=True,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )
            if done.returncode:
                lines = done.stderr.splitlines()
                result["why"] = f"exit code {done.returncode}: {lines[-1] if lines else 'no message'}"
            else:
                summary = json.loads(done.stdout)
                result |= {
                    "seconds": {PHASES[k]: v for k, v in summary["seconds"].items() if k in PHASES},
                    "trained": sum(task["train"] for task in summary["tasks"]),
                    "last": summary["settings"]["agnostic"]["metrics"]["last"],
                }
        results.append(result)
        print(f"{count} processes: {result.get('why') or result['seconds']}", flush=True)
    return results


def lines(results: list[dict]) -> list[list[str]]:
    table, alone = [], results[0].get("seconds")
    for result in results:
        row = [str(result["processes"]), str(result["threads"])]
        for name in PHASES.values():
            seconds = result.get("seconds", {}).get(name)
            row.append("" if seconds is None else f"{seconds:.2f}")
            row.append("" if seconds is None or not alone else f"{alone[name] / seconds / result['processes']:.2f}")
        table.append([*row, f"{result['last']:.1f}" if "last" in result else f"({result['why']})"])
    return table

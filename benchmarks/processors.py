"""Differences of the demo's results between processors: `make demo`'s run with other kernels forced.

    python benchmarks/processors.py benchmarks/results/processors

writes ``processors.md``. Every setting decodes and computes everything again, as it has a feature cache of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
METRICS = ("last", "avg", "pooled", "forgetting", "bwt", "fwt")
SETTINGS = ("", "MMCL_FAST_ISA=generic", "ATEN_CPU_CAPABILITY=default", "MKL_CBWR=COMPATIBLE")


def processor_name() -> str:
    """Return the processor's name and family; the family is known on Linux only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    pairs = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in pairs.items()}
    return f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family', '?')})"


def learn(setting: str, config: str, folder: Path) -> tuple[dict[str, float], dict]:
    """Learn a config with environment variables ``setting``, such as "NAME=VALUE".

    Returns:
        The metrics of the agnostic setting in %, and the run's environment.json.
    """
    env = os.environ | ONE_THREAD | dict(pair.split("=", 1) for pair in setting.split())
    env["XDG_CACHE_HOME"] = str(folder / "cache")
    command = [sys.executable, "-m", "mmcl_fast", "train", config, "--out", str(folder / "run"), "--quiet"]
    subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    metrics = summary["settings"]["agnostic"]["metrics"]
    return {name: metrics[name] for name in METRICS}, json.loads((folder / "run" / "environment.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the file to write, without its ending")
    parser.add_argument("--config", default="demo", help="what to learn, as mmcl-fast train takes it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs at once, of one thread each")
    args = parser.parse_args()

    def run(setting: str) -> tuple[str, dict[str, float], dict]:
        with tempfile.TemporaryDirectory() as folder:
            metrics, environment = learn(setting, args.config, Path(folder))
        print(setting or "as it is", {name: round(value, 1) for name, value in metrics.items()}, flush=True)
        return f"`{setting}`" if setting else "as it is", metrics, environment

    with ThreadPoolExecutor(args.jobs) as pool:
        done = list(pool.map(run, SETTINGS))
    rows = [(name, metrics) for name, metrics, _ in done]
    machine = f"{processor_name()}, {done[0][2]['cpu']}, {done[0][2]['threads']} thread a run"
    spread = {name: max(row[name] for _, row in rows) - min(row[name] for _, row in rows) for name in METRICS}
    rows.append(("largest difference", spread))
    lines = [f"| {' | '.join(('kernels', *METRICS))} |", "|---" * (len(METRICS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(f'{row[metric]:.1f}' for metric in METRICS)} |" for name, row in rows]
    head = f"# {args.out.name}\n\n`mmcl-fast train {args.config}`, seed 0, agnostic, in %, on {machine}.\n\n"
    args.out.with_suffix(".md").write_text(head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

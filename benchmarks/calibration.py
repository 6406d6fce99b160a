"""Print the calibration error of every row of a sweep, over all test samples and by modality.

    mmcl-fast compare demo --methods ncm,slda,ridge --seeds 0..4 --out runs/calibration
    python benchmarks/calibration.py runs/calibration > benchmarks/results/calibration-demo.md

An error is the mean over seeds, with the smallest and the largest one. Few samples make it too large. So the table also
has the mean error that exact probabilities would show: answers are drawn that are right with the stated probability.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmcl_fast.learning.reliability import calibration_error
from mmcl_fast.runs.prediction_file import read_predictions

DRAWS = 200  # of right and wrong answers, for the error of exact probabilities


@dataclass(frozen=True)
class CalibrationError:
    """A calibration error of a run in %, and the mean error that exact probabilities would show."""

    measured: float
    exact: float


def error_and_floor(confidence: np.ndarray, correct: np.ndarray) -> CalibrationError:
    """Return the calibration error of probabilities ``[n]`` and right answers ``[n]`` bool."""
    rng = np.random.default_rng(0)
    exact = [calibration_error(confidence, rng.random(len(confidence)) < confidence) for _ in range(DRAWS)]
    return CalibrationError(calibration_error(confidence, correct), statistics.mean(exact))


def errors_of_run(run: Path, setting: str) -> dict[str, CalibrationError]:
    """Return the calibration errors of a run: "all", then each modality."""
    found = read_predictions(run)
    if found is None or setting not in found.confidence:
        raise SystemExit(f"{run}: no probabilities of setting {setting}; learn it with this version")
    tasks = json.loads((run / "summary.json").read_text())["tasks"]
    modalities = np.array([tasks[number - 1]["modality"] for number in found.tasks])
    confidence, correct = found.confidence[setting], found.correct(setting)
    out = {"all": error_and_floor(confidence, correct)}
    for modality in sorted(set(modalities.tolist())):
        chosen = modalities == modality
        out[modality] = error_and_floor(confidence[chosen], correct[chosen])
    return out


def table(sweep: Path, setting: str) -> str:
    """Return the table of a sweep's folder in Markdown."""
    rows: dict[str, list[dict[str, CalibrationError]]] = {}
    for run in sorted(sweep.glob("*/seed-*")):
        if (run / "summary.json").is_file():
            rows.setdefault(run.parent.name, []).append(errors_of_run(run, setting))
    if not rows:
        raise SystemExit(f"{sweep}: no finished run; give the --out folder of mmcl-fast compare")
    names = list(next(iter(rows.values()))[0])
    lines = [
        f"Expected calibration error in %, 15 bins, {setting}: mean over seeds (smallest to largest); and what exact",
        "probabilities would show with as many samples",
        "",
    ]
    lines += [f"| method | seeds | {' | '.join(names)} |", f"|---|---:|{'---:|' * len(names)}"]
    for method, errors in rows.items():
        cells = []
        for name in names:
            values, exact = zip(*((error[name].measured, error[name].exact) for error in errors))
            measured = f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            cells.append(f"{measured}; {statistics.mean(exact):.1f}")
        lines.append(f"| `{method}` | {len(errors)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the --out folder of mmcl-fast compare")
    parser.add_argument("--setting", default="agnostic", help="agnostic, given or given_masked")
    options = parser.parse_args()
    print(table(options.sweep, options.setting))

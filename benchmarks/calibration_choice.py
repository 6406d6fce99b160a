"""Choose for how many samples the other modalities count in a temperature, on validation samples alone.

    mmcl-fast compare demo --methods ncm,slda,ridge,comm --seeds 0..2 --out runs/calibration-choice
    python -m benchmarks.calibration_choice runs/calibration-choice > benchmarks/results/calibration-choice.md

Each run's validation samples are divided into two halves, class by class. Temperatures are fitted on one half and
judged on the other, and then the other way round. Answers on test samples are not looked at.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.config import read_run_config
from mmcl_fast.learning import Learner
from mmcl_fast.learning.calibration import POOLED_SAMPLES, fit_temperatures
from mmcl_fast.learning.evaluation import scores_of_split
from mmcl_fast.learning.reliability import calibration_error
from mmcl_fast.runs.make_stream import make_stream

COUNTS = (0.0, 1.0, 3.0, 10.0, 30.0, 100.0, math.inf)  # inf: one temperature for all modalities
MANY = 1e9  # for inf: the modality's own samples count for nothing beside so many

Scored = dict[str, tuple[Tensor, Tensor]]


def halves(labels: Tensor) -> Tensor:
    """Return for each sample whether it is in the first half, ``[n]`` bool: every second sample of each class."""
    first = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        first[(labels == label).nonzero().squeeze(1)[::2]] = True
    return first


def judge(scored: Scored, pooled_samples: float) -> dict[str, float]:
    """Return the mean negative log-likelihood (nats) and the calibration errors (%), over all samples and by modality.

    Args:
        scored: modality -> scores ``[n, C]`` and true classes ``[n]``.
        pooled_samples: as in ``fit_temperatures``.
    """
    first = {m: halves(labels) for m, (_, labels) in scored.items()}
    confidence: dict[str, list[np.ndarray]] = {m: [] for m in scored}
    correct: dict[str, list[np.ndarray]] = {m: [] for m in scored}
    loss, count = 0.0, 0
    for fitted in (True, False):
        calibration = fit_temperatures(
            {m: (s[first[m] == fitted], y[first[m] == fitted]) for m, (s, y) in scored.items()},
            MANY if math.isinf(pooled_samples) else pooled_samples,
        )
        for m, (scores, labels) in scored.items():
            scores, labels = scores[first[m] != fitted], labels[first[m] != fitted]
            loss += float(F.cross_entropy(scores / calibration.temperature(m), labels, reduction="sum"))
            count += len(labels)
            best = calibration.probabilities(scores, m).max(1)
            confidence[m].append(best.values.numpy())
            correct[m].append((best.indices == labels).numpy())
    sure = {m: np.concatenate(parts) for m, parts in confidence.items()}
    right = {m: np.concatenate(parts) for m, parts in correct.items()}
    errors = [calibration_error(sure[m], right[m]) for m in scored]
    return {
        "loss": loss / count,
        "error": calibration_error(np.concatenate([*sure.values()]), np.concatenate([*right.values()])),
        "modality error": statistics.mean(errors),
    }


def scores_of_run(run: Path) -> Scored:
    """Return the scores of a run's validation samples by its newest checkpoint."""
    config = read_run_config(run)
    learner = Learner.load(run, cache_dir=config.train.cache, cache_gb=config.train.cache_gb)
    return scores_of_split(learner, make_stream(config, run).tasks, "val")


def table(sweep: Path) -> str:
    """Return the table of a sweep's folder in Markdown."""
    found: dict[str, list[Scored]] = {}
    for run in sorted(sweep.glob("*/seed-*")):
        if (run / "summary.json").is_file():
            found.setdefault(run.parent.name, []).append(scores_of_run(run))
    if not found:
        raise SystemExit(f"{sweep}: no finished run; give the --out folder of mmcl-fast compare")
    lines = [
        "Validation samples, fitted on one half and judged on the other, mean over seeds. Loss in nats a sample;",
        "calibration error in %, 15 bins, over all samples, and mean over the modalities.",
        f"The package uses {POOLED_SAMPLES:g}. With inf all modalities have one temperature.",
        "",
        "| method | seeds | pooled samples | loss | error | error within a modality |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for method, runs in found.items():
        for count in COUNTS:
            judged = [judge(scored, count) for scored in runs]
            means = [statistics.mean(each[name] for each in judged) for name in judged[0]]
            lines.append(f"| `{method}` | {len(runs)} | {count:g} | {means[0]:.4f} | {means[1]:.2f} | {means[2]:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="the --out folder of mmcl-fast compare")
    print(table(parser.parse_args().sweep))

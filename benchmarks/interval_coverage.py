"""Measure how often intervals hold the truth, on simulated answers of two equal methods. Asked for are 95 %.

python -m benchmarks.interval_coverage [--repeats N] [--out FILE.md]

An answer is right where a sum of normal effects is positive: of the seed, the sample, its group, and of the answer
itself. Each seed shuffles the groups into tasks.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from mmcl_fast.learning.sample_bootstrap import SeedSamples, sample_intervals
from mmcl_fast.learning.statistics import interval

EASE = 0.8  # the constant of the sum: about 75 % of the answers are right
PER_METHOD = 0.5  # size of a method's own effects, relative to the effects that both methods share


@dataclass(frozen=True)
class Design:
    """A simulated comparison.

    Attributes:
        seeds, samples, tasks: their numbers.
        group: number of samples of a group.
        seed_effect, sample_effect, group_effect, noise: standard deviations of the effects.
    """

    seeds: int
    samples: int
    tasks: int
    group: int = 1
    seed_effect: float = 0.0
    sample_effect: float = 0.0
    group_effect: float = 0.0
    noise: float = 0.0


DESIGNS = [
    Design(5, 200, 10, seed_effect=0.3, sample_effect=0.2, noise=1.0),
    Design(5, 200, 10, seed_effect=0.3, sample_effect=1.0, noise=0.5),
    Design(5, 200, 10, seed_effect=0.05, sample_effect=1.0, noise=0.3),
    Design(5, 800, 10, seed_effect=0.1, sample_effect=1.0, noise=0.5),
    Design(5, 200, 5, group=5, seed_effect=0.1, sample_effect=0.5, group_effect=1.0, noise=0.5),
    Design(5, 40, 5, group=4, seed_effect=0.05, sample_effect=0.5, group_effect=1.0, noise=0.3),
    Design(3, 200, 10, seed_effect=0.3, sample_effect=1.0, noise=0.5),
    Design(10, 400, 20, seed_effect=0.2, sample_effect=1.0, noise=0.5),
    Design(1, 200, 10, sample_effect=1.0, noise=0.3),
]


def simulate(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, list[SeedSamples], float]:
    """Return the answers of two methods ``[seeds, 2, samples]``, 100 or 0, their samples, and the true accuracy."""
    d, groups = design, design.samples // design.group

    def shared_and_own(size: float, count: int) -> np.ndarray:
        return size * (rng.normal(size=(1, 1, count)) + PER_METHOD * rng.normal(size=(1, 2, count)))

    value = EASE + d.seed_effect * rng.normal(size=(d.seeds, 2, 1)) + shared_and_own(d.sample_effect, d.samples)
    value = value + np.repeat(shared_and_own(d.group_effect, groups), d.group, 2)
    value = value + d.noise * rng.normal(size=(d.seeds, 2, d.samples))
    names = [str(k) for k in np.repeat(np.arange(groups), d.group)]
    samples = [
        SeedSamples(names, np.repeat(rng.permutation(groups) * d.tasks // groups, d.group)) for _ in range(d.seeds)
    ]
    variance = d.seed_effect**2 + (1 + PER_METHOD**2) * (d.sample_effect**2 + d.group_effect**2) + d.noise**2
    return 100.0 * (value > 0), samples, 100.0 * float(stats.norm.cdf(EASE / variance**0.5))


def percentile(
    values: np.ndarray, samples: list[SeedSamples], draws: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap over seeds and groups; ``values``: ``[seeds, samples]``."""
    ids = np.unique(samples[0].groups, return_inverse=True)[1]
    weights = rng.multinomial(ids.max() + 1, np.full(ids.max() + 1, 1 / (ids.max() + 1)), draws).astype(float)
    means = np.zeros((len(values), draws))
    for s, found in enumerate(samples):
        numbers = np.unique(found.tasks)
        for task in numbers:
            chosen = found.tasks == task
            w = weights[:, ids[chosen]]
            means[s] += w @ values[s, chosen] / np.maximum(w.sum(1), 1e-9) / len(numbers)
    seeds = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), draws) / len(values)
    low, high = np.quantile((seeds.T * means).sum(0), [0.025, 0.975])
    return float(low), float(high)


def measure(design: Design, repeats: int, draws: int, seed: int) -> dict[str, float]:
    """Return how often each interval holds the truth, for an accuracy ("level") and for a difference that is 0."""
    rng, hits = np.random.default_rng(seed), Counter[str]()
    for _ in range(repeats):
        right, samples, truth = simulate(design, rng)
        rows = np.stack([right[:, 0], right[:, 0] - right[:, 1]], 1)  # [seeds, 2, samples]
        level, difference = sample_intervals(samples, list(rows), draws=draws, seed=seed)
        low, high = percentile(right[:, 0], samples, draws, rng)
        low_of_zero, high_of_zero = percentile(rows[:, 1], samples, draws, rng)
        means = [
            float(np.mean([right[s, 0, found.tasks == t].mean() for t in np.unique(found.tasks)]))
            for s, found in enumerate(samples)
        ]
        alone = interval(means)
        hits["level"] += level.low <= truth <= level.high
        hits["difference"] += difference.low <= 0 <= difference.high
        hits["p below 0.05"] += difference.p < 0.05
        hits["level, percentile"] += low <= truth <= high
        hits["difference, percentile"] += low_of_zero <= 0 <= high_of_zero
        hits["level, seeds alone"] += alone.low is not None and alone.low <= truth <= (alone.high or 0)
    return {name: count / repeats for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="simulated comparisons of each design")
    parser.add_argument("--draws", type=int, default=500, help="draws of each bootstrap")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    lines: list[str] = []
    for design in DESIGNS:
        found = measure(design, args.repeats, args.draws, seed=0)
        if not lines:
            lines += ["| " + " | ".join(["design", *found]) + " |", "|---" + "|---:" * len(found) + "|"]
        about = (
            f"{design.seeds} seeds, {design.samples} samples in groups of {design.group}, {design.tasks} tasks; "
            f"effects {design.seed_effect:g}, {design.sample_effect:g}, {design.group_effect:g}, {design.noise:g}"
        )
        cells = [
            f"{100 * share:.1f}" if design.seeds > 1 or "alone" not in name else "–" for name, share in found.items()
        ]
        lines.append("| " + " | ".join([about, *cells]) + " |")
        print(lines[-1], flush=True)
    if args.out:
        head = (
            f"How often intervals hold the truth, in %, of {args.repeats} simulations; 95 % are asked for. Effects: of "
            "seed, sample, group, noise. Written by `python -m benchmarks.interval_coverage`."
        )
        args.out.write_text("\n".join([head, "", *lines]) + "\n")


if __name__ == "__main__":
    main()

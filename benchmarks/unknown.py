"""Which score tells samples of no class? The demo with two classes of each modality left out.

    python -m benchmarks.unknown features /tmp/unknown.pt
    python -m benchmarks.unknown table /tmp/unknown.pt --split val --seeds 0 1 2
    python -m benchmarks.unknown table /tmp/unknown.pt --split test --seeds 3 4 5 6 7 --out unknown-test

The first command embeds the demo and the files of ``unknown_files`` by the bare head. The second one is for choices:
its unknowns are training samples of the classes left out. The third one confirms. A table gives the AUROC of known
against unknown samples. Then come false alarms at a threshold from held-out training samples, and an upper bound.

All scores read a COMM feature memory alone, but for those marked as references. A higher score means less known.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.unknown_files import KINDS, Rows, embed
from mmcl_fast import Learner
from mmcl_fast.methods.comm.memory import FeatureMemory, Gaussian
from mmcl_fast.methods.comm.moments import Inverse
from mmcl_fast.streams.sources.demo import find_demo
from mmcl_fast.streams.sources.manifest import read_manifest
from mmcl_fast.streams.stream import Stream

LEFT_OUT = 2  # classes of each modality
FOLDS = 5  # of a task's training samples, for held-out scores
NOUNS = (
    "dog cat horse bird insect tree flower mountain river ocean sky road bridge house castle church car truck train "
    "ship airplane bicycle computer telephone camera television clock lamp door window knife bottle cup bread "
    "cheese soup carrot tomato shirt shoe hat coat ring book letter pencil statue drum flute trumpet singer doctor "
    "teacher soldier king baby hand eye brain blood war love anger money gold iron stone water fire snow storm "
    "football chess robot planet moon atom number city village desert forest farm market factory school hospital "
    "prison theatre museum "
)


class Known:
    """The statistics that a feature memory keeps of one modality, in the form that scores need.

    W is the covariance within the classes and T the one of all samples; T = share W + between. With p coordinates

        W_a = (1 - a) W + a tr(W) / p I,    and T_a alike.
    """

    def __init__(self, memory: FeatureMemory, modality: str):
        pooled, self.mean = memory.pooled[modality], memory.means(modality).double()
        diagonal, factor = pooled.diagonal.double(), pooled.factor.double()
        self.count = torch.tensor(list(memory.counts[modality].values())).double()
        total, classes = float(self.count.sum()), len(self.count)
        self.centre = self.count @ self.mean / total
        self.deviation = self.mean - self.centre
        wide = max(total - 1, 1) / max(total - classes, 1)  # a pooled Gaussian divides by n - 1
        self.within = (wide * diagonal, wide**0.5 * factor)
        between = (self.count / max(total - 1, 1)).sqrt().unsqueeze(1) * self.deviation
        self.total = (diagonal, torch.cat([factor, between]))
        self.gaussians: list[Gaussian] = [memory.gaussian(modality, c) for c in memory.labels(modality)]

    @staticmethod
    def inverse(parts: tuple[Tensor, Tensor], a: float) -> Inverse:
        """Return the inverse of a covariance, shrunk by ``a``."""
        diagonal, rows = parts
        variance = (diagonal.sum() + rows.square().sum()) / len(diagonal)
        return Inverse((1 - a) * diagonal + a * variance, (1 - a) ** 0.5 * rows)

    @cached_property
    def variance(self) -> float:
        """The mean variance within a class."""
        diagonal, rows = self.within
        return float((diagonal.sum() + rows.square().sum()) / len(diagonal))

    def distances(self, x: Tensor, a: float) -> Tensor:
        """Return the squared Mahalanobis distances to the class means, ``[n, K]``."""
        inverse = self.inverse(self.within, a)
        return torch.stack([((x - m) * inverse(x - m)).sum(1) for m in self.mean], 1)

    def background(self, x: Tensor, a: float) -> Tensor:
        """Return the squared Mahalanobis distance to the modality's centre under T, ``[n]``."""
        return ((x - self.centre) * self.inverse(self.total, a)(x - self.centre)).sum(1)


Score = Callable[[Known, Tensor], Tensor]
Scores = dict[str, dict[str, Tensor]]  # modality -> set -> scores of its samples


def mahalanobis(a: float) -> Score:
    """min_c |x - mu_c|^2 in W_a^-1."""
    return lambda k, x: k.distances(x, a).min(1).values


def relative(a: float) -> Score:
    """min_c |x - mu_c|^2 in W_a^-1, minus |x - m|^2 in T_a^-1 (Ren et al. 2021, arXiv 2106.09022)."""
    return lambda k, x: k.distances(x, a).min(1).values - k.background(x, a)


def relative_of_classes(a: float, share: float) -> Score:
    """Relative Mahalanobis distance where a class has the share 1 - ``share`` of its own covariance."""

    def score(k: Known, x: Tensor) -> Tensor:
        d, rows = k.within
        found = []
        for g in k.gaussians:
            own = (1 - share) * g.diagonal + share * d
            both = torch.cat([(1 - share) ** 0.5 * g.factor, share**0.5 * rows])
            inverse = Inverse((1 - a) * own + a * k.variance, (1 - a) ** 0.5 * both)
            found.append(((x - g.mean) * inverse(x - g.mean)).sum(1))
        return torch.stack(found, 1).min(1).values - k.background(x, a)

    return score


def between_classes(a: float) -> Score:
    """The Mahalanobis distance to the nearest class in the span of the class means alone."""

    def score(k: Known, x: Tensor) -> Tensor:
        solved = k.inverse(k.within, a)(k.deviation)
        gram = solved @ k.deviation.T
        back = torch.linalg.pinv(gram, hermitian=True, rtol=1e-9)
        at = (x - k.centre) @ solved.T
        return torch.stack([((at - g) @ back * (at - g)).sum(1) for g in gram], 1).min(1).values

    return score


def linear(kind: str, a: float) -> Score:
    """Minus the largest linear discriminant, minus their energy, or the entropy of their posterior."""

    def score(k: Known, x: Tensor) -> Tensor:
        inverse = k.inverse(k.within, a)
        solved = inverse(k.deviation)
        logits = (x - k.centre) @ solved.T - 0.5 * (solved * k.deviation).sum(1)
        if kind == "logit":
            return -logits.max(1).values
        if kind == "energy":
            return -logits.logsumexp(1)
        return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)

    return score


def cosine(centred: bool) -> Score:
    """Minus the largest cosine with a class mean; ``centred``: around the modality's centre."""

    def score(k: Known, x: Tensor) -> Tensor:
        start = k.centre if centred else torch.zeros_like(k.centre)
        return -(F.normalize(x - start, dim=1) @ F.normalize(k.mean - start, dim=1).T).max(1).values

    return score


def residual(rank: int) -> Score:
    """The norm outside the span of the class means and of W's first ``rank`` directions (as in ViM)."""

    def score(k: Known, x: Tensor) -> Tensor:
        rows = k.within[1]
        first = rows[rows.square().sum(1).argsort(descending=True)[:rank]]
        basis = torch.linalg.qr(torch.cat([first, k.deviation]).T)[0]
        centred = x - k.centre
        return centred.square().sum(1) - (centred @ basis).square().sum(1)

    return score


SCORES: dict[str, Score] = {
    **{f"Mahalanobis a={a}": mahalanobis(a) for a in (0.1, 0.6, 0.8)},
    **{f"relative a={a}": relative(a) for a in (0.1, 0.3, 0.6, 0.8, 0.9)},
    **{f"relative, own covariances a={a}": relative_of_classes(a, 0.6) for a in (0.3, 0.6)},
    **{f"between classes a={a}": between_classes(a) for a in (0.1, 0.6)},
    **{f"discriminants, {kind} a=0.3": linear(kind, 0.3) for kind in ("logit", "energy", "entropy")},
    "cosine with means": cosine(False),
    "centred cosine with means": cosine(True),
    "residual, rank 64": residual(64),
}
SUMS: dict[str, dict[str, float]] = {  # of standardised scores, with weights
    "relative + between": {"relative a=0.6": 1, "between classes a=0.1": 1},
    "relative, own covariances + between": {"relative, own covariances a=0.6": 1, "between classes a=0.1": 1},
    "relative + centred cosine / 4": {"relative a=0.6": 1, "centred cosine with means": 0.25},
}
PARTS = ("relative a=0.6", "between classes a=0.1", "centred cosine with means")  # of the fitted sums


def demo_without(seed: int) -> tuple[Stream, set[tuple[str, str]]]:
    """Return the demo's stream without ``LEFT_OUT`` classes of each modality, and these classes."""
    read = read_manifest(find_demo(None), None)
    classes: dict[str, set[str]] = {}
    for sample in read["samples"]:
        classes.setdefault(sample.modality, set()).add(sample.label)
    chosen = {m: random.Random(f"unknown/{seed}/{m}").sample(sorted(c), LEFT_OUT) for m, c in classes.items()}
    out = {(m, c) for m, names in chosen.items() for c in names}
    samples = [s for s in read["samples"] if (s.modality, s.label) not in out]
    return Stream(**{**read, "samples": samples}, classes_per_task=4, order="random", seed=seed), out


def folds(group: np.ndarray) -> np.ndarray:
    """Return the fold ``[n]`` of each sample; near-equal samples share one."""
    return np.array([int(hashlib.sha256(str(g).encode()).hexdigest(), 16) % FOLDS for g in group])


def learn(memory: FeatureMemory, modality: str, x: Tensor, y: np.ndarray, ids: dict[str, int]) -> FeatureMemory:
    """Return a copy of a memory with further samples."""
    memory, labels = memory.copy(), torch.tensor([ids[c] for c in y])
    memory.add(modality, list(dict.fromkeys(labels.tolist())), x, labels)
    return memory


def score_seed(data: dict[str, Rows], seed: int, split: str, features: str, rank: int) -> dict[str, Scores]:
    """Return score -> modality -> set -> scores; the set "held" has each task's held-out training samples."""
    stream, out = demo_without(seed)
    memory, scores = FeatureMemory(4, rank, "auto"), dict[str, Scores]()
    held: dict[tuple[str, str], list[Tensor]] = {(n, m): [] for n in SCORES for m in data}
    ids = {f"{m}/{c}": i for i, (m, c) in enumerate(stream.classes)}
    trained: dict[str, list[tuple[Tensor, np.ndarray, np.ndarray]]] = {m: [] for m in data}
    for task in stream:
        m, rows = task.modality, data[task.modality]
        own = np.isin(rows.label, task.classes) & (rows.split == "train") & ~rows.made
        x, y, f = rows.features(features)[own], np.char.add(f"{m}/", rows.label[own]), folds(rows.group[own])
        for fold in range(FOLDS):
            if (f == fold).any():
                known = Known(learn(memory, m, x[f != fold], y[f != fold], ids), m)
                for name, score in SCORES.items():
                    held[name, m].append(score(known, x[f == fold]))
        memory = learn(memory, m, x, y, ids)
        trained[m].append((x, y, f))
    for m, rows in data.items():
        known, files = Known(memory, m), "train" if split == "val" else "test"
        is_out = np.array([(m, c) in out for c in rows.label]) & ~rows.made
        chosen = {"known": ~rows.made & ~is_out & (rows.split == split), "left": is_out & (rows.split == files)}
        chosen |= {kind: rows.made & (rows.label == kind) & (rows.split == files) for kind in KINDS}
        for name, score in SCORES.items():
            found = {k: score(known, rows.features(features)[w]) for k, w in chosen.items()}
            scores.setdefault(name, {})[m] = {"held": torch.cat(held[name, m])} | found
    scores |= {name: sum_of(scores, parts) for name, parts in SUMS.items()}
    return scores | fitted_sums(scores, trained, ids, rank)


def standard(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return scores minus the median of the held-out ones, in units of median to 95 %."""
    middle, high = scores["held"].quantile(torch.tensor([0.5, 0.95]).double())
    return {k: (v - middle) / (high - middle) for k, v in scores.items()}


def sum_of(scores: dict[str, Scores], parts: dict[str, float]) -> Scores:
    """Return the weighted sum of standardised scores, by modality."""
    out = {}
    for m in next(iter(scores.values())):
        each = [(w, standard(scores[name][m])) for name, w in parts.items()]
        out[m] = {k: torch.stack([w * s[k] for w, s in each]).sum(0) for k in each[0][1]}
    return out


def logistic(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return the weights of a logistic regression with both classes weighted alike."""
    w = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    weight = (y == 0).sum() / (y == 1).sum()
    optimizer = torch.optim.LBFGS([w], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.binary_cross_entropy_with_logits(x @ w[1:] + w[0], y, pos_weight=weight)
        value = value + penalty * w[1:].square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return w.detach()[1:]


def fitted_sums(scores: dict[str, Scores], trained: dict, ids: dict[str, int], rank: int) -> dict[str, Scores]:
    """Return sums of ``PARTS`` whose weights no real unknown has fitted, for each modality.

    Unknown is each known class in turn, which the memory then lacks; or mixtures of two held-out samples of unlike
    classes.
    """
    out: dict[str, Scores] = {"fitted: known classes in turn": {}, "fitted: mixtures": {}}
    for m, tasks in trained.items():
        x, y, f = torch.cat([t[0] for t in tasks]), *(np.concatenate([t[i] for t in tasks]) for i in (1, 2))
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in out}
        for number, c in enumerate(dict.fromkeys(y)):
            for name in out:
                rest = (y != c) if "turn" in name else np.ones(len(y), bool)
                held = x[rest & (f == number % FOLDS)]
                kept = rest & (f != number % FOLDS)
                known = Known(learn(FeatureMemory(4, rank, "auto"), m, x[kept], y[kept], ids), m)
                pairs = torch.randperm(len(held), generator=torch.Generator().manual_seed(number))
                unknown = x[y == c] if "turn" in name else 0.5 * (held + held[pairs])
                found = []
                for part in PARTS:
                    s = standard({"held": SCORES[part](known, held), "unknown": SCORES[part](known, unknown)})
                    found.append(torch.cat([s["held"], s["unknown"]]).clamp(-4, 4))
                target = torch.cat([torch.zeros(len(held)), torch.ones(len(unknown))]).double()
                parts[name].append((torch.stack(found, 1), target))
        for name, pieces in parts.items():
            weights = logistic(torch.cat([p[0] for p in pieces]), torch.cat([p[1] for p in pieces]), 0.01)
            each = [standard(scores[part][m]) for part in PARTS]
            out[name][m] = {k: torch.stack([w * s[k] for w, s in zip(weights, each)]).sum(0) for k in each[0]}
    return out


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Return the probability that an unknown sample scores higher than a known one."""
    difference = unknown.unsqueeze(1) - known
    return float((difference > 0).double().mean() + 0.5 * (difference == 0).double().mean())


def references(data: dict[str, Rows], seed: int, split: str) -> dict[str, Scores]:
    """Return scores that no memory gives: stored samples, class texts, and real unknowns to learn from."""
    stream, out = demo_without(seed)
    texts, encoder = stream.class_text, Learner("embedded", "ncm", device="cpu").encoder
    nouns = encoder.text(NOUNS.split()).double()
    found: dict[str, Scores] = {"texts: cosine": {}, "texts: NegLabel": {}, "3 nearest samples": {}, "supervised": {}}
    for m, rows in data.items():
        is_out = np.array([(m, c) in out for c in rows.label]) & ~rows.made
        train = (rows.split == "train") & ~rows.made
        sets = {"known": ~rows.made & ~is_out & (rows.split == split), "left": is_out & (rows.split == split)}
        u, own = rows.features("u"), encoder.text([t for key, t in texts.items() if key[0] == m]).double()
        centre, stored = u[train].mean(0), F.normalize(u[train & ~is_out], dim=1)
        basis = torch.linalg.svd(u[train] - centre, full_matrices=False)[2]
        thin = (u - centre) @ basis.T
        thin = thin / thin[torch.tensor(train)].square().sum(1).mean().sqrt()
        weights = logistic(thin[train], torch.tensor(is_out[train]).double(), 1e-3)
        for key, chosen in sets.items():
            a, b = (rows.z[chosen] @ t.T for t in (own, nouns))
            share = (10 * a).exp().sum(1) / ((10 * a).exp().sum(1) + (10 * b).exp().sum(1))
            near = (F.normalize(u[chosen], dim=1) @ stored.T).topk(3, 1).values.mean(1)
            for name, value in zip(found, (-a.max(1).values, -share, -near, thin[chosen] @ weights)):
                found[name].setdefault(m, {})[key] = value
    return found


def main() -> None:
    """Parse the command line, and embed or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("features", "table"))
    parser.add_argument("file", type=Path, help="the embedded samples")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="of the known samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--features", choices=("z", "q", "u"), nargs="+", default=["u"])
    parser.add_argument("--rank", type=int, default=256, help="of a modality's pooled covariance")
    parser.add_argument("--cache", default="auto", help="folder of the feature cache")
    parser.add_argument("--out", type=Path, help="also write the numbers to this JSON file")
    args = parser.parse_args()
    if args.step == "features":
        torch.save({m: vars(rows) for m, rows in embed(args.cache).items()}, args.file)
        return
    data = {m: Rows(**fields) for m, fields in torch.load(args.file, weights_only=False).items()}
    kept: dict[str, list[Scores]] = {}
    for features in args.features:
        by_seed = [score_seed(data, seed, args.split, features, args.rank) for seed in args.seeds]
        kept |= {f"{features}: {name}": [s[name] for s in by_seed] for name in by_seed[0]}
    by_seed = [references(data, seed, args.split) for seed in args.seeds]
    kept |= {f"reference, {name}": [s[name] for s in by_seed] for name in by_seed[0]}
    numbers: dict[str, dict] = {}
    print(
        f"| AUROC, {args.split}, seeds {args.seeds} | mean | sd | {' | '.join(data)} | pooled | {' | '.join(KINDS)} |"
    )
    print("|" + "---|" * (5 + len(data) + len(KINDS)))
    for name, seeds in kept.items():
        of = {m: [auroc(s[m]["known"], s[m]["left"]) for s in seeds] for m in data}
        means, has = np.mean(list(of.values()), 0), "held" in next(iter(seeds[0].values()))
        row = {"mean": means.mean(), "sd": means.std(ddof=1)} | {m: np.mean(v) for m, v in of.items()}
        if has:
            joined = [[torch.cat([standard(s[m])[k] for m in data]) for k in ("known", "left")] for s in seeds]
            row["pooled"] = np.mean([auroc(*j) for j in joined])
            row |= {k: np.mean([auroc(s[m]["known"], s[m][k]) for s in seeds for m in data]) for k in KINDS}
            alarms = {m: np.mean([float((standard(s[m])["known"] > 1).double().mean()) for s in seeds]) for m in data}
            row |= {f"alarms {m}": v for m, v in alarms.items()}
        numbers[name] = {k: round(float(v), 4) for k, v in row.items()}
        print(f"| {name} | " + " | ".join(f"{v:.3f}" for k, v in row.items() if not k.startswith("alarms")) + " |")
    print("\nfalse alarms in %, threshold at 95 % of held-out training samples\n")
    print(f"| score | {' | '.join(data)} |\n|" + "---|" * (1 + len(data)))
    for name, row in numbers.items():
        if "pooled" in row:
            print(f"| {name} | " + " | ".join(f"{100 * row[f'alarms {m}']:.1f}" for m in data) + " |")
    if args.out:
        args.out.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()

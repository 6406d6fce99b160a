"""Re-alignment on synthetic statistics of CLIP's size: its closed form, its training, and rivals on the same features.

    OMP_NUM_THREADS=1 python -m benchmarks.realignment benchmarks/results/realignment

writes ``realignment.md`` and ``realignment.json``: the accuracy in % on new samples of all classes, the modality not
given. Every row has the features u = [z ; q] of the same samples.

A class is a Gaussian with D = 512 and Dq = 768. Its covariance has a spectrum that falls as a power, and a size and a
shape of its own. Means differ in the leading directions of the covariance, as means of real features do. Then z and q
are scaled to unit rows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import TaskData
from mmcl_fast.methods.baselines.klda import median_gamma
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.options import CommOptions
from mmcl_fast.methods.comm.penalty_share import PenaltyShare
from mmcl_fast.methods.comm.realignment import Realigner
from mmcl_fast.methods.comm.relevance import Relevance
from mmcl_fast.methods.shared.ridge_regression import Ridge
from mmcl_fast.methods.shared.triangular_ridge import RidgeSystem

DIM, QUERY = 512, 768
FALL, MEAN_FALL = 0.8, 0.6  # powers of the covariance's spectrum, and of the ratio of the means' to it
CELLS = ((10, 2, 5), (10, 2, 20), (10, 2, 100), (50, 5, 20), (101, 3, 20), (200, 4, 5), (200, 4, 20), (500, 5, 5))
LARGE = ((1000, 5, 5),)
CLASSES_A_TASK = 10


@dataclass
class Data:
    """Features of training and test samples, and what every method may know of them."""

    texts: Tensor  # [C, D]
    u: Tensor  # [n, D + Dq]
    labels: Tensor  # [n]
    modality: Tensor  # [n]
    test_u: Tensor
    test_labels: Tensor
    test_modality: Tensor
    relevance: Relevance

    @property
    def names(self) -> list[str]:
        return self.relevance.modalities


def synthesise(classes: int, modalities: int, samples: int, *, seed: int = 0) -> Data:
    """Draw the features of one cell.

    Args:
        classes: their number, divided among the modalities.
        modalities: their number.
        samples: training samples of a class.
        seed: fixes everything.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def rotation(near: Tensor | None, size: int) -> Tensor:
        return torch.linalg.qr(normal(size, size) if near is None else near + 0.01 * normal(size, size))[0]

    separation = 8.0 * (classes / 10) ** 0.27  # more classes need more distance for a like accuracy
    sizes, tests = (DIM, QUERY), max(4, min(40, 4000 // classes))
    bases = [rotation(None, size) for size in sizes]
    variance = [F.normalize(torch.arange(1.0, size + 1) ** -FALL, p=1, dim=0) for size in sizes]
    ratio = [F.normalize(torch.arange(1.0, size + 1) ** -MEAN_FALL, p=1, dim=0) * separation for size in sizes]
    meaning = normal(classes, DIM)
    meanings = [meaning, 0.7 * F.pad(meaning, (0, QUERY - DIM)) + 0.7 * normal(classes, QUERY)]
    common = F.normalize(normal(1, DIM), dim=1)
    in_text = F.normalize(meaning * (variance[0] * ratio[0]).sqrt() @ bases[0], dim=1)
    in_text = F.normalize(in_text + 0.8 * F.normalize(normal(classes, DIM), dim=1), dim=1)
    texts = F.normalize(common + 0.75 * in_text, dim=1)
    train: list[tuple[Tensor, Tensor, Tensor]] = []
    test: list[tuple[Tensor, Tensor, Tensor]] = []
    for number in range(modalities):
        rotated = [rotation(base, len(base)) for base in bases]
        offset = [0.6 * common + 0.8 * F.normalize(normal(1, DIM), dim=1), F.normalize(normal(1, QUERY), dim=1)]
        for c in range(number, classes, modalities):
            size = float(torch.exp(0.3 * normal(1)))
            shape = [torch.exp(0.3 * normal(width)) for width in sizes]

            def draw(
                count: int, c: int = c, size: float = size, shape: list[Tensor] = shape, at: list = offset, by=rotated
            ) -> Tensor:
                noise = [normal(count, width) for width in sizes]
                noise[1][:, :DIM] = 0.6 * noise[0] + 0.8 * noise[1][:, :DIM]
                parts = []
                for k in range(2):
                    around = meanings[k][c] * (variance[k] * ratio[k]).sqrt()
                    x = at[k] + 0.6 * (around + size * noise[k] * (variance[k] * shape[k]).sqrt()) @ by[k]
                    parts.append(F.normalize(x, dim=1))
                return torch.cat(parts, dim=1)

            for out, count in ((train, samples), (test, tests)):
                out.append((draw(count), torch.full((count,), c), torch.full((count,), number)))
    (u, labels, modality), (new_u, new_labels, new_modality) = (
        [torch.cat(x) for x in zip(*part)] for part in (train, test)
    )
    relevance = Relevance(QUERY, "analytic", CommOptions().tau, CommOptions().relevance_penalty)
    for number in range(modalities):
        relevance.learn(u[modality == number, DIM:], f"modality {number}", {}, torch.Generator())
    return Data(texts, u, labels, modality, new_u, new_labels, new_modality, relevance)


def accuracy(data: Data, scores: Tensor) -> float:
    """Return the accuracy of test scores ``[n, C]`` in %, the mean over modalities."""
    right = (scores.argmax(1) == data.test_labels).double()
    return 100 * float(torch.stack([right[data.test_modality == m].mean() for m in data.test_modality.unique()]).mean())


def remember(data: Data) -> tuple[FeatureMemory, PenaltyShare]:
    """Return the memory of the training samples, learned a few classes a task, and the share of the penalty."""
    o, share = CommOptions(), PenaltyShare()
    memory, width = FeatureMemory(o.class_rank, o.modality_rank, o.shrink), data.u.shape[1]
    for number, name in enumerate(data.names):
        for classes in data.labels[data.modality == number].unique().split(CLASSES_A_TASK):
            rows = torch.isin(data.labels, classes)
            u, labels = data.u[rows], data.labels[rows]
            task = TaskData(0, name, Tokens(u.unsqueeze(1), u), labels, classes.tolist())
            share.observe(memory, task, u, data.names[: number + 1], width)
            memory.add(name, classes.tolist(), u, labels)
    return memory, share


def realigned(data: Data) -> dict[str, float]:
    """Return the accuracy of the closed form and of training from there, and where training ended."""
    o, (memory, chosen) = CommOptions(), remember(data)
    realigner = Realigner(DIM, rank=o.rank, reads_query=True)
    gate = data.relevance(data.test_u[:, DIM:])
    realigner.solve(memory, data.texts, data.names, o.penalty, True, chosen.value)
    closed = accuracy(data, realigner(data.test_u, gate) @ data.texts.T)
    share = realigner.train(
        memory,
        data.texts,
        data.names,
        lambda u: data.relevance(F.normalize(u[:, DIM:], dim=1)),
        o,
        torch.Generator().manual_seed(0),
        advance=lambda n: None,
    )
    trained = accuracy(data, realigner(data.test_u, gate) @ data.texts.T)
    settled = {"share of the penalty": chosen.value, "closed form": closed}
    return settled | {"trained": trained, "share of training": share}


def ridge(data: Data) -> Tensor:
    """Scores of ridge regression on u, its penalty by generalised cross-validation."""
    model = Ridge(DIM + QUERY, "auto")
    model.add(data.u, data.labels, len(data.texts))
    return model(data.test_u)


def ranpac(data: Data, features: int = 10_000) -> Tensor:
    """Scores of RanPAC (arXiv 2307.02251) with so many random features, its penalty by cross-validation."""
    projection = torch.randn(DIM + QUERY, features, generator=torch.Generator().manual_seed(1))
    h = (data.u @ projection).relu().double()
    system = RidgeSystem(h, F.one_hot(data.labels, len(data.texts)).double(), len(h))
    weight = system.weight(system.best_penalty()).float()
    return torch.cat([(rows @ projection).relu() @ weight for rows in data.test_u.split(1024)])


def lda(train: Tensor, labels: Tensor, test: Tensor, classes: int, shrinkage: float) -> Tensor:
    """Scores of linear discriminant analysis with one covariance, shrunk relative to the mean variance."""
    means = torch.zeros(classes, train.shape[1]).index_add_(0, labels, train) / torch.bincount(labels).unsqueeze(1)
    centred = (train - means[labels]).double()
    system = centred.T @ centred / max(1, len(train) - classes)
    lift = shrinkage * system.diagonal().mean()
    system = (1 - shrinkage) * system
    system.diagonal().add_(lift)
    weight = torch.cholesky_solve(means.T.double(), torch.linalg.cholesky(system)).float()
    return test @ weight - 0.5 * (means.T * weight).sum(0)


def klda(data: Data, features: int = 2000) -> Tensor:
    """Scores of KLDA (arXiv 2412.15571) with so many random Fourier features."""
    generator = torch.Generator().manual_seed(2)
    gamma = median_gamma(data.u[:1000], generator)
    weight = torch.randn(DIM + QUERY, features, generator=generator) * (2 * gamma) ** 0.5
    phase = 2 * torch.pi * torch.rand(features, generator=generator)
    mapped = [(u @ weight + phase).cos() * (2 / features) ** 0.5 for u in (data.u, data.test_u)]
    return lda(mapped[0], data.labels, mapped[1], len(data.texts), 0.2)


RIVALS: dict[str, Callable[[Data], Tensor]] = {
    "zero-shot": lambda data: data.test_u[:, :DIM] @ data.texts.T,
    "LDA on u, shrinkage 0.2": lambda data: lda(data.u, data.labels, data.test_u, len(data.texts), 0.2),
    "ridge on u": ridge,
    "KLDA, 2,000 features": klda,
    "RanPAC, 10,000 features": ranpac,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.realignment",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="files to write, without their ending")
    parser.add_argument("--large", action="store_true", help="1,000 classes too")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found = []
    for classes, modalities, samples in CELLS + (LARGE if chosen.large else ()):
        begun, data = time.perf_counter(), synthesise(classes, modalities, samples, seed=chosen.seed)
        row: dict[str, float] = {"classes": classes, "modalities": modalities, "samples of a class": samples}
        row |= {name: round(value, 2) for name, value in realigned(data).items()}
        row |= {name: round(accuracy(data, score(data)), 2) for name, score in RIVALS.items()}
        found.append(row)
        print(row, f"{time.perf_counter() - begun:.0f} s", flush=True)
        lines = [
            " | ".join(str(x) for x in line) for line in [row.keys(), ["---"] * len(row), *(r.values() for r in found)]
        ]
        chosen.out.with_suffix(".md").write_text("\n".join(f"| {line} |" for line in lines) + "\n")
        chosen.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

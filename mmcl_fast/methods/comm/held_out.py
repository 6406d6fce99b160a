"""Errors of a ridge regression on samples that it was not fitted on: they say whether features tell classes apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SAMPLES = 2048  # whose errors are computed: the time grows with the cube of their number
PENALTIES = torch.logspace(-3, 2, 11, dtype=torch.float64)  # tried, relative to the mean eigenvalue of the kernel


def _kernel_spectrum(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues ``[k]`` of XX' and its eigenvectors ``[n, k]`` for rows X ``[n, d]``.

    With more samples than features they come from X'X: k is d then, without the directions of eigenvalue 0.
    """
    if len(rows) <= rows.shape[1]:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        return values.clamp(min=0), vectors
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    kept = values > 1e-12 * values[-1]
    values = values[kept]
    return values, rows @ vectors[:, kept] / values.sqrt()


def leave_one_out_error(features: Tensor, targets: Tensor, classes: int) -> float:
    """Return the leave-one-out error of ridge regression onto one-hot classes, relative to their variance.

    With the hat matrix H the error of sample i is (y_i - (H y)_i) / (1 - H_ii), so nothing is fitted n times (Allen
    1974, Technometrics 16). The least error over ``PENALTIES`` counts. 1 means that the features say nothing. Of more
    than ``MOST_SAMPLES`` samples so many are taken, always the same ones.

    Args:
        features: ``[n, d]``.
        targets: ``[n]`` int64, 0 to ``classes`` - 1.
        classes: number of classes.
    """
    if len(features) > MOST_SAMPLES:
        # Random rows: evenly spaced ones may miss classes whose samples alternate.
        rows = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST_SAMPLES]
        rows = rows.to(features.device)
        features, targets = features[rows], targets[rows]
    x, y = features.double(), F.one_hot(targets, classes).double()
    x, y = x - x.mean(0), y - y.mean(0)
    total = float(y.square().sum())
    if not total:
        return 1.0
    values, vectors = _kernel_spectrum(x)
    rotated = vectors.T @ y
    errors = []
    for penalty in PENALTIES * max(float(values.sum()) / len(x), 1e-30):
        kept = values / (values + penalty)
        hat = 1 / len(x) + (vectors.square() * kept).sum(1)
        residual = y - (vectors * kept) @ rotated
        errors.append(float((residual / (1 - hat).clamp(min=1e-9).unsqueeze(1)).square().sum()))
    return min(errors) / total


def held_out_error(features: Tensor, targets: Tensor, classes: int, fitted: Tensor, held: Tensor) -> float:
    """Return the squared error, on held-out samples, of ridge regression onto one-hot classes.

    It is divided by the error of the fitted samples' mean. The least error over ``PENALTIES`` counts.

    Args:
        features: ``[n, d]``.
        targets: ``[n]`` int64, 0 to ``classes`` - 1.
        classes: number of classes.
        fitted: numbers of the samples to fit.
        held: numbers of the other samples.
    """
    x, y = features.double(), F.one_hot(targets, classes).double()
    fitted, held = fitted.to(x.device), held.to(x.device)
    centre, mean = x[fitted].mean(0), y[fitted].mean(0)
    rows, wanted = x[fitted] - centre, y[held] - mean
    values, vectors = _kernel_spectrum(rows)
    rotated = vectors.T @ (y[fitted] - mean)
    across = (x[held] - centre) @ rows.T @ vectors
    errors = []
    for penalty in PENALTIES * max(float(values.sum()) / len(rows), 1e-30):
        predicted = across @ (rotated / (values + penalty).unsqueeze(1))
        errors.append(float((wanted - predicted).square().sum()))
    return min(errors) / max(float(wanted.square().sum()), 1e-30)

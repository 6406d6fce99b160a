"""Ridge regression from moments, and its penalty by generalised cross-validation."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.methods.shared.ridge_regression import RHO, Ridge, RidgeSpectrum, decompose, penalty_grid


def samples(count: int, width: int, noise: float = 1.0, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, width, generator=generator, dtype=torch.float64)
    x = 2 + centres[labels] + noise * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return x, labels


def gcv_from_residuals(x: Tensor, y: Tensor, penalty: float, rho: float) -> float:
    """GCV of ridge regression with a free intercept, from all samples and the hat matrix."""
    n = len(x)
    centring = torch.eye(n).double() - 1 / n
    rows = centring @ x
    # The hat matrix by the normal equations of the centred rows, and 1/n for the intercept.
    hat = rows @ torch.linalg.inv(rows.T @ rows + penalty * torch.eye(x.shape[1]).double()) @ rows.T + 1 / n
    residuals = y - hat @ y
    left = float(n - rho * hat.trace())
    return float(n * residuals.square().sum()) / left**2 if left > 0 else torch.inf


def learned(x: Tensor, labels: Tensor, classes: int, penalty: float | Literal["auto"] = "auto") -> Ridge:
    ridge = Ridge(x.shape[1], penalty)
    for part in (slice(0, 5), slice(5, None)):
        ridge.add(x[part], labels[part], classes)
    return ridge


@pytest.mark.parametrize("rho", [1.0, 1.3])
@pytest.mark.parametrize(("count", "width"), [(60, 8), (12, 30), (25, 25)])
def test_gcv_from_moments_is_gcv_from_the_residuals(count: int, width: int, rho: float) -> None:
    x, labels = samples(count, width)
    y = F.one_hot(labels, 3).double()
    spectrum = learned(x, labels, 3).spectrum()
    assert len(spectrum.eigenvalues) == min(count - 1, width)
    penalties = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
    direct = [gcv_from_residuals(x, y, float(penalty), rho) for penalty in penalties]
    found = spectrum.gcv(penalties, rho)
    torch.testing.assert_close(found, torch.tensor(direct, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("count", "width", "noise"), [(60, 8, 3.0), (12, 30, 6.0), (30, 60, 12.0)])
def test_the_chosen_penalty_has_the_least_gcv_and_gives_the_joint_solution(
    count: int, width: int, noise: float
) -> None:
    x, labels = samples(count, width, noise)
    y = F.one_hot(labels, 3).double()
    ridge = learned(x, labels, 3)
    chosen = ridge.spectrum().best_penalty()
    grid = penalty_grid(float(ridge.spectrum().eigenvalues.mean()))
    # The lowest penalties are left out of the comparison: there the explicit inverse has no digits left.
    direct = torch.tensor([gcv_from_residuals(x, y, float(p), RHO) if p > 1e-4 else torch.inf for p in grid])
    assert chosen == float(grid[direct.argmin()])
    rows = x - x.mean(0)
    weight = torch.linalg.solve(rows.T @ rows + chosen * torch.eye(width).double(), rows.T @ (y - y.mean(0)))
    scores = rows @ weight + y.mean(0)
    torch.testing.assert_close(ridge(x), scores.float(), rtol=1e-4, atol=1e-4)


def test_pairs_of_near_duplicates_do_not_make_the_penalty_vanish() -> None:
    """A few pairs that predict each other, among noise that tells nothing, and more coordinates than samples."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 80, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (60,), generator=generator)
    x[1:6:2] = x[0:6:2] + 1e-5 * torch.randn(3, 80, generator=generator, dtype=torch.float64)
    labels[1:6:2] = labels[0:6:2]
    spectrum = learned(x, labels, 3).spectrum()
    scale = float(spectrum.eigenvalues.mean())
    grid = penalty_grid(scale)
    assert float(grid[spectrum.gcv(grid, 1.0).argmin()]) < 1e-6 * scale
    assert spectrum.best_penalty() > scale


def test_coordinates_that_are_always_zero_change_nothing() -> None:
    x, labels = samples(40, 6)
    gaps = torch.zeros(40, 11, dtype=torch.float64)
    gaps[:, [0, 2, 3, 5, 8, 9]] = x
    ridge, other = learned(x, labels, 3), learned(gaps, labels, 3)
    assert other.spectrum().best_penalty() == pytest.approx(ridge.spectrum().best_penalty())
    torch.testing.assert_close(other(gaps), ridge(x))
    assert other.weight()[[1, 4, 6, 7, 10]].eq(0).all()


def test_a_fixed_penalty_is_relative_to_the_diagonal_and_reaches_the_constant() -> None:
    x, labels = samples(40, 6)
    rows = F.pad(x, (0, 1), value=1.0)
    gram = rows.T @ rows
    lift = 0.1 * gram.diagonal().mean() * torch.eye(7).double()
    direct = torch.linalg.solve(gram + lift, rows.T @ F.one_hot(labels, 3).double())
    torch.testing.assert_close(learned(x, labels, 3, 0.1)(x), (rows @ direct).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "labels", "classes"),
    [
        (torch.ones(1, 4), [0], 1),
        (torch.ones(6, 4), [0, 1, 0, 1, 0, 1], 2),  # x is constant
        (torch.arange(6.0).repeat(4, 1).T, [0, 0, 0, 0, 0, 0], 1),  # y is constant
        (torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(20, 1), [0, 1] * 20, 2),  # x tells y without an error
        (torch.zeros(3, 4), [0, 1, 2], 3),
        (torch.randn(9, 40, generator=torch.Generator().manual_seed(0)) * 1e-6 + 1e3, [0, 1, 2] * 3, 3),
    ],
    ids=["one sample", "constant x", "constant y", "no error", "zeros", "large mean"],
)
def test_it_never_fails(x: Tensor, labels: list[int], classes: int) -> None:
    target = torch.tensor(labels)
    ridge = Ridge(x.shape[1], "auto")
    ridge.add(x, target, classes)
    scores = ridge(x)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.sum(1), torch.ones(len(x)), rtol=0, atol=0.01)
    assert 0 < ridge.spectrum().best_penalty() < torch.inf


def test_a_penalty_keeps_noise_away_where_there_are_more_coordinates_than_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    labels = torch.arange(630) % 3
    x = centres[labels] + 3 * torch.randn(630, 50, generator=generator, dtype=torch.float64)
    ridge, none = learned(x[:60], labels[:60], 3), learned(x[:60], labels[:60], 3, 1e-6)
    errors = [(r(x[60:]).argmax(1) != labels[60:]).double().mean() for r in (ridge, none)]
    assert errors[0] < errors[1] - 0.05


def test_rounding_errors_are_no_eigenvalues() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = x @ torch.randn(6, 15, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = x[:, :2]
    spectrum, vectors, projected = decompose(rows.T @ rows, rows.T @ y, float(y.square().sum()), 20)
    assert vectors.shape == (15, 6) and projected.shape == (6, 2) and len(spectrum.eigenvalues) == 6
    assert spectrum.residual == pytest.approx(0, abs=1e-9)
    few = decompose(rows.T @ rows, rows.T @ y, float(y.square().sum()), 5, free=1)[0]
    assert len(few.eigenvalues) == 4  # n - free at most


def test_equal_values_of_gcv_take_the_largest_penalty() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    spectrum = RidgeSpectrum(torch.tensor([1.0, 3.0], dtype=torch.float64), zero, 0.0, 9, 1)
    assert spectrum.best_penalty() == pytest.approx(2e3)

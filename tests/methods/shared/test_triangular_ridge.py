"""Ridge regression from a triangular factor of the moments."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_fast.methods.shared import triangular_ridge
from mmcl_fast.methods.shared.ridge_regression import RHO
from mmcl_fast.methods.shared.triangular_ridge import TriangularMoments, cholesky_with_jitter

CPU = torch.device("cpu")


def samples(count: int, width: int, noise: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    centres = torch.randn(3, width, generator=generator)
    return (centres[labels] + noise * torch.randn(count, width, generator=generator)).relu(), labels


def learned(h: Tensor, labels: Tensor, parts: list[int]) -> TriangularMoments:
    moments = TriangularMoments(h.shape[1], CPU)
    for features, some in zip(h.split(parts), labels.split(parts)):
        blocks = zip(features.split(4), some.split(4))
        moments.add(blocks, len(some), int(labels.max()) + 1)
    return moments


def direct_weight(h: Tensor, labels: Tensor, penalty: float) -> Tensor:
    h = h.double()
    return torch.linalg.solve(h.T @ h + penalty * torch.eye(h.shape[1]).double(), h.T @ F.one_hot(labels).double())


def direct_gcv(h: Tensor, labels: Tensor, penalty: float) -> float:
    h, y = h.double(), F.one_hot(labels).double()
    hat = h @ torch.linalg.inv(h.T @ h + penalty * torch.eye(h.shape[1]).double()) @ h.T
    left = float(len(h) - RHO * hat.trace())
    return float(len(h) * (y - hat @ y).square().sum()) / left**2 if left > 0 else torch.inf


@pytest.fixture(params=[3000, 0], ids=["eigendecomposition", "Cholesky"])
def slack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """The factor above the least GCV that a choice may have. The Cholesky way tries fewer penalties."""
    monkeypatch.setattr(triangular_ridge, "LARGEST_EIGENPROBLEM", request.param)
    return 1.001 if request.param else 1.1


# Fewer samples than features; as many at the end; more from the second task on; more at once.
@pytest.mark.parametrize(("width", "parts"), [(40, [7, 20, 3]), (30, [10, 20]), (16, [10, 15, 5]), (8, [30])])
def test_the_factor_has_the_moments_of_all_samples_and_of_every_smaller_width(width: int, parts: list[int]) -> None:
    h, labels = samples(30, width)
    moments = learned(h, labels, parts)
    assert moments.factor.shape == (min(30, width), width) and moments.count == 30
    assert moments.factor.tril(-1).eq(0).all()
    torch.testing.assert_close(moments.factor.T @ moments.factor, h.T @ h, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        moments.factor.T @ moments.targets, h.T @ F.one_hot(labels).float(), rtol=1e-4, atol=1e-4
    )
    for k in (width, width // 2, 3):
        found = moments.system(k).weight(0.5)
        torch.testing.assert_close(found, direct_weight(h[:, :k], labels, 0.5), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("slack")
@pytest.mark.parametrize(("width", "parts"), [(40, [7, 23]), (12, [10, 20])])
def test_gcv_and_weights_are_those_of_all_samples(width: int, parts: list[int]) -> None:
    h, labels = samples(30, width)
    moments = learned(h, labels, parts)
    for k in (width, 5):
        system = moments.system(k)
        for penalty in (0.5, 20.0):
            assert system.gcv(penalty) == pytest.approx(direct_gcv(h[:, :k], labels, penalty), rel=1e-4)
            torch.testing.assert_close(
                system.weight(penalty), direct_weight(h[:, :k], labels, penalty), rtol=1e-3, atol=1e-4
            )


@pytest.mark.parametrize(("width", "noise"), [(60, 1.0), (60, 6.0), (12, 3.0)])
def test_the_chosen_penalty_has_the_least_gcv(width: int, noise: float, slack: float) -> None:
    h, labels = samples(45, width, noise)
    system = learned(h, labels, [30, 15]).system()
    chosen = system.best_penalty()
    least = min(direct_gcv(h, labels, system.scale * 10 ** (k / 8)) for k in range(-40, 25))
    assert direct_gcv(h, labels, chosen) <= least * slack


@pytest.mark.usefixtures("slack")
def test_it_never_fails() -> None:
    one_hot = F.one_hot(torch.tensor([0, 1, 0, 1, 0, 1]))
    rows = {
        "one sample": (torch.ones(1, 4), torch.tensor([0])),
        "zeros": (torch.zeros(6, 4), torch.arange(6) % 2),
        "features that are always 0, more samples than features": (
            F.pad(torch.rand(30, 3), (0, 2)),
            torch.arange(30) % 3,
        ),
        "equal samples": (torch.ones(9, 4), torch.arange(9) % 3),
        "no error": (one_hot.float().repeat(1, 5), one_hot.argmax(1)),
        "huge": (1e12 * torch.rand(9, 4), torch.arange(9) % 3),
    }
    for name, (h, labels) in rows.items():
        system = learned(h, labels, [len(h)]).system()
        penalty = system.best_penalty()
        assert 0 < penalty < torch.inf, name
        assert system.weight(penalty).isfinite().all(), name


def test_moments_of_an_earlier_version_are_taken_over() -> None:
    for width in (8, 40):
        h, labels = samples(30, width)
        moments = TriangularMoments(width, CPU)
        h64 = h.double()
        moments.load_moments(h64.T @ h64, h64.T @ F.one_hot(labels).double(), 30)
        torch.testing.assert_close(moments.system().weight(0.5), direct_weight(h, labels, 0.5), rtol=1e-3, atol=1e-4)
        assert moments.system().gcv(0.5) == pytest.approx(direct_gcv(h, labels, 0.5), rel=1e-3)


def test_only_a_matrix_that_needs_it_is_lifted() -> None:
    good = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    root = cholesky_with_jitter(good.clone())
    torch.testing.assert_close(root @ root.T, good, rtol=1e-15, atol=1e-15)
    bad = torch.ones(5, 5, dtype=torch.float64)
    bad[0, 0] -= 1e-9  # slightly indefinite
    root = cholesky_with_jitter(bad.clone())
    torch.testing.assert_close(root @ root.T, bad, rtol=0, atol=1e-7)

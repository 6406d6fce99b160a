"""The moments of all modalities, and the penalty that cross-validation chooses."""

import torch

from mmcl_fast.methods.comm import memory as memories
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.moments import HIGHEST_PENALTY, LOWEST_PENALTY, Inverse, Moments, compress
from mmcl_fast.methods.shared.ridge_regression import decompose
from tests.methods.comm.test_memory import randn

WIDE = 12


def filled(each=30, noise=0.5):
    """Two modalities, their memory, and their samples' coordinates, classes and modalities."""
    memory, parts = FeatureMemory(WIDE, WIDE, 0.0), []
    for number, (name, classes) in enumerate((("image", 4), ("audio", 3))):
        labels = torch.arange(classes).repeat_interleave(each + number)
        u = number + randn(classes, WIDE, seed=number)[labels] + noise * randn(len(labels), WIDE, seed=7 + number)
        memory.add(name, range(10 * number, 10 * number + classes), u, labels + 10 * number)
        parts.append((u.double(), labels + 4 * number, torch.full((len(u),), number)))
    return memory, *map(torch.cat, zip(*parts))


def centred(u, groups):
    means = torch.stack([u[groups == g].mean(0) for g in range(int(groups.max()) + 1)])
    return u - means[groups]


def test_the_inverse_is_that_of_the_whole_matrix():
    diagonal, rows, x = randn(WIDE).double().exp(), randn(5, WIDE, seed=1).double(), randn(3, WIDE, seed=2).double()
    whole = torch.linalg.inv(torch.diag(diagonal) + rows.T @ rows)
    found = Inverse(diagonal, rows)
    torch.testing.assert_close(found(x), x @ whole)
    torch.testing.assert_close(torch.tensor(found.trace()).double(), whole.trace(), rtol=1e-6, atol=0)


def test_many_rows_become_as_many_as_columns():
    blocks = [randn(k, WIDE, seed=k).double() for k in (3, 9, 20)]
    few, many = compress(blocks[:2]), compress(blocks)
    assert torch.equal(few, torch.cat(blocks[:2])) and many.shape == (WIDE, WIDE)
    rows = torch.cat(blocks)
    torch.testing.assert_close(many.T @ many, rows.T @ rows)


def test_the_covariances_are_those_of_the_samples(monkeypatch):
    monkeypatch.setattr(memories, "BLOCK_CLASSES", 2)
    memory, u, labels, modality = filled()
    found, n = Moments(memory, ["image", "audio"], WIDE), len(u)
    within = centred(u, labels).T @ centred(u, labels) / (n - 7)
    rows = found.within_rows
    torch.testing.assert_close(torch.diag(found.within_diagonal) + rows.T @ rows, within, rtol=1e-4, atol=1e-5)
    spread = centred(u, modality) - centred(u, labels)
    rows = found.between_rows
    torch.testing.assert_close(rows.T @ rows, spread.T @ spread / n, rtol=1e-4, atol=1e-5)
    assert (found.count, found.classes) == (n, 7)
    x, system = randn(2, WIDE).double(), (1 - 7 / n) * within + 0.5 * found.scale * torch.eye(WIDE).double()
    torch.testing.assert_close(
        found.inverse(0.5, torch.arange(WIDE))(x), torch.linalg.solve(system, x.T).T, rtol=1e-4, atol=1e-5
    )
    assert abs(found.scale - float(within.diagonal().mean())) < 1e-6


def test_the_spectrum_is_that_of_the_samples():
    memory, u, labels, modality = filled()
    found, n = Moments(memory, ["image", "audio"], WIDE).spectrum(), len(u)
    x, y = centred(u, modality), centred(torch.eye(7).double()[labels], modality)
    direct, *_ = decompose(x.T @ x / n, x.T @ y / n, float(y.square().sum()) / n, n, free=2)
    assert (found.count, found.free) == (n, 2)
    torch.testing.assert_close(found.eigenvalues, direct.eigenvalues, rtol=1e-4, atol=1e-6)
    tried = torch.tensor([1e-3, 0.1, 1.0]).double()
    torch.testing.assert_close(found.gcv(tried, 1.0), direct.gcv(tried, 1.0), rtol=1e-3, atol=1e-9)


def test_fewer_samples_than_coordinates_leave_finite_degrees_of_freedom():
    memory = FeatureMemory(4, 4, 0.0)
    memory.add("image", range(4), randn(20, 100), torch.arange(4).repeat(5))
    moments = Moments(memory, ["image"], 100)
    spectrum = moments.spectrum()
    assert len(spectrum.eigenvalues) == 19  # of 20 samples, centred
    assert spectrum.gcv(torch.tensor([1e-9, 1.0]).double(), 1.0).isfinite().all()
    assert LOWEST_PENALTY <= moments.gcv_penalty() <= HIGHEST_PENALTY

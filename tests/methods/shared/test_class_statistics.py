"""Class means and one covariance: equal to direct sums, however the samples are divided."""

from __future__ import annotations

import pytest
import torch

from mmcl_fast.methods.shared import class_statistics
from mmcl_fast.methods.shared.class_statistics import ClassStatistics, LinearDiscriminant
from tests.methods.baselines.closed_form import features, within

LABELS = torch.tensor([0, 1, 3] * 9 + [3, 3, 4])
X = features(LABELS, width=12)


def batches(*sizes: int) -> list[torch.Tensor]:
    return list(torch.randperm(len(X), generator=torch.Generator().manual_seed(1)).split(list(sizes)))


@pytest.mark.parametrize("parts", [batches(30), batches(7, 20, 3), batches(*[1] * 30)], ids=["one", "three", "each"])
@pytest.mark.parametrize("block", [2048, 4])
def test_any_division_into_batches_gives_the_direct_sums(
    parts: list[torch.Tensor], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_statistics, "BLOCK_ROWS", block)
    statistics = ClassStatistics(12)
    for rows in parts:
        statistics.add(X[rows], LABELS[rows], max(int(LABELS[rows].max()) + 1, len(statistics.count)))
    assert statistics.count.tolist() == [9, 9, 0, 11, 1]
    for c in (0, 1, 3, 4):
        torch.testing.assert_close(statistics.mean[c], X[c == LABELS].double().mean(0))
    assert not statistics.mean[2].any()
    assert statistics.scatter is not None
    torch.testing.assert_close(statistics.scatter, within(X, LABELS), rtol=1e-9, atol=1e-12)
    assert torch.equal(statistics.scatter, statistics.scatter.T)


def test_the_state_comes_back_and_no_scatter_is_kept_without_need() -> None:
    first, second = LinearDiscriminant(12, 0.1), LinearDiscriminant(12, 0.1)
    first.add(X, LABELS, 6)
    second.add(X[:2], LABELS[:2], 2)
    second(X)
    second.load_state(first.state())
    assert torch.equal(first(X), second(X))
    means = ClassStatistics(12, scatter=False)
    means.add(X, LABELS, 6)
    assert means.state().keys() == {"count", "mean"} and torch.equal(means.mean, first.mean)


def test_scores_are_those_of_gaussians_with_one_covariance() -> None:
    discriminant = LinearDiscriminant(12, 0.2)
    discriminant.add(X, LABELS, 5)
    sigma = within(X, LABELS) / 30
    sigma = 0.8 * sigma + 0.2 * sigma.trace() / 12 * torch.eye(12).double()
    torch.testing.assert_close(discriminant.covariance(), sigma)
    seen = [0, 1, 3, 4]
    density = torch.stack(
        [
            torch.distributions.MultivariateNormal(X[c == LABELS].double().mean(0), sigma).log_prob(X.double())
            for c in seen
        ],
        dim=1,
    )
    found = discriminant(X)[:, seen]
    torch.testing.assert_close(found.log_softmax(1), density.log_softmax(1).float(), rtol=1e-3, atol=1e-3)


def test_without_any_variance_the_nearest_mean_wins() -> None:
    discriminant = LinearDiscriminant(12, 0.1)
    discriminant.add(X[:3], LABELS[:3], 4)
    nearest = torch.cdist(X, X[:3]).argmin(1)
    assert torch.equal(discriminant(X)[:, [0, 1, 3]].argmax(1), nearest)

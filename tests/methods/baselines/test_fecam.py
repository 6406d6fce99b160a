import itertools

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods.baselines.fecam import Mahalanobis, compressed, scatter_factor, tukey_transform
from tests.methods.baselines.closed_form import WIDTH, build, features, learned

LABELS = torch.tensor([0, 2, 1, 2, 0, 4] * 20)
U = features(LABELS)
NEW = features(LABELS, seed=5)
SEEN = [0, 1, 2, 4]


def correlations(x, gamma):
    """The shrunk correlation matrix of samples, entry by entry as in the paper. ``gamma``: gamma_1 and gamma_2."""
    covariance = torch.cov(x.double().T)
    width = len(covariance)
    beside = ~torch.eye(width).bool()
    mean_variance, mean_covariance = covariance.diagonal().mean(), covariance[beside].mean().clamp(min=0)
    common = torch.minimum(gamma[1] * mean_covariance, gamma[0] * mean_variance)
    shrunk = covariance + gamma[0] * mean_variance * torch.eye(width) + common * beside
    deviation = shrunk.diagonal().sqrt()
    return shrunk / torch.outer(deviation, deviation)


def direct(x, power, gamma):
    t, new = tukey_transform(U, power).double(), F.normalize(tukey_transform(x, power).double(), dim=1)
    columns = []
    for c in SEEN:
        difference = new - F.normalize(t[c == LABELS].mean(0), dim=0)
        inverse = torch.inverse(correlations(t[c == LABELS], gamma))
        columns.append(-((difference @ inverse) * difference).sum(1))
    return torch.stack(columns, 1).float()


@pytest.mark.parametrize(("power", "gamma"), [(0.5, (1.0, 1.0)), (1.0, (0.1, 0.5)), (2.0, (100.0, 0.0))])
def test_scores_are_mahalanobis_distances_in_any_order_of_tasks(power, gamma):
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    for parts in ([order], order.split(50), order.split(1)):  # 20 or 40 samples a class, fewer than features
        shrinkage = dict(zip(("variance_shrinkage", "covariance_shrinkage"), gamma))
        method = learned("fecam", U, LABELS, 5, parts, tukey=power, **shrinkage)
        torch.testing.assert_close(method.class_scores(NEW)[:, SEEN], direct(NEW, power, gamma), rtol=1e-3, atol=1e-3)
        assert [len(factor) for factor in method.factors] == [39, 19, 39, 0, 19]


def test_more_samples_than_features_keep_as_many_rows_as_features():
    labels = torch.zeros(200, dtype=torch.int64)
    u = features(labels)
    method = learned("fecam", u, labels, 1, [torch.arange(130), torch.arange(130, 200)])
    assert method.factors[0].shape == (WIDTH, WIDTH)
    t = u.double()
    torch.testing.assert_close(
        method.factors[0].double().T @ method.factors[0].double() / 199, torch.cov(t.T), rtol=1e-4, atol=1e-6
    )


def test_tukeys_transform_keeps_the_sign():
    torch.testing.assert_close(tukey_transform(torch.tensor([4.0, -9.0, 0.0]), 0.5), torch.tensor([2.0, -3.0, 0.0]))


def test_a_factor_of_the_scatter_has_a_row_less_than_samples():
    x = features(LABELS[:7]).double()
    factor = scatter_factor(x)
    assert factor.shape == (6, WIDTH) and scatter_factor(x[:1]).shape == (0, WIDTH)
    torch.testing.assert_close(factor.T @ factor, 6 * torch.cov(x.T))
    rows = torch.cat([factor[:, :4], factor[:, 4:8]])
    assert compressed(rows).shape == (4, 4)
    torch.testing.assert_close(compressed(rows).T @ compressed(rows), rows.T @ rows)


def test_covariances_with_a_negative_mean_and_features_that_vary_as_one_can_be_inverted():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 6, generator=generator).double()
    sets = x - x.mean(1, keepdim=True), x[:, :1].expand(-1, 6)
    for rows, gamma in itertools.product(sets, [(1.0, 1.0), (0.1, 10.0), (1.0, 0.0)]):
        distance = Mahalanobis(scatter_factor(rows), 9, gamma)(torch.randn(50, 6, generator=generator))
        assert distance.isfinite().all() and (distance > 0).all()


@pytest.mark.parametrize("samples", [1, 2])
def test_classes_with_one_or_two_samples(samples):
    labels = torch.arange(1000).repeat(samples)
    u = features(labels, spread=0.1)
    method = learned("fecam", u, labels, 1000, [torch.arange(len(labels))])
    tensors, _ = method.state()
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {
        "count": (1000,),
        "mean": (1000, WIDTH),
        "factor": (1000 * (samples - 1), WIDTH),
    }
    scores = method.class_scores(u[:1000])
    assert scores.isfinite().all() and torch.equal(scores.argmax(1), labels[:1000])
    if samples == 1:  # the identity: squared distances of unit vectors
        t = F.normalize(u, dim=1)
        torch.testing.assert_close(scores, 2 * t @ t.T - 2, rtol=1e-3, atol=1e-4)
    again = build("fecam")
    again.load_state(*method.state())
    assert torch.equal(again.class_scores(u[:5]), scores[:5])

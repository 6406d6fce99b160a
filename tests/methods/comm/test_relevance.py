"""The relevance function, and the ridge regression under it."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods.comm.relevance import Relevance, Ridge
from tests.methods.comm.test_memory import randn


def test_ridge_is_free_of_order_and_equals_the_direct_solution():
    x, y = randn(60, 5), torch.arange(60) % 3
    one, other = Ridge(5, 0.1), Ridge(5, 0.1)
    one.add(x, y, 3)
    for part in (slice(40, 60), slice(0, 7), slice(7, 40)):
        other.add(x[part], y[part], 3)
    torch.testing.assert_close(one(x), other(x))
    a = F.pad(x.double(), (0, 1), value=1.0)
    gram = a.T @ a
    direct = torch.linalg.solve(
        gram + 0.1 * gram.diagonal().mean() * torch.eye(6).double(), a.T @ F.one_hot(y, 3).double()
    )
    torch.testing.assert_close(one(x), (a @ direct).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["analytic", "mlp"])
def test_relevance_tells_modalities_apart(kind):
    centres = {"image": randn(1, 10, seed=1), "audio": randn(1, 10, seed=2), "depth": randn(1, 10, seed=3)}
    queries = {m: F.normalize(c + 0.2 * randn(50, 10, seed=i), dim=1) for i, (m, c) in enumerate(centres.items())}
    relevance = Relevance(10, kind, 0.2, 0.01)
    for i, (m, q) in enumerate(queries.items()):
        relevance.learn(q, m, {k: queries[k] for k in list(queries)[:i]}, torch.Generator().manual_seed(0))
    for i, q in enumerate(queries.values()):
        c = relevance(q)
        torch.testing.assert_close(c.sum(1), torch.ones(50))
        assert (c.argmax(1) == i).float().mean() > 0.95
    tensors, values = relevance.state()
    again = Relevance(10, kind, 0.2, 0.01)
    again.load_state(tensors, values)
    torch.testing.assert_close(again(queries["audio"]), relevance(queries["audio"]))


def discriminant_by_definition(queries, at, penalty):
    """R ``[n, M]`` from the queries themselves."""
    x = [q.double() for q in queries]
    means = torch.stack([q.mean(0) for q in x])
    total = sum(map(len, x))
    within = sum((q - q.mean(0)).T @ (q - q.mean(0)) for q in x) / total
    squares = sum(float(q.square().sum()) for q in x) + total  # with the constant's
    within += penalty * squares / (at.shape[1] + 1) / total * torch.eye(at.shape[1], dtype=torch.float64)
    centre = means.mean(0)
    directions = torch.linalg.inv(within) @ (means - centre).T
    distance = ((means - centre).T * directions).sum(0)
    return ((at.double() - centre) @ directions - distance / 2) / distance.mean()


def test_the_relevance_function_is_the_stated_discriminant():
    queries = [F.normalize(randn(n, 6, seed=n) + 2 * randn(1, 6, seed=50 + n), dim=1) for n in (30, 7, 12)]
    relevance = Relevance(6, "analytic", 0.3, 0.02)
    for number, q in enumerate(queries):
        relevance.learn(q, f"modality {number}", {}, torch.Generator())
    at = F.normalize(randn(5, 6, seed=99), dim=1)
    want = (discriminant_by_definition(queries, at, 0.02) / 0.3).softmax(1).float()
    torch.testing.assert_close(relevance(at), want, rtol=1e-4, atol=1e-5)


def test_a_modality_with_few_samples_is_recognised_beside_one_with_many():
    """Ridge regression onto one-hot modalities, which weighs samples alike, misses it on the same queries."""
    centres = [randn(1, 12, seed=s) for s in (1, 2)]
    queries = [
        F.normalize(c + 0.6 * randn(n, 12, seed=s), dim=1) for c, n, s in zip(centres, (400, 4), (3, 4), strict=True)
    ]
    relevance, ridge = Relevance(12, "analytic", 0.2, 0.01), Ridge(12, 0.01)
    for number, q in enumerate(queries):
        relevance.learn(q, f"modality {number}", {}, torch.Generator())
        ridge.add(q, torch.full((len(q),), number), number + 1)
    fresh = F.normalize(centres[1] + 0.6 * randn(200, 12, seed=5), dim=1)
    assert (relevance(fresh).argmax(1) == 1).float().mean() > 0.9
    assert (ridge(fresh).argmax(1) == 1).float().mean() < 0.5

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

import math

import torch
import torch.nn.functional as F

from mmcl_fast.methods.baselines.coda_prompt import (
    CodaPrompt,
    CodaPromptOptions,
    component_weights,
    orthogonality_loss,
    orthonormal_rows,
    weighted_sum,
)
from mmcl_fast.methods.shared.embedding import unit_query
from tests.methods.baselines.prompt_pools import CLASSES, first_loss, pictures, task
from tests.toy import ToyEncoder


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_weights_are_the_cosines_of_the_attended_query_and_the_keys():
    query, keys, attention = randn(3, 6), randn(2, 4, 6, seed=1), randn(2, 4, 6, seed=2)
    alpha = component_weights(query, keys, attention)
    for b, j, k in ((0, 0, 0), (2, 1, 3), (1, 0, 2)):
        torch.testing.assert_close(alpha[b, j, k], F.cosine_similarity(query[b] * attention[j, k], keys[j, k], dim=0))
    by_hand = component_weights(torch.tensor([[1.0, 1.0]]), torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0, 4.0]]]))
    torch.testing.assert_close(by_hand, torch.tensor([[[0.6]]]))
    assert component_weights(torch.zeros(1, 6), keys, attention).eq(0).all()


def test_a_prompt_is_the_weighted_sum_of_the_components_of_its_block():
    alpha, components = randn(2, 3, 4), randn(3, 4, 2, 5, 6, seed=1)
    prefix = weighted_sum(alpha, components)
    assert prefix.shape == (2, 3, 2, 5, 6)
    torch.testing.assert_close(prefix[1, 2], sum(alpha[1, 2, k] * components[2, k] for k in range(4)))


def test_the_penalty_is_the_mean_square_distance_from_orthonormal_rows():
    x = torch.tensor([[[1.0, 0.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]])  # two blocks of two rows
    # first block: B B' - I = [[0, 1], [1, 4]]; second: 0
    torch.testing.assert_close(orthogonality_loss(x), torch.tensor((1 + 1 + 16) / 4))


def test_new_rows_are_orthonormal_to_each_other_and_to_the_old_ones():
    old = randn(3, 8)
    rows = orthonormal_rows(4, old, torch.Generator().manual_seed(1))
    torch.testing.assert_close(rows @ rows.T, torch.eye(4))
    torch.testing.assert_close(rows @ old.T, torch.zeros(4, 3))
    no_room = orthonormal_rows(4, randn(6, 8), torch.Generator().manual_seed(1))
    torch.testing.assert_close(no_room @ no_room.T, torch.eye(4))
    torch.testing.assert_close(orthonormal_rows(9, old, torch.Generator().manual_seed(1)).norm(dim=1), torch.ones(9))


def test_the_loss_is_cross_entropy_and_the_penalty_of_all_components(monkeypatch):
    method = CodaPrompt(ToyEncoder(), CodaPromptOptions(batch_size=10, components=3, orthogonality=0.5))
    pool = {"components": randn(2, 4, 2, 8, 16), "keys": randn(2, 4, 48, seed=1), "attention": randn(2, 4, 48, seed=2)}
    method.pools["vision"] = pool
    value, trained = first_loss(monkeypatch, method, task(pictures(), 1))
    whole_pool = [torch.cat([old, new], dim=1) for old, (new, _) in zip(pool.values(), trained)]
    assert [x.shape[1] for x in whole_pool] == [7, 7, 7]
    expected = 0.5 * sum(orthogonality_loss(x) for x in whole_pool) + math.log(2)  # the classifier's rows are 0
    torch.testing.assert_close(value, expected)


def test_a_later_task_adds_components_and_leaves_the_old_ones():
    method = CodaPrompt(ToyEncoder(), CodaPromptOptions(epochs=2, components=3))
    method.learn(task(pictures()), CLASSES)
    before = method.pools["vision"]
    old_prefix = method.prefix(unit_query(pictures()), before)
    method.learn(task(pictures(seed=1), 1), CLASSES)
    after = method.pools["vision"]
    for name, x in after.items():
        assert x.shape[1] == 6 and torch.equal(x[:, :3], before[name])
    added = method.prefix(unit_query(pictures()), {k: x[:, 3:] for k, x in after.items()})
    torch.testing.assert_close(method.prefix(unit_query(pictures()), after), old_prefix + added)

import math

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import make_options
from mmcl_fast.methods.baselines.l2p import L2p, L2pOptions, concat_prompts, select_keys
from mmcl_fast.methods.shared.embedding import unit_query
from tests.methods.baselines.prompt_pools import first_loss, pictures, task
from tests.toy import ToyEncoder


def test_the_nearest_keys_are_chosen_for_each_sample():
    keys = torch.tensor([[3.0, 0.0], [0.0, 0.1], [-1.0, 0.0], [2.0, 2.0]])
    query = F.normalize(torch.tensor([[1.0, 0.0], [0.1, 1.0], [-1.0, 0.2]]), dim=1)
    near, selected = select_keys(query, keys, 2)
    assert selected.tolist() == [[0, 3], [1, 3], [2, 1]]
    torch.testing.assert_close(near[0], torch.tensor([0.0, 1 - 0.5**0.5]))
    for i in range(3):  # no vote of the batch
        assert select_keys(query[i : i + 1], keys, 2)[1].tolist() == selected[i : i + 1].tolist()


def test_chosen_prompts_follow_each_other():
    prompts = torch.randn(4, 2, 2, 3, 5)
    prefix = concat_prompts(prompts, torch.tensor([[2, 0], [1, 1]]))
    assert prefix.shape == (2, 2, 2, 6, 5)
    assert torch.equal(prefix[0], torch.cat([prompts[2], prompts[0]], dim=2))


def test_the_loss_is_cross_entropy_and_the_pull_of_chosen_keys(monkeypatch):
    tokens = pictures()
    method = L2p(ToyEncoder(), L2pOptions(batch_size=10, pool_size=5, selected=2, pull=0.7))
    value, [(prompts, _), (keys, gradient)] = first_loss(monkeypatch, method, task(tokens))
    keys.requires_grad_(True)
    near = F.cosine_similarity(unit_query(tokens).unsqueeze(1), keys.unsqueeze(0), dim=-1).topk(2, dim=1)
    pulled = 0.7 * (1 - near.values).sum(1).mean()
    torch.testing.assert_close(value, pulled.detach() + math.log(2))  # the classifier's rows are 0
    pulled.backward()
    torch.testing.assert_close(gradient, keys.grad)
    others = [i for i in range(5) if i not in near.indices.unique().tolist()]
    assert others and gradient[others].eq(0).all() and gradient[near.indices[0]].ne(0).any()
    assert prompts.shape == (5, 2, 2, 2, 16)


def test_more_chosen_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="selected = 4: is more than the pool holds"):
        L2p(ToyEncoder(), make_options("l2p", {"pool_size": 3}))

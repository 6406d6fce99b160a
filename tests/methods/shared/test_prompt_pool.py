import pytest
import torch

from mmcl_fast import distributed
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import make_options, method_class
from mmcl_fast.methods.baselines.l2p import L2p, L2pOptions
from mmcl_fast.methods.shared.embedding import unit_query
from mmcl_fast.methods.shared.prompt_pool import cosine_distance, embed_with_own_prefix
from tests.methods.baselines.prompt_pools import CLASSES, pictures, task
from tests.toy import ToyEncoder


def test_the_distance_is_one_minus_the_cosine():
    query = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    expected = torch.tensor([[0.0, 1.0, 2.0], [0.4, 0.2, 1.6]])
    torch.testing.assert_close(cosine_distance(query, torch.tensor([[5.0, 0.0], [0.0, 0.1], [-2.0, 0.0]])), expected)


def test_each_sample_is_prompted_by_its_own_query_whatever_it_lies_beside():
    encoder, tokens = ToyEncoder(), pictures(40)
    method = L2p(encoder, L2pOptions())
    pool = method._new_pool("image", method.generator(1))
    z = embed_with_own_prefix(encoder, tokens, "image", lambda q: method.prefix(q, pool))
    rows = torch.tensor([39, 3, 20])
    some = embed_with_own_prefix(encoder, tokens[rows], "image", lambda q: method.prefix(q, pool))
    torch.testing.assert_close(some, z[rows], rtol=1e-6, atol=1e-6)
    prefix = method.prefix(unit_query(tokens[rows]), pool)
    torch.testing.assert_close(encoder.head(tokens[rows], prefix, "image"), z[rows])
    assert embed_with_own_prefix(encoder, tokens[:0], "image", lambda q: method.prefix(q, pool)).shape == (
        0,
        encoder.dim,
    )


@pytest.mark.parametrize("name", ["l2p", "dualprompt", "coda_prompt", "s_prompts"])
def test_several_processes_are_refused(name, monkeypatch):
    method = method_class(name)(ToyEncoder(), make_options(name, {}))
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=f"{name!r}: learns in one process"):
        method.learn(task(pictures()), CLASSES)

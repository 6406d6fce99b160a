import math

import torch
import torch.nn.functional as F

from mmcl_fast.methods.baselines.dualprompt import DualPrompt, DualPromptOptions, join_blocks
from mmcl_fast.methods.shared.embedding import unit_query
from tests.methods.baselines.prompt_pools import CLASSES, first_loss, pictures, task
from tests.toy import ToyEncoder


def test_the_general_prompt_is_in_the_first_blocks_and_the_nearest_expert_in_the_later_ones():
    general, experts = torch.randn(2, 2, 3, 5), torch.randn(4, 3, 2, 3, 5)
    pool = {
        "general": general,
        "experts": experts,
        "keys": torch.tensor([[1.0, 0.0], [0.0, 9.0], [-0.1, 0.0], [5.0, 5.0]]),
    }
    query = F.normalize(torch.tensor([[-1.0, 0.3], [0.1, 1.0]]), dim=1)
    prefix = DualPrompt(ToyEncoder(), DualPromptOptions()).prefix(query, pool)
    assert prefix.shape == (2, 5, 2, 3, 5)
    for i, nearest in enumerate((2, 1)):
        assert torch.equal(prefix[i], torch.cat([general, experts[nearest]]))
    assert torch.equal(join_blocks(general[:0], experts), experts)  # a single prompted block has no general prompt


def test_the_loss_is_cross_entropy_and_the_match_of_the_tasks_own_key(monkeypatch):
    tokens = pictures()
    method = DualPrompt(ToyEncoder(), DualPromptOptions(batch_size=10, match=0.4))
    value, [(expert, _), (key, gradient), (general, _)] = first_loss(monkeypatch, method, task(tokens))
    assert expert.shape == (1, 2, 8, 16) and general.shape == (1, 2, 8, 16)
    key.requires_grad_(True)
    matched = 0.4 * (1 - F.cosine_similarity(unit_query(tokens), key.unsqueeze(0))).mean()
    torch.testing.assert_close(value, matched.detach() + math.log(2))  # the classifier's rows are 0
    matched.backward()
    torch.testing.assert_close(gradient, key.grad)


def test_a_later_task_moves_the_general_prompt_and_leaves_old_experts_and_keys():
    method = DualPrompt(ToyEncoder(), DualPromptOptions(epochs=2))
    method.learn(task(pictures()), CLASSES)
    before = method.pools["vision"]
    method.learn(task(pictures(seed=1), 1), CLASSES)
    after = method.pools["vision"]
    assert not torch.equal(after["general"], before["general"])
    assert len(after["experts"]) == len(after["keys"]) == 2
    assert torch.equal(after["experts"][:1], before["experts"]) and torch.equal(after["keys"][:1], before["keys"])


def test_one_prompted_block_has_an_expert_prompt_only():
    encoder = ToyEncoder()
    encoder.num_prompted_blocks = 1
    encoder.layers = {tower: layers[:1] for tower, layers in encoder.layers.items()}
    method = DualPrompt(encoder, DualPromptOptions(epochs=1))
    method.learn(task(pictures()), CLASSES)
    assert method.pools["vision"]["general"].shape[0] == 0
    assert method.scores(pictures(3), "image", CLASSES, given=False).isfinite().all()

import math

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods.base import TaskData
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


def scaled(**options):
    """A method after a task around axis 0, a task around axis 5, and a third one with other tokens around axis 9."""
    quick = {"epochs": 2, "batch_size": 5, "least_steps": 0, "token_scale_shift": True}
    method = DualPrompt(ToyEncoder(), DualPromptOptions(**{**quick, **options}))
    for index, (axis, positions) in enumerate(((0, 16), (5, 16), (9, 7))):
        data = TaskData(index, "image", around(axis, positions), torch.arange(10) % 2, [0, 1])
        method.learn(data, CLASSES)
    method.pools["vision"]["keys"] = torch.eye(48)[[0, 5, 9]]
    return method


def around(axis, positions=16, count=10):
    generator = torch.Generator().manual_seed(axis)
    tokens = torch.randn(count, positions, 16, generator=generator)
    return Tokens(tokens, F.one_hot(torch.tensor([axis] * count), 48).float())


def test_an_expert_scales_and_shifts_tokens_of_its_layout():
    method = scaled()
    pool = method.pools["vision"]
    tables = [pool[f"scale_shift/{t}"] for t in range(3)]
    assert [len(table) for table in tables] == [16 * 32, 16 * 32, 7 * 32]
    assert all(torch.linalg.matrix_rank(table.view(-1, 32), rtol=1e-4) <= 4 and table.any() for table in tables)
    axes = [5, 0, 9]
    tokens = Tokens(around(1, count=3).tokens, torch.eye(48)[axes])
    scores = method.scores(tokens, "image", CLASSES, given=False)
    for row, number in enumerate((1, 0, 2)):
        one = tokens[torch.tensor([row])]
        if number < 2:
            shift, gain = tables[number].view(16, 32).chunk(2, dim=1)
            rms = one.tokens.square().mean(-1, keepdim=True).sqrt()
            one = Tokens(one.tokens * (1 + gain) + rms * shift, one.query)
        prefix = torch.cat([pool["general"], pool["experts"][number]])
        z = method.encoder.head(one, prefix, "image")
        torch.testing.assert_close(scores[row], method.classifier(z)[0], rtol=1e-4, atol=1e-4)
    again = DualPrompt(ToyEncoder(), method.options)
    again.load_state(*method.state())
    assert torch.equal(again.scores(tokens, "image", CLASSES, given=False), scores)


def test_scales_and_shifts_have_their_own_rate_and_none_are_kept_without_the_option():
    still = scaled(scale_shift_lr=0.0).pools["vision"]
    assert still["scale_shift/0"].eq(0).all()
    assert not any("scale_shift" in name for name in scaled(token_scale_shift=False).pools["vision"])


@pytest.mark.parametrize("text_scale_shift", [False, True])
def test_texts_of_any_length_share_the_scales_and_shifts_of_positions(text_scale_shift):
    method = DualPrompt(
        ToyEncoder(), DualPromptOptions(epochs=1, token_scale_shift=True, text_scale_shift=text_scale_shift)
    )
    for index, positions in enumerate((5, 3)):
        method.learn(TaskData(index, "text", around(index, positions), torch.arange(10) % 2, [0, 1]), CLASSES)
    pool = method.pools["text"]
    assert [len(pool[f"scale_shift/{t}"]) for t in range(2)] == ([5 * 32, 3 * 32] if text_scale_shift else [0, 0])
    for positions in (2, 4, 9):
        assert method.scores(around(0, positions), "text", CLASSES, given=False).isfinite().all()

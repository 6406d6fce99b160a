import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines import joint as module
from mmcl_fast.methods.baselines.joint import Joint
from mmcl_fast.methods.shared import prompt_training
from mmcl_fast.methods.shared.prompt_training import fresh_prompt
from mmcl_fast.methods.shared.ridge_regression import Ridge
from tests.methods import end_to_end
from tests.toy import ToyEncoder


def data(index: int, modality: str, labels: list[int], positions: int) -> TaskData:
    generator = torch.Generator().manual_seed(index)
    count = 6 * len(labels)
    tokens = Tokens(torch.randn(count, positions, 16, generator=generator), torch.randn(count, 48, generator=generator))
    return TaskData(index, modality, tokens, torch.tensor(labels).repeat(6), labels)


def test_a_batch_is_of_one_modality_and_of_all_its_tasks(monkeypatch):
    seen = []
    entropy = module.F.cross_entropy
    monkeypatch.setattr(module.F, "cross_entropy", lambda s, y, **k: seen.append(y.tolist()) or entropy(s, y, **k))
    encoder = ToyEncoder()
    method = Joint(encoder, make_options("joint", {"epochs": 2, "batch_size": 12, "least_steps": 0}))
    keys = [("image", "a"), ("image", "b"), ("text", "c"), ("text", "d"), ("image", "e"), ("image", "f")]
    texts = [name for _, name in keys]
    classes = Classes(keys, texts, encoder.text(texts))
    for task in (data(0, "image", [0, 1], 16), data(1, "text", [2, 3], 5), data(2, "image", [4, 5], 16)):
        method.learn(task, classes)
    method.finish(classes)
    images = [set(y) for y in seen if set(y) <= {0, 1, 4, 5}]
    assert len(images) + sum(set(y) == {2, 3} for y in seen) == len(seen) == 2 * 3
    assert all(batch & {0, 1} and batch & {4, 5} for batch in images)


def fitted(**options):
    """A method after two tasks of images and one of texts, and the prompts that its training began with."""
    encoder = ToyEncoder()
    quick = {"epochs": 1, "batch_size": 6, "least_steps": 0, "scale_shift_rank": 0}
    method = Joint(encoder, make_options("joint", {**quick, **options}))
    keys = [(m, str(c)) for c, m in enumerate(("image", "image", "text", "text", "image", "image"))]
    classes = Classes(keys, [str(k) for k in keys], encoder.text([str(k) for k in keys]))
    for task in (data(0, "image", [0, 1], 16), data(1, "text", [2, 3], 5), data(2, "image", [4, 5], 16)):
        method.learn(task, classes)
    generator = method.generator(3, 3)
    pools = method._data_by_modality()
    start = {m: fresh_prompt(method.bank, pools[m][0], m, generator) for m in ("image", "text")}
    method.finish(classes)
    return method, start


@pytest.mark.parametrize("rate", ["lr", "text_lr", "scale_shift_lr"])
def test_each_rate_moves_its_own_part_of_the_prompts(rate):
    rates = {"lr": 0.0, "text_lr": 0.0, "scale_shift_lr": 0.0, rate: 0.01}
    method, start = fitted(**rates)
    moved = {}
    for modality, prompt in method.bank.prompts.items():
        parts = zip(*(method.bank.head.split(p, modality) for p in (prompt, start[modality])))
        moved[modality] = [not torch.allclose(now, before) for now, before in parts]
    assert moved == {
        "image": [rate == "lr", rate == "scale_shift_lr"],
        "text": [rate == "text_lr", rate == "scale_shift_lr"],
    }


def test_prompts_of_text_need_not_scale_tokens():
    method, _ = fitted(text_scale_shift=False)
    extra = {m: len(p) - method.bank.head.prefix(m).numel() for m, p in method.bank.prompts.items()}
    assert extra == {"image": 16 * 2 * 16, "text": 0}


def test_channels_are_dropped_in_training_alone(monkeypatch):
    shares, real = [], prompt_training.drop_channels
    monkeypatch.setattr(
        prompt_training, "drop_channels", lambda t, kept, share: shares.append(kept) or real(t, kept, share)
    )
    method, _ = fitted(channel_dropout=0.3)
    assert {kept.shape for kept in shares} == {(6, 16)} and len(shares) == 6
    assert float(torch.cat(shares).float().mean()) == pytest.approx(0.7, abs=0.08)
    method.scores(method.tasks[0].tokens, "image", Classes([("any", "any")] * 6), given=True)
    assert len(shares) == 6
    assert not torch.equal(method.bank.prompts["image"], fitted()[0].bank.prompts["image"])


def test_each_modality_takes_the_least_steps(monkeypatch):
    steps, real = [], module.train_groups
    monkeypatch.setattr(module, "train_groups", lambda g, count, *a: steps.append(count) or real(g, count, *a))
    fitted(least_steps=5)  # of its own 4 batches of images, and 2 of texts
    assert steps == [5 + 5]


@pytest.mark.parametrize("penalty", [0.02, "auto"])
def test_the_final_classifier_is_ridge_regression_with_this_penalty(penalty):
    method, _ = fitted(penalty=penalty)
    ridge = Ridge(24 + 48, penalty)
    for task in method.tasks:
        z = method.bank.head.head(task.tokens, method.bank.prompts[task.modality], task.modality)
        u = torch.cat([F.normalize(z, dim=1), F.normalize(task.tokens.query, dim=1)], dim=1).detach()
        ridge.add(u, task.labels, 6)
    torch.testing.assert_close(method.weight, ridge.weight(), rtol=1e-3, atol=1e-3)


def test_it_learns_the_toy_stream(tmp_path):
    end_to_end.check_learning(*end_to_end.learned(tmp_path, "joint", {"epochs": 8, "batch_size": 8}), last=60.0)

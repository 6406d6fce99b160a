import torch

from mmcl_fast.encoders.base import Tokens
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines import joint as module
from mmcl_fast.methods.baselines.joint import Joint
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
    method = Joint(encoder, make_options("joint", {"epochs": 2, "batch_size": 12}))
    keys = [("image", "a"), ("image", "b"), ("text", "c"), ("text", "d"), ("image", "e"), ("image", "f")]
    texts = [name for _, name in keys]
    classes = Classes(keys, texts, encoder.text(texts))
    for task in (data(0, "image", [0, 1], 16), data(1, "text", [2, 3], 5), data(2, "image", [4, 5], 16)):
        method.learn(task, classes)
    method.finish(classes)
    images = [set(y) for y in seen if set(y) <= {0, 1, 4, 5}]
    assert len(images) + sum(set(y) == {2, 3} for y in seen) == len(seen) == 2 * 3
    assert all(batch & {0, 1} and batch & {4, 5} for batch in images)


def test_it_learns_the_toy_stream(tmp_path):
    end_to_end.check_learning(*end_to_end.learned(tmp_path, "joint", {"epochs": 8, "batch_size": 8}), last=60.0)

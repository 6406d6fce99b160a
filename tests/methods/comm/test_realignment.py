"""Re-alignment: what it reads, what training may change, and what held-out samples decide."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods import make_options
from mmcl_fast.methods.comm import realignment
from mmcl_fast.methods.comm.memory import FeatureMemory
from mmcl_fast.methods.comm.realignment import Realigner, class_targets, trains
from tests.methods.comm.test_closed_form import DIM, WIDE, memory_of, samples, texts
from tests.methods.comm.test_memory import randn

SETTINGS = {"steps": 30, "realignment_lr": 0.01, "sampled_features": 64, "realignment_scale": 20.0, "weighted": False}


def start(classes=4):
    memory, realigner = memory_of(samples(classes)), Realigner(DIM, rank=99, reads_query=True)
    realigner.solve(memory, texts(classes), ["image"], "auto", True)
    return memory, realigner


def one_modality(u):
    return torch.ones(len(u), 1)


def train(realigner, memory, classes=4, **options):
    generator = torch.Generator().manual_seed(0)
    options = make_options("comm", {**SETTINGS, **options})
    return realigner.train(memory, texts(classes), ["image"], one_modality, options, generator, advance=lambda n: None)


def test_dual_targets_make_cosines_one_hot_scores():
    given = F.normalize(randn(6, 16), dim=1)
    torch.testing.assert_close(class_targets(given, True) @ given.T, torch.eye(6), atol=0.02, rtol=0)
    assert class_targets(given, False) is given


def test_a_constant_is_read_where_the_solution_has_a_row_for_it():
    _, realigner = start()
    u = randn(3, WIDE)
    torch.testing.assert_close(realigner.source(u), torch.cat([u, torch.ones(3, 1)], 1))
    shifted = realigner(u, one_modality(u))
    realigner.down = realigner.down[:, :-1]  # as an older version saved it
    assert torch.equal(realigner.source(u), u)
    assert not torch.allclose(realigner(u, one_modality(u)), shifted)
    realigner.reads_query = False
    realigner.down = realigner.down[:, :DIM]
    assert torch.equal(realigner.source(u), u[:, :DIM])


def test_training_from_zero_is_taken_since_held_out_samples_are_better():
    memory, realigner = memory_of(samples(4)), Realigner(DIM, rank=99, reads_query=True)
    generator = torch.Generator().manual_seed(0)
    realigner.start_at_zero(WIDE, ["image"], generator, torch.device("cpu"))
    before = realigner(memory.means("image"), torch.ones(4, 1)) @ texts(4).T
    assert train(realigner, memory) > 0
    after = realigner(memory.means("image"), torch.ones(4, 1)) @ texts(4).T
    assert before.argmax(1).tolist() != [0, 1, 2, 3] and after.argmax(1).tolist() == [0, 1, 2, 3]


def test_harmful_training_leaves_the_closed_form():
    memory, realigner = start()
    down, up = realigner.down.clone(), realigner.up.clone()
    assert train(realigner, memory, realignment_lr=5.0) == 0
    assert torch.equal(realigner.down, down) and torch.equal(realigner.up, up)
    assert not realigner.down.requires_grad


def test_too_few_features_of_a_class_are_no_training(monkeypatch):
    assert trains(100, 10, 200, 10) and not trains(101, 10, 200, 10)
    assert trains(100, 2**30 // 8000, 10**6, 1) and not trains(100, 2**30 // 8000 + 1, 10**6, 1)
    memory, realigner = start()
    monkeypatch.setattr(realignment, "optimise", lambda *a, **k: pytest.fail("trained"))
    assert train(realigner, memory, steps=1) == 0


def test_each_class_has_at_least_twenty_features_in_the_pool(monkeypatch):
    drawn = []
    real = FeatureMemory.sample
    monkeypatch.setattr(
        FeatureMemory, "sample", lambda self, m, count, *rest: drawn.append(count) or real(self, m, count, *rest)
    )
    memory, realigner = start(8)
    train(realigner, memory, 8, sampled_features=8)
    assert drawn == [20, 10]
    train(realigner, memory, 8, sampled_features=64)
    assert drawn[2:] == [32, 10]

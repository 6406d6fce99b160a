"""RAIL: kernel ridge regression that grows by tasks, and its fusion with zero-shot scores."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines import rail
from mmcl_fast.methods.baselines.rail import KernelRidge, Rail
from tests.methods import end_to_end
from tests.methods.baselines.closed_form import WIDTH, features, learned
from tests.toy import ToyEncoder

LABELS = torch.tensor([0, 2, 1, 2, 0, 4] * 15)
CPU = torch.device("cpu")


def direct(u, new, gamma, penalty):
    """The paper's batch solution, with distances pair by pair."""
    u, new = u.double(), new.double()
    square = (u[:, None] - u[None]).square().sum(2)
    alpha = torch.inverse((-gamma * square).exp() + penalty * torch.eye(len(u)).double()) @ F.one_hot(LABELS).double()
    return (-gamma * (new[:, None] - u[None]).square().sum(2)).exp() @ alpha


@pytest.mark.parametrize(("gamma", "penalty"), [(0.1, 0.001), (0.01, 1.0), (2.0, 1e-6)])
@pytest.mark.parametrize("blocks", [[90], [1, 40, 49], [30, 30, 30]], ids=str)
def test_the_recursive_update_equals_the_batch_solution(gamma, penalty, blocks):
    u, new = features(LABELS, spread=0.3) / 5, features(LABELS, spread=0.3, seed=5) / 5
    method = learned("rail", u, LABELS, 5, list(torch.arange(90).split(blocks)), gamma=gamma, penalty=penalty)
    found = method.class_scores(new)
    torch.testing.assert_close(found, direct(u, new, gamma, penalty).float(), rtol=1e-3, atol=1e-4)
    root = method.regression.root
    kernel = (-gamma * torch.cdist(u.double(), u.double()).square()).exp() + penalty * torch.eye(90).double()
    torch.testing.assert_close(root @ root.T, kernel, rtol=1e-9, atol=1e-9)
    assert method.count.tolist() == [30, 15, 30, 0, 15]


def test_the_order_of_tasks_does_not_matter():
    u, new = features(LABELS) / 5, features(LABELS, seed=5) / 5
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    one, other = (learned("rail", u, LABELS, 5, list(parts)) for parts in (torch.arange(90).split(40), order.split(25)))
    torch.testing.assert_close(one.class_scores(new), other.class_scores(new), rtol=1e-4, atol=1e-4)


def test_equal_samples_and_a_small_penalty_do_not_fail():
    regression = KernelRidge(WIDTH, 0.1, 1e-6, CPU)
    u = features(LABELS)[:1].repeat(50, 1)
    for _ in range(3):
        regression.add(u, torch.arange(50) % 2)
    assert regression.weight(2).isfinite().all()


def test_the_state_has_the_features_of_every_sample_and_counts_them_for_the_classes():
    method = learned("rail", features(LABELS), LABELS, 5, [torch.arange(40), torch.arange(40, 90)])
    tensors, values = method.state()
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {"features": (90, WIDTH), "labels": (90,)}
    assert values == {"blocks": [40, 50], "classes": 5}
    assert all(name.startswith(Rail.class_state) for name in tensors)
    again = Rail(ToyEncoder(), make_options("rail", {}))
    again.load_state(tensors, values)
    assert torch.equal(again.regression.root, method.regression.root)


def test_scores_are_fused_where_zero_shot_names_a_learned_class():
    encoder = ToyEncoder()
    names = [str(i) for i in range(4)]
    classes = Classes([("image", n) for n in names], names, encoder.text(names))
    tokens = torch.randn(40, 4, 16, generator=torch.Generator().manual_seed(0))
    data = TaskData(0, "image", Tokens(tokens, F.pad(tokens.mean(1), (0, 32))), torch.arange(40) % 2, [0, 1])
    method = Rail(encoder, make_options("rail", {"fusion": 0.6, "gamma": 0.5}))
    cosines = encoder.logit_scale * F.normalize(encoder.head(data.tokens, None, "image"), dim=1) @ classes.embedding.T
    torch.testing.assert_close(method.scores(data.tokens, "image", classes, given=False), cosines)  # nothing learned
    method.learn(data, Classes(classes.keys[:2], classes.texts[:2], classes.embedding[:2]))
    found = method.scores(data.tokens, "image", classes, given=False)
    p = cosines.softmax(1)
    f = F.pad(method.class_scores(method.reader(data.tokens, "image", given=True)), (0, 2))
    inside = p.argmax(1) < 2
    assert 0 < inside.sum() < 40
    torch.testing.assert_close(found[inside], 0.4 * p[inside] + 0.6 * f[inside])
    torch.testing.assert_close(found[~inside], p[~inside])
    few = Classes(classes.keys[:2], classes.texts[:2], classes.embedding[:2])
    both = 0.4 * cosines[:, :2].softmax(1) + 0.6 * f[:, :2]
    torch.testing.assert_close(method.scores(data.tokens, "image", few, given=False), both)


def test_too_many_samples_and_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(rail, "MOST_SAMPLES", 80)
    with pytest.raises(ConfigError, match="features of every sample, and 90 are more than 80; learn fewer samples"):
        learned("rail", features(LABELS), LABELS, 5, [torch.arange(40), torch.arange(40, 90)])
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="'rail': learns in one process"):
        learned("rail", features(LABELS), LABELS, 5, [torch.arange(40)])


@pytest.mark.parametrize("options", [{}, {"adaptation": "prefix", "epochs": 1, "batch_size": 16}], ids=str)
def test_end_to_end(options, tmp_path):
    learner, tasks = end_to_end.learned(tmp_path, "rail", options)
    for setting in ("agnostic", "given"):
        end_to_end.check_learning(learner, tasks, last=50, setting=setting)
    end_to_end.check_predictions_by_instance(learner, tasks)
    end_to_end.check_state(learner, tasks, tmp_path)

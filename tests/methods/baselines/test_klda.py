import math

import pytest
import torch

from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import make_options
from mmcl_fast.methods.baselines import klda as module
from mmcl_fast.methods.baselines.klda import median_gamma
from mmcl_fast.methods.shared.class_statistics import LinearDiscriminant
from tests.methods.baselines.closed_form import WIDTH, build, features, learned

LABELS = torch.tensor([0, 2, 1, 2, 0, 4] * 10)
U = features(LABELS) / 10
NEW = features(LABELS, seed=5) / 10
OPTIONS = {"random_features": 60}


def test_products_of_random_features_approximate_the_kernel():
    method = build("klda", random_features=3000, gamma=0.3)
    phi = method.random_features(U)
    kernel = (-0.3 * torch.cdist(U, U).square()).exp()
    assert kernel.min() < 0.7 and (phi @ phi.T - kernel).abs().max() < 0.09


def test_scores_are_a_linear_discriminant_of_the_random_features(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 7)
    method = learned("klda", U, LABELS, 5, [torch.arange(20), torch.arange(20, 60)], gamma=2.0, **OPTIONS)
    phi = [math.sqrt(2 / 60) * torch.cos(2.0 * x @ method.direction + method.offset) for x in (U, NEW)]
    discriminant = LinearDiscriminant(60, method.options.shrinkage)
    discriminant.add(phi[0], LABELS, 5)
    torch.testing.assert_close(method.class_scores(NEW), discriminant(phi[1]), rtol=1e-3, atol=1e-3)
    assert method.direction.std() == pytest.approx(1.0, rel=0.05) and method.offset.min() >= 0
    assert method.offset.max() <= 2 * math.pi


def test_auto_takes_the_median_distance_in_the_first_task(monkeypatch):
    parts = [torch.arange(20), torch.arange(20, 60)]
    method = learned("klda", U, LABELS, 5, parts, **OPTIONS)
    square = torch.tensor([float((U[i] - U[j]).square().sum()) for i in range(20) for j in range(i)])
    assert method.gamma == pytest.approx(float(1 / square.median()), rel=1e-5)
    again = build("klda", **OPTIONS)
    again.load_state(*method.state())
    assert again.gamma == method.gamma and torch.equal(again.class_scores(NEW), method.class_scores(NEW))
    generator = torch.Generator().manual_seed(0)
    assert median_gamma(U[:1], generator) == median_gamma(U[:1].expand(3, -1), generator) == 1.0
    half = learned("klda", U, LABELS, 5, parts, gamma_factor=0.5, **OPTIONS)
    assert half.gamma == pytest.approx(method.gamma / 2, rel=1e-6)
    monkeypatch.setattr(module, "MEDIAN_SAMPLES", 15)
    assert median_gamma(U, generator) == pytest.approx(method.gamma, rel=0.3)


def test_with_a_number_as_gamma_the_order_of_tasks_does_not_matter():
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    one, other = (learned("klda", U, LABELS, 5, parts, gamma=1.0, **OPTIONS) for parts in (order.split(25), [order]))
    torch.testing.assert_close(one.class_scores(NEW), other.class_scores(NEW), rtol=1e-3, atol=1e-3)


def test_gamma_is_auto_or_above_0():
    for value in (0.0, "median", -1):
        with pytest.raises(ConfigError, match=r"options\.gamma: expected .*\"auto\""):
            make_options("klda", {"gamma": value})
    assert make_options("klda", {"gamma": 2}).gamma == 2.0


def test_the_state_has_one_covariance_for_all_classes():
    labels = torch.arange(1000)
    method = learned("klda", features(labels), labels, 1000, [labels], random_features=200, gamma=0.02)
    fixed = {k: tuple(v.shape) for k, v in method.state()[0].items() if not k.startswith(method.class_state)}
    assert fixed == {"direction": (WIDTH, 200), "offset": (200,), "phi/scatter": (200, 200)}
    assert torch.equal(method.class_scores(features(labels)).argmax(1), labels)  # a sample a class

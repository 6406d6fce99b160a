"""Errors of ridge regression on samples that it was not fitted on, against explicit refits."""

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.methods.comm import held_out
from mmcl_fast.methods.comm.held_out import PENALTIES, held_out_error, leave_one_out_error
from tests.methods.comm.test_memory import randn

CLASSES = 3
TARGETS = torch.arange(12) % CLASSES
NARROW, WIDE = (randn(12, d, seed=4) + 0.8 * randn(CLASSES, d, seed=5)[TARGETS] for d in (5, 20))


def refit(x, y, penalty, at):
    """Predictions at ``at`` of ridge regression with a free intercept."""
    centre, mean = x.mean(0), y.mean(0)
    x = x - centre
    system = x.T @ x + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    return (at - centre) @ torch.linalg.solve(system, x.T @ (y - mean)) + mean


def kernel_scale(x):
    x = x - x.mean(0)
    return float(x.square().sum()) / len(x)  # the mean eigenvalue of x x'


@pytest.mark.parametrize("features", [NARROW, WIDE], ids=["more samples", "more features"])
def test_leaving_one_out_is_what_refits_without_each_sample_give(features):
    x, y = features.double(), F.one_hot(TARGETS, CLASSES).double()
    errors = []
    for penalty in PENALTIES.tolist():
        error = 0.0
        for i in range(len(x)):
            rest = [k for k in range(len(x)) if k != i]
            error += float((y[i] - refit(x[rest], y[rest], penalty * kernel_scale(x), x[i])).square().sum())
        errors.append(error)
    want = min(errors) / float((y - y.mean(0)).square().sum())
    assert leave_one_out_error(features, TARGETS, CLASSES) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("features", [NARROW, WIDE], ids=["more samples", "more features"])
def test_the_held_out_error_is_that_of_a_refit(features):
    x, y = features.double(), F.one_hot(TARGETS, CLASSES).double()
    held, fitted = torch.tensor([7, 0, 4]), torch.tensor([1, 2, 3, 5, 6, 8, 9, 10, 11])
    scale = kernel_scale(x[fitted])
    errors = [
        float((y[held] - refit(x[fitted], y[fitted], p * scale, x[held])).square().sum()) for p in PENALTIES.tolist()
    ]
    want = min(errors) / float((y[held] - y[fitted].mean(0)).square().sum())
    assert held_out_error(features, TARGETS, CLASSES, fitted, held) == pytest.approx(want, rel=1e-6)


def test_features_that_tell_nothing_have_an_error_near_one_and_clear_ones_near_zero():
    targets = torch.arange(60) % CLASSES
    noise, clear = randn(60, 4, seed=1), 10.0 * F.one_hot(targets, CLASSES).float()
    halves = torch.arange(30), torch.arange(30, 60)
    for error in (lambda x: leave_one_out_error(x, targets, 3), lambda x: held_out_error(x, targets, 3, *halves)):
        assert error(clear) < 0.01 and 0.9 < error(noise) < 1.2
    assert leave_one_out_error(noise, torch.zeros(60, dtype=torch.int64), 1) == 1.0


def test_of_many_samples_some_count_and_no_class_is_missed(monkeypatch):
    monkeypatch.setattr(held_out, "MOST_SAMPLES", 40)
    targets = torch.arange(400) % 4  # evenly spaced samples would be of one class
    features = F.one_hot(targets, 4).float() + 0.1 * randn(400, 4)
    assert leave_one_out_error(features, targets, 4) < 0.1
    real, sizes = torch.linalg.eigh, []
    monkeypatch.setattr(held_out, "_kernel_spectrum", lambda rows: sizes.append(len(rows)) or real(rows @ rows.T))
    leave_one_out_error(features, targets, 4)
    assert sizes == [40]

import pytest
import torch

from tests.methods.baselines.closed_form import WIDTH, features, learned, within

LABELS = torch.tensor([0, 2, 1, 2, 0, 4] * 20)
U = features(LABELS)
NEW = features(LABELS, seed=5)
SEEN = [0, 1, 2, 4]
E = 0.1


def direct(x, shrinkage):
    """Scores from all samples at once, by the inverse."""
    sigma = within(U, LABELS) / len(U)
    sigma = (1 - shrinkage) * sigma + shrinkage * sigma.trace() / WIDTH * torch.eye(WIDTH).double()
    inverse, means = torch.inverse(sigma), torch.stack([U[c == LABELS].double().mean(0) for c in SEEN])
    return differences(x.double() @ inverse @ means.T - 0.5 * ((means @ inverse) * means).sum(1))


def differences(scores):
    """Scores less their mean over the classes: what a prediction depends on."""
    return (scores - scores.mean(1, keepdim=True)).float()


def found(method):
    return differences(method.class_scores(NEW)[:, SEEN])


def test_the_streaming_update_equals_the_batch_formula():
    """One sample after another by the docstring's update, one task a sample, and all at once."""
    mean, count = torch.zeros(5, WIDTH).double(), torch.zeros(5).double()
    scatter = torch.zeros(WIDTH, WIDTH).double()
    for x, y in zip(U.double(), LABELS):
        difference = x - mean[y]
        scatter += count[y] / (count[y] + 1) * torch.outer(difference, difference)
        mean[y] += difference / (count[y] + 1)
        count[y] += 1
    torch.testing.assert_close(scatter, within(U, LABELS))
    for parts in ([torch.arange(120)], list(torch.arange(120).split(1))):
        method = learned("slda", U, LABELS, 5, parts, shrinkage=E)
        torch.testing.assert_close(method.discriminant.scatter, scatter)
        torch.testing.assert_close(method.discriminant.mean, mean)
        torch.testing.assert_close(found(method), direct(NEW, E), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shrinkage", [1e-4, 1.0])
def test_the_order_of_tasks_does_not_matter(shrinkage):
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    one, other = (learned("slda", U, LABELS, 5, parts, shrinkage=shrinkage) for parts in (order.split(50), [order]))
    for method in (one, other):
        torch.testing.assert_close(found(method), direct(NEW, shrinkage), rtol=1e-4, atol=0.02)


def test_the_state_has_one_covariance_for_all_classes():
    labels = torch.arange(1000)
    method = learned("slda", features(labels), labels, 1000, [labels[:1], labels])
    tensors, _ = method.state()
    assert {k: tuple(v.shape) for k, v in tensors.items() if not k.startswith(method.class_state)} == {
        "scatter": (WIDTH, WIDTH)
    }
    assert torch.equal(method.class_scores(features(labels)).argmax(1), labels)  # a sample a class

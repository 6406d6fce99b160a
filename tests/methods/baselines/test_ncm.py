import pytest
import torch
import torch.nn.functional as F

from tests.methods.baselines.closed_form import WIDTH, features, learned

LABELS = torch.tensor([0, 2, 1, 2, 0, 4] * 5)
U = features(LABELS)
NEW = features(LABELS, seed=5)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_scores_say_how_near_the_class_means_are(distance):
    method = learned("ncm", U, LABELS, 5, [torch.arange(10), torch.arange(10, 30)], distance=distance)
    scores = method.class_scores(NEW)
    for c in (0, 1, 2, 4):
        mean = U[c == LABELS].mean(0)
        if distance == "cosine":
            expected = F.cosine_similarity(NEW, mean.unsqueeze(0))
        else:
            expected = -(NEW - mean).square().sum(1)
        torch.testing.assert_close(scores[:, c], expected, rtol=1e-4, atol=1e-4)
    assert method.count.tolist() == [10, 5, 10, 0, 5]


def test_on_features_of_one_length_cosine_and_euclidean_rank_as_the_paper_does():
    """The paper normalises the means too; then both distances choose the same class."""
    u = F.normalize(U, dim=1)
    method = learned("ncm", u, LABELS, 5, [torch.arange(30)])
    means = torch.stack([F.normalize(u[c == LABELS].mean(0), dim=0) for c in (0, 1, 2, 4)])
    chosen = method.class_scores(F.normalize(NEW, dim=1))[:, [0, 1, 2, 4]].argmax(1)
    assert torch.equal(chosen, torch.cdist(F.normalize(NEW, dim=1), means).argmin(1))


def test_the_state_is_a_mean_and_a_count_a_class():
    labels = torch.arange(1000)
    method = learned("ncm", features(labels), labels, 1000, [labels])
    tensors, _ = method.state()
    assert {k: tuple(v.shape) for k, v in tensors.items()} == {"count": (1000,), "mean": (1000, WIDTH)}
    assert all(name.startswith(method.class_state) for name in tensors)
    assert torch.equal(method.class_scores(features(labels)).argmax(1), labels)  # the samples themselves

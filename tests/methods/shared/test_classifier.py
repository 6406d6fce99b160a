import copy

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods.baselines.zero_shot import ZeroShot, ZeroShotOptions
from mmcl_fast.methods.shared.classifier import GrowingClassifier, classifier_input, train_in_one_process
from tests.methods.shared.test_training_steps import Kept, Stopped
from tests.toy import ToyEncoder

CPU = torch.device("cpu")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def learner():
    return ZeroShot(ToyEncoder(), ZeroShotOptions())


def test_a_feature_keeps_the_direction_and_has_entries_of_mean_square_one():
    z = randn(5, 8) * 30
    torch.testing.assert_close(classifier_input(z).square().mean(1), torch.ones(5))
    torch.testing.assert_close(F.cosine_similarity(classifier_input(z), z), torch.ones(5))
    torch.testing.assert_close(classifier_input(z / 7), classifier_input(z))


def test_with_a_query_both_parts_count_alike_and_the_length_stays():
    z, query = randn(5, 8) * 30, randn(5, 20, seed=1) * 0.1
    f = classifier_input(z, query)
    assert f.shape == (5, 28)
    torch.testing.assert_close(f.norm(dim=1), classifier_input(z).norm(dim=1))
    torch.testing.assert_close(f[:, :8], classifier_input(z) / 2**0.5)
    torch.testing.assert_close(F.cosine_similarity(f[:, 8:], query), torch.ones(5))
    torch.testing.assert_close(classifier_input(z / 7, query * 9), f)


def test_a_classifier_reads_the_query_only_where_it_was_made_for_it():
    z, query = randn(4, 24), randn(4, 48, seed=1)
    alone, both = (GrowingClassifier.of(ToyEncoder(), features) for features in ("z", "zq"))
    for head in (alone, both):
        head.grow(3)
        head.weight += randn(*head.weight.shape, seed=2)
        head.bias += randn(3, seed=3)
    assert (alone.weight.shape, both.weight.shape) == ((3, 24), (3, 72))
    assert torch.equal(alone(z, query), alone(z))
    expected = classifier_input(z, query) @ both.weight.T + both.bias
    torch.testing.assert_close(both(z, query), expected)
    torch.testing.assert_close(both.scores(z, 5, query)[:, :3], expected)
    targets = torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(both.loss(z, targets, [2, 0], query), F.cross_entropy(expected[:, [2, 0]], targets))


def test_growing_keeps_the_old_rows_and_unknown_classes_never_win():
    head = GrowingClassifier(8, CPU)
    assert head.scores(randn(2, 8), 3).tolist() == [[float("-inf")] * 3] * 2
    head.grow(2)
    head.weight += randn(2, 8)
    head.bias += 1
    old = head(randn(4, 8, seed=1))
    head.grow(5)
    scores = head.scores(randn(4, 8, seed=1), 7)
    torch.testing.assert_close(scores[:, :2], old)
    assert scores[:, 2:5].eq(0).all() and scores[:, 5:].eq(float("-inf")).all()


def test_the_loss_is_the_cross_entropy_of_the_tasks_classes():
    head = GrowingClassifier(4, CPU)
    head.grow(4)
    z = torch.tensor([[2.0, 0.0, 0.0, 0.0]])  # f(z) = (2, 0, 0, 0)
    head.weight[:, 0] = torch.tensor([9.0, 0.5, 9.0, 0.0])
    expected = -torch.log(torch.tensor(1.0).exp() / (torch.tensor(1.0).exp() + 1))
    torch.testing.assert_close(head.loss(z, torch.tensor([1]), [3, 1]), expected)


def test_only_the_tasks_rows_learn():
    head, method = GrowingClassifier(8, CPU), learner()
    head.grow(5)
    head.weight += randn(5, 8)
    before = head.weight.clone()
    targets = torch.arange(20) % 2
    z = randn(20, 8, seed=2) + 2 * randn(2, 8, seed=3)[targets]
    train_in_one_process(
        method,
        [(head.parameters, 0.1)],
        20,
        lambda step: head.loss(z, targets, [1, 4]),
        advance=lambda n: None,
        generator=method.generator(0),
    )
    assert (head(z)[:, [1, 4]].argmax(1) == targets).float().mean() > 0.8
    assert torch.equal(head.weight[[0, 2, 3]], before[[0, 2, 3]])
    assert not torch.equal(head.weight[[1, 4]], before[[1, 4]])
    assert not any(p.requires_grad for p in head.parameters)


def test_the_state_comes_back():
    head, again = GrowingClassifier(8, CPU), GrowingClassifier(8, CPU)
    head.grow(3)
    head.weight += randn(3, 8)
    again.load_state(copy.deepcopy(head.state()))
    assert torch.equal(again(randn(4, 8)), head(randn(4, 8))) and len(again) == 3


def test_training_stopped_inside_goes_on_to_the_same_bits():
    def run(checkpoints):
        method = learner()
        method.checkpoints = checkpoints
        generator, head, prompt = method.generator(0), GrowingClassifier(8, CPU), torch.zeros(8)
        head.grow(3)

        def loss(step):
            z = randn(6, 8, seed=step) + torch.randn(6, 8, generator=generator)
            return head.loss(z + prompt, torch.arange(6) % 3, [0, 1, 2])

        train_in_one_process(
            method,
            [([prompt], 0.1), (head.parameters, 0.01), ([], 1.0)],
            8,
            loss,
            advance=lambda n: None,
            generator=generator,
            loop="a loop",
        )
        return [prompt, *head.parameters, generator.get_state()]

    uninterrupted, checkpoints = run(Kept()), Kept(5)
    with pytest.raises(Stopped):
        run(checkpoints)
    assert all(torch.equal(a, b) for a, b in zip(uninterrupted, run(Kept(state=checkpoints.state)), strict=True))


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="'zero_shot': learns in one process"):
        train_in_one_process(
            learner(),
            [([torch.zeros(1)], 0.1)],
            1,
            lambda step: torch.zeros(()),
            advance=lambda n: None,
            generator=torch.Generator(),
        )

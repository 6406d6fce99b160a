import pytest
import torch

from mmcl_fast.methods import Classes, make_options
from mmcl_fast.methods.baselines.slca import ClassGaussian, Slca, normalise_logits
from mmcl_fast.methods.shared.classifier import classifier_input
from mmcl_fast.methods.shared.prompt_training import UNIT_SAMPLES
from mmcl_fast.methods.shared.prompts import PromptBank, prefix_units
from tests.methods.comm.test_method import task
from tests.toy import ToyEncoder

QUICK = {"batch_size": 8, "epochs": 4, "sampled_features": 32, "align_epochs": 2}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def two_tasks(**options):
    """A method after two tasks, and the classifier as the second one left it before alignment."""
    encoder = ToyEncoder()
    keys = [("image", str(c)) for c in range(4)]
    method = Slca(encoder, make_options("slca", {**QUICK, **options}))
    align, left = method._align, []

    def watched(index):
        left.extend(p.clone() for p in method.classifier.parameters)
        align(index)

    method._align = watched
    for i in range(2):
        known = keys[: 2 * i + 2]
        texts = [str(k) for k in known]
        data = task(encoder, i, "image", [2 * i, 2 * i + 1], i)
        method.learn(data, Classes(known, texts, encoder.text(texts)))
    return method, left, data


def test_logits_are_divided_by_the_mean_norm_of_the_tasks_blocks():
    logits = torch.tensor([[3.0, 4.0, 0.0, 12.0, 5.0], [1.0, 0.0, 0.0, 0.0, 3.0]])
    out = normalise_logits(logits, [[0, 1], [2, 4, 3]], 0.1)
    torch.testing.assert_close(out, logits / torch.tensor([[0.1 * (5 + 13) / 2], [0.1 * (1 + 3) / 2]]))
    torch.testing.assert_close(normalise_logits(logits * 7, [[0, 1], [2, 4, 3]], 0.1), out)  # their size doesn't matter


@pytest.mark.parametrize("count", [5, 40])
def test_sampled_features_have_the_class_mean_and_covariance(count):
    x = randn(count, 6) @ randn(6, 6, seed=1) + 2
    gaussian = ClassGaussian.fit(x)
    assert len(gaussian.factor) <= 6
    torch.testing.assert_close(gaussian.factor.T @ gaussian.factor, torch.cov(x.T), rtol=1e-4, atol=1e-4)
    drawn = gaussian.sample(100_000, torch.Generator().manual_seed(2))
    torch.testing.assert_close(drawn.mean(0), x.mean(0), rtol=0, atol=0.05)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(x.T), rtol=0.05, atol=0.2)


def test_a_class_met_again_has_the_statistics_of_all_its_samples():
    x = randn(30, 6) * 2 + 1
    merged = ClassGaussian.fit(x[:1]).merge(ClassGaussian.fit(x[1:12])).merge(ClassGaussian.fit(x[12:]))
    assert merged.count == 30 and len(merged.factor) <= 6
    torch.testing.assert_close(merged.mean, x.mean(0))
    torch.testing.assert_close(merged.factor.T @ merged.factor, torch.cov(x.T), rtol=1e-4, atol=1e-4)


def test_what_is_kept_of_a_class_are_its_features_under_the_learned_prompt():
    method, _, data = two_tasks()
    prompt = method.prompts.prompt(data.tokens, "image")
    x = classifier_input(method.prompts.head.head(data.tokens, prompt, "image"))[data.labels == 3]
    torch.testing.assert_close(method.gaussians[3].mean, x.mean(0), rtol=1e-4, atol=1e-4)
    factor = method.gaussians[3].factor
    torch.testing.assert_close(factor.T @ factor, torch.cov(x.T), rtol=1e-3, atol=1e-3)


def test_alignment_moves_the_classifier_alone_and_lowers_the_loss_over_all_classes():
    method, (weight, bias), _ = two_tasks(align_epochs=5, sampled_features=128)
    without, *_ = two_tasks(align_epochs=0)
    assert torch.equal(method.prompts.stored["vision"], without.prompts.stored["vision"])
    assert torch.equal(weight, without.classifier.weight)
    generator = torch.Generator().manual_seed(9)
    x = torch.cat([g.sample(200, generator) for g in method.gaussians.values()])
    y = torch.arange(4).repeat_interleave(200)
    aligned = x @ method.classifier.weight.T + method.classifier.bias
    before, after = (
        torch.nn.functional.cross_entropy(normalise_logits(h, method.tasks, 0.1), y)
        for h in (x @ weight.T + bias, aligned)
    )
    assert after < before - 0.1


def test_features_are_sampled_anew_for_each_epoch_and_seed(monkeypatch):
    drawn, real = [], ClassGaussian.sample

    def watched(self, count, generator):
        x = real(self, count, generator)
        drawn.append(float((x - self.mean).norm()))
        return x

    monkeypatch.setattr(ClassGaussian, "sample", watched)
    method, *_ = two_tasks(epochs=1, align_epochs=3)
    assert len(drawn) == 3 * 4 == len(set(drawn))
    method._align(1)
    assert drawn[12:] == drawn[:12]
    method.seed = 1
    method._align(1)
    assert len(set(drawn)) == 24


def test_the_prompt_is_the_slow_learner():
    method, *_ = two_tasks(epochs=1)
    encoder, other = method.encoder, two_tasks(epochs=1, lr=0.01)[0]
    units = prefix_units(encoder, task(encoder, 0, "image", [0, 1], 0).tokens[:UNIT_SAMPLES], "image")
    start = PromptBank(encoder, 8).fresh("image", method.generator(0, 3)) * units[:, :, None, None]
    moved = [float((m.prompts.stored["vision"] - start).abs().mean()) for m in (method, other)]
    assert 0 < moved[0] < moved[1] / 20
    assert encoder.num_prompted_blocks == len(start)


def test_a_class_met_again_stays_in_its_first_tasks_block():
    encoder, method = ToyEncoder(), None
    method = Slca(encoder, make_options("slca", {**QUICK, "epochs": 1}))
    for i, (ids, known) in enumerate((([0, 1], 2), ([1, 2], 3), ([0, 2], 3))):
        keys = [("image", str(c)) for c in range(known)]
        texts = [str(k) for k in keys]
        method.learn(task(encoder, i, "image", ids, i), Classes(keys, texts, encoder.text(texts)))
    assert method.tasks == [[0, 1], [2]]
    assert [g.count for g in method.gaussians.values()] == [16, 16, 16]

import math

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines.ease import Ease, Prototypes, complete_prototypes, ensemble_scores
from mmcl_fast.methods.shared.embedding import unit_query
from tests.toy import ToyEncoder

QUICK = {"epochs": 2, "batch_size": 8}
KNOWN = Classes([("image", str(c)) for c in range(6)], embedding=F.normalize(torch.eye(6, 24), dim=1))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task(index, classes, modality="image", positions=16, count=5):
    """Samples around class centres."""
    labels = torch.tensor(classes).repeat_interleave(count)
    tokens = randn(20, 1, 16, seed=7)[labels] + 0.5 * randn(len(labels), positions, 16, seed=index)
    return TaskData(index, modality, Tokens(tokens, randn(len(labels), 48, seed=index)), labels, classes)


def learned(*tasks, **options):
    method = Ease(ToyEncoder(), make_options("ease", {**QUICK, **options}))
    for data in tasks:
        method.learn(data, KNOWN)
    return method


def phi(method, tokens, prompt, zq=False):
    z = F.normalize(method.head.head(tokens, prompt, "image"), dim=1)
    return F.normalize(torch.cat([z, unit_query(tokens)], 1), dim=1) if zq else z


def test_missing_prototypes_are_sums_weighted_by_similarity_in_the_own_subspace_of_the_class():
    rows = [randn(k, 5, seed=k + c) for c, k in enumerate((1, 1, 2, 3, 3))]
    own = [0, 0, 1, 2, 2]
    done = complete_prototypes([Prototypes(o, [1] * len(r), r) for o, r in zip(own, rows)], 3)
    assert done.shape == (5, 3, 5)
    for c, known in enumerate(rows):
        assert torch.equal(done[c, : len(known)], known)
    for c, i, others in ((0, 1, (2, 3, 4)), (1, 1, (2, 3, 4)), (1, 2, (3, 4)), (2, 2, (3, 4))):
        o = own[c]
        similarity = [math.exp(F.cosine_similarity(rows[c][o], rows[j][o], dim=0)) for j in others]
        expected = sum(s * rows[j][i] for s, j in zip(similarity, others)) / sum(similarity)
        torch.testing.assert_close(done[c, i], expected)


def test_a_score_is_the_cosine_in_the_own_subspace_and_alpha_times_the_cosines_in_the_others():
    features = [F.normalize(randn(4, 5, seed=i), dim=1) for i in range(3)]
    prototypes, own = randn(6, 3, 5, seed=9), [0, 0, 1, 1, 2, 2]
    scores = ensemble_scores(features, prototypes, torch.tensor(own), 0.3)
    for n, c in ((0, 0), (3, 2), (1, 5)):
        cosines = [float(F.cosine_similarity(features[i][n], prototypes[c, i], dim=0)) for i in range(3)]
        expected = sum(cos * (1.0 if i == own[c] else 0.3) for i, cos in enumerate(cosines))
        assert float(scores[n, c]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("features", ["z", "zq"])
def test_prototypes_are_the_mean_features_in_all_subspaces_so_far(features):
    first, second = task(0, [0, 1]), task(1, [2, 3])
    method = learned(first, second, features=features)
    tower = method.towers["vision"]
    assert [len(p.means) for p in tower.prototypes.values()] == [1, 1, 2, 2]
    for data, c, i in ((first, 1, 0), (second, 2, 0), (second, 3, 1)):
        x = phi(method, data.tokens[data.labels == c], tower.prompts[i], features == "zq")
        torch.testing.assert_close(tower.prototypes[c].means[i], x.mean(0), rtol=1e-5, atol=1e-6)
    known = list(tower.prototypes.values())
    assert torch.equal(tower.complete, complete_prototypes(known, 2))
    x = [phi(method, second.tokens, prompt, features == "zq") for prompt in tower.prompts]
    scores = method.scores(second.tokens, "image", KNOWN, given=False)
    expected = ensemble_scores(x, tower.complete, torch.tensor([0, 0, 1, 1]), method.options.alpha)
    torch.testing.assert_close(scores[:, :4], expected, rtol=1e-5, atol=1e-5)
    assert scores[:, 4:].eq(float("-inf")).all()


def test_a_later_task_leaves_earlier_prompts_and_prototypes_as_they_were():
    method = learned(task(0, [0, 1]))
    prompt, rows = method.towers["vision"].prompts[0], method.towers["vision"].prototypes[1].means.clone()
    before = prompt.clone()
    method.learn(task(1, [2, 3]), KNOWN)
    assert torch.equal(method.towers["vision"].prompts[0], before)
    assert torch.equal(method.towers["vision"].prototypes[1].means, rows)
    assert not torch.equal(method.towers["vision"].prompts[1], before)


def test_a_class_that_comes_again_keeps_its_own_subspace_and_has_the_mean_of_all_its_samples():
    tasks = task(0, [0, 1]), task(1, [2, 3]), task(2, [1, 4], count=7)
    method = learned(*tasks)
    tower = method.towers["vision"]
    again = tower.prototypes[1]
    assert again.own == 0 and again.counts == [12, 7, 7] and tower.prototypes[4].own == 2
    both = [t.tokens[t.labels == 1] for t in (tasks[0], tasks[2])]
    x = torch.cat([phi(method, tokens, tower.prompts[0]) for tokens in both])
    torch.testing.assert_close(again.means[0], x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.means[1], phi(method, both[1], tower.prompts[1]).mean(0), rtol=1e-5, atol=1e-6)


def test_towers_have_their_own_subspaces_and_classes():
    method = learned(task(0, [0, 1]), task(1, [2, 3], "text", positions=5))
    assert [len(method.towers[t].prompts) for t in ("vision", "text")] == [1, 1]
    scores = method.scores(task(2, [2, 3], "text", positions=7).tokens, "text", KNOWN, given=False)
    assert scores[:, 2:4].isfinite().all() and scores[:, [0, 1, 4, 5]].eq(float("-inf")).all()
    alone = learned(task(0, [0, 1]))
    tokens = task(2, [2], "text", positions=7).tokens
    z = F.normalize(alone.encoder.head(tokens, None, "text"), dim=1)
    torch.testing.assert_close(alone.scores(tokens, "text", KNOWN, given=False), 10 * z @ KNOWN.embedding.T)


def test_scales_and_shifts_act_on_samples_of_their_layout_alone():
    method = learned(task(0, [0, 1]), task(1, [2, 3], positions=9), token_scale_shift=True)
    tower, tokens = method.towers["vision"], task(2, [0, 3]).tokens
    prefix = method.head.prefix("image").numel()
    assert [len(p) - prefix for p in tower.prompts] == [16 * 2 * 16, 9 * 2 * 16]
    assert all(p[prefix:].ne(0).any() for p in tower.prompts)
    x = [phi(method, tokens, tower.prompts[0]), phi(method, tokens, tower.prompts[1][:prefix])]
    scores = method.scores(tokens, "depth", KNOWN, given=False)  # no modality has been told apart
    expected = ensemble_scores(x, tower.complete, torch.tensor([0, 0, 1, 1]), method.options.alpha)
    torch.testing.assert_close(scores[:, :4], expected, rtol=1e-5, atol=1e-5)


def test_the_state_comes_back_with_all_prototypes():
    method = learned(task(0, [0, 1]), task(1, [2, 3], "text"), task(2, [4, 0]), token_scale_shift=True, features="zq")
    again = Ease(ToyEncoder(), method.options)
    again.load_state(*method.state())
    assert all(torch.equal(again.towers[t].complete, method.towers[t].complete) for t in ("vision", "text"))
    assert sum(name.startswith(method.class_state) for name in method.state()[0]) == 5


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="'ease': learns in one process"):
        learned(task(0, [0, 1]))

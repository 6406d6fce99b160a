import pytest
import torch
import torch.nn.functional as F

from mmcl_fast import distributed
from mmcl_fast.encoders.base import Tokens
from mmcl_fast.errors import ConfigError
from mmcl_fast.methods import Classes, TaskData, make_options
from mmcl_fast.methods.baselines import dns
from mmcl_fast.methods.baselines.dns import Dns, leading_eigenvectors, project_update
from tests.toy import ToyEncoder

OPTIONS = {"epochs": 10, "batch_size": 4, "lr": 0.01}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task(encoder, index, modality, classes, count=6):
    """Samples around class centres; few, so that their features leave a null space."""
    labels = torch.tensor(classes).repeat_interleave(count)
    tokens = randn(20, 1, 16, seed=7)[labels] + 0.5 * randn(len(labels), 4, 16, seed=index)
    query = F.pad((tokens.mean(1) @ encoder.query["vision"]).relu(), (0, 24))
    return TaskData(index, modality, Tokens(tokens, query), labels, classes)


@pytest.fixture
def setting():
    """Image, audio, image again, audio again: two classes each."""
    encoder = ToyEncoder()
    keys = [(m, str(i)) for i, m in enumerate(("image", "image", "audio", "audio") * 2)]
    tasks = [task(encoder, i, keys[2 * i][0], [2 * i, 2 * i + 1]) for i in range(4)]
    return encoder, Classes(keys, [str(k) for k in keys], encoder.text([str(k) for k in keys])), tasks


def learn(setting, count, **options):
    encoder, classes, tasks = setting
    method = Dns(encoder, make_options("dns", {**OPTIONS, "lambda_min": 1e-9, **options}))
    for data in tasks[:count]:
        method.learn(data, classes)
    return method


def similarities(method, classes, data):
    """s f' W_m' W_t t of a task's samples and its classes."""
    return method.scores(data.tokens, data.modality, classes, given=True)[:, data.classes]


def test_what_is_taken_away_is_the_part_between_both_spaces():
    image, source = torch.linalg.qr(randn(6, 2)).Q, torch.linalg.qr(randn(9, 3, seed=1)).Q
    delta = randn(6, 9, seed=2)
    out = project_update(delta, image, source)
    torch.testing.assert_close(out, delta - (image @ image.T) @ delta @ (source @ source.T))
    torch.testing.assert_close(image.T @ out @ source, torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(project_update(out, image, source), out, atol=1e-5, rtol=1e-5)
    outside = randn(6, 9, seed=3)
    outside = outside - outside @ source @ source.T  # reads other features alone: it is not changed
    torch.testing.assert_close(project_update(outside, image, source), outside, atol=1e-5, rtol=1e-5)
    assert torch.equal(project_update(delta, image[:, :0], source[:, :0]), delta)


def test_the_span_by_hand():
    moment = torch.diag(torch.tensor([0.5, 0.0, 0.02, 1e-12], dtype=torch.float64))
    assert leading_eigenvectors(moment, 0.1).abs().tolist() == [[1.0], [0.0], [0.0], [0.0]]
    assert leading_eigenvectors(moment, 0.0).shape == (4, 2) and leading_eigenvectors(moment * 0, 0.0).shape == (4, 0)


def test_old_similarities_stay_where_another_modality_learns(setting):
    method = learn(setting, 1)
    classes, (image, audio, *_) = setting[1:]
    before = similarities(method, classes, image)
    layer, text = method.layers["image"].clone(), method.text_layer.clone()
    method.learn(audio, classes)
    assert torch.equal(method.layers["image"], layer)
    assert (method.text_layer - text).norm() > 0.1  # the text side moved
    torch.testing.assert_close(similarities(method, classes, image), before, atol=1e-3, rtol=0)


def test_old_similarities_change_by_the_second_order_term_alone(setting):
    encoder, classes, tasks = setting
    method = learn(setting, 2)
    old = tasks[0]
    f, t = method._features(old.tokens, "image"), classes.embedding[old.classes]
    layer, text, before = method.layers["image"].clone(), method.text_layer.clone(), similarities(method, classes, old)
    method.learn(tasks[2], classes)
    moved, moved_text = method.layers["image"] - layer, method.text_layer - text
    scale = encoder.logit_scale
    for first_order in ((f @ moved.T) @ (t @ text.T).T, (f @ layer.T) @ (t @ moved_text.T).T):
        torch.testing.assert_close(first_order, torch.zeros_like(first_order), atol=1e-4, rtol=0)
    second_order = scale * (f @ moved.T) @ (t @ moved_text.T).T
    torch.testing.assert_close(similarities(method, classes, old) - before, second_order, atol=2e-3, rtol=0)
    assert moved.norm() > 0.1 and moved_text.norm() > 0.1
    other = tasks[1]  # audio: its layer did not move
    g, u = method._features(other.tokens, "audio"), classes.embedding[other.classes]
    change = (g @ method.layers["audio"].T) @ (u @ moved_text.T).T
    torch.testing.assert_close(change, torch.zeros_like(change), atol=1e-4, rtol=0)


def test_without_the_projection_old_similarities_move_much_more(setting, monkeypatch):
    classes, tasks = setting[1:]

    def change():
        method = learn(setting, 2)
        before = [similarities(method, classes, data) for data in tasks[:2]]
        for data in tasks[2:]:
            method.learn(data, classes)
        return [float((similarities(method, classes, d) - b).abs().mean()) for d, b in zip(tasks[:2], before)]

    projected = change()
    monkeypatch.setattr(dns, "project_update", lambda delta, image, source: delta)
    assert all(3 * p < q for p, q in zip(projected, change()))


def test_a_larger_threshold_keeps_fewer_directions(setting):
    ranks = [learn(setting, 2, lambda_min=least)._layer_bases("image")[1].shape[1] for least in (1e-9, 0.01, 0.1, 3.0)]
    assert ranks[0] == 12 and ranks == sorted(ranks, reverse=True) and ranks[2] > ranks[3] == 0


def test_the_layers_begin_as_the_identity_and_learn_the_tasks_classes(setting):
    _encoder, classes, tasks = setting
    method = learn(setting, 0)
    zero_shot = method.scores(tasks[0].tokens, "image", classes, given=True)
    torch.testing.assert_close(zero_shot, similarities_at_start(method, classes, tasks[0]))
    method = learn(setting, 4)
    for data in tasks:
        right = similarities(method, classes, data).argmax(1) == data.targets
        assert right.float().mean() >= 0.75


def similarities_at_start(method, classes, data):
    f, layer = method._features(data.tokens, "image"), torch.eye(method.encoder.dim, method.width)
    return method.encoder.logit_scale * f @ layer.T @ classes.embedding.T


def test_the_layer_is_that_of_the_given_modality_or_of_the_most_likely_one(setting):
    classes, tasks = setting[1:]
    method = learn(setting, 2)
    data, f = tasks[0], method._features(tasks[0].tokens, "image")
    text = classes.embedding @ method.text_layer.T
    for given in ("image", "audio"):
        expected = method.encoder.logit_scale * f @ method.layers[given].T @ text.T
        torch.testing.assert_close(method.scores(data.tokens, given, classes, given=True), expected)
    likeliest = method.relevance(F.normalize(data.tokens.query, dim=1)).argmax(1)
    assert likeliest.unique().tolist() == [0, 1] or likeliest.unique().tolist() == [0]
    e = torch.stack([f[i] @ method.layers[("image", "audio")[k]].T for i, k in enumerate(likeliest.tolist())])
    for modality in ("image", "audio"):  # not given: the modality makes no difference
        torch.testing.assert_close(
            method.scores(data.tokens, modality, classes, given=False), method.encoder.logit_scale * e @ text.T
        )


def test_several_processes_are_refused(setting, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="'dns': learns in one process"):
        learn(setting, 1)

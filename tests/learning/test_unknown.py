"""The score that a sample belongs to none of the classes."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import mmcl_fast as mf
from mmcl_fast.encoders import Tokens
from mmcl_fast.learning.unknown import SHRINKAGE, UnknownScores
from tests.toy import ToyEncoder, write_folder

WIDTH = 12


def made(mean, count, seed, spread=0.02):
    """Return tokens whose queries lie around a mean."""
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Tokens(torch.zeros(count, 1, 1), mean + spread * noise)


@pytest.fixture
def scores():
    found = UnknownScores()
    means = torch.eye(WIDTH)[:3]
    for c in range(3):
        names = [f"{c} {number}" for number in range(60)]
        found.add(made(means[c], 60, c), "image", [c], torch.full((60,), c), names)
    return found


def test_r_is_the_relative_mahalanobis_distance(scores):
    """Against the definition with full matrices."""
    memory = scores.memory
    mean = memory.means("image").double()
    pooled = memory.pooled["image"]
    total = 180
    covariance = (pooled.factor.T @ pooled.factor + torch.diag(pooled.diagonal)).double()
    centre = mean.mean(0)
    deviation = mean - centre
    within = covariance * (total - 1) / (total - 3)
    whole = covariance + 60 / (total - 1) * deviation.T @ deviation

    def shrunk(a):
        return (1 - SHRINKAGE) * a + SHRINKAGE * a.trace() / WIDTH * torch.eye(WIDTH)

    tokens = made(torch.ones(WIDTH), 5, 3, spread=0.5)
    x = torch.nn.functional.normalize(tokens.query, dim=1).double()
    a, b = torch.linalg.inv(shrunk(within)), torch.linalg.inv(shrunk(whole))
    near = torch.stack([((x - m) @ a * (x - m)).sum(1) for m in mean], 1).min(1).values
    expected = near - ((x - centre) @ b * (x - centre)).sum(1)
    torch.testing.assert_close(scores.distance(tokens, "image"), expected, rtol=1e-5, atol=1e-4)


def test_a_limit_flags_the_rate_it_promises_and_finds_strangers(scores):
    known = torch.tensor(scores(made(torch.eye(WIDTH)[0], 400, 77), "image"))
    assert 0.01 < float((known >= 0.95).double().mean()) < 0.12
    strange = torch.tensor(scores(made(torch.eye(WIDTH)[7], 100, 78), "image"))
    assert float(strange.min()) == 1.0
    assert scores(made(torch.eye(WIDTH)[0], 3, 1), "audio") == [1.0] * 3  # a modality that was never learned


def test_with_one_class_or_too_few_samples_nothing_is_said():
    scores, names = UnknownScores(), [str(n) for n in range(40)]
    scores.add(made(torch.eye(WIDTH)[0], 40, 0), "image", [0], torch.zeros(40, dtype=torch.int64), names)
    assert scores(made(torch.eye(WIDTH)[0], 2, 1), "image") == [None, None]
    scores.add(made(torch.eye(WIDTH)[1], 4, 0), "image", [1], torch.ones(4, dtype=torch.int64), names[:4])
    assert len(scores.levels["image"]) < 10 and scores(made(torch.eye(WIDTH)[0], 1, 1), "image") == [None]


def test_samples_of_one_recording_are_held_out_together():
    """A sample that stands there five times resembles itself; its recording's name keeps it from saying so."""
    found, labels = [], torch.arange(2).repeat_interleave(50)
    for names in ([str(n // 5) for n in range(100)], [str(n) for n in range(100)]):
        once = made(torch.eye(WIDTH)[:2].repeat_interleave(10, 0), 20, 4, spread=0.3).query
        scores = UnknownScores()
        scores.add(Tokens(torch.zeros(100, 1, 1), once.repeat_interleave(5, 0)), "image", [0, 1], labels, names)
        found.append(sum(scores.levels["image"]) / 100)
    assert found[0] > found[1]


def test_scores_are_saved_and_a_removed_class_is_a_stranger(scores):
    tensors, values = scores.state()
    again = UnknownScores.from_state(tensors, values)
    tokens = made(torch.eye(WIDTH)[1], 8, 5)
    assert again(tokens, "image") == scores(tokens, "image")
    assert max(scores(tokens, "image")) < 1.0
    scores.remove(1)
    assert scores(tokens, "image") == [1.0] * 8
    for _ in range(2):
        scores.remove(0)
    assert not scores.levels and scores(tokens, "image") == [None] * 8


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("data"), classes=4, train=8, modalities=("image", "text"))
    stream = mf.Stream.from_folder(root, classes_per_task=4)
    learner = mf.Learner(ToyEncoder(), "ncm")
    for task in stream:
        learner.learn(dataclasses.replace(task))
    return learner, stream, root


def test_predictions_have_the_score(learned, tmp_path):
    learner, _, root = learned
    file = root / "image/test/class_0/0.png"
    found = learner.predict([file])[0]
    assert 0 <= found.unknown <= 1 and found.record()["unknown"] == found.unknown
    learner.save(tmp_path / "model")
    again = mf.Learner.load(tmp_path / "model", encoder=learner.encoder)
    assert again.predict([file])[0].unknown == found.unknown


def test_a_failed_task_leaves_the_scores_as_they_were(learned, monkeypatch):
    learner, stream, _ = learned
    before = {m: dict(c) for m, c in learner.unknown.memory.counts.items()}
    monkeypatch.setattr(type(learner.method), "learn", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        learner.learn(stream.tasks[0])
    assert learner.unknown.memory.counts == before


def test_a_modality_that_an_earlier_version_learned_has_no_score(learned, tmp_path):
    """Its first classes are not known here, so new ones alone would make strangers of their samples."""
    learner, stream, root = learned
    tensors, values = learner.contents()
    tensors = {k: v for k, v in tensors.items() if not k.startswith("unknown/")}
    old = mf.Learner(learner.encoder, "ncm")
    old.restore(tensors, {**values, "unknown": {}}, tmp_path)
    more = dataclasses.replace(stream.tasks[0], name="more")
    file = root / "image/test/class_0/0.png"
    old.learn(more)
    assert more.modality == "image" and old.predict([file])[0].unknown is None and not old.unknown.levels
    assert "earlier version" in old.unknown.missing("image") and not learner.unknown.missing("image")


def test_the_share_is_as_bisection_gives_it(scores):
    """A level that equals r is not smaller."""
    tokens = made(torch.eye(WIDTH)[2], 30, 9)
    levels = torch.tensor(scores.levels["image"], dtype=torch.float64)
    found = scores.distance(tokens, "image")
    scores.levels["image"] = sorted([*levels.tolist(), *found.tolist()])
    expected = torch.searchsorted(torch.tensor(scores.levels["image"], dtype=torch.float64), found)
    assert scores(tokens, "image") == (expected.double() / (len(levels) + 30)).tolist()
    assert 0 < min(expected) < max(expected) < len(levels) + 30

"""Statistics of many classes at once: blocks of them give what each class alone gives."""

import json

import pytest
import torch
import torch.nn.functional as F

from mmcl_fast.errors import RunError
from mmcl_fast.learning import Learner, checkpoint
from mmcl_fast.methods import make_options
from mmcl_fast.methods.comm import memory
from mmcl_fast.methods.comm.memory import FeatureMemory, Gaussian
from mmcl_fast.methods.comm.method import Comm
from mmcl_fast.streams import Stream
from tests.toy import ToyEncoder, write_folder

WIDE, RANK = 12, 4


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples(classes, seed):
    """Features around class centres, 3 to 9 of a class, and their labels."""
    counts = [3 + (c + seed) % 7 for c in classes]
    labels = torch.tensor(classes).repeat_interleave(torch.tensor(counts))
    centres = torch.cat([randn(1, WIDE, seed=c) * 2 for c in classes])
    return centres.repeat_interleave(torch.tensor(counts), 0) + 0.3 * randn(len(labels), WIDE, seed=seed), labels


def filled(tasks):
    made = FeatureMemory(RANK, 6, 0.4)
    for seed, classes in enumerate(tasks):
        made.add("image", classes, *samples(classes, seed))
    return made


TASKS = [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9], [2, 10, 0]]


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_blocks_hold_what_each_class_alone_would(size, monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_CLASSES", size)
    made, alone = filled(TASKS), {}
    for seed, classes in enumerate(TASKS):
        u, labels = samples(classes, seed)
        for c in classes:
            rows = u[labels == c]
            alone[c] = alone[c].merge(rows, RANK) if c in alone else Gaussian.fit(rows, RANK)
    assert made.labels("image") == list(alone)
    assert [len(b) for b in made.blocks["image"][:-1]] == [size] * ((len(alone) - 1) // size)
    for c, g in alone.items():
        found = made.gaussian("image", c)
        assert found.count == g.count
        torch.testing.assert_close(found.mean, g.mean)
        torch.testing.assert_close(found.factor.T @ found.factor, g.factor.T @ g.factor, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.diagonal, g.diagonal, rtol=1e-4, atol=1e-5)
    assert torch.equal(made.means("image"), torch.stack([made.gaussian("image", c).mean for c in alone]))


@pytest.mark.parametrize("size", [2, 100])
def test_drift_is_that_of_a_loop_over_classes(size, monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_CLASSES", size)
    made = filled(TASKS)
    at, moved = randn(40, WIDE, seed=1) + 5, randn(40, 3, seed=2)  # far from the origin, as a task's unit vectors
    want = made.means("image")
    for row, c in enumerate(made.labels("image")):
        if c not in (2, 10):
            distance = (at - want[row]).square().sum(1)
            want[row, :3] += torch.softmax(-distance / (2 * 0.3**2 * distance.mean()), dim=0) @ moved
    made.correct_drift("image", {2, 10}, moved, at, 0.3, 3)
    torch.testing.assert_close(made.means("image"), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [3, 100])
def test_classes_are_sampled_in_order_and_few_of_many_evenly_spaced(size, monkeypatch):
    monkeypatch.setattr(memory, "BLOCK_CLASSES", size)
    made = filled(TASKS)
    for g in made.blocks["image"]:
        g.factor.zero_(), g.diagonal.zero_()
    made.pooled["image"].factor.zero_(), made.pooled["image"].diagonal.zero_()
    means, generator = made.means("image"), torch.Generator().manual_seed(0)
    assert torch.equal(made.sample("image", 2, generator), means.repeat_interleave(2, 0))
    assert torch.equal(made.sample("image", 2, generator, most_classes=99), means.repeat_interleave(2, 0))
    assert torch.equal(made.sample("image", 1, generator, most_classes=4), means[[0, 2, 5, 8]])


@pytest.mark.parametrize(("classes", "each", "drawn"), [(2, 32, 64), (20, 25, 500), (600, 1, 512)])
def test_mean_contributions_sample_no_more_queries_of_more_classes(classes, each, drawn, monkeypatch):
    encoder = ToyEncoder()
    method, seen = Comm(encoder, make_options("comm", {})), []
    wide = encoder.dim + encoder.query_dim
    method.memory.add("image", range(classes), randn(2 * classes, wide), torch.arange(classes).repeat(2))
    method.relevance.learn(randn(8, encoder.query_dim).abs(), "image", {}, torch.Generator())
    monkeypatch.setattr(
        method.memory,
        "sample",
        lambda m, count, *rest: seen.append(count) or FeatureMemory.sample(method.memory, m, count, *rest),
    )
    monkeypatch.setattr(method, "relevance", lambda q: seen.append(len(q)) or torch.ones(len(q), 1), raising=False)
    method.relevance.modalities = ["image"]
    method._update_mean_contributions(3)
    assert seen == [each, drawn] and method.mean_contributions["image"].tolist() == [1]


def test_a_checkpoint_of_one_entry_a_class_is_read(tmp_path):
    """As format 2 was written before classes lay in blocks."""
    root = write_folder(tmp_path / "data", modalities=("image", "text"))
    stream = Stream.from_folder(root, classes_per_task=2)
    learner = Learner(
        ToyEncoder(),
        "comm",
        options={"epochs": 1, "realignment": "trained", "steps": 5, "sampled_features": 16},
        device="cpu",
    )
    for task in stream.tasks[:3]:
        learner.learn(task)
    learner.save(tmp_path / "now")
    tensors, values = checkpoint.read(tmp_path / "now")
    older = {k: v for k, v in tensors.items() if not k.startswith("method/memory/class/")}
    listed = []
    for modality in ("image", "text"):
        for c in learner.method.memory.labels(modality):
            g = learner.method.memory.gaussian(modality, c)
            rows = g.factor.abs().sum(1) > 0
            older |= {
                f"method/memory/class/{modality}/{c}/{part}": t.contiguous()
                for part, t in (("mean", g.mean), ("factor", g.factor[rows]), ("diagonal", g.diagonal))
            }
            listed.append([modality, c, g.count])
    assert len(listed) == 6
    values["state"]["memory"]["classes"] = listed
    checkpoint.write(tmp_path / "older", older, values)
    again = Learner.load(tmp_path / "older", encoder=ToyEncoder(), device="cpu")
    assert again.evaluate(stream.tasks[:3]) == learner.evaluate(stream.tasks[:3])
    for made in (again, learner):
        made.learn(stream.tasks[3])
    state, saved = (made.contents() for made in (again, learner))
    assert json.dumps(state[1]) == json.dumps(saved[1]) and state[0].keys() == saved[0].keys()
    for key in state[0]:
        torch.testing.assert_close(state[0][key], saved[0][key])
    older.pop("method/memory/class/image/1/mean")
    checkpoint.write(tmp_path / "older", older, values)
    with pytest.raises(RunError, match="does not fit method comm"):
        Learner.load(tmp_path / "older", encoder=ToyEncoder(), device="cpu")


def test_a_block_without_all_its_classes_is_refused():
    made, again = filled(TASKS), FeatureMemory(RANK, 6, 0.4)
    tensors, values = made.state()
    with pytest.raises(ValueError, match="image"):
        again.load_state({**tensors, "class/image/0/mean": tensors["class/image/0/mean"][:-1]}, values)
    again.load_state(tensors, json.loads(json.dumps(values)))
    assert again.state()[1] == values and again.counts == made.counts


def covariance(g: Gaussian):
    return g.factor.T @ g.factor + torch.diag(g.diagonal)


def test_gaussian_merge_equals_one_pass():
    x = randn(90, 6) @ randn(6, 6, seed=1) + 3
    merged = Gaussian.fit(x[:29], 6).merge(x[29:60], 6).merge(x[60:], 6)
    assert merged.count == 90
    torch.testing.assert_close(merged.mean, x.mean(0))
    torch.testing.assert_close(covariance(merged), torch.cov(x.T), rtol=1e-3, atol=1e-4)


def test_low_rank_keeps_the_diagonal():
    x = randn(50, 12)
    g = Gaussian.fit(x, 3)
    assert g.factor.shape == (3, 12)
    torch.testing.assert_close(covariance(g).diagonal(), x.var(0), rtol=1e-4, atol=1e-5)


def pairs(count):
    """Labels of ``count`` samples of class 0 and as many of class 1."""
    return torch.arange(2).repeat_interleave(count)


@pytest.mark.parametrize("shrink", [0.3, "auto"])
def test_sampled_features_have_the_moments(shrink):
    memory = FeatureMemory(class_rank=8, modality_rank=8, shrink=shrink)
    memory.add("image", [0, 1], torch.cat([randn(40, 8) * 2 + 1, randn(40, 8, seed=2)]), pairs(40))
    drawn = memory.sample("image", 40000, torch.Generator().manual_seed(1))
    a, pooled = 0.3 if shrink == 0.3 else 16 / 55, memory.pooled["image"]
    for c, u in enumerate(drawn.split(40000)):
        one = memory.gaussian("image", c)
        ratio = (covariance(one).trace() / covariance(pooled).trace() * 39 + 1) / 40
        want = (1 + 1 / 40) * ((1 - a) * covariance(one) + a * ratio * covariance(pooled))
        torch.testing.assert_close(u.mean(0), one.mean, rtol=0, atol=0.1)
        torch.testing.assert_close(torch.cov(u.T), want, rtol=0.1, atol=0.1)


def test_a_class_of_one_sample_has_the_modalitys_covariance_alone():
    memory = FeatureMemory(8, 8, 0.0)
    memory.add("image", [0, 1], torch.cat([randn(40, 8), randn(1, 8, seed=2) + 5]), torch.tensor([0] * 40 + [1]))
    assert memory.shares("image").tolist() == [0.0, 1.0] and memory.sizes("image")[1] == 1
    drawn = memory.sample("image", 40000, torch.Generator().manual_seed(1))[40000:]
    torch.testing.assert_close(torch.cov(drawn.T), 2 * covariance(memory.pooled["image"]), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(("count", "kept"), [(1, 0), (3, 0), (4, 1), (11, 2), (64, 16), (100, 16)])
def test_a_factor_has_at_most_a_row_for_four_samples(count, kept):
    x = randn(count, 40)
    g = Gaussian.fit(x, 16)
    assert g.factor.shape == (kept, 40)
    merged = Gaussian.fit(x[: count // 2 + 1], 16).merge(x[count // 2 + 1 :], 16) if count > 1 else g
    assert len(merged.factor) <= count // 4
    torch.testing.assert_close(covariance(merged).diagonal(), x.var(0) if count > 1 else torch.zeros(40))


@pytest.mark.parametrize("listed", [False, True], ids=["blocks", "one entry a class"])
def test_longer_factors_of_an_earlier_version_are_cut_on_loading(listed):
    """They could give the features of a class back."""
    counts, width = {0: 3, 1: 9, 2: 40}, 60
    u = torch.cat([F.normalize(randn(1, width, seed=c) + randn(n, width, seed=c + 9)) for c, n in counts.items()])
    labels = torch.tensor([c for c, n in counts.items() for _ in range(n)])
    today = FeatureMemory(16, 32, 0.5)
    today.add("image", list(counts), u, labels)
    values = today.state()[1]
    old = [Gaussian.fit(u[labels == c], 16, per_row=1) for c in counts]
    centred = torch.cat([u[labels == c] - g.mean for c, g in zip(counts, old)])
    named = {"pooled/image": Gaussian.fit(centred, 32, per_row=1)}
    if listed:
        named |= {f"class/image/{c}": g for c, g in zip(counts, old)}
        values |= {"classes": [["image", c, n] for c, n in counts.items()]}
    else:
        named["class/image/0"] = memory.Block.stack(old, 16)
    older = {f"{key}/{field}": getattr(g, field) for key, g in named.items() for field in memory.FIELDS}
    again = FeatureMemory(16, 32, 0.5)
    again.load_state(older, values)
    for c, long in zip(counts, old):
        g = again.gaussian("image", c)
        assert g.factor.any(1).sum() == counts[c] // 4 and g.factor.shape == (16, width)
        torch.testing.assert_close(covariance(g), covariance(today.gaussian("image", c)), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(covariance(g).diagonal(), covariance(long).diagonal())
    assert len(again.pooled["image"].factor) == len(u) // 2
    state, saved = again.state(), FeatureMemory(16, 32, 0.5)
    saved.load_state(*state)  # short factors stay as they are
    assert saved.state()[0].keys() == state[0].keys()
    assert all(torch.equal(t, state[0][key]) for key, t in saved.state()[0].items())


@pytest.mark.parametrize("rank", [2, 8])
def test_a_state_of_another_rank_gets_todays(rank):
    """A run that is resumed with other defaults has one."""
    u, labels = randn(60, 10), torch.arange(60) % 2
    old, new = FeatureMemory(5, 12, 0.5), FeatureMemory(rank, 3, 0.5)
    old.add("image", [0, 1], u, labels)
    new.load_state(*old.state())
    assert new.gaussian("image", 0).factor.shape == (rank, 10) and len(new.pooled["image"].factor) == 3
    for one, other in (
        (old.gaussian("image", 1), new.gaussian("image", 1)),
        (old.pooled["image"], new.pooled["image"]),
    ):
        torch.testing.assert_close(covariance(other).diagonal(), covariance(one).diagonal())
    flat = FeatureMemory(5, 12, 0.5)  # of samples that vary along two coordinates: the other rows are 0
    flat.add("image", [0], F.pad(randn(64, 2), (0, 10)), torch.zeros(64, dtype=torch.long))
    again = FeatureMemory(2, 12, 0.5)
    again.load_state(*flat.state())
    traces = [covariance(each.gaussian("image", 0)).trace() for each in (flat, again)]
    torch.testing.assert_close(*traces)
    new.add("image", [2], u[:20], torch.full((20,), 2))
    assert new.sample("image", 4, torch.Generator()).shape == (12, 10)


def test_more_samples_than_coordinates_are_factored_in_the_coordinates(monkeypatch):
    real, sizes = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: sizes.append(len(x)) or real(x))
    x = randn(500, 6) @ randn(6, 6, seed=1)
    torch.testing.assert_close(covariance(Gaussian.fit(x, 6)), torch.cov(x.T), rtol=1e-4, atol=1e-4)
    assert sizes == [6]


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("merged", [False, True])
def test_the_statistics_of_a_class_do_not_give_its_samples_back(count, merged):
    """The mean is known, so what counts is the direction from it to a sample."""
    x = F.normalize(randn(1, 96) + randn(count, 96, seed=count + 1), dim=1)
    half = count // 2
    g = Gaussian.fit(x[:half], 16).merge(x[half:], 16) if merged else Gaussian.fit(x, 16)
    rows = F.normalize(torch.cat([g.factor, g.diagonal.sqrt().unsqueeze(0)]), dim=1)
    cosines = rows @ F.normalize(x - g.mean, dim=1).T
    assert cosines.abs().max() < 0.9


def test_drift_moves_near_means_by_the_local_drift():
    memory = FeatureMemory(4, 4, 0.5)
    at = torch.cat([randn(20, 4) * 0.1, randn(20, 4, seed=1) * 0.1 + 10])
    memory.add("image", [0, 1], at, pairs(20))
    moved = torch.cat([torch.full((20, 2), 1.0), torch.full((20, 2), -5.0)])
    before = memory.means("image")
    memory.correct_drift("image", [1], moved, at, 0.3, 2)
    torch.testing.assert_close(
        memory.means("image") - before, torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0] * 4]), atol=1e-3, rtol=0
    )
    memory.correct_drift("image", [], moved, at, 0.3, 2)
    assert memory.gaussian("image", 1).mean[0] < before[1, 0] - 4
